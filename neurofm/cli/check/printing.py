"""What `neurofm check` found, as tables and lines of text, or as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neurofm.cli.check.facts import Facts
from neurofm.io.corpus import Corpus
from neurofm.io.quality import Problem, listed

_STYLE = {"error": "bold red", "warning": "yellow", "info": "dim"}
_MOST_NAMED = 4  # recordings named beside a problem
_MOST_LABELS = 60  # of events; a corpus of pictures has a label for each


def as_json(corpus: Corpus, facts: Sequence[Facts], general: Sequence[Problem]) -> dict[str, Any]:
    """Everything found about one corpus, as JSON values."""
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


def show(
    console: Console, corpus: Corpus, facts: Sequence[Facts], general: Sequence[Problem]
) -> None:
    """Print what was found about one corpus."""
    severities = count_severities(facts, general)
    where = f" in {corpus.root}" if corpus.root else ""
    console.print(f"[bold]{escape(corpus.name)}[/bold]{escape(where)}", soft_wrap=True)
    if corpus.card:
        console.print(f"[dim]{escape(str(corpus.card['description']))}[/dim]", soft_wrap=True)
    read = [item for item in facts if item.readable]
    if read:
        console.print(_channel_table(read))
        console.print(_event_table(read))
        for line in _about(corpus, read):
            console.print(escape(line), soft_wrap=True, highlight=False)
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
                _rate(sfreq, items[0]) if i == 0 else "",
                _range([item.duration_s or 0 for item in items], "s", "{:.1f}") if i == 0 else "",
                _range(values, items[0].kinds[kind].unit, "{:.3g}"),
            )
    return table


def _rate(sfreq: float | None, item: Facts) -> str:
    if "bold" in item.kinds and sfreq:
        return f"TR {item.details.get('tr_s', 1 / sfreq):g} s"
    return f"{sfreq:g} Hz"


def _about(corpus: Corpus, read: Sequence[Facts]) -> list[str]:
    """Lines on the space of positions, regions and people, where there is something to say."""
    lines = []
    frames = Counter(
        str(item.details.get("space") or item.frame)
        for item in read
        if any(kind.with_position for kind in item.kinds.values())
    )
    if frames:
        lines.append("space: " + ", ".join(f"{name} ({n})" for name, n in frames.items()))
    labelled = sum(kind.with_region for item in read for kind in item.kinds.values())
    if labelled:
        lines.append(f"regions: {labelled} channels have an anatomical label")
    try:
        people = corpus.participants()
    except (ValueError, OSError) as error:
        return [*lines, f"people: {error}"]
    if people:
        columns = Counter(key for person in people.values() for key in person)
        told = ", ".join(f"{key} of {n}" for key, n in columns.most_common(6))
        lines.append(f"people: {len(people)} in participants.tsv" + (f" ({told})" if told else ""))
    return lines


def count_severities(facts: Sequence[Facts], general: Sequence[Problem]) -> Counter[str]:
    """How many problems there are of each severity."""
    severities = Counter(p.severity for item in facts for p in item.problems)
    severities.update(p.severity for p in general)
    return severities


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
    often = sorted(total.items(), key=lambda pair: -pair[1])
    for label, count in often[:_MOST_LABELS]:
        table.add_row(escape(label), str(count), str(holders[label]))
    rest = sum(count for _, count in often[_MOST_LABELS:])
    if rest:
        table.add_row(f"and {len(often) - _MOST_LABELS} more labels", str(rest), "")
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
