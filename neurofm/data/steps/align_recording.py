"""Euclidean alignment of one recording at a time, as a preprocessing step.

Source: He & Wu 2020 (arXiv 1808.05464), as in front of MIRepNet (arXiv 2507.20254).
Axes: window, channel, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.cards import configured
from neurofm.data.align import EuclideanAlignment
from neurofm.data.steps.channels import kinds_of
from neurofm.data.steps.step import noted, require_finite, stretches
from neurofm.io.quality import matches
from neurofm.shapes import Float
from neurofm.types import Signal


@configured
@dataclass(frozen=True)
class AlignRecording:
    """Whiten a recording with the mean covariance of its own windows.

    No label is used, and no other recording. Split the windows by recording, run or subject: with
    both sides of a split inside one recording, its covariance comes from both. Windows of the test
    side are aligned with all windows of their recording, as the published results are; what is
    decoded while a recording goes on needs `EuclideanAlignment(mode="online")`.

    Args:
        labels: Wildcards of the events whose windows make the covariance; without, windows tile the
            recording.
        window_s: Length of those windows, seconds.
        offset_s: Their start after the onset of the event, seconds.
        kinds: Kinds of channels to align, each kind by itself; others stay as they are.
    """

    labels: Sequence[str] | None = None
    window_s: float = 4.0
    offset_s: float = 0.0
    kinds: Sequence[str] = ("eeg",)

    def __call__(self, signal: Signal) -> Signal:
        """The recording, its aligned channels without unit, amplitudes near 1.

        Raises:
            ValueError: No channel of these kinds, NaN, or no window that fits.
        """
        require_finite(signal, "AlignRecording")
        starts = self._starts(signal)
        n = round(self.window_s * signal.sfreq)
        data = signal.data.copy()
        aligned = []
        for kind in kinds_of(self.kinds):
            own = np.flatnonzero(signal.sensors.kind == kind)
            if not len(own):
                continue
            windows = _cut(signal.data[own], starts, n)
            data[own] = EuclideanAlignment().fit(windows).transform(signal.data[None, own])[0]
            aligned.append(f"{len(own)} {kind.name} channels")
        if not aligned:
            raise ValueError(
                f"{signal.recording.id}: AlignRecording: there is no channel of the kinds "
                f"{', '.join(self.kinds)}."
            )
        line = (
            f"Euclidean alignment of {' and '.join(aligned)} over {len(starts)} windows of "
            f"{self.window_s:g} s"
        )
        return noted(signal, data, line)

    def _starts(self, signal: Signal) -> list[int]:
        """First samples of the windows."""
        n = round(self.window_s * signal.sfreq)
        total = signal.data.shape[1]
        if n < 2:
            raise ValueError(
                f"AlignRecording: window_s {self.window_s:g} is {n} samples at {signal.sfreq:g} "
                "Hz, expected 2 or more."
            )
        if self.labels is None:
            found = [
                start
                for part in stretches(signal)
                for start in range(part.start, part.stop - n + 1, n)
            ]
        else:
            onsets = [
                round((event.onset + self.offset_s) * signal.sfreq)
                for event in signal.events
                if matches(event.label, self.labels)
            ]
            found = [start for start in onsets if 0 <= start <= total - n]
        if not found:
            among = "" if self.labels is None else f" at events {', '.join(self.labels)}"
            raise ValueError(
                f"{signal.recording.id}: AlignRecording: no window of {self.window_s:g} s{among} "
                f"fits into {total / signal.sfreq:g} s. Use a shorter window_s or other labels."
            )
        return found


def _cut(
    data: Float[np.ndarray, "channel time"], starts: Sequence[int], n: int
) -> Float[np.ndarray, "window channel sample"]:
    return np.stack([data[:, start : start + n] for start in starts])
