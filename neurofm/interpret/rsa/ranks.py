"""Ranks of RDM entries and Kendall's tau, by sorting: no loop over pairs of pairs.

Tau counts the discordant pairs of entries. Entries in the order of one RDM, it is how many ranks of
the other stand behind a smaller one: counted while sorting, by merging sorted stretches, each twice
as long as the last.

Source: Kendall 1938, 1945 (tau-a, tau-b); Knight 1966 (counting by merging).
Axes: pair = entry of an RDM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from neurofm.shapes import Float, Int

_SHORT = 16  # entries that are compared all with all before merging starts


def mid_ranks(x: Float[np.ndarray, "*batch pair"]) -> Float[np.ndarray, "*batch pair"]:
    """Ranks from 1, the mean of ranks for ties; NaN stays NaN and takes no rank."""
    flat = np.ascontiguousarray(x, dtype=np.float64).reshape(-1, x.shape[-1])
    if np.isnan(flat).any():
        return np.reshape(stats.rankdata(x, axis=-1, nan_policy="omit"), x.shape)
    order = flat.argsort(axis=1)
    ordered = np.take_along_axis(flat, order, 1)
    first = np.ones(flat.shape, dtype=bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    if first.all():
        ranks = np.broadcast_to(np.arange(1.0, flat.shape[1] + 1), flat.shape)
    else:
        starts = np.flatnonzero(first)
        length = np.diff(starts, append=first.size)
        middle = starts % flat.shape[1] + (length + 1) / 2
        ranks = np.repeat(middle, length).reshape(flat.shape)
    out = np.empty(flat.shape)
    np.put_along_axis(out, order, ranks, 1)
    return out.reshape(x.shape)


@dataclass(frozen=True)
class _Sorted:
    """What is needed of an RDM, found once."""

    order: Int[np.ndarray, " pair"]
    level: Int[np.ndarray, " pair"]  # of each entry: number of different smaller values
    tied: int  # pairs of entries with one value

    @classmethod
    def of(cls, x: Float[np.ndarray, " pair"]) -> _Sorted:
        order = x.argsort()
        ordered = x[order]
        first = np.ones(len(x), dtype=bool)
        first[1:] = ordered[1:] != ordered[:-1]
        level = np.empty(len(x), dtype=np.int64)
        level[order] = np.cumsum(first) - 1
        return cls(order, level, _same(first))


def kendall(
    a: Float[np.ndarray, "first pair"], b: Float[np.ndarray, "second pair"], method: str = "tau-a"
) -> Float[np.ndarray, "first second"]:
    """Kendall's tau of every RDM with every other.

    Args:
        method: "tau-a" (concordant minus discordant over all comparisons) or "tau-b" (over the
            comparisons that are not tied; NaN for a constant RDM).
    """
    left, right = [_Sorted.of(one) for one in a], [_Sorted.of(one) for one in b]
    total = a.shape[1] * (a.shape[1] - 1) // 2
    out = np.empty((len(a), len(b)))
    for i, one in enumerate(left):
        for j, two in enumerate(right):
            score = _concordance(one, two, total)
            free = (total - one.tied) * (total - two.tied)
            if method == "tau-a":
                out[i, j] = score / total
            else:
                out[i, j] = score / np.sqrt(float(free)) if free else np.nan
    return out


def _concordance(a: _Sorted, b: _Sorted, total: int) -> int:
    """Concordant minus discordant comparisons; what is tied in either is neither."""
    if not a.tied and not b.tied:
        return total - 2 * inversions(b.level[a.order])
    # Ties in `a` in the order of `b`, so that they never count as discordant.
    both = np.sort(a.level * len(a.level) + b.level)
    first = np.ones(len(both), dtype=bool)
    first[1:] = both[1:] != both[:-1]
    discordant = inversions(both % len(both))
    return total - a.tied - b.tied + _same(first) - 2 * discordant


def _same(first: np.ndarray) -> int:
    """Pairs within runs of equal values, given where runs begin."""
    length = np.diff(np.flatnonzero(first), append=len(first))
    return int((length * (length - 1) // 2).sum())


def inversions(x: Int[np.ndarray, " pair"]) -> int:
    """How many values, from 0 to the number of them, stand before a smaller one; ties are none."""
    size = _SHORT
    while size < len(x):
        size *= 2
    # Filled up with values that are larger than all.
    padded: np.ndarray = np.full(size, len(x), dtype=np.int64 if size > 2**29 else np.int32)
    padded[: len(x)] = x
    rows: Any = padded.reshape(-1, _SHORT)
    later = np.triu(np.ones((_SHORT, _SHORT), dtype=bool), 1)
    count = int(np.count_nonzero((rows[:, :, None] > rows[:, None, :]) & later))
    rows = np.sort(rows, axis=1)
    half = _SHORT
    while half < size:
        keys: Any = rows.reshape(-1, 2, half) * 2
        keys[:, 1] += 1  # a value of the second half comes after its equals
        merged = keys.reshape(-1, 2 * half)
        merged.sort(axis=1)
        # A value of the first half that moved back did so past smaller ones of the second.
        first = (merged & 1) == 0
        places = int(first.sum(0) @ np.arange(2 * half))
        count += places - len(merged) * (half * (half - 1) // 2)
        rows, half = merged >> 1, 2 * half
    return count
