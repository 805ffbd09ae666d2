"""Windows as rows of a table, and a split of such a table.

A `Row` describes one window (or one whole recording) without its samples. Splits are made, checked
and stored with rows; samples are read afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENTITIES = ("subject", "session", "run", "recording")


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
        fingerprint: Of the recording's content; equal for two copies of one recording.
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
        by: What must not be on two sides: one of `ENTITIES`, or "time".
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
    index = np.concatenate([np.asarray(left, dtype=np.int64), np.asarray(right, dtype=np.int64)])
    is_left = np.arange(len(index)) < len(left)
    codes: dict[str, int] = {}
    recording = np.array([codes.setdefault(rows[i].recording, len(codes)) for i in index])
    # Whole microseconds: exact comparisons, and 2 of them forgive the rounding of k / sfreq.
    start = np.round(np.array([rows[i].start for i in index], dtype=np.float64) * 1e6)
    stop = np.round(np.array([rows[i].stop for i in index], dtype=np.float64) * 1e6)
    begin, end = start.astype(np.int64), np.maximum(stop.astype(np.int64) - 2, start.astype(int))
    offset = recording.astype(np.int64) * (int(end.max() - begin.min()) + 4)
    begin, end = begin + offset, end + offset
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
    return {int(i) for i in index[hit & ~is_left]} | (set(map(int, left)) & set(map(int, right)))
