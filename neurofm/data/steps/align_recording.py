"""Alignment of one recording at a time, as a preprocessing step.

Source: He & Wu 2020 (arXiv 1808.05464), as in front of MIRepNet (arXiv 2507.20254); Zanini et al.
2018 (Riemannian).
Axes: window, channel, time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from neurofm.cards import configured
from neurofm.data.align import EuclideanAlignment, RiemannianAlignment
from neurofm.data.steps.causal import Tiles, run_causal
from neurofm.data.steps.channels import kinds_of
from neurofm.data.steps.step import noted, require_finite, stretches
from neurofm.io.quality import matches
from neurofm.shapes import Float
from neurofm.types import Signal

_ALIGNMENTS = {"euclidean": EuclideanAlignment, "riemannian": RiemannianAlignment}


@configured
@dataclass(frozen=True)
class AlignRecording:
    """Whiten a recording with the mean covariance of its own windows.

    No label is used, and no other recording. Split the windows by recording, run or subject: with
    both sides of a split inside one recording, its covariance comes from both. Windows of the test
    side are aligned with all windows of their recording, as the published results are; what is
    decoded while a recording goes on needs `causal: true`.

    Args:
        labels: Wildcards of the events whose windows make the covariance; without, windows tile the
            recording.
        window_s: Length of those windows, seconds.
        offset_s: Their start after the onset of the event, seconds.
        kinds: Kinds of channels to align, each kind by itself; others stay as they are.
        causal: Whiten with the mean covariance of all tiles of `window_s` before; the first tile is
            marked as BAD. Constant tiles do not count, and before another all is zero. A stream has
            no events, so that there can be no `labels`.
        metric: Of the mean: "euclidean", or "riemannian", which a few windows with artefacts move
            less; causally its time grows with the recording.
    """

    labels: Sequence[str] | None = None
    window_s: float = 4.0
    offset_s: float = 0.0
    kinds: Sequence[str] = ("eeg",)
    causal: bool = False
    metric: Literal["euclidean", "riemannian"] = "euclidean"

    def __post_init__(self) -> None:
        if self.metric not in _ALIGNMENTS:
            raise ValueError(
                f"AlignRecording: metric is {self.metric!r}, expected {' or '.join(_ALIGNMENTS)}."
            )
        if self.causal and self.labels is not None:
            raise ValueError(
                f"AlignRecording: causal with labels {list(self.labels)}, but a stream has no "
                "events. Leave `labels` out: tiles of `window_s` make the covariance."
            )

    @property
    def align(self) -> str:
        """What the step uses of the windows that are decoded, for records."""
        return f"{self.metric} {'causal' if self.causal else 'offline'}"

    def __call__(self, signal: Signal) -> Signal:
        """The recording, its aligned channels without unit, amplitudes near 1.

        Raises:
            ValueError: No channel of these kinds, NaN, or no window that fits.
        """
        if self.causal:
            return run_causal(self, signal)
        require_finite(signal, "AlignRecording")
        starts = self._starts(signal)
        n = round(self.window_s * signal.sfreq)
        data = signal.data.copy()
        for own in self._groups(signal).values():
            windows = _cut(signal.data[own], starts, n)
            alignment = _ALIGNMENTS[self.metric]().fit(windows)
            data[own] = alignment.transform(signal.data[None, own])[0]
        line = f"{self._aligned(signal)} over {len(starts)} windows of {self.window_s:g} s"
        return noted(signal, data, line)

    def running(self, signal: Signal) -> Tiles:
        """The causal form at the signal's rate."""
        groups = list(self._groups(signal).values())
        fitted = [_ALIGNMENTS[self.metric]() for _ in groups]
        n = round(self.window_s * signal.sfreq)
        self._check_length(n, signal)

        def learn(tile: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            roots = []
            for own, alignment in zip(groups, fitted, strict=True):
                if np.ptp(tile[own], axis=1).any():  # an amplifier that is off teaches nothing
                    alignment.update(tile[None, own])
                unit = np.eye(len(own))
                root = (
                    alignment.transform(unit[None])[0] if alignment.means else np.zeros_like(unit)
                )
                roots.append(root.astype(np.float64))

            def change(x: np.ndarray) -> np.ndarray:
                result = x.copy()
                for own, root in zip(groups, roots, strict=True):
                    result[own] = root @ x[own]
                return result

            return change

        return Tiles(n, learn)

    def line(self, signal: Signal) -> str:
        """Line of history of the causal form."""
        return f"{self._aligned(signal)} by all tiles of {self.window_s:g} s before"

    def _aligned(self, signal: Signal) -> str:
        parts = [f"{len(own)} {name} channels" for name, own in self._groups(signal).items()]
        return f"{self.metric.capitalize()} alignment of {' and '.join(parts)}"

    def _groups(self, signal: Signal) -> dict[str, np.ndarray]:
        """Channels of each kind that is aligned."""
        kind = signal.sensors.kind
        found = {k.name: np.flatnonzero(kind == k) for k in kinds_of(self.kinds)}
        found = {name: own for name, own in found.items() if len(own)}
        if not found:
            raise ValueError(
                f"{signal.recording.id}: AlignRecording: there is no channel of the kinds "
                f"{', '.join(self.kinds)}."
            )
        return found

    def _check_length(self, n: int, signal: Signal) -> None:
        if n < 2:
            raise ValueError(
                f"AlignRecording: window_s {self.window_s:g} is {n} samples at {signal.sfreq:g} "
                "Hz, expected 2 or more."
            )

    def _starts(self, signal: Signal) -> list[int]:
        """First samples of the windows."""
        n = round(self.window_s * signal.sfreq)
        total = signal.data.shape[1]
        self._check_length(n, signal)
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
