"""StandardizeRecording: every channel divided by its own deviation over the whole recording.

Windows then keep their differences in amplitude, which a standardization of each window removes: a
rhythm that comes and goes is seen.

Source: MEG-GPT (arXiv 2510.18080), whose parcels are standardized so before they become codes.
Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.causal import Tiles, run_causal
from neurofm.data.steps.step import noted, require_finite
from neurofm.shapes import Bool
from neurofm.types import Signal


@configured
@dataclass(frozen=True)
class StandardizeRecording:
    """Mean 0 and deviation 1 of each channel over the recording; batches then say unit "z".

    Nothing but the recording itself is used, its later parts included, and no labels: windows of
    the test side are standardized with all windows of their recording. Parts marked "BAD ..." do
    not count. Constant channels become zero, and are counted in the history.

    Args:
        robust: Median and interquartile range (over 1.349, that of a normal distribution) instead
            of mean and deviation: a few large artefacts then change little.
        clip: Larger values are cut to this many deviations; None leaves them.
        causal: Use the mean and deviation of all tiles of `tile_s` seconds before, BAD parts
            included; the first tile is then marked as BAD itself.
        tile_s: Seconds.
    """

    robust: bool = False
    clip: float | None = None
    causal: bool = False
    tile_s: float = 4.0

    by_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"StandardizeRecording: clip is {self.clip}, expected above 0.")
        if self.causal and self.robust:
            raise ValueError(
                "StandardizeRecording: robust has no causal form, because quartiles need all of "
                "the past. Use `robust: false`, with `clip`."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The standardized recording.

        Raises:
            ValueError: NaN, or every sample is marked as bad.
        """
        if self.causal:
            result = run_causal(self, signal)
            return replace(result, details={**signal.details, "unit": "z"})
        require_finite(signal, "StandardizeRecording")
        good = good_samples(signal)
        if not good.any():
            raise ValueError(
                f"{signal.recording.id}: StandardizeRecording: events mark every sample as BAD. "
                "Leave the recording out, or correct its events."
            )
        data = np.empty_like(signal.data)
        flat = 0
        for i, row in enumerate(signal.data):
            kept = row[good].astype(np.float64)
            if self.robust:
                low, centre, high = np.percentile(kept, (25, 50, 75))
                spread = (high - low) / 1.349
            else:
                centre, spread = kept.mean(), kept.std()
            # Rounding of a constant is no signal.
            if spread <= 1e-6 * abs(centre):
                flat += 1
                data[i] = 0.0
                continue
            data[i] = (row - centre) / spread
        if self.clip is not None:
            np.clip(data, -self.clip, self.clip, out=data)
        how = "median and interquartile range" if self.robust else "mean and deviation"
        cut = "" if self.clip is None else f", cut at {self.clip:g}"
        line = f"z-score per channel over the recording by {how}{cut} ({flat} constant)"
        result = noted(signal, data, line)
        return replace(result, details={**signal.details, "unit": "z"})

    def running(self, signal: Signal) -> Tiles:
        """The causal form at the signal's rate."""
        count, mean, square = 0, np.zeros((0, 1)), np.zeros((0, 1))

        def learn(tile: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            nonlocal count, mean, square
            if not count:
                mean = square = np.zeros((len(tile), 1))
            # Chan et al. 1979: means and squares of two parts joined without cancellation.
            own = tile.mean(axis=1, keepdims=True, dtype=np.float64)
            n, away = tile.shape[1], own - mean
            square = square + ((tile - own) ** 2).sum(axis=1, keepdims=True)
            square = square + away**2 * count * n / (count + n)
            mean = mean + away * n / (count + n)
            count += n
            centre, spread = mean, np.sqrt(square / count)
            flat = spread <= 1e-6 * np.abs(centre)
            scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, spread))

            def change(x: np.ndarray) -> np.ndarray:
                z = (x - centre) * scale
                return z if self.clip is None else np.clip(z, -self.clip, self.clip)

            return change

        n = round(self.tile_s * signal.sfreq)
        if n < 2:
            raise ValueError(
                f"StandardizeRecording: tile_s {self.tile_s:g} is {n} samples at "
                f"{signal.sfreq:g} Hz, expected 2 or more."
            )
        return Tiles(n, learn)

    def line(self, signal: Signal) -> str:
        """Line of history of the causal form."""
        cut = "" if self.clip is None else f", cut at {self.clip:g}"
        return f"z-score per channel by all tiles of {self.tile_s:g} s before{cut}"


def good_samples(signal: Signal) -> Bool[np.ndarray, " time"]:
    """True where no event says "BAD ..."."""
    good = np.ones(signal.data.shape[1], dtype=bool)
    for event in signal.events:
        if event.label[:3].upper() == "BAD":
            first = max(int(np.floor(event.onset * signal.sfreq)), 0)
            last = int(np.ceil((event.onset + event.duration) * signal.sfreq))
            good[first : max(last, first + 1)] = False
    return good
