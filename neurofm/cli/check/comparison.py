"""What was found against what the card expects, and recordings that are copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from neurofm.cli.check.facts import Facts
from neurofm.io.corpus import Corpus
from neurofm.io.quality import Problem, listed
from neurofm.types import Recording
from neurofm.units import BRAIN_KINDS

_MOST_NAMED = 4  # recordings named beside a problem
_BRAIN = {kind.name.lower() for kind in BRAIN_KINDS}


def duplicates(facts: Sequence[Facts]) -> list[Problem]:
    """Recordings whose numbers are the same."""
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
    read = [item for item in facts if item.readable]
    problems = [
        _differs("sfreq", f"{_numbers(expected, 'sfreq')} Hz", _other_rates(expected, read)),
        _differs("tr_s", f"{_numbers(expected, 'tr_s')} s", _other_tr(expected, read)),
        _differs("channels", _pairs(expected.get("kinds") or {}), _other_kinds(expected, read)),
        _differs("unit", str(expected.get("unit")), _other_units(expected, read)),
        _strange_labels(expected, read),
    ]
    if whole:
        problems += _missing(expected, recordings)
    return [problem for problem in problems if problem is not None]


def _differs(what: str, wanted: str, which: list[str]) -> Problem | None:
    if not which:
        return None
    return Problem(
        "error",
        f"The card expects {what} {wanted}; different in {listed(which, most=_MOST_NAMED)}.",
        "Another version of the corpus, or a wrong card: correct one of them.",
        f"unexpected_{what}",
    )


def _several(value: Any) -> list[float]:
    return [float(item) for item in value] if isinstance(value, list) else [float(value)]


def _numbers(expected: dict[str, Any], key: str) -> str:
    return " or ".join(f"{value:g}" for value in _several(expected.get(key, [])))


def _fits(value: float, allowed: Any, *, rtol: float) -> bool:
    return any(bool(np.isclose(value, item, rtol=rtol)) for item in _several(allowed))


def _other_rates(expected: dict[str, Any], read: Sequence[Facts]) -> list[str]:
    if "sfreq" not in expected:
        return []
    return [
        f"{item.id} ({item.sfreq:g})"
        for item in read
        if not _fits(item.sfreq or 0, expected["sfreq"], rtol=1e-3)
    ]


def _other_tr(expected: dict[str, Any], read: Sequence[Facts]) -> list[str]:
    if "tr_s" not in expected:
        return []
    times = {item.id: 1 / (item.sfreq or np.inf) for item in read}
    return [
        f"{name} ({tr:g})"
        for name, tr in times.items()
        if not _fits(tr, expected["tr_s"], rtol=5e-3)
    ]


def _other_kinds(expected: dict[str, Any], read: Sequence[Facts]) -> list[str]:
    """Recordings with other numbers of channels; signals of the body may be there besides."""
    wanted = dict(expected.get("kinds") or {})
    if not wanted:
        return []
    strange = []
    for item in read:
        counts = {kind: facts.channels for kind, facts in item.kinds.items()}
        compared = {k: n for k, n in counts.items() if k in wanted or k in _BRAIN}
        if compared != wanted:
            strange.append(f"{item.id} ({_pairs(counts)})")
    return strange


def _other_units(expected: dict[str, Any], read: Sequence[Facts]) -> list[str]:
    if "unit" not in expected:
        return []
    units = {
        item.id: sorted({facts.unit for kind, facts in item.kinds.items() if kind in _BRAIN})
        for item in read
    }
    return [
        f"{name} ({', '.join(found)})"
        for name, found in units.items()
        if found and expected["unit"] not in found
    ]


def _strange_labels(expected: dict[str, Any], read: Sequence[Facts]) -> Problem | None:
    if "labels" not in expected:
        return None
    found = {label for item in read for label in item.events}
    strange = sorted(
        label
        for label in found - set(expected["labels"])
        if not label.upper().startswith(("BAD", "EDGE"))
    )
    if not strange:
        return None
    return Problem(
        "warning",
        f"Event labels the card does not name: {listed(strange)}.",
        "Add them to its `events` rules.",
        "unexpected_labels",
    )


def _missing(expected: dict[str, Any], recordings: Sequence[Recording]) -> list[Problem | None]:
    """A word on people and runs that a local copy lacks."""
    count = Counter(recording.subject for recording in recordings)
    problems: list[Problem | None] = []
    if len(count) < int(expected.get("subjects", 0)):
        text = f"{len(count)} of {expected['subjects']} subjects are here."
        problems.append(Problem("info", text, "", "part_of_corpus"))
    if "runs" in expected:
        other = {s: n for s, n in count.items() if n not in _several(expected["runs"])}
        if other:
            few = [f"{subject} ({n})" for subject, n in other.items()]
            text = (
                f"{len(other)} of {len(count)} subjects have another number of recordings than "
                f"{_numbers(expected, 'runs')}: {listed(few, most=_MOST_NAMED)}."
            )
            problems.append(Problem("info", text, "", "part_of_runs"))
    return problems


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
