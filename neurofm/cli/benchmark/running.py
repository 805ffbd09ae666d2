"""Which cells have no record yet, who computes them, and what is written in the end."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
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

from neurofm.cli.benchmark.decoding import Group, Runner, Windows
from neurofm.cli.benchmark.pages import write_results
from neurofm.cli.benchmark.training import quiet, stage_data, stage_recipes
from neurofm.data import open_executor
from neurofm.evaluate.records import LINES, read_records, write_lines, write_text
from neurofm.evaluate.suites import Cell, Suite, read_suite


def run_suite(args: argparse.Namespace) -> int:
    """Run, record, draw."""
    quiet()
    console = Console(stderr=True)
    suite = read_suite(
        args.suite, methods=args.methods, seeds=args.seeds, validation=args.validation
    )
    out: Path = args.out or Path("runs/benchmarks") / suite.name
    work: Path = args.work or out
    known = read_records(out) | read_records(work)
    wanted = keys_of(suite, pretraining=not args.draw)
    missing = [(cell, key) for cell, key in wanted if key not in known]
    _say(console, f"{suite.name}: {len(wanted)} cells, {len(wanted) - len(missing)} recorded")
    failed = 0
    if missing and not args.draw:
        failed = _compute(args, Runner(suite, work), missing, console)
        known |= read_records(work)
    records = [known[key] for _, key in wanted if key in known]
    if not records:
        raise ValueError(f"{out}: no record of {suite.name} yet. Run it without --draw.")
    write_lines(out / LINES, records)
    plain = json.loads(json.dumps(suite.card))  # without YAML's references
    write_text(out / "config.yaml", yaml.safe_dump(plain, sort_keys=False, width=100))
    for file in write_results(suite, records, out):
        _say(console, f"wrote {file}")
    return 1 if failed else 0


def keys_of(suite: Suite, *, pretraining: bool) -> list[tuple[Cell, str]]:
    """Every cell with the hash of all that decides it; recordings are prepared on the way.

    Args:
        pretraining: Prepare the recordings of pretraining too, so that workers find all of them.
    """
    windows: dict[tuple[str, int], Windows] = {}
    found = []
    for cell in suite.cells():
        at = (cell.method, cell.fold)
        if at not in windows:
            windows[at] = Windows(suite, *at)
            method = suite.methods[cell.method]
            if pretraining and "stages" in method:
                people = suite.others(cell.fold)
                dataset = suite.card["data"]["datasets"][0]
                for _, recipe in stage_recipes(method, dataset=dataset, people=people, seed=0):
                    stage_data(recipe).prepare_data()
        found.append((cell, windows[at].key(suite, cell)[0]))
    return found


def groups_of(missing: Sequence[tuple[Cell, str]]) -> list[Group]:
    """Cells that share weights together; pretraining, which takes longest, first."""
    found: dict[tuple[Any, ...], list[tuple[Cell, str]]] = {}
    for cell, key in missing:
        at = (cell.weights != "pretrained", cell.seed, cell.fold, cell.method, cell.weights)
        found.setdefault(at, []).append((cell, key))
    return [Group(tuple(found[at])) for at in sorted(found)]


def _compute(
    args: argparse.Namespace,
    runner: Runner,
    missing: Sequence[tuple[Cell, str]],
    console: Console,
) -> int:
    """Number of groups that failed; the others are recorded."""
    workers = args.workers if args.executor == "processes" else None
    executor = open_executor(args.executor, workers=workers)
    failed = 0
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
    with Progress(*columns, console=console, speed_estimate_period=600, disable=quiet_bar) as bar:
        task = bar.add_task("cells", total=len(missing), words="")
        for outcome in executor.imap_unordered(runner, groups_of(missing)):
            cell = outcome.item.first
            words = f"{cell.method} {cell.weights} fold {cell.fold} seed {cell.seed}"
            bar.update(task, advance=len(outcome.item.cells), words=words)
            if outcome.failure is not None:
                failed += 1
                _say(console, f"{words}: {outcome.failure}")
            elif quiet_bar:
                done = bar.tasks[0]
                left = "" if done.time_remaining is None else f", {done.time_remaining:.0f} s left"
                counts = f"{done.completed:.0f} of {len(missing)} cells"
                _say(console, f"{counts}, {words}, {outcome.seconds:.0f} s{left}")
    executor.close()
    if failed == len(groups_of(missing)):
        raise ValueError(f"{runner.suite.name}: nothing could be computed; see above.")
    return failed


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
