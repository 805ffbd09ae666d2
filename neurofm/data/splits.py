"""Which windows train, validate and test: by subject, session, run, recording, stimulus or time.

Generators work on rows (`neurofm.data.rows`), so a split is decided before anything is read. Groups
stay whole: all windows of a held-out run are on one side. Validation groups are always taken out of
the training groups, never out of the test. Everything is deterministic for a seed.
`neurofm.data.audit` checks the result independently.

Source: protocols of the EEG foundation-model and ERP benchmarks (arXiv 2601.17883, 2601.00573):
leave one out, k folds of subjects, Monte-Carlo subjects, first trials of each class.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from neurofm.data.rows import ENTITIES, Row, Split, overlapping


def leave_one_out(
    rows: Sequence[Row], by: str = "subject", *, validate: float = 0.0, seed: int = 0
) -> list[Split]:
    """One fold per subject, session label, run label or recording.

    With `by="run"` a fold tests one run of every subject and trains on their other runs.

    Args:
        validate: Fraction of the training groups (at least one) that validates instead.

    Raises:
        ValueError: Fewer than two groups (three with validation), or a fold whose training side
            lacks a class; the message names it.
    """
    groups = _groups(rows, by)
    _require(len(groups), 2 + (validate > 0), f"leave_one_out by {by}", by)
    folds = [[name] for name in groups]
    return _folds(rows, groups, folds, by, validate, seed, lambda held, _: f"{by}-{held[0]}")


def kfold(
    rows: Sequence[Row], by: str, k: int, *, seed: int | None = 0, validate: float = 0.0
) -> list[Split]:
    """K folds of whole groups.

    Args:
        seed: Shuffles the groups; None keeps them in natural order (contiguous folds).
        validate: Fraction of the training groups (at least one) that validates instead.

    Raises:
        ValueError: Fewer groups than folds, or a class missing from a training side.
    """
    if k < 2:
        raise ValueError(f"kfold: k is {k}, expected at least 2 folds.")
    groups = _groups(rows, by)
    _require(len(groups), max(k, 2 + (validate > 0)), f"kfold by {by} with {k} folds", by)
    names = list(groups)
    if seed is not None:
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    folds = [
        [names[i] for i in part] for part in np.array_split(np.arange(len(names)), k) if len(part)
    ]
    return _folds(
        rows, groups, folds, by, validate, seed or 0, lambda _, i: f"{by}-fold-{i + 1}-of-{k}"
    )


def by_group(
    rows: Sequence[Row],
    by: str,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int = 0,
) -> Split:
    """Shuffle the groups once and deal them to train, validation and test (Monte-Carlo split).

    Args:
        fractions: Of the groups, for train, validate, test; they sum to 1. A fraction above 0 gets
            at least one group.

    Raises:
        ValueError: Bad fractions, too few groups, or a class missing from the training side.
    """
    shares = _fractions(fractions)
    groups = _groups(rows, by)
    used = sum(share > 0 for share in shares)
    _require(len(groups), used, f"by_group by {by} with fractions {tuple(fractions)}", by)
    names = list(groups)
    names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    counts = _deal(len(names), shares)
    test = names[: counts[2]]
    validate = names[counts[2] : counts[2] + counts[1]]
    train = names[counts[2] + counts[1] :]
    split = Split(
        train=_members(groups, train),
        validate=_members(groups, validate),
        test=_members(groups, test),
        name=f"{by}-seed-{seed}",
        by=by,
    )
    _check_classes(rows, [split])
    return split


def by_time(
    rows: Sequence[Row],
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    gap_s: float | None = None,
) -> Split:
    """Cut every recording in time: its beginning trains, then validation, its end tests.

    Windows that reach into a gap are on no side.

    Args:
        fractions: Of each recording's span, for train, validate, test; they sum to 1.
        gap_s: Seconds left out at each cut, at least the longest window; that is the default.

    Raises:
        ValueError: Bad fractions, a gap shorter than a window, or an empty side.
    """
    shares = _fractions(fractions)
    if not rows:
        raise ValueError("by_time: there are no rows to split.")
    longest = max(row.stop - row.start for row in rows)
    gap = longest if gap_s is None else float(gap_s)
    if gap < longest - 1e-9:
        raise ValueError(
            f"by_time: a gap of {gap:g} s is shorter than the longest window ({longest:g} s), so "
            f"neighbouring windows could share samples. Use gap_s={longest:g} or more."
        )
    sides: tuple[list[int], list[int], list[int]] = ([], [], [])
    for members in _groups(rows, "recording").values():
        first = min(rows[i].start for i in members)
        span = max(rows[i].stop for i in members) - first
        edges = first + span * np.cumsum((0.0, *shares))
        for i in members:
            for side in range(3):
                low = edges[side] + (gap if side and edges[side] > first else 0.0)
                inside = rows[i].start >= low - 1e-9 and rows[i].stop <= edges[side + 1] + 1e-9
                if shares[side] and inside:
                    sides[side].append(i)
                    break
    for name, share, members in zip(("train", "validate", "test"), shares, sides, strict=True):
        if share and not members:
            raise ValueError(
                f"by_time: no window fits the {name} part ({share:.0%} of each recording, after a "
                f"gap of {gap:g} s). Use longer recordings, shorter windows or other fractions."
            )
    split = Split(tuple(sides[0]), tuple(sides[1]), tuple(sides[2]), name="time", by="time")
    _check_classes(rows, [split])
    return split


def chronological_few_shot(rows: Sequence[Row], per_class: int | float) -> list[Split]:
    """Within each subject the first windows of every class train and the later ones test.

    Test windows that share time with a training window (sliding windows) are dropped and counted.

    Args:
        per_class: Windows per class if an integer; else the fraction of that class's windows,
            rounded down, at least one.

    Returns:
        One split per subject, in natural order.

    Raises:
        ValueError: No labels, or a class with too few windows; the message names both.
    """
    if isinstance(per_class, int) and per_class < 1:
        raise ValueError(f"chronological_few_shot: per_class is {per_class}, expected at least 1.")
    if isinstance(per_class, float) and not 0 < per_class < 1:
        raise ValueError(
            f"chronological_few_shot: per_class is {per_class}; a fraction lies between 0 and 1, "
            "a number of windows is an integer."
        )
    splits = []
    dropped = 0
    for subject, members in _groups(rows, "subject").items():
        ordered = sorted(members, key=lambda i: chronology(rows[i]))
        classes: dict[Hashable, list[int]] = {}
        for i in ordered:
            if rows[i].label is not None:
                classes.setdefault(rows[i].label, []).append(i)
        if len(classes) < 2:
            raise ValueError(
                f"chronological_few_shot: subject {subject} has {len(classes)} classes of windows, "
                "expected at least 2. Choose labels when making the windows."
            )
        train: list[int] = []
        test: list[int] = []
        for label, own in classes.items():
            n = per_class if isinstance(per_class, int) else max(1, int(len(own) * per_class))
            if len(own) <= n:
                raise ValueError(
                    f"chronological_few_shot: subject {subject} has {len(own)} windows of class "
                    f"{label!r}; {n} for training leave none for the test. Use per_class="
                    f"{len(own) - 1} or fewer."
                )
            train += own[:n]
            test += own[n:]
        shared = overlapping(rows, train, test)
        dropped += len(shared)
        kept = sorted(set(test) - shared)
        if not kept:
            raise ValueError(
                f"chronological_few_shot: every test window of subject {subject} shares time with "
                "a training window. Use a stride of at least the window length."
            )
        name = f"subject-{subject}-first-{per_class}"
        splits.append(Split(tuple(sorted(train)), (), tuple(kept), name=name, by="time"))
    if dropped:
        warnings.warn(
            f"chronological_few_shot: dropped {dropped} test windows that share time with a "
            "training window.",
            stacklevel=2,
        )
    return splits


def _groups(rows: Sequence[Row], by: str) -> dict[str, list[int]]:
    """Positions of the rows of each group, groups in natural order."""
    if by not in (*ENTITIES, "stimulus"):
        raise ValueError(f"split by {by!r}: expected one of {', '.join(ENTITIES)}, stimulus.")
    found: dict[str, list[int]] = {}
    missing = 0
    for i, row in enumerate(rows):
        value = getattr(row, by)
        if value is None:
            missing += 1
        else:
            found.setdefault(value, []).append(i)
    if missing:
        other = "subject" if by != "subject" else "recording"
        remedy = f"name the {by} in the dataset card's reader"
        if by == "stimulus":
            remedy = "give the windows `embeddings` of stimuli"
        raise ValueError(
            f"split by {by}: {missing} of {len(rows)} rows have no {by}. Split by {other}, or "
            f"{remedy}."
        )
    return {name: found[name] for name in sorted(found, key=natural_order)}


def natural_order(value: str | None) -> tuple[Any, ...]:
    """Sort key under which run 4 comes before run 10, and None first."""
    parts = re.split(r"(\d+)", value or "")
    return (value is not None, *[(int(p), "") if p.isdigit() else (-1, p) for p in parts])


def chronology(row: Row) -> tuple[Any, ...]:
    """Sort key: session, run, recording in natural order, then time."""
    return (*(natural_order(key) for key in (row.session, row.run, row.recording)), row.start)


def _members(groups: dict[str, list[int]], names: Sequence[str]) -> tuple[int, ...]:
    return tuple(sorted(i for name in names for i in groups[name]))


def _folds(
    rows: Sequence[Row],
    groups: dict[str, list[int]],
    folds: list[list[str]],
    by: str,
    validate: float,
    seed: int,
    name: Callable[[list[str], int], str],
) -> list[Split]:
    if not 0 <= validate < 1:
        raise ValueError(f"validate is {validate}, expected a fraction of 0 or more, below 1.")
    splits = []
    for i, held in enumerate(folds):
        rest = [group for group in groups if group not in set(held)]
        aside: list[str] = []
        if validate:
            n = min(max(1, round(validate * len(rest))), len(rest) - 1)
            order = np.random.default_rng([seed, i]).permutation(len(rest))
            aside = [rest[j] for j in order[:n]]
        keep = [group for group in rest if group not in set(aside)]
        splits.append(
            Split(
                train=_members(groups, keep),
                validate=_members(groups, aside),
                test=_members(groups, held),
                name=name(held, i),
                by=by,
            )
        )
    _check_classes(rows, splits)
    return splits


def _require(found: int, needed: int, what: str, by: str) -> None:
    if found < needed:
        raise ValueError(
            f"{what} needs at least {needed} groups, the rows have {found} different "
            f"{by} value{'s' * (found != 1)}. Load more data, use fewer folds, or split by time."
        )


def _fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    values = tuple(float(f) for f in fractions)
    if len(values) != 3 or min(values) < 0 or values[0] == 0 or abs(sum(values) - 1) > 1e-6:
        raise ValueError(
            f"fractions {values}: expected three for train, validate and test, not negative, train "
            "above 0, with sum 1; such as (0.6, 0.2, 0.2)."
        )
    return values[0], values[1], values[2]


def _deal(n: int, shares: tuple[float, float, float]) -> list[int]:
    """How many of n groups each side gets: rounded, at least one where the share is above 0."""
    counts = [0, 0, 0]
    for side in (2, 1):
        if shares[side] > 0:
            counts[side] = max(1, round(n * shares[side]))
    while n - counts[1] - counts[2] < 1:
        counts[1 if counts[1] > counts[2] else 2] -= 1
    counts[0] = n - counts[1] - counts[2]
    return counts


def _check_classes(rows: Sequence[Row], splits: Sequence[Split]) -> None:
    """Refuse a training side without one of the classes; warn about such test sides."""
    everything = {row.label for row in rows if row.label is not None}
    if not everything:
        return
    poor = 0
    for split in splits:
        missing = everything - {rows[i].label for i in split.train}
        if missing:
            raise ValueError(
                f"split {split.name}: the training side has no window of class "
                f"{', '.join(sorted(map(repr, missing)))}. Use another seed, fewer folds or "
                "another `by`, or leave the class out."
            )
        poor += bool(split.test) and bool(everything - {rows[i].label for i in split.test})
    if poor:
        warnings.warn(
            f"{poor} of {len(splits)} splits test on windows that lack a class: their scores do "
            "not cover all classes.",
            stacklevel=4,
        )
