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


def stacked_trials(
    array: np.ndarray, axes: Sequence[str], channels: int, *, where: str
) -> tuple[np.ndarray, tuple[int, ...], list[str]]:
    """Trial x channel x time, the lengths of the trial axes and their names.

    Args:
        array: As stored.
        axes: "channel", "time", and trial axes of any other name, in the order of the array.
        channels: How many have a name.
        where: Name of the file, for messages.

    Raises:
        ValueError: Another number of axes or channels, or no numbers.
    """
    if array.ndim < len(axes):  # MATLAB drops trailing axes of length 1
        array = array.reshape(array.shape + (1,) * (len(axes) - array.ndim))
    if array.ndim != len(axes) or array.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: an array of shape {array.shape} and type {array.dtype}, the card's axes "
            f"are {', '.join(axes)}."
        )
    trials = [name for name in axes if name not in ("channel", "time")]
    stacked = np.transpose(array, [axes.index(n) for n in (*trials, "channel", "time")])
    if array.size == 0:
        return np.zeros((0, channels, 0)), (0,), trials
    if stacked.shape[-2] != channels:
        raise ValueError(
            f"{where}: {stacked.shape[-2]} channels in an array of shape {array.shape}, "
            f"{channels} names in the card. Correct `axes` or `channels`."
        )
    return stacked.reshape(-1, *stacked.shape[-2:]), stacked.shape[: len(trials)], trials


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


def cut(pieces: Sequence[Piece], samples: int, *, where: str) -> list[Piece]:
    """Every piece as pieces of equal length, each with the marks that begin in it.

    Args:
        pieces: Whole numbers of such lengths.
        samples: Length.
        where: Name of the file, for messages.

    Raises:
        ValueError: Another length.
    """
    found = []
    for piece in pieces:
        n = piece.data.shape[-1]
        if n % samples:
            raise ValueError(
                f"{where}: {n} samples are not a whole number of trials of {samples}. Correct "
                "`piece_s` in the card's reader, or fetch the file again."
            )
        for start in range(0, n, samples):
            marks = [
                (onset - start, length, label)
                for onset, length, label in piece.marks
                if start <= onset < start + samples
            ]
            found.append(Piece(piece.data[..., start : start + samples], marks))
    return found


def label_at(labels: Sequence[str], i: int, *, where: str) -> str:
    """The label of a piece.

    Raises:
        ValueError: There are fewer labels.
    """
    if i >= len(labels):
        raise ValueError(
            f"{where}: more than {len(labels)} pieces, the number of labels. Correct `labels` in "
            "the card's reader."
        )
    return labels[i]
