"""Which stretches of which recordings become windows.

Windows cover the recordings, or start at events. None touches a part marked as unusable, none
crosses a join of pieces that did not follow each other in time.
Axes: part = uninterrupted piece of a recording; window.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from neurofm.data.table import RecordingTable
from neurofm.shapes import Bool, Int

_ROUNDING = 1e-6  # samples: onset x rate of a sample's own time is not always whole


def fits(label: str, patterns: Sequence[str]) -> bool:
    """Whether a label fits one of the patterns, whatever their case."""
    return any(fnmatchcase(label.upper(), pattern.upper()) for pattern in patterns)


@dataclass(frozen=True)
class Parts:
    """Uninterrupted pieces of recordings, ordered by recording and time; they do not overlap.

    Args:
        start: First sample.
        stop: The first sample after it.
    """

    recording: Int[np.ndarray, " part"]
    start: Int[np.ndarray, " part"]
    stop: Int[np.ndarray, " part"]

    @classmethod
    def of(
        cls, table: RecordingTable, chosen: Int[np.ndarray, " chosen"], *, avoid: Sequence[str]
    ) -> Parts:
        """What is left of the `chosen` recordings (increasing) without the events to avoid.

        An event of some duration takes its samples away; one without duration cuts between two.
        """
        avoided = [i for i, name in enumerate(table.event_label.names) if fits(name, avoid)]
        hit = np.flatnonzero(np.isin(table.event_label.index, avoided))
        number = np.full(len(table), -1, dtype=np.int64)
        number[chosen] = np.arange(len(chosen))
        hit = hit[number[table.event_recording[hit]] >= 0]
        length = table.n_times[chosen]
        if not len(hit):
            return cls(chosen, np.zeros_like(length), length)
        where = table.event_recording[hit]
        rate, onset = table.sfreq[where], table.event_onset[hit]
        begin = np.floor(onset * rate + _ROUNDING)
        end = np.ceil((onset + table.event_duration[hit]) * rate - _ROUNDING)
        limit = table.n_times[where]
        begin = np.clip(begin, 0, limit).astype(np.int64)
        end = np.maximum(np.clip(end, 0, limit).astype(np.int64), begin)
        # All recordings on one line, a gap between them; their ends are cuts as well.
        room = int(table.n_times.max()) + 1
        each = np.arange(len(chosen))
        owner = np.concatenate([number[where], each, each])
        begin = np.concatenate([begin, np.zeros_like(length), length]) + owner * room
        end = np.concatenate([end, np.zeros_like(length), length]) + owner * room
        order = np.lexsort((end, begin))
        reach, begin, owner = np.maximum.accumulate(end[order]), begin[order], owner[order]
        free = (reach[:-1] < begin[1:]) & (owner[:-1] == owner[1:])
        owner, start, stop = owner[:-1][free], reach[:-1][free], begin[1:][free]
        return cls(chosen[owner], start - owner * room, stop - owner * room)

    def holding(
        self,
        recording: Int[np.ndarray, " window"],
        start: Int[np.ndarray, " window"],
        stop: Int[np.ndarray, " window"],
    ) -> Bool[np.ndarray, " window"]:
        """True for the windows that lie inside one part."""
        if not len(self.start) or not len(start):
            return np.zeros(len(start), dtype=bool)
        room = int(max(self.stop.max(), stop.max())) + 1
        line = self.recording * room + self.start
        at = np.searchsorted(line, recording * room + np.maximum(start, 0), "right") - 1
        found = np.maximum(at, 0)
        return (
            (at >= 0)
            & (self.recording[found] == recording)
            & (start >= self.start[found])
            & (stop <= self.stop[found])
        )


@dataclass(frozen=True)
class Cut:
    """How windows are cut; see `Windows` for the arguments.

    Args:
        labels: None = windows cover the recordings.
    """

    window_s: float
    stride_s: float
    labels: tuple[str, ...] | None
    offset_s: float
    avoid: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "window_s": float(self.window_s),
            "stride_s": float(self.stride_s),
            "labels": None if self.labels is None else list(self.labels),
            "offset_s": float(self.offset_s),
            "avoid": list(self.avoid),
        }

    def lengths(self, table: RecordingTable) -> Int[np.ndarray, " recording"]:
        """Samples of a window of each recording."""
        return np.maximum(1, np.rint(self.window_s * table.sfreq)).astype(np.int64)

    def windows(
        self, table: RecordingTable, chosen: Int[np.ndarray, " chosen"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Recording, first sample and class of every window in the `chosen` recordings.

        Args:
            chosen: Positions in the table, increasing.

        Raises:
            ValueError: There is none; the message says why.
        """
        lengths = self.lengths(table)
        long = lengths[chosen] <= table.n_times[chosen]
        if not long.all():
            self._warn(
                f"{int((~long).sum())} of {len(chosen)} recordings are shorter than "
                f"{self.window_s} s and are left out.",
                level=4,
            )
        parts = Parts.of(table, chosen[long], avoid=self.avoid)
        y = None
        if self.labels is None:
            recording, start = self._covering(table, parts, lengths, chosen[long])
        else:
            recording, start, y = self._at_events(table, parts, lengths, chosen[long])
        if not len(start):
            raise ValueError(self._why_empty(table, chosen))
        small = np.int32 if int(table.n_times.max()) < 2**31 else np.int64
        return recording.astype(np.int32), start.astype(small), y

    def _covering(
        self, table: RecordingTable, parts: Parts, lengths: np.ndarray, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Windows every stride from the start of each part."""
        rate, length = table.sfreq[parts.recording], lengths[parts.recording]
        step = np.maximum(1.0, self.stride_s * rate)
        room = parts.stop - parts.start
        count = np.where(room >= length, np.floor((room - length) / step + 1e-9) + 1, 0)
        count = count.astype(np.int64)
        part = np.repeat(np.arange(len(count)), count)
        nth = np.arange(len(part)) - np.repeat(np.cumsum(count) - count, count)
        start = parts.start[part] + np.rint(nth * step[part]).astype(np.int64)
        whole = start + length[part] <= parts.stop[part]
        before = (table.n_times[chosen] / table.sfreq[chosen]).sum()
        if len(room) != len(chosen) or room.sum() != table.n_times[chosen].sum():
            self._warn(
                f"events labelled {self._avoided} take {before - (room / rate).sum():.3f} of "
                f"{before:.3f} s away and leave {len(room)} parts, {int((count == 0).sum())} of "
                f"them shorter than {self.window_s} s; no window touches or crosses such an event."
            )
        return parts.recording[part[whole]], start[whole]

    def _at_events(
        self, table: RecordingTable, parts: Parts, lengths: np.ndarray, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One window per event with one of the labels."""
        labels = self.labels or ()
        names = table.event_label.names
        number = {name: i for i, name in reversed(list(enumerate(labels)))}
        known = [number.get(name, -1) for name in names]
        y = np.array(known, dtype=np.int64)[table.event_label.index]
        asked = np.zeros(len(table), dtype=bool)
        asked[chosen] = True
        event = np.flatnonzero((y >= 0) & asked[table.event_recording])
        recording, y = table.event_recording[event], y[event]
        start = (table.event_onset[event] + self.offset_s) * table.sfreq[recording]
        start = np.rint(start).astype(np.int64)
        stop = start + lengths[recording]
        inside = (start >= 0) & (stop <= table.n_times[recording])
        clean = parts.holding(recording, start, stop)
        if not inside.all():
            self._warn(
                f"{int((~inside).sum())} of {len(event)} events are too close to the start or end "
                f"of their recording for a window of {self.window_s} s at {self.offset_s:+g} s; "
                "left out."
            )
        if (inside & ~clean).any():
            self._warn(
                f"{int((inside & ~clean).sum())} of {len(event)} windows touch or cross an event "
                f"labelled {self._avoided}; left out."
            )
        kept = inside & clean
        return recording[kept], start[kept], y[kept]

    @property
    def _avoided(self) -> str:
        return " or ".join(self.avoid)

    def _warn(self, text: str, *, level: int = 5) -> None:
        """Warn at the line that made the `Windows`, so many calls up."""
        warnings.warn(f"Windows: {text}", stacklevel=level)

    def _why_empty(self, table: RecordingTable, chosen: np.ndarray) -> str:
        if not len(chosen):
            return "Windows: no recordings. Run `neurofm prepare`, or choose other recordings."
        here = table.event_label.index[np.isin(table.event_recording, chosen)]
        counts = np.bincount(here, minlength=len(table.event_label.names)).tolist()
        found = {name: n for name, n in zip(table.event_label.names, counts, strict=True) if n}
        if self.labels is None or any(name in found for name in self.labels):
            longest = (table.n_times[chosen] / table.sfreq[chosen]).max()
            avoided = [name for name in found if fits(name, self.avoid)]
            why = f" Events to avoid: {', '.join(avoided)}." if avoided else ""
            return (
                f"Windows: no window of {self.window_s} s at {self.offset_s:+g} s fits into any of "
                f"{len(chosen)} recordings; the longest lasts {longest:.3f} s.{why}"
            )
        have = sorted(found.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} ({n})" for name, n in have) or "none at all"
        return (
            f"Windows: no event is labelled {' or '.join(map(repr, self.labels[:9]))} in "
            f"{len(chosen)} recordings. Labels there: {listed}."
        )
