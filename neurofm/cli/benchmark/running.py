"""Which cells have no record yet, who computes them, and what is written in the end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from neurofm.cli.benchmark.decoding import Group, Runner
from neurofm.cli.benchmark.people import folder_of, on_people, refuse_missing, refuse_other_results
from neurofm.cli.benchmark.training import quiet, stage_data, stage_recipes
from neurofm.cli.benchmark.windows import Windows, forget_windows, windows_of
from neurofm.data import open_executor
from neurofm.evaluate.records import LINES, claimed, read_records, write_lines, write_text
from neurofm.evaluate.suite_cards import read_suite
from neurofm.evaluate.suites import Cell, Suite, digest
from neurofm.io.quality import listed

_TABLE = "f" * 16  # what is claimed while table and figure are written


@dataclass
class Plan:
    """What a suite asks for on the recordings that are here.

    Args:
        cells: With the hash of all that decides each.
        skipped: A line for every data set without recordings.
        failed: What could not be planned, and why.
    """

    cells: list[tuple[Cell, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def places(self) -> set[tuple[str, str, str]]:
        """Data set, protocol and method of all cells, once these are complete."""
        return {(cell.dataset, cell.protocol, cell.method) for cell, _ in self.cells}


def run_suite(args: argparse.Namespace) -> int:
    """Run, record, draw."""
    quiet()
    console = Console(stderr=True)
    whole = card = read_suite(args.suite, validation=args.validation)
    suite = read_suite(
        args.suite,
        methods=args.methods,
        datasets=args.datasets,
        protocols=args.protocols,
        seeds=args.seeds,
        validation=args.validation,
    )
    if args.subjects:
        suite, whole = (
            on_people(part, args.subjects, chosen=list(suite.datasets)) for part in (suite, card)
        )
    name = folder_of(whole, args.subjects, own=card)
    out: Path = args.out or Path("runs/benchmarks") / name
    work: Path = args.work or out
    known = read_records(out)
    refuse_other_results(out, whole, known.values())
    known |= read_records(work)
    plan = plan_of(suite, pretraining=not args.draw)
    refused = [*plan.skipped, *_failures(plan.failed)]
    if not plan.cells and not args.draw:
        raise ValueError("\n".join([f"{name}: nothing to run.", *refused]))
    for line in refused:
        _say(console, line)
    missing = [(cell, key) for cell, key in plan.cells if key not in known]
    done = len(plan.cells) - len(missing)
    _say(console, f"{name}: {len(plan.cells)} cells, {done} recorded")
    failed: list[tuple[str, str]] = []
    if missing and not args.draw:
        _write_config(out, whole)
        failed = _compute(args, Runner(suite, work), missing, console)
    for line in _failures(failed):
        _say(console, line)
    if failed:
        _say(console, f"{len(failed)} failed; the same command runs what has no record again.")
    for file in _write(plan, suite, whole, out, work, draw=args.draw):
        _say(console, f"wrote {file}")
    return 1 if failed or plan.failed else 0


def _failures(failed: Sequence[tuple[str, str]]) -> list[str]:
    return [f"failed: {what}: {why}" for what, why in failed]


def _write_config(out: Path, suite: Suite) -> None:
    write_text(out / "config.yaml", yaml.safe_dump(suite.as_run(), sort_keys=False, width=100))


def _write(
    plan: Plan, suite: Suite, whole: Suite, out: Path, work: Path, *, draw: bool
) -> list[Path]:
    """Table, figure and report of what was asked for and of the rest of the folder."""
    from neurofm.cli.benchmark.pages import write_results

    # Of two commands at once the later one knows all records.
    with nullcontext() if draw else claimed(work / "records", _TABLE):
        there = read_records(out)
        found = there | read_records(work)
        records = [found[key] for _, key in plan.cells if key in found]
        others = [record for record in there.values() if _of_others(record, plan, suite, whole)]
        if not records and not (draw and others):
            why = "Run without --draw." if draw else "See above."
            raise ValueError(f"{out}: no record of {suite.name}. {why}")
        records += others
        write_lines(out / LINES, records)
        _write_config(out, whole)
        return write_results(whole, records, out)


def _of_others(record: dict[str, Any], plan: Plan, suite: Suite, whole: Suite) -> bool:
    """Whether a record belongs to a part of the card that was not asked for, or is not here."""

    def among(part: Suite) -> bool:
        return (
            record["method"] in part.methods
            and record["dataset"] in part.datasets
            and record["protocol"] in part.datasets[record["dataset"]]["protocols"]
            and record["seed"] in part.card["seeds"]
        )

    place = (record["dataset"], record["protocol"], record["method"])
    return among(whole) and not (among(suite) and place in plan.places)


def plan_of(suite: Suite, *, pretraining: bool) -> Plan:
    """Every cell with its hash; recordings are prepared on the way, workers find them.

    Args:
        pretraining: Prepare the recordings of pretraining too.
    """
    plan = Plan()
    for dataset, about in suite.datasets.items():
        try:
            refuse_missing(about)
        except FileNotFoundError as error:
            plan.skipped.append(f"skipped {dataset}: {error}")
            continue
        except ValueError as error:
            plan.failed.append((dataset, str(error)))
            continue
        for protocol in about["protocols"]:
            _plan_protocol(suite, dataset, protocol, plan, pretraining=pretraining)
    return plan


def _plan_protocol(
    suite: Suite, dataset: str, protocol: str, plan: Plan, *, pretraining: bool
) -> None:
    folds: dict[str, list[str]] = {}  # method to the hash of each fold
    failed: dict[str, list[str]] = {}  # reason to methods
    first = ""
    for method in suite.methods:
        spec = suite.method(method, dataset, protocol)
        if spec is None:
            continue
        try:
            windows = windows_of(suite, dataset, method)
            folds[method] = [windows.hash(split) for split in windows.folds(suite, protocol)]
            first = first or method
            _same_trials(windows, folds, method, first)
            if pretraining and "stages" in spec:
                _prepare_pretraining(suite, dataset, protocol, spec, windows)
            cells = suite.cells(dataset, protocol, len(folds[method]), methods=[method])
            plan.cells += [(cell, windows.key(suite, cell)[0]) for cell in cells]
        except (ValueError, FileNotFoundError) as error:
            failed.setdefault(str(error), []).append(method)
    for why, methods in failed.items():
        plan.failed.append((f"{dataset} {protocol} {listed(methods, most=4)}", why))


def _same_trials(windows: Windows, folds: dict[str, list[str]], method: str, first: str) -> None:
    """All methods are compared on the same trials."""
    if folds[method] != folds[first]:
        raise ValueError(
            f"its folds hold other trials than those of {first} ({len(windows.rows)} windows). A "
            "longer window can lack the trials at the end of a recording: make it shorter."
        )


def _prepare_pretraining(
    suite: Suite, dataset: str, protocol: str, spec: dict[str, Any], windows: Windows
) -> None:
    """Recordings that pretrainings of all folds need."""
    corpus = suite.datasets[dataset]["data"]["datasets"][0]
    splits = windows.folds(suite, protocol)
    for people in {tuple(suite.others(dataset, windows.rows, split)) for split in splits}:
        for _, recipe in stage_recipes(spec, dataset=corpus, people=people, seed=0):
            stage_data(recipe).prepare_data()


def groups_of(suite: Suite, missing: Sequence[tuple[Cell, str]]) -> list[Group]:
    """Cells that share weights together; pretraining, which takes longest, first.

    Those of one preparation follow each other, so that workers read windows once, and among them
    long and short ones are mixed, so that the time left can be told.
    """
    found: dict[tuple[Any, ...], list[tuple[Cell, str]]] = {}
    for cell, key in missing:
        data = digest((suite.method(cell.method, cell.dataset) or {}).get("data"))
        front = (cell.weights != "pretrained", cell.dataset, data)
        about = (cell.protocol, cell.seed, cell.fold, cell.method, cell.weights)
        found.setdefault((*front, digest(about), *about), []).append((cell, key))
    return [Group(tuple(found[at])) for at in sorted(found)]


def _compute(
    args: argparse.Namespace,
    runner: Runner,
    missing: Sequence[tuple[Cell, str]],
    console: Console,
) -> list[tuple[str, str]]:
    """What failed, and why; everything else is recorded."""
    forget_windows()  # workers are copies of this process
    workers = args.workers if args.executor != "inprocess" else None
    executor = open_executor(args.executor, workers=workers, scheduler=args.scheduler)
    failed: list[tuple[str, str]] = []
    columns = (
        TextColumn(f"benchmark {runner.suite.name}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    quiet_bar = not console.is_terminal
    groups = groups_of(runner.suite, missing)
    shown, first = 0.0, (0.0, 0.0)
    with Progress(*columns, console=console, speed_estimate_period=600, disable=quiet_bar) as bar:
        task = bar.add_task("cells", total=len(missing), words="")
        for outcome in executor.imap_unordered(runner, groups):
            cells = outcome.item.cells
            bar.update(task, advance=len(cells), words=str(cells[0][0]))
            if outcome.failure is not None:
                failed += [(str(cell), str(outcome.failure)) for cell, _ in cells]
            else:
                failed += [(str(cell), why) for cell, why in outcome.result or ()]
            state = bar.tasks[0]
            elapsed = state.elapsed or 0.0
            first = first if first[0] else (state.completed, elapsed)  # until then, preparation
            if quiet_bar and (elapsed - shown > 10 or state.completed == len(missing)):
                shown = elapsed
                counts = f"{state.completed:.0f} of {len(missing)} cells, {elapsed:.0f} s"
                if state.completed > first[0]:
                    each = (elapsed - first[1]) / (state.completed - first[0])
                    counts += f", about {each * (len(missing) - state.completed):.0f} s left"
                _say(console, f"{counts}; {cells[0][0]}")
    executor.close()
    return failed


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
