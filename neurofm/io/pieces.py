"""Pieces of recording without a gap inside, laid end to end.

Where two pieces meet there is an event `EDGE boundary`: no window may cross it.
Axes: channel time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.types import Event

EDGE = "EDGE boundary"


@dataclass(frozen=True)
class Piece:
    """One stretch without a gap.

    Args:
        data: As stored, any unit.
        marks: Onset and length of each event in samples, and its label.
    """

    data: np.ndarray
    marks: list[tuple[float, float, str]]


def joined(pieces: Sequence[Piece], sfreq: float) -> tuple[np.ndarray, tuple[Event, ...]]:
    """All pieces as one array, and their events in seconds from its first sample."""
    events, start = [], 0
    for piece in pieces:
        if start:
            events.append(Event(start / sfreq, 0.0, EDGE))
        for onset, length, label in piece.marks:
            events.append(Event((start + onset) / sfreq, length / sfreq, label))
        start += piece.data.shape[-1]
    data = np.concatenate([piece.data for piece in pieces], axis=1)
    return data, tuple(sorted(events, key=lambda event: event.onset))


def changes(steps: np.ndarray) -> list[tuple[float, float, str]]:
    """Onset and length in samples and value of every stretch of one value other than 0."""
    steps = np.nan_to_num(np.asarray(steps, dtype=np.float64))
    edges = np.r_[0, np.flatnonzero(np.diff(steps)) + 1, len(steps)]
    return [
        (float(start), float(stop - start), f"{steps[start]:g}")
        for start, stop in itertools.pairwise(edges)
        if stop > start and steps[start] != 0
    ]
