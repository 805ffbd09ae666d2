"""Calcium imaging: fluorescence relative to its slow baseline.

The baseline is the trace, smoothed, then the running minimum and the running maximum of that: it
follows bleaching and ignores transients shorter than its window.

Source: the "maximin" baseline of suite2p (Pachitariu et al. 2017).
Axes: channel = region of interest, time = frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, minimum_filter1d

from neurofm.cards import configured
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.quality import listed
from neurofm.types import Signal
from neurofm.units import Kind


@configured
@dataclass(frozen=True)
class DeltaF:
    """Percent change of fluorescence from its running baseline, for channels of kind UNIT.

    A region whose baseline is not clearly above zero has no percent change: it is left out and
    counted. A baseline counts as clear if its smallest value is above `least` times its mean.

    Args:
        window_s: Length of the running minimum and maximum, seconds.
        smooth_s: Standard deviation of the Gaussian before them, seconds.
        least: See above.
    """

    window_s: float = 60.0
    smooth_s: float = 0.5
    least: float = 0.05
    by_channel: ClassVar[bool] = False  # a group of regions may be left without any

    def __post_init__(self) -> None:
        if not (self.window_s > 0 and self.smooth_s >= 0 and 0 < self.least < 1):
            raise ValueError(
                f"DeltaF: window of {self.window_s} s, smoothing of {self.smooth_s} s, least "
                f"{self.least}; expected a window above 0, smoothing from 0, least in 0 to 1."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The signal in percent.

        Raises:
            ValueError: No channel of kind UNIT, or none with a baseline above zero.
        """
        require_finite(signal, "DeltaF")
        own = np.flatnonzero(signal.sensors.kind == Kind.UNIT)
        if not len(own):
            raise ValueError(f"{signal.recording.id}: DeltaF: there is no channel of kind UNIT.")
        size = max(round(self.window_s * signal.sfreq), 1)
        data = signal.data.copy()
        left = []
        for i in own:
            trace = signal.data[i].astype(np.float64)
            smooth = gaussian_filter1d(trace, self.smooth_s * signal.sfreq, mode="nearest")
            base = maximum_filter1d(minimum_filter1d(smooth, size), size)
            if not base.min() > self.least * np.abs(base).mean():
                left.append(i)
                continue
            data[i] = 100 * (trace - base) / base
        names = [signal.sensors.names[i] for i in left]
        if len(left) == len(own):
            raise ValueError(
                f"{signal.recording.id}: DeltaF: none of {len(own)} regions has a baseline above "
                "zero. Is the neuropil subtracted twice, or are these not raw traces?"
            )
        if left:
            warnings.warn(
                f"{signal.recording.id}: DeltaF: {len(left)} of {len(own)} regions have no "
                f"baseline above zero and are left out: {listed(names)}. Set `cells_only` in the "
                "card's reader to start from cells.",
                stacklevel=2,
            )
        result = replace(signal, data=data, details=_relative(signal.details))
        result = result.pick(np.setdiff1d(np.arange(len(signal.sensors)), left))
        line = (
            f"percent change from the running baseline ({self.window_s:g} s, smoothed by "
            f"{self.smooth_s:g} s): {len(own) - len(left)} of {len(own)} regions"
        )
        return noted(result, result.data, line)


def _relative(details: Mapping[str, Any]) -> dict[str, Any]:
    return {**details, "unit": "%"}
