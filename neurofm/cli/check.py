"""`neurofm check PATH-or-DATASET`: what recordings hold, and what is wrong with them.

Every recording is read once, one at a time, and one that cannot be read does not stop the others.
What was found is compared with the facts the dataset card declares (`expected`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from neurofm import cards
from neurofm.io.corpus import Corpus, open_corpus
from neurofm.io.paths import open_path
from neurofm.io.quality import Problem, collect, listed, recording_problems
from neurofm.types import Recording, Signal
from neurofm.units import UNITS, Kind, typical_amplitude

_STYLE = {"error": "bold red", "warning": "yellow", "info": "dim"}
_MOST_NAMED = 4  # recordings named beside a problem


@dataclass(frozen=True)
class KindFacts:
    """The channels of one kind in one recording; `amplitude` is typical, in `unit`."""

    channels: int
    with_position: int
    unit: str
    amplitude: float | None


@dataclass(frozen=True)
class Facts:
    """What one recording holds; only `id`, `path` and `problems` if it cannot be read."""

    id: str
    path: str | None
    problems: list[Problem]
    sfreq: float | None = None
    duration_s: float | None = None
    kinds: dict[str, KindFacts] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    checksum: str | None = None

    @property
    def readable(self) -> bool:
        """Whether it could be read."""
        return self.sfreq is not None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `neurofm check`."""
    parser.add_argument(
        "what",
        metavar="PATH-or-DATASET",
        help="a recording, a folder, or the name of a dataset card",
    )
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="folder of the dataset's recordings"
    )
    parser.add_argument("--subjects", nargs="+", metavar="S", help="only these subjects")
    parser.add_argument("--runs", nargs="+", metavar="R", help="only these runs")
    parser.add_argument("--json", action="store_true", help="everything found, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 if there is an error among it."""
    logging.getLogger("neurofm").addHandler(logging.NullHandler())
    corpus = _open(args.what, args.root)
    recordings = corpus.recordings(subjects=args.subjects, runs=args.runs)
    console = Console(stderr=True)
    facts: list[Facts] = []
    with Progress(
        console=console, transient=True, disable=args.json or not console.is_terminal
    ) as bar:
        task = bar.add_task(f"reading {corpus.name}", total=len(recordings))
        for recording in recordings:
            facts.append(examine(corpus, recording))
            bar.advance(task)
    whole = args.subjects is None and args.runs is None
    general = [*_duplicates(facts), *compare(corpus, recordings, facts, whole=whole)]
    severities = Counter(p.severity for item in facts for p in item.problems)
    severities.update(p.severity for p in general)
    if args.json:
        sys.stdout.write(json.dumps(_as_json(corpus, facts, general), indent=1) + "\n")
    else:
        _print(Console(), corpus, facts, general, severities)
    return int(severities["error"] > 0)


def _open(what: str, root: Path | None) -> Corpus:
    if what in cards.names("datasets") or what.endswith((".yaml", ".yml")):
        return open_corpus(what, root=root)
    if root is not None:
        return open_corpus(what, root=root)  # names near misses
    if Path(what).exists() or "/" in what or "." in what:
        return open_path(what)
    return open_corpus(what)


def examine(corpus: Corpus, recording: Recording) -> Facts:
    """Read one recording and describe it; what goes wrong becomes a problem."""
    path = None if recording.path is None else str(recording.path)
    signal: Signal | None = None
    with collect() as problems:
        try:
            signal = corpus.load(recording)
        except Exception as error:  # a damaged file may raise anything, and others are waiting
            text = str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
            problem = Problem("error", text, "", "unreadable")
    if signal is None:
        return Facts(recording.id, path, [*problems, problem])
    problems += recording_problems(signal, corpus.line_freq)
    if not signal.events:
        ruled = bool(corpus.card.get("events"))
        problems.append(
            Problem(
                "warning" if ruled else "info",
                "No events.",
                "Without labels it can be used for pretraining only; if there is a trigger "
                "channel, name "
                "it as `event_channel` in the card's reader.",
                "no_events",
            )
        )
    return Facts(
        id=recording.id,
        path=path,
        problems=problems,
        sfreq=signal.sfreq,
        duration_s=signal.duration,
        kinds=dict(_kinds(signal)),
        events=dict(sorted(Counter(event.label for event in signal.events).items())),
        checksum=hashlib.blake2b(
            np.ascontiguousarray(signal.data).data, digest_size=16
        ).hexdigest(),
    )


def _kinds(signal: Signal) -> Iterator[tuple[str, KindFacts]]:
    amplitude = typical_amplitude(signal.data, signal.sfreq)
    for value in np.unique(signal.sensors.kind):
        chosen = signal.sensors.kind == value
        here = amplitude[chosen]
        here = here[np.isfinite(here) & (here > 0)]
        yield (
            Kind(int(value)).name.lower(),
            KindFacts(
                channels=int(chosen.sum()),
                with_position=int(signal.sensors.has_position[chosen].sum()),
                unit=str(signal.details.get("unit", UNITS[Kind(int(value))].name)),
                amplitude=float(np.median(here)) if len(here) else None,
            ),
        )


def _duplicates(facts: Sequence[Facts]) -> list[Problem]:
    by_sum: dict[str, list[str]] = {}
    for item in facts:
        if item.checksum is not None:
            by_sum.setdefault(item.checksum, []).append(item.id)
    return [
        Problem(
            "error",
            f"These recordings hold the same numbers: {listed(ids)}.",
            "Delete the copies: they would leak between training and test.",
            "duplicate_recordings",
        )
        for ids in by_sum.values()
        if len(ids) > 1
    ]


def compare(
    corpus: Corpus, recordings: Sequence[Recording], facts: Sequence[Facts], *, whole: bool = True
) -> list[Problem]:
    """Differences between what was found and the card's `expected` facts.

    Args:
        corpus: Whose card it is.
        recordings: Those examined.
        facts: In the same order.
        whole: All recordings were asked for, so that missing subjects are worth a word.
    """
    expected = corpus.card.get("expected") or {}
    problems = []

    def differs(what: str, wanted: Any, which: list[str]) -> None:
        if which:
            problems.append(
                Problem(
                    "error",
                    f"The card expects {what} {wanted}; different in "
                    f"{listed(which, most=_MOST_NAMED)}.",
                    "Another version of the corpus, or a wrong card: correct one of them.",
                    f"unexpected_{what}",
                )
            )

    read = [item for item in facts if item.readable]
    if "sfreq" in expected:
        allowed = _several(expected["sfreq"])
        wrong = [
            f"{item.id} ({item.sfreq:g})"
            for item in read
            if not any(np.isclose(item.sfreq or 0, float(value), rtol=1e-3) for value in allowed)
        ]
        differs("sfreq", f"{' or '.join(f'{value:g}' for value in allowed)} Hz", wrong)
    if "kinds" in expected:
        wanted = dict(expected["kinds"])
        counts = {item.id: {k: v.channels for k, v in item.kinds.items()} for item in read}
        wrong = [f"{name} ({_pairs(found)})" for name, found in counts.items() if found != wanted]
        differs("channels", _pairs(wanted), wrong)
    if "labels" in expected:
        strange = sorted(
            {label for item in read for label in item.events} - set(expected["labels"])
        )
        if strange:
            problems.append(
                Problem(
                    "warning",
                    f"Event labels the card does not name: {listed(strange)}.",
                    "Add them to its `events` rules.",
                    "unexpected_labels",
                )
            )
    subjects = len({recording.subject for recording in recordings})
    if whole and subjects < int(expected.get("subjects", 0)):
        problems.append(
            Problem(
                "info",
                f"{subjects} of {expected['subjects']} subjects are here.",
                "",
                "part_of_corpus",
            )
        )
    return problems


def _several(value: Any) -> list[float]:
    return [float(item) for item in value] if isinstance(value, list) else [float(value)]


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def _as_json(corpus: Corpus, facts: Sequence[Facts], general: Sequence[Problem]) -> dict[str, Any]:
    every = [p for item in facts for p in item.problems] + list(general)
    return {
        "name": corpus.name,
        "root": None if corpus.root is None else str(corpus.root),
        "recordings": [asdict(item) for item in facts],
        "problems": [asdict(problem) for problem in general],
        "summary": {
            "recordings": len(facts),
            "readable": sum(item.readable for item in facts),
            "hours": sum(item.duration_s or 0 for item in facts) / 3600,
            "events": dict(sum((Counter(item.events) for item in facts), Counter())),
            **{s: sum(p.severity == s for p in every) for s in ("error", "warning", "info")},
        },
        "ok": not any(problem.severity == "error" for problem in every),
    }


def _print(
    console: Console,
    corpus: Corpus,
    facts: Sequence[Facts],
    general: Sequence[Problem],
    severities: Counter[str],
) -> None:
    where = f" in {corpus.root}" if corpus.root else ""
    console.print(f"[bold]{escape(corpus.name)}[/bold]{escape(where)}", soft_wrap=True)
    if corpus.card:
        console.print(f"[dim]{escape(str(corpus.card['description']))}[/dim]", soft_wrap=True)
    read = [item for item in facts if item.readable]
    if read:
        console.print(_channel_table(read))
        console.print(_event_table(read))
    for problem, ids in _grouped(facts, general):
        style = _STYLE[problem.severity]
        console.print(
            f"[{style}]{problem.severity:<8}[/{style}]{escape(problem.what)}", soft_wrap=True
        )
        if len(facts) > 1 and ids:
            count = f"{len(ids)} recordings: " if len(ids) > 1 else ""
            names = escape(listed(ids, most=_MOST_NAMED))
            console.print(f"        [dim]in {count}{names}[/dim]", soft_wrap=True)
        if problem.remedy:
            console.print(f"        -> {escape(problem.remedy)}", soft_wrap=True)
    hours = sum(item.duration_s or 0 for item in read) / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    console.print(
        f"{len(read)} of {len(facts)} recordings can be read, {length}; "
        f"{_plural(severities['error'], 'error')}, {_plural(severities['warning'], 'warning')}."
    )


def _plural(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _channel_table(read: Sequence[Facts]) -> Table:
    groups: dict[tuple[Any, ...], list[Facts]] = {}
    for item in read:
        shape = tuple((k, v.channels, v.with_position) for k, v in item.kinds.items())
        groups.setdefault((item.sfreq, shape), []).append(item)
    table = Table(box=None, pad_edge=False)
    for name in (
        "recordings",
        "kind",
        "channels",
        "with position",
        "rate",
        "duration",
        "amplitude",
    ):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for (sfreq, shape), items in groups.items():
        for i, (kind, channels, placed) in enumerate(shape):
            values = [v for item in items if (v := item.kinds[kind].amplitude) is not None]
            table.add_row(
                str(len(items)) if i == 0 else "",
                kind.upper(),
                str(channels),
                str(placed),
                f"{sfreq:g} Hz" if i == 0 else "",
                _range([item.duration_s or 0 for item in items], "s", "{:.1f}") if i == 0 else "",
                _range(values, items[0].kinds[kind].unit, "{:.3g}"),
            )
    return table


def _range(values: Sequence[float], unit: str, form: str) -> str:
    if not values:
        return "flat"
    middle, low, high = (form.format(f) for f in (np.median(values), min(values), max(values)))
    return f"{middle} {unit}" if low == high else f"{middle} {unit} ({low} to {high})"


def _event_table(read: Sequence[Facts]) -> Table:
    total: Counter[str] = Counter()
    holders: Counter[str] = Counter()
    for item in read:
        total.update(item.events)
        holders.update(item.events.keys())
    table = Table(box=None, pad_edge=False)
    table.add_column("events")
    table.add_column("count", justify="right")
    table.add_column("in recordings", justify="right")
    for label, count in sorted(total.items(), key=lambda pair: -pair[1]):
        table.add_row(escape(label), str(count), str(holders[label]))
    if not total:
        table.add_row("none", "0", "0")
    return table


def _grouped(facts: Sequence[Facts], general: Sequence[Problem]) -> list[tuple[Problem, list[str]]]:
    """Equal problems together with the recordings that have them; errors first."""
    groups: dict[Problem, list[str]] = {problem: [] for problem in general}
    for item in facts:
        for problem in item.problems:
            groups.setdefault(problem, []).append(item.id)
    order = list(_STYLE)
    return sorted(groups.items(), key=lambda pair: order.index(pair[0].severity))
