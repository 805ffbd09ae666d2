"""Steps for BOLD: nuisance regression, dropped volumes, shifted events, z-score of a run.

All of them treat channels one by one, so that a run larger than memory is processed in groups of
channels. Confounds are channels called `confound:<name>`, which every group carries.

Drifts and confounds are removed in one projection: removing them one after the other brings back
what the first step took out.

Source: Lindquist et al. 2019 (one projection); Friston et al. 2000 (cosine drifts).
Axes: channel = voxel or parcel, time = volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.quality import listed, matches
from neurofm.shapes import Bool, Float
from neurofm.types import Event, Signal

CONFOUND = "confound:"
_ROWS = 1 << 18  # float64 values worked on at a time
# Share of the largest singular value below which a regressor adds nothing: above the rounding of
# float32, in which confounds are stored, or a copy of one would take out a direction of noise.
_INDEPENDENT = 1e-6


@configured
@dataclass(frozen=True)
class CleanBold:
    """Regress drifts and confounds out of every channel, at once.

    Args:
        detrend: Degree of the polynomial to remove; 0 removes the mean, None not even that.
        high_pass_hz: Remove cosines below this frequency; None for no high-pass.
        confounds: Names or wildcards of confounds, without "confound:"; none by default, ["*"] for
            all.
        keep: Leave the confound channels in the signal.

    Raises:
        ValueError: A confound that is not there, or as many regressors as volumes.
    """

    detrend: int | None = 1
    high_pass_hz: float | None = None
    confounds: Sequence[str] = ()
    keep: bool = False

    by_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.detrend is not None and self.detrend < 0:
            raise ValueError(f"CleanBold: detrend is {self.detrend}, expected 0 or more, or None.")
        if self.high_pass_hz is not None and not self.high_pass_hz > 0:
            raise ValueError(f"CleanBold: high_pass_hz is {self.high_pass_hz}, expected above 0.")
        if isinstance(self.confounds, str):
            raise ValueError(f"CleanBold: confounds is {self.confounds!r}, expected a list.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal without drifts, confounds and confound channels."""
        rest = np.flatnonzero(is_bold(signal))
        bold = signal if len(rest) == len(signal.sensors) else signal.pick(rest)
        require_finite(bold, "CleanBold")
        basis = self.basis(signal)
        data = (signal if self.keep else bold).data.copy()
        target = rest if self.keep else np.arange(len(rest))
        step = max(1, _ROWS // max(data.shape[1], 1))
        for lo in range(0, len(target), step):
            rows = data[target[lo : lo + step]].astype(np.float64)
            data[target[lo : lo + step]] = rows - (rows @ basis) @ basis.T
        cleaned = signal if self.keep else bold
        line = (
            f"clean: {basis.shape[1]} regressors removed at once (detrend {self.detrend}, "
            f"high-pass {self.high_pass_hz} Hz, {len(self._chosen(signal))} confounds)"
        )
        return noted(cleaned, data, line)

    def _chosen(self, signal: Signal) -> list[int]:
        every = np.flatnonzero(~is_bold(signal)).tolist()
        names = {i: signal.sensors.names[i].removeprefix(CONFOUND) for i in every}
        missing = [c for c in self.confounds if not any(matches(n, [c]) for n in names.values())]
        if missing:
            raise ValueError(
                f"{signal.recording.id}: CleanBold: no confound {listed(missing)}; there are "
                f"{listed(list(names.values())) or 'none: give the reader a table (`confounds`)'}."
            )
        return [i for i, name in names.items() if matches(name, self.confounds)]

    def basis(self, signal: Signal) -> Float[np.ndarray, "time regressor"]:
        """Orthonormal columns that span everything to be removed."""
        n = signal.data.shape[1]
        columns = [drifts(n, signal.sfreq, detrend=self.detrend, high_pass_hz=self.high_pass_hz)]
        for i in self._chosen(signal):
            values = signal.data[i].astype(np.float64)
            known = np.flatnonzero(np.isfinite(values))
            # A derivative has no first value: it is taken to be the second.
            if 0 < len(known) < n:
                values = np.interp(np.arange(n), known, values[known])
            elif not len(known):
                values[:] = 0.0
            columns.append((values - values.mean())[:, None])
        design = np.concatenate(columns, axis=1)
        size = np.linalg.norm(design, axis=0)
        design = design[:, size > 0] / size[size > 0]
        u, s, _ = np.linalg.svd(design, full_matrices=False)
        basis = u[:, s > _INDEPENDENT * s.max(initial=0.0)]
        if basis.shape[1] >= n:
            raise ValueError(
                f"{signal.recording.id}: CleanBold: {basis.shape[1]} regressors for {n} volumes "
                "leave nothing. Take fewer confounds or a lower high-pass."
            )
        return basis


def is_bold(signal: Signal) -> Bool[np.ndarray, " channel"]:
    """True for all channels but confounds."""
    return np.array([not name.startswith(CONFOUND) for name in signal.sensors.names], dtype=bool)


def drifts(
    n_times: int,
    sfreq: float,
    *,
    detrend: int | None = 1,
    high_pass_hz: float | None = None,
) -> Float[np.ndarray, "time regressor"]:
    """Slow regressors: Legendre polynomials up to a degree, and cosines below a frequency.

    The cosines are those of the discrete cosine transform, as SPM removes them: the k-th has k half
    periods in the run, and those up to `2 * duration * high_pass_hz` are taken.
    """
    columns = []
    if detrend is not None:
        at = np.linspace(-1, 1, n_times)
        columns += [
            np.polynomial.legendre.Legendre.basis(degree)(at) for degree in range(detrend + 1)
        ]
    if high_pass_hz is not None:
        count = min(int(np.floor(2 * n_times / sfreq * high_pass_hz)), n_times - 1)
        middle = np.arange(n_times) + 0.5
        columns += [np.cos(np.pi * k * middle / n_times) for k in range(1, count + 1)]
    return np.stack(columns, axis=1) if columns else np.zeros((n_times, 0))


@configured
@dataclass(frozen=True)
class StandardizeRun:
    """Divide each channel of a run by its own standard deviation, its mean removed.

    Uses nothing but the run itself; `Standardize` uses training windows for all. Confounds stay as
    they are, and constant channels become zero.
    """

    by_channel: ClassVar[bool] = True

    def __call__(self, signal: Signal) -> Signal:
        """The signal, without unit."""
        data = signal.data.copy()
        flat = 0
        for i in np.flatnonzero(is_bold(signal)):
            row = data[i].astype(np.float64)
            row -= row.mean()
            std = row.std()
            flat += int(std == 0)
            data[i] = row / std if std > 0 else 0.0
        return noted(signal, data, f"z-score per channel over the run ({flat} constant)")


@configured
@dataclass(frozen=True)
class DropVolumes:
    """Cut volumes from the start and the end; events move along.

    Args:
        first: Dummy scans before the magnetisation is steady.
        last: Volumes at the end.
    """

    first: int = 0
    last: int = 0

    by_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0:
            raise ValueError(f"DropVolumes: {self.first} and {self.last}, expected 0 or more.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal without those volumes; events that ended before it begins are gone."""
        n = signal.data.shape[1]
        if self.first + self.last >= n:
            raise ValueError(
                f"{signal.recording.id}: DropVolumes takes {self.first} + {self.last} of {n} "
                "volumes, which leaves none."
            )
        start = self.first / signal.sfreq
        events = tuple(
            replace(event, onset=event.onset - start)
            for event in signal.events
            if event.onset >= start or event.onset + event.duration > start
        )
        line = f"dropped {self.first} volumes at the start and {self.last} at the end"
        if len(events) < len(signal.events):
            line += f", {len(signal.events) - len(events)} events with them"
        cut = noted(signal, signal.data[:, self.first : n - self.last], line)
        return replace(cut, events=events)


@configured
@dataclass(frozen=True)
class ShiftEvents:
    """Move events by the delay of the response, so that windows cover what they caused.

    Args:
        seconds: Towards the end of the recording; 4 to 6 s for BOLD.
        labels: Wildcards of the events to move; BAD and EDGE marks always stay.
    """

    seconds: float
    labels: Sequence[str] = ("*",)

    by_channel: ClassVar[bool] = True

    def __call__(self, signal: Signal) -> Signal:
        """The same samples with later events."""
        moved = [self._moved(event) for event in signal.events]
        line = f"events {self.seconds:+g} s (delay of the response)"
        events = tuple(sorted(moved, key=lambda event: event.onset))
        return replace(noted(signal, signal.data, line), events=events)

    def _moved(self, event: Event) -> Event:
        fixed = event.label.upper().startswith(("BAD", "EDGE"))
        if fixed or not matches(event.label, self.labels):
            return event
        return replace(event, onset=event.onset + self.seconds)


def without_repeats(signal: Signal, seen: set[str]) -> Signal:
    """A group of channels without the confounds that an earlier group had.

    Args:
        seen: Names of the confounds of earlier groups; those of this one are added.
    """
    names = signal.sensors.names
    repeated = {name for name in names if name in seen}
    seen.update(name for name in names if name.startswith(CONFOUND))
    if not repeated:
        return signal
    return signal.pick([i for i, name in enumerate(names) if name not in repeated])
