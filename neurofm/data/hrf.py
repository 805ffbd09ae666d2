"""From events to expected BOLD: the double-gamma response, finite impulse responses, designs.

The canonical response is the difference of two gamma densities, scaled to an area of 1 s, so that a
regressor of an event that lasts for long reaches 1. Convolving a block with it is exact: the
response to a block is the difference of two cumulative distributions, no fine time grid is needed.

Source: Friston et al. 1998 and SPM's canonical values (peak 6 s, undershoot 16 s, ratio 1/6);
Dale 1999 (finite impulse responses).
Axes: time = volume, regressor. Seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import gamma

from neurofm.shapes import Float
from neurofm.types import Event

_IMPULSE_S = 1.0  # seconds of full activity that an event without a duration stands for


@dataclass(frozen=True)
class DoubleGamma:
    """A haemodynamic response: a gamma density and an undershoot.

    Args:
        peak_s: Shape of the first gamma times its dispersion; it peaks a second earlier.
        undershoot_s: The same for the undershoot.
        dispersion_s: Width of the first gamma.
        undershoot_dispersion_s: Width of the undershoot.
        ratio: Area of the undershoot over that of the peak.
        delay_s: Shift of the whole response.
    """

    peak_s: float = 6.0
    undershoot_s: float = 16.0
    dispersion_s: float = 1.0
    undershoot_dispersion_s: float = 1.0
    ratio: float = 1.0 / 6.0
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        sizes = (
            self.peak_s,
            self.undershoot_s,
            self.dispersion_s,
            self.undershoot_dispersion_s,
        )
        if not all(value > 0 for value in sizes) or not 0 <= self.ratio < 1:
            raise ValueError(
                f"DoubleGamma: {self}; expected times above 0 s and a ratio from 0 to below 1."
            )

    def _gammas(self) -> tuple[dict[str, float], dict[str, float]]:
        first = {"a": self.peak_s / self.dispersion_s, "scale": self.dispersion_s}
        second = {
            "a": self.undershoot_s / self.undershoot_dispersion_s,
            "scale": self.undershoot_dispersion_s,
        }
        return first, second

    def density(self, time: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
        """Response to an impulse, per second; its integral is 1."""
        first, second = self._gammas()
        t = np.asarray(time, dtype=np.float64) - self.delay_s
        return (gamma.pdf(t, **first) - self.ratio * gamma.pdf(t, **second)) / (1 - self.ratio)

    def area(self, time: Float[np.ndarray, ...]) -> Float[np.ndarray, ...]:
        """Integral of `density` up to each time: the response to a step."""
        first, second = self._gammas()
        t = np.asarray(time, dtype=np.float64) - self.delay_s
        return (gamma.cdf(t, **first) - self.ratio * gamma.cdf(t, **second)) / (1 - self.ratio)

    def response(
        self, time: Float[np.ndarray, " time"], onset: float, duration: float
    ) -> Float[np.ndarray, " time"]:
        """Response to activity of height 1 from `onset` on, for `duration` seconds.

        Without a duration: to an impulse of the area of one second.
        """
        if duration <= 0:
            return _IMPULSE_S * self.density(time - onset)
        return self.area(time - onset) - self.area(time - onset - duration)


CANONICAL = DoubleGamma()


def frame_times(n_times: int, sfreq: float, *, at: float = 0.0) -> Float[np.ndarray, " time"]:
    """When volumes were taken, seconds.

    Args:
        at: Share of the repetition time: 0 for images whose slices were timed to the first, 0.5 for
            the middle of the volume.
    """
    return (np.arange(n_times) + at) / sfreq


def trial_regressors(
    events: Sequence[Event], times: Float[np.ndarray, " time"], *, hrf: DoubleGamma = CANONICAL
) -> Float[np.ndarray, "time regressor"]:
    """One regressor per event, in the order of the events."""
    columns = [hrf.response(times, event.onset, event.duration) for event in events]
    return np.stack(columns, axis=1) if columns else np.zeros((len(times), 0))


def design_matrix(
    events: Sequence[Event],
    n_times: int,
    sfreq: float,
    *,
    labels: Sequence[str] | None = None,
    model: Literal["canonical", "fir"] = "canonical",
    hrf: DoubleGamma = CANONICAL,
    delays: int = 8,
    at: float = 0.0,
) -> tuple[Float[np.ndarray, "time regressor"], tuple[str, ...]]:
    """Expected responses of every condition.

    Args:
        events: Onsets in seconds from the first volume.
        n_times: Volumes.
        sfreq: Volumes per second.
        labels: Conditions, in the order of the regressors; all labels, sorted, if not given.
        model: "canonical": one regressor per condition. "fir": one for each of `delays` volumes
            from the onset on, 1 in the volume that many volumes after the onset.
        at: See `frame_times`.

    Returns:
        float64 regressors, and their names ("face", or "face:+3").

    Raises:
        ValueError: No event has one of the labels.
    """
    if model not in ("canonical", "fir"):
        raise ValueError(f"design_matrix: model is {model!r}, expected canonical or fir.")
    present = sorted({event.label for event in events})
    wanted = present if labels is None else list(labels)
    missing = [label for label in wanted if label not in present]
    if missing or not wanted:
        raise ValueError(
            f"design_matrix: no event is labelled {', '.join(missing) or 'anything'}; there are "
            f"{', '.join(present) or 'no events'}."
        )
    times = frame_times(n_times, sfreq, at=at)
    columns, names = [], []
    for label in wanted:
        own = [event for event in events if event.label == label]
        if model == "canonical":
            columns.append(trial_regressors(own, times, hrf=hrf).sum(axis=1))
            names.append(label)
            continue
        onset = np.array([event.onset for event in own])
        # The volume in which, or after which, an event begins is its volume 0.
        first = np.ceil(onset * sfreq - at - 1e-9).astype(int)
        for delay in range(delays):
            column = np.zeros(n_times)
            here = first + delay
            np.add.at(column, here[(here >= 0) & (here < n_times)], 1.0)
            columns.append(column)
            names.append(f"{label}:+{delay}")
    return np.stack(columns, axis=1), tuple(names)


def lagged(
    features: Float[np.ndarray, "time feature"], delays: Sequence[int]
) -> Float[np.ndarray, "time feature_delay"]:
    """Features of earlier samples beside each other: the finite impulse response of an encoder.

    Args:
        delays: Samples into the past, 0 or more.

    Returns:
        All features at the first delay, then at the next; zeros before the start.
    """
    if any(delay < 0 for delay in delays):
        raise ValueError(f"lagged: delays {list(delays)}, expected 0 or more samples.")
    n, width = features.shape
    result = np.zeros((n, width * len(delays)), dtype=features.dtype)
    for i, delay in enumerate(delays):
        if delay < n:
            result[delay:, i * width : (i + 1) * width] = features[: n - delay]
    return result
