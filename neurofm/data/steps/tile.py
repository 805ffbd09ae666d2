"""Long events as several, as a step: windows are cut at onsets, one at each.

A night's annotation of a sleep stage lasts for as many epochs as the stage does, a condition for
the whole recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neurofm.cards import configured
from neurofm.data.steps.step import noted
from neurofm.io.quality import matches
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
