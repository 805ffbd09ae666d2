"""Which moments of long recordings become windows, as steps: windows are cut at onsets of events.

A night's annotation of a sleep stage lasts for as many epochs as the stage does, a condition for
the whole recording; and a night may be recorded with the day around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.step import noted
from neurofm.io.quality import listed, matches
from neurofm.types import Event, Signal

_ROUNDING = 1e-6  # seconds: durations come from sums of samples


@configured
@dataclass(frozen=True)
class TileEvents:
    """Replace every long event by events that follow each other, each of the same length.

    What is left at the end of an event, shorter than that, is left out; events that are shorter to
    begin with stay as they are.

    Args:
        every_s: Length of the new events, seconds.
        labels: Wildcards of the events to replace; all but "BAD ..." and "EDGE ..." if not given.
    """

    every_s: float
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.every_s > 0:
            raise ValueError(f"TileEvents: every_s is {self.every_s:g}, expected more than 0.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal as it was, with other events."""
        events: list[Event] = []
        for event in signal.events:
            count = int((event.duration + _ROUNDING) / self.every_s)
            if not self._chosen(event) or count < 2:
                events.append(event)
                continue
            onsets = (event.onset + i * self.every_s for i in range(count))
            events += [Event(onset, self.every_s, event.label) for onset in onsets]
        line = f"events in pieces of {self.every_s:g} s: {len(signal.events)} are now {len(events)}"
        ordered = tuple(sorted(events, key=lambda event: event.onset))
        return replace(noted(signal, signal.data, line), events=ordered)

    def _chosen(self, event: Event) -> bool:
        if self.labels is None:
            return not event.label.upper().startswith(("BAD", "EDGE"))
        return matches(event.label, self.labels)


@configured
@dataclass(frozen=True)
class KeepAround:
    """Leave out the events long before and long after what a recording is about.

    Args:
        labels: Wildcards of the events it is about.
        within_s: Events are kept from this long before the first of these to this long after the
            end of the last, seconds. "BAD ..." and "EDGE ..." stay everywhere.

    Without any such event all others go too.
    """

    labels: Sequence[str]
    within_s: float

    def __post_init__(self) -> None:
        if not self.within_s >= 0:
            raise ValueError(f"KeepAround: within_s is {self.within_s:g}, expected 0 or more.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal as it was, with fewer events."""
        about = [event for event in signal.events if matches(event.label, self.labels)]
        first = min((event.onset for event in about), default=np.inf) - self.within_s
        last = max((event.onset + event.duration for event in about), default=-np.inf)
        last += self.within_s
        events = tuple(
            event
            for event in signal.events
            if event.label.upper().startswith(("BAD", "EDGE"))
            or (
                first - _ROUNDING <= event.onset
                and event.onset + event.duration <= last + _ROUNDING
            )
        )
        line = f"{len(events)} of {len(signal.events)} events are within {self.within_s:g} s of "
        line += f"{listed(self.labels)}"
        return replace(noted(signal, signal.data, line), events=events)
