"""Windows as rows of a table, and a split of such a table.

A `Row` describes one window (or one whole recording) without its samples. Splits are made, checked
and stored with rows; samples are read afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.shapes import Bool, Float, Int

ENTITIES = ("subject", "session", "run", "recording")
WITHIN = ("time", "stimulus")  # splits whose sides share recordings


@dataclass(frozen=True, slots=True)
class Row:
    """One window of one recording, or a whole recording.

    Args:
        subject: Unique over all corpora in use: put the corpus name in front when mixing.
        recording: `Recording.id`.
        start: Seconds from the first sample of the recording.
        stop: Seconds; the first moment after the window.
        label: Class, None for unlabelled windows.
        stimulus: What was shown or played, where the same one may come again.
        fingerprint: Of the recording's content (`neurofm.data.fingerprints`), or any text that is
            the same for two copies of one recording.
    """

    subject: str
    session: str | None
    run: str | None
    recording: str
    start: float
    stop: float
    label: str | int | None = None
    stimulus: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Split:
    """Positions of rows on each side; a row may be on none (dropped between the sides).

    Args:
        name: Such as "run-12": what is held out.
        by: What must not be on two sides: one of `ENTITIES`, "stimulus", or "time".
    """

    train: tuple[int, ...]
    validate: tuple[int, ...]
    test: tuple[int, ...]
    name: str
    by: str = "subject"

    @property
    def sides(self) -> dict[str, tuple[int, ...]]:
        """The three sides by name."""
        return {"train": self.train, "validate": self.validate, "test": self.test}


def overlapping(rows: Sequence[Row], left: Sequence[int], right: Sequence[int]) -> set[int]:
    """Positions in `right` whose window shares time with a window of `left` in one recording.

    Windows that only touch do not share time. Sorting, no pairs: a million rows take seconds.
    """
    if not len(left) or not len(right):
        return set()
    index = [*map(int, left), *map(int, right)]
    held = [rows[i] for i in index]
    codes: dict[str, int] = {}
    hit = overlapping_times(
        np.array([codes.setdefault(row.recording, len(codes)) for row in held]),
        np.array([row.start for row in held], dtype=np.float64),
        np.array([row.stop for row in held], dtype=np.float64),
        np.arange(len(left)),
        np.arange(len(left), len(index)),
    )
    return {index[len(left) + int(i)] for i in np.flatnonzero(hit)} | (
        set(index[: len(left)]) & set(index[len(left) :])
    )


def overlapping_times(
    recording: Int[np.ndarray, " row"],
    start: Float[np.ndarray, " row"],
    stop: Float[np.ndarray, " row"],
    left: Int[np.ndarray, " left"],
    right: Int[np.ndarray, " right"],
) -> Bool[np.ndarray, " right"]:
    """Which rows of `right` share time with a row of `left` in one recording.

    Args:
        recording: Number of each row's recording.
        start: Seconds.
        stop: Seconds.
        left: Positions of rows.
        right: Positions of rows.
    """
    if not len(left) or not len(right):
        return np.zeros(len(right), dtype=bool)
    index = np.concatenate([left, right])
    is_left = np.arange(len(index)) < len(left)
    # Whole microseconds: exact comparisons, and 2 of them forgive the rounding of k / sfreq.
    first = np.round(start[index] * 1e6).astype(np.int64)
    last = np.maximum(np.round(stop[index] * 1e6).astype(np.int64) - 2, first)
    # Ranks instead of times: clock times and many recordings fit into one number.
    times, rank = np.unique(np.concatenate([first, last]), return_inverse=True)
    offset = recording[index].astype(np.int64) * len(times)
    begin, end = rank[: len(index)] + offset, rank[len(index) :] + offset
    hit = np.zeros(len(index), dtype=bool)
    lowest, highest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    # Left windows that start at or before a right one, in the order of starts; ties: left first.
    order = np.lexsort((~is_left, begin))
    reach = np.maximum.accumulate(np.where(is_left[order], end[order], lowest))
    hit[order] |= reach > begin[order]
    # Left windows that start after a right one: the nearest start decides.
    nearest = np.minimum.accumulate(np.where(is_left[order], begin[order], highest)[::-1])[::-1]
    later = np.append(nearest[1:], highest)
    hit[order] |= later < end[order]
    return hit[len(left) :]
