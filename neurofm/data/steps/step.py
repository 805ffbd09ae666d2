"""What a preprocessing step is, and what all of them share.

A `Signal` goes in, a new `Signal` comes out with one more line of `history`, which says what was
done to the data. Data are float32 in working units; event times, in seconds, stay valid.
"""

from __future__ import annotations

from dataclasses import replace
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
    cuts = {
        round(event.onset * signal.sfreq) for event in signal.events if event.label[:4] == "EDGE"
    }
    n = signal.data.shape[1]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < n), n]
    return [slice(start, stop) for start, stop in pairwise(edges)]


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
