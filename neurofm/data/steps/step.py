"""What a preprocessing step is, and what all of them share.

A `Signal` goes in, a new `Signal` comes out with one more line of `history`, which says what was
done to the data. Data are float32 in working units; event times, in seconds, stay valid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np

from neurofm.shapes import Float
from neurofm.types import Signal


@runtime_checkable
class Step(Protocol):
    """One preprocessing step."""

    def __call__(self, signal: Signal) -> Signal:
        """The processed signal, its history one line longer."""
        ...


def noted(signal: Signal, data: Float[np.ndarray, "channel time"], line: str) -> Signal:
    """The signal with new data and one more line of history."""
    return replace(signal, data=data, history=(*signal.history, line))


def stretches(signal: Signal) -> list[slice]:
    """The samples between events labelled "EDGE ...", where pieces of a recording were joined."""
    # The first sample at or behind the join; a thousandth forgives the rounding of k / sfreq.
    cuts = {
        math.ceil(event.onset * signal.sfreq - 1e-3)
        for event in signal.events
        if event.label[:4] == "EDGE"
    }
    n = signal.data.shape[1]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < n), n]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def at_new_rate(
    data: Float[np.ndarray, "channel time"],
    pieces: Sequence[slice],
    ratio: Fraction,
    resample: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, "channel new_time"]:
    """Change the rate of each stretch by itself, all on the clock of the whole.

    A stretch is continued by point reflection back to a sample that both rates share, and forth
    beyond its last new sample: what lies behind a join says nothing about what lies before it.

    Args:
        pieces: From `stretches`.
        ratio: New rate over old rate.
        resample: Changes the rate of any array by this ratio.
    """
    n = data.shape[1]
    result = np.empty((len(data), round(n * ratio)), dtype=np.float32)
    for piece in pieces:
        lead = piece.start % ratio.denominator
        tail = 0 if piece.stop == n else math.ceil(1 / ratio) + 1
        first = math.ceil(piece.start * ratio)
        last = min(result.shape[1], math.ceil(piece.stop * ratio)) if tail else result.shape[1]
        if first < last:
            start = int((piece.start - lead) * ratio)
            new = resample(_continued(data[:, piece], lead, tail))
            result[:, first:last] = new[:, first - start : last - start]
    return result


def _continued(data: np.ndarray, before: int, after: int) -> np.ndarray:
    """Samples reflected about the first and the last one, then held."""
    last = data.shape[1] - 1
    at = np.arange(-before, last + 1 + after)
    inner = np.clip(np.abs(at), 0, last)
    inner[before + last + 1 :] = np.clip(last - np.arange(1, after + 1), 0, last)
    edge = np.where(at < 0, 0, last)
    outside = (at < 0) | (at > last)
    return np.where(outside, 2 * data[:, edge] - data[:, inner], data[:, inner])


def require_finite(signal: Signal, step: str) -> None:
    """Refuse NaN and infinity, naming recording, channel and time, and an empty recording."""
    if not signal.data.shape[1]:
        raise ValueError(f"{signal.recording.id}: {step}: the recording has no samples.")
    bad = [row for row in range(len(signal.sensors)) if not np.isfinite(signal.data[row]).all()]
    if bad:
        first = bad[0]
        sample = int(np.flatnonzero(~np.isfinite(signal.data[first]))[0])
        raise ValueError(
            f"{signal.recording.id}: {step}: {len(bad)} of {len(signal.sensors)} channels contain "
            f"NaN or infinity, first {signal.sensors.names[first]} at {sample / signal.sfreq:g} s. "
            "Put InterpolateBads before this step, drop the channels with PickChannels, or leave "
            "the recording out."
        )
