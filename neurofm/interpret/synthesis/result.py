"""What a synthesis found, and how far it can be believed.

Numbers stand beside three others: the same objective for real windows, what the tuning is when
measured again with pure tones, and what the same procedure finds in a network that knows nothing.
Axes: signal channel time, or signal channel height width for images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.attribution.evidence import Sensing
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tuning:
    """The objective when a tone is added to real windows, minus without it.

    Tones have the root mean square of real channels and random phases.

    Args:
        frequency: Hz.
        by_frequency: Tone on all channels in proportion to the synthesised topography.
        frequency_error: Standard error over windows.
        by_channel: Tone of the best frequency on each channel alone.
        channel_error: Standard error over windows.
    """

    frequency: Float[np.ndarray, " frequency"]
    by_frequency: Float[np.ndarray, " frequency"]
    frequency_error: Float[np.ndarray, " frequency"]
    by_channel: Float[np.ndarray, " channel"]
    channel_error: Float[np.ndarray, " channel"]

    @property
    def best_hz(self) -> float:
        """Frequency of the largest response."""
        return float(self.frequency[int(np.argmax(self.by_frequency))])

    @property
    def best_channel(self) -> int:
        """Channel of the largest response."""
        return int(np.argmax(self.by_channel))


@dataclass(frozen=True)
class Synthesis:
    """Signals that drive an objective, the best first.

    Args:
        signals: In `unit`.
        values: Objective of each, without the random changes of the optimisation.
        trace: Objective at each step, of the signal it belongs to, with those changes.
        objective: In words.
        real: Objective of real windows; empty if there were none.
        unlikeness: How far each signal's log spectrum is from that of real windows, mean square in
            their standard deviations; NaN without them.
        real_unlikeness: The same of real windows.
        sensors: Names, places, rate; None for plain tensors without a rate and for images.
        unit: Of the signals.
        tuning: Measured again; None for images and without real windows.
        background: Power spectrum of real windows, channel x frequency as `spectrum` returns.
        control: Of the same procedure on a control; None if not asked for.
        control_kind: "weights": a network with random weights. "unit": another unit or direction.
        control_values: THIS objective, in the network itself, of the control's signals.
        stopped: Steps taken.
    """

    signals: Float[np.ndarray, "signal channel *time"]
    values: Float[np.ndarray, " signal"]
    trace: Float[np.ndarray, "step signal"]
    objective: str
    real: Float[np.ndarray, " window"]
    unlikeness: Float[np.ndarray, " signal"]
    real_unlikeness: Float[np.ndarray, " compared"]
    sensors: Sensing | None = None
    unit: str = "µV"
    tuning: Tuning | None = None
    background: Float[np.ndarray, "channel frequency"] | None = None
    control: Synthesis | None = None
    control_kind: str = ""
    control_values: Float[np.ndarray, " twin"] | None = None
    stopped: int = 0

    @property
    def best(self) -> float:
        """Objective of the first signal."""
        return float(self.values[0])

    @property
    def percentile(self) -> float:
        """Real windows, %, whose objective is below the best one; NaN without real windows."""
        return float(100 * (self.real < self.best).mean()) if self.real.size else float("nan")

    @property
    def realistic(self) -> bool:
        """Is the first signal's spectrum as near to the usual one as 99 % of real windows'?"""
        if not self.real_unlikeness.size:
            return False
        return bool(self.unlikeness[0] <= np.quantile(self.real_unlikeness, 0.99))

    @property
    def flagged(self) -> bool:
        """Above everything real windows reach, with a spectrum that no real window has."""
        return bool(self.real.size and self.best > self.real.max() and not self.realistic)

    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies in Hz, and power density of the first signal: channel x frequency, unit²/Hz.

        Raises:
            ValueError: Images, or a rate that is not known.
        """
        return power_density(self.signals[:1], self._rate())

    @property
    def peak_hz(self) -> float:
        """Where the first signal's power is largest relative to that of real windows.

        Where real windows have next to no power, relative to 0.01 % of their channel's mean.
        """
        frequency, power = self.spectrum()
        if self.background is not None:
            floor = 1e-4 * self.background.mean(1, keepdims=True)
            usual = np.maximum(self.background, floor)
            power = np.divide(power, usual, out=np.zeros_like(power), where=usual > 0)
        return float(frequency[int(np.argmax(power.sum(0)))])

    def topography(self) -> Float[np.ndarray, " channel"]:
        """Root mean square of the first signal within 1 Hz (or one bin) of its peak, in `unit`."""
        frequency, power = self.spectrum()
        step = frequency[1] - frequency[0]
        near = np.abs(frequency - self.peak_hz) <= max(1.0, 1.01 * step)
        return np.sqrt(power[:, near].sum(1) * step)

    def polarity(self) -> Float[np.ndarray, " channel"]:
        """The topography with the sign each channel has against the strongest one."""
        size = self.topography()
        x = self.signals[0] - self.signals[0].mean(-1, keepdims=True)
        return size * np.where(x @ x[int(np.argmax(size))] < 0, -1.0, 1.0)

    def _rate(self) -> float:
        if self.signals.ndim != 3 or self.sensors is None:
            raise ValueError(
                "Synthesis: no rate is known (images, or windows without sfreq), so there is no "
                "spectrum and no topography."
            )
        return self.sensors.sfreq

    def __str__(self) -> str:
        text = f"{self.objective}: {self.best:.4g} after {self.stopped} steps"
        if self.real.size:
            text += (
                f", above {self.percentile:.0f} % of {len(self.real)} real windows (largest "
                f"{self.real.max():.4g})"
            )
        if self.control_values is not None:
            text += f"; signals of the control ({self.control_kind}): {self.control_values[0]:.4g}"
        if self.signals.ndim == 3 and self.sensors is not None:
            text += f"; peak at {self.peak_hz:.1f} Hz{self._strongest()}"
        if self.tuning is not None:
            text += f"; tones do most at {self.tuning.best_hz:.1f} Hz"
        if self.flagged:
            text += ". CAUTION: better than any real window, with a spectrum hardly any has"
        return text

    def _strongest(self) -> str:
        names = self.sensors.names if self.sensors is not None else ()
        return f", most at {names[int(np.argmax(self.topography()))]}" if names else ""

    def plot(self) -> Figure:
        """Signal, spectrum, topography, objective and tuning; or the images."""
        from neurofm.interpret.synthesis.drawings import plot_synthesis

        return plot_synthesis(self)


def power_density(x: np.ndarray, sfreq: float) -> tuple[np.ndarray, np.ndarray]:
    """Periodogram, mean over signals: Hz, and channel x frequency in squared units per Hz.

    Of whole windows without a taper: synthesised signals are periodic in them.
    """
    n = x.shape[-1]
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    power = np.abs(np.fft.rfft(centred)) ** 2 * 2 / (sfreq * n)
    power[..., 0] /= 2
    if n % 2 == 0:
        power[..., -1] /= 2
    return np.fft.rfftfreq(n, 1 / sfreq), power.mean(0)
