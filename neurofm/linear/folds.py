"""Which rows are held out together.

Rows next to each other in time are alike, so folds are runs, or stretches of time: never rows
drawn at random.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

Fold = tuple[np.ndarray, np.ndarray]


def make_folds(
    n: int, folds: int | None = 5, *, groups: Sequence[Hashable] | np.ndarray | None = None
) -> list[Fold]:
    """Training and test rows of every fold.

    Args:
        n: Rows.
        folds: How many. None: as many as there are groups.
        groups: Of each row (its run, or its stimulus); a group is never divided. In order
            of appearance each goes to the fold with the fewest rows so far. Without groups folds
            are consecutive stretches, the first ones a row longer where it does not divide.

    Raises:
        ValueError: Fewer than two folds, or too few rows or groups for them.
    """
    if groups is None:
        if folds is None or folds < 2:
            raise ValueError(
                f"folds: {folds} folds without groups; expected two or more, or a group per row."
            )
        if n < 2 * folds:
            raise ValueError(
                f"folds: {n} rows are too few for {folds} folds of two rows or more. Use at most "
                f"{n // 2} folds, or more data."
            )
        code = np.repeat(np.arange(folds), [len(part) for part in np.array_split(range(n), folds)])
    else:
        names = list(groups)
        if len(names) != n:
            raise ValueError(f"folds: {len(names)} groups for {n} rows; expected one per row.")
        place: dict[Hashable, int] = {}
        own = np.array([place.setdefault(name, len(place)) for name in names])
        wanted = len(place) if folds is None else min(folds, len(place))
        if wanted < 2:
            raise ValueError(
                f"folds: {len(place)} group; at least two are needed to hold one out. Record more "
                "runs, or leave `groups` out for consecutive stretches."
            )
        code = _deal(np.bincount(own), wanted)[own]
    rows = np.arange(n)
    return [(rows[code != fold], rows[code == fold]) for fold in np.unique(code)]


def _deal(sizes: np.ndarray, folds: int) -> np.ndarray:
    """A fold for every group: each goes to the fold with the fewest rows so far."""
    filled = np.zeros(folds)
    fold = np.empty(len(sizes), dtype=int)
    for group, size in enumerate(sizes):
        fold[group] = filled.argmin()
        filled[fold[group]] += size
    return fold
