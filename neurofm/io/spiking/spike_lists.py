"""Sorted units as lists of spike times, and their counts in bins as a `Signal` of kind UNIT.

`SpikeTrains` keeps the time of every spike; after `bin_spikes` units are channels like any other.
Behaviour with time stamps of its own (`Track`) is brought to the bins as channels of kind OTHER.

Axes: unit = channel, time = bin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofm.io.quality import Problem, listed, report
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

# A file of more days than this is in ticks or microseconds, not in seconds.
_LONGEST_S = 7 * 86_400.0


@dataclass(frozen=True)
class Track:
    """A quantity measured at its own times: a place, a speed, a wheel.

    Args:
        name: Of the channel it becomes.
        times: float64 seconds, ascending, on the clock of the spikes.
        values: float64, one per time; NaN where it was not measured.
        unit: In words, such as "pixel".
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    unit: str = ""

    def __post_init__(self) -> None:
        if self.times.shape != self.values.shape or self.times.ndim != 1:
            raise ValueError(
                f"Track {self.name}: {self.values.shape} values at {self.times.shape} times."
            )
        if not np.isfinite(self.times).all() or (np.diff(self.times) < 0).any():
            raise ValueError(f"Track {self.name}: times must be finite and ascending. Sort them.")


@dataclass(frozen=True)
class SpikeTrains:
    """The spikes of the units of one recording.

    Args:
        times: For each unit its spike times, float64 seconds, ascending, within start to stop.
        names: One per unit.
        start: Seconds; the recording's first moment on the clock of the times.
        stop: Seconds; its last.
        recording: What it is.
        position: unit x 3, metres, in `frame`; None if unknown.
        frame: One of `types.FRAMES`.
        region: Brain area of each unit; empty if none is known.
        events: Onsets on the same clock as the times; they may lie outside start to stop.
        behaviour: Quantities measured beside the spikes.
        details: As in `Signal`.
    """

    times: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    start: float
    stop: float
    recording: Recording
    position: Float[np.ndarray, "channel 3"] | None = None
    frame: str = "unknown"
    region: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    behaviour: tuple[Track, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = self.recording.path or self.recording.id
        if not self.times or len(self.times) != len(self.names):
            raise ValueError(
                f"{where}: {len(self.times)} lists of spike times for {len(self.names)} units."
            )
        if not (np.isfinite(self.start) and np.isfinite(self.stop) and self.start < self.stop):
            raise ValueError(
                f"{where}: the recording lasts from {self.start} to {self.stop} s, expected a "
                "stop after the start."
            )
        if self.stop - self.start > _LONGEST_S:
            raise ValueError(
                f"{where}: the recording lasts {self.stop - self.start:.3g} s, more than a week. "
                "Times are in seconds: are these ticks, milli- or microseconds?"
            )
        for name, times in zip(self.names, self.times, strict=True):
            if not np.isfinite(times).all():
                raise ValueError(f"{where}: unit {name} has spike times that are NaN or infinite.")
            if (np.diff(times) < 0).any():
                at = int(np.flatnonzero(np.diff(times) < 0)[0])
                raise ValueError(
                    f"{where}: the spike times of unit {name} go back from {times[at]:g} to "
                    f"{times[at + 1]:g} s. Sort them."
                )
            if len(times) and not (self.start <= times[0] and times[-1] <= self.stop):
                raise ValueError(
                    f"{where}: unit {name} has spikes from {times[0]:g} to {times[-1]:g} s, "
                    f"outside the recording ({self.start:g} to {self.stop:g} s)."
                )

    @property
    def counts(self) -> np.ndarray:
        """int64, number of spikes of each unit."""
        return np.array([len(times) for times in self.times], dtype=np.int64)


def bin_spikes(trains: SpikeTrains, bin_s: float, *, max_gap_s: float = 0.25) -> Signal:
    """Spike counts per bin; behaviour at the middle of the bins.

    The last bin may lie in part after the end of the recording. A spike on an edge belongs to the
    bin that begins there, at the very end to the last bin. Behaviour is the mean of its samples in
    a bin, or interpolated in bins without one. Where it was not measured for longer than
    `max_gap_s` the interpolated values are marked by an event "BAD behaviour".

    Args:
        bin_s: Seconds.
        max_gap_s: Seconds.

    Returns:
        Counts of kind UNIT, then behaviour of kind OTHER; sfreq is 1 / bin_s.

    Raises:
        ValueError: A bin that is not positive, or longer than the recording.
    """
    where = str(trains.recording.path or trains.recording.id)
    length = trains.stop - trains.start
    if not 0 < bin_s <= length:
        raise ValueError(f"{where}: bins of {bin_s} s, expected above 0 and at most {length:g} s.")
    n = int(np.ceil(length / bin_s - 1e-9))
    data = np.zeros((len(trains.times) + len(trains.behaviour), n), dtype=np.float32)
    for row, times in zip(data, trains.times, strict=False):
        # The small part of a bin makes times on an edge, such as 0.3 of bins of 0.1, belong to it.
        index = np.floor((times - trains.start) / bin_s + 1e-6).astype(np.int64)
        row += np.bincount(np.clip(index, 0, n - 1), minlength=n).astype(np.float32)
    gaps: list[tuple[float, float]] = []
    for row, track in zip(data[len(trains.times) :], trains.behaviour, strict=True):
        row[:], missing = _at_bins(track, trains.start, bin_s, n, max_gap_s)
        gaps += missing
    events = [
        Event(event.onset - trains.start, event.duration, event.label) for event in trains.events
    ]
    bad = [Event(onset, stop - onset, "BAD behaviour") for onset, stop in _union(gaps)]
    if bad:
        report(
            Problem(
                "warning",
                f"Behaviour was not measured for {sum(event.duration for event in bad):.1f} s "
                f"({len(bad)} gaps longer than {max_gap_s:g} s).",
                'The values there are interpolated; an event "BAD behaviour" marks them.',
                "behaviour_gaps",
            ),
            where,
        )
    details = dict(trains.details) | {"clock_start_s": trains.start, "bin_s": bin_s}
    if trains.behaviour:
        details["behaviour_units"] = {track.name: track.unit for track in trains.behaviour}
    name = trains.recording.path.name if trains.recording.path else trains.recording.id
    return Signal(
        data=data,
        sfreq=1.0 / bin_s,
        sensors=_sensors(trains),
        events=tuple(sorted([*events, *bad], key=lambda event: (event.onset, event.label))),
        recording=trains.recording,
        history=(f"read {name}", f"count {int(trains.counts.sum())} spikes in bins of {bin_s:g} s"),
        details=details,
    )


def leave_out_silent(times: Sequence[np.ndarray], names: Sequence[str], where: str) -> list[int]:
    """Indices of the units that fire at all; the others are reported by name."""
    silent = [name for name, own in zip(names, times, strict=True) if not len(own)]
    if silent:
        report(
            Problem(
                "info",
                f"{len(silent)} of {len(names)} units have no spikes and are left out: "
                f"{listed(silent)}.",
                "Set `keep_silent: true` in the card's reader to keep them as rows of zeros.",
                "silent_units",
            ),
            where,
        )
    return [i for i, own in enumerate(times) if len(own)]


def in_order(times: np.ndarray, name: str, where: str) -> np.ndarray:
    """Spike times, float64, ascending; a list that was not is sorted and reported."""
    values = np.asarray(times, dtype=np.float64).ravel()
    if (np.diff(values) < 0).any():
        report(
            Problem(
                "warning",
                f"The spike times of unit {name} are not ascending.",
                "They were sorted; check how they were exported.",
                "unsorted_spikes",
            ),
            where,
        )
        values = np.sort(values)
    return values


def _sensors(trains: SpikeTrains) -> Sensors:
    units, extra = len(trains.names), len(trains.behaviour)
    position = np.full((units + extra, 3), np.nan)
    if trains.position is not None:
        position[:units] = trains.position
    return Sensors(
        names=(*trains.names, *(track.name for track in trains.behaviour)),
        kind=np.array([Kind.UNIT] * units + [Kind.OTHER] * extra, dtype=np.int8),
        position=position,
        orientation=np.zeros((units + extra, 3)),
        frame=trains.frame,
        region=(*trains.region, *[""] * extra) if trains.region else (),
    )


def _at_bins(
    track: Track, start: float, bin_s: float, n: int, max_gap_s: float
) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Values of a track in bins, and the gaps in seconds from the start."""
    known = np.isfinite(track.values)
    times, values = track.times[known] - start, track.values[known]
    total = n * bin_s
    if not len(times):
        return np.zeros(n), [(0.0, total)]
    middle = (np.arange(n) + 0.5) * bin_s
    result = np.interp(middle, times, values)
    index = np.floor(times / bin_s + 1e-6).astype(np.int64)
    inside = (index >= 0) & (index < n)
    count = np.bincount(index[inside], minlength=n)
    total_value = np.bincount(index[inside], weights=values[inside], minlength=n)
    result = np.where(count > 0, total_value / np.maximum(count, 1), result)
    stamps = np.concatenate([[min(0.0, times[0])], times, [max(total, times[-1])]])
    # A bin longer than the gap limit is itself no gap.
    long = np.flatnonzero(np.diff(stamps) > max(max_gap_s, bin_s))
    pairs = ((max(stamps[i], 0.0), min(stamps[i + 1], total)) for i in long)
    return result, [(float(a), float(b)) for a, b in pairs if a < b]


def _union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged
