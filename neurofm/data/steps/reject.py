"""Leave out events around which the signal is too large, as a step.

The decision belongs to the event and not to a window, so that methods with other windows or filters
behind it are compared on the same trials, and neighbours whose windows overlap are judged apart.

Axes: channel time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.channels import kinds_of
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.quality import matches
from neurofm.types import Event, Signal

REJECTED = "rejected "


@configured
@dataclass(frozen=True)
class RejectEvents:
    """Rename events around which a channel swings by more than `peak_to_peak`.

    A `target` becomes a `rejected target`, which no window is cut at and which is still counted
    among the recording's events. Events whose window does not fit into the recording stay.

    Args:
        peak_to_peak: Largest difference of two samples of a channel in a window, in its working
            unit (microvolts for EEG).
        window_s: Length of the window that is looked at, seconds.
        offset_s: Its start after the onset of the event, seconds.
        labels: Wildcards of the events to judge; all but "BAD ..." and "EDGE ..." if not given.
        kinds: Kinds of channels to look at.

    Source: MNE's `reject` of epochs.
    """

    peak_to_peak: float = 100.0
    window_s: float = 1.0
    offset_s: float = 0.0
    labels: Sequence[str] | None = None
    kinds: Sequence[str] = ("eeg",)

    def __post_init__(self) -> None:
        if not self.peak_to_peak > 0 or not self.window_s > 0:
            raise ValueError(
                f"RejectEvents: peak_to_peak {self.peak_to_peak:g} and window_s {self.window_s:g}, "
                "expected both above 0."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The signal as it was, some of its events renamed; warns with their number.

        Raises:
            ValueError: No channel of these kinds, NaN, or every event would be left out.
        """
        require_finite(signal, "RejectEvents")
        own = np.isin(signal.sensors.kind, [int(kind) for kind in kinds_of(self.kinds)])
        if not own.any():
            raise ValueError(
                f"{signal.recording.id}: RejectEvents: there is no channel of the kinds "
                f"{', '.join(self.kinds)}."
            )
        data, n = signal.data[own], max(1, round(self.window_s * signal.sfreq))
        events: list[Event] = []
        judged = rejected = 0
        for event in signal.events:
            start = round((event.onset + self.offset_s) * signal.sfreq)
            if self._judges(event) and 0 <= start <= data.shape[1] - n:
                judged += 1
                if float(np.ptp(data[:, start : start + n], axis=1).max()) > self.peak_to_peak:
                    rejected += 1
                    event = replace(event, label=REJECTED + event.label)
            events.append(event)
        what = (
            f"{rejected} of {judged} events swing by more than {self.peak_to_peak:g} within "
            f"{self.offset_s:g} to {self.offset_s + self.window_s:g} s"
        )
        if judged and rejected == judged:
            raise ValueError(
                f"{signal.recording.id}: RejectEvents: all {what}. Look at the unit and the "
                "filters before this step, raise peak_to_peak, or leave the recording out."
            )
        if rejected:
            warnings.warn(f"{signal.recording.id}: {what}; left out.", stacklevel=2)
        return replace(noted(signal, signal.data, f"rejected: {what}"), events=tuple(events))

    def _judges(self, event: Event) -> bool:
        if event.label.startswith(REJECTED):
            return False
        if self.labels is None:
            return not event.label.upper().startswith(("BAD", "EDGE"))
        return matches(event.label, self.labels)
