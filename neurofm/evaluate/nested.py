"""Choices made inside the training side of a fold, so that no test window or label decides them.

Inner folds separate what the outer fold separates: people if people are decoded who were not
trained on, runs if runs are; where there is one such group only, or the outer fold cuts time, they
are contiguous parts of each class. All functions here are given training windows alone.

Source: Cawley & Talbot 2010 (choices made with test data make scores too good).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from neurofm.data.rows import Row, Split, overlapping
from neurofm.data.splits import chronology, natural_order
from neurofm.evaluate.folds import contiguous_parts

_WIDER = {"subject": ("subject", "run"), "session": ("session", "run"), "run": ("run",)}


def _groups(rows: Sequence[Row], by: str) -> tuple[list[list[int]], str]:
    """Windows of each group that the outer fold separates, and what kind of groups these are.

    None, and "time", if there are fewer than two.
    """
    for entity in _WIDER.get(by, (by,) if by == "recording" else ()):
        found: dict[tuple[str | None, ...], list[int]] = {}
        for i, row in enumerate(rows):
            session = (row.session,) if entity == "run" else ()
            found.setdefault((*session, getattr(row, entity)), []).append(i)
        if len(found) > 1 and not any(at[-1] is None for at in found):
            return [
                found[at] for at in sorted(found, key=lambda at: [*map(natural_order, at)])
            ], entity
    return [], "time"


def inner_folds(rows: Sequence[Row], by: str, *, k: int = 5) -> list[Split]:
    """Folds of training windows.

    Args:
        rows: Of the training side, all of it and nothing else.
        by: What the outer fold separates, `Split.by`.
        k: Folds at most.

    Returns:
        None if the windows are too few; folds whose training part lacks a class are left out. Their
        `by` is what they separate.
    """
    everything = set(range(len(rows)))
    labels = {str(row.label) for row in rows}
    groups, entity = _groups(rows, by)
    if groups:
        parts = np.array_split(np.arange(len(groups)), min(k, len(groups)))
        held = [sorted(i for g in part for i in groups[g]) for part in parts]
        folds = [
            Split(
                tuple(sorted(everything - set(out))), (), tuple(out), f"inner fold {i + 1}", entity
            )
            for i, out in enumerate(held)
        ]
    else:
        counts = [sum(str(row.label) == label for row in rows) for label in labels]
        most = min(k, min(counts, default=0))
        if most < 2 or len(labels) < 2:
            return []
        folds = contiguous_parts(rows, sorted(everything), k=most, title="inner folds")
    return [fold for fold in folds if {str(rows[i].label) for i in fold.train} == labels]


def held_out(rows: Sequence[Row], by: str, *, share: float, seed: int = 0) -> tuple[int, ...]:
    """Training windows set aside to end a training: whole people or runs, else the last of a class.

    Args:
        rows: Of the training side.
        by: What the outer fold separates.
        share: Of the groups, at least one and not all; else of each class of each person.
        seed: Draws people; of runs the last ones are taken.

    Returns:
        Positions; none where nothing can be spared.
    """
    groups, _ = _groups(rows, by)
    if groups:
        n = min(max(1, round(share * len(groups))), len(groups) - 1)
        order = np.arange(len(groups))
        if by == "subject":
            order = np.random.default_rng(seed).permutation(order)
        aside = [i for g in order[-n:] for i in groups[g]]
    else:
        own: dict[tuple[str, str], list[int]] = {}
        for i in sorted(range(len(rows)), key=lambda i: chronology(rows[i])):
            own.setdefault((rows[i].subject, str(rows[i].label)), []).append(i)
        aside = [i for part in own.values() for i in part[len(part) - int(share * len(part)) :]]
        rest = [i for i in range(len(rows)) if i not in set(aside)]
        if overlapping(rows, aside, rest):
            aside = []
    kept = {str(rows[i].label) for i in range(len(rows)) if i not in set(aside)}
    return tuple(sorted(aside)) if kept == {str(row.label) for row in rows} else ()


def grid_of(choose: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of a card's `choose`, in the order of the card."""
    names = list(choose)
    for values in itertools.product(*(choose[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def with_values(spec: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a specification with other values at dotted paths, such as "init_args.c".

    Raises:
        ValueError: A path that goes through something that is no mapping.
    """
    changed = deepcopy(dict(spec))
    for path, value in values.items():
        *front, last = path.split(".")
        at: Any = changed
        for name in front:
            at = at.setdefault(name, {}) if isinstance(at, dict) else None
            if not isinstance(at, dict):
                raise ValueError(f"choose: {path} does not lead into {sorted(spec)}.")
        at[last] = value
    return changed


def choose(
    options: Sequence[dict[str, Any]],
    score: Callable[[dict[str, Any], Split], float],
    folds: Sequence[Split],
) -> dict[str, Any]:
    """The option with the best mean score over inner folds; the first of equally good ones.

    Args:
        score: Of an option on the test side of a fold, trained on the other; NaN is left out.

    Returns:
        Nothing if no fold gives a score.
    """
    best, found = -np.inf, {}
    for option in options:
        values = np.array([score(option, fold) for fold in folds], dtype=np.float64)
        values = values[~np.isnan(values)]
        if len(values) and values.mean() > best + 1e-12:
            best, found = float(values.mean()), option
    return found
