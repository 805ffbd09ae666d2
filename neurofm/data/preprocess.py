"""Preprocessing as a list of small declared steps: a `Signal` goes in, a new `Signal` comes out.

Every step appends one line to `Signal.history` that says what it did to the data: filter type,
order, phase, edges, what was dropped or repaired. Data are float32 outside and float64 inside,
working units are kept, and event times (seconds) never change.

Filters are MNE's zero-phase windowed FIR. Resampling keeps the clock exact: see `Resample`.
Source of the default chain: BrainOmni (arXiv 2505.18185): notch, 0.1-96 Hz, 256 Hz. Here the
band-pass precedes the resampling, so that both filters act at the native rate.
Axes: channel = sensor, time = sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, Protocol, runtime_checkable

import mne.filter
import numpy as np
from scipy.fft import next_fast_len

from neurofm.cards import build, configured
from neurofm.shapes import Float
from neurofm.types import Signal

# float64 values worked on at a time: 64 MB, whatever the length and number of channels.
_BLOCK = 8_000_000


@runtime_checkable
class Step(Protocol):
    """One preprocessing step."""

    def __call__(self, signal: Signal) -> Signal:
        """The processed signal, its history one line longer."""
        ...


@configured
@dataclass(frozen=True)
class Notch:
    """Remove line noise and its harmonics below the Nyquist frequency.

    Args:
        freqs: Hz. None means the line frequency of the dataset card, which `build_steps` fills in.
        harmonics: Also remove the multiples of each frequency.
    """

    freqs: Sequence[float] | None = None
    harmonics: bool = True

    def __call__(self, signal: Signal) -> Signal:
        """The signal without those frequencies."""
        if self.freqs is None:
            raise ValueError(
                "Notch: no frequency. Give freqs=[50.0] or [60.0], or set `line_freq` in the "
                "dataset card and make the steps with `build_steps`."
            )
        if not all(freq > 0 for freq in self.freqs):
            raise ValueError(f"Notch: frequencies {list(self.freqs)} Hz, expected all above 0.")
        nyquist = signal.sfreq / 2
        wanted: set[float] = set()
        for freq in self.freqs:
            count = int(nyquist // freq) if self.harmonics else 1
            wanted |= {freq * k for k in range(1, count + 1)}
        # The stop band (freq/200 wide) and half its 1 Hz transition must end below Nyquist.
        freqs = sorted(freq for freq in wanted if freq * (1 + 1 / 400) + 0.5 < nyquist)
        listed = ", ".join(f"{freq:g}" for freq in freqs)
        if not freqs:
            return noted(signal, signal.data, f"notch: no line frequency below {nyquist:g} Hz")
        require_finite(signal, "Notch")
        half = np.array(freqs) / 400 + 0.5
        order = _order(signal.sfreq, np.array(freqs) + half, np.array(freqs) - half, transition=0.5)
        _warn_if_short(signal, order, f"Notch at {listed} Hz")

        def apply(block: np.ndarray) -> np.ndarray:
            return mne.filter.notch_filter(block, signal.sfreq, np.array(freqs), verbose="ERROR")

        data = _by_channel(signal.data, apply, signal.data.shape[1])
        return noted(signal, data, f"notch {listed} Hz: {_describe(order, signal.sfreq)}")


@configured
@dataclass(frozen=True)
class Bandpass:
    """Keep the frequencies from `low` to `high`.

    Args:
        low: Hz; None for a low-pass.
        high: Hz; None for a high-pass.
        too_high: What to do when `high` does not fit the sampling rate: "error", or "lower" it to
            0.45 of the rate. "lower" is for corpora of mixed rates; the history says what was used.
    """

    low: float | None
    high: float | None
    too_high: Literal["error", "lower"] = "error"

    def __post_init__(self) -> None:
        for value in (self.low, self.high):
            if value is not None and not value > 0:
                raise ValueError(f"Bandpass: edge of {value} Hz, expected above 0 or None.")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"Bandpass: low {self.low} Hz is not below high {self.high} Hz.")
        if self.low is None and self.high is None:
            raise ValueError("Bandpass: neither low nor high is given, so it would do nothing.")
        if self.too_high not in ("error", "lower"):
            raise ValueError(f"Bandpass: too_high is {self.too_high!r}, expected error or lower.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal within the band."""
        high, usable = self.high, round(0.45 * signal.sfreq, 3)
        if high is not None and self.too_high == "lower":
            high = min(high, usable)
        if high is not None and high >= signal.sfreq / 2:
            raise ValueError(
                f"{signal.recording.id}: Bandpass up to {high:g} Hz is not possible at "
                f"{signal.sfreq:g} Hz (Nyquist {signal.sfreq / 2:g} Hz). Use high={usable:g} or "
                'less, or too_high="lower".'
            )
        if self.low is not None and self.low >= (high or signal.sfreq / 2):
            raise ValueError(
                f"{signal.recording.id}: Bandpass from {self.low:g} Hz leaves nothing below "
                f"{high or signal.sfreq / 2:g} Hz at a rate of {signal.sfreq:g} Hz. Use a lower "
                "edge below that."
            )
        require_finite(signal, "Bandpass")
        order = _order(signal.sfreq, self.low, high)
        band = f"{self.low or 0:g}-{'Nyquist' if high is None else f'{high:g}'} Hz"
        _warn_if_short(signal, order, f"Bandpass {band}")

        def apply(block: np.ndarray) -> np.ndarray:
            return mne.filter.filter_data(
                block, signal.sfreq, self.low, high, copy=False, verbose="ERROR"
            )

        data = _by_channel(signal.data, apply, signal.data.shape[1])
        return noted(signal, data, f"bandpass {band}: {_describe(order, signal.sfreq)}")


@configured
@dataclass(frozen=True)
class Resample:
    """Change the sampling rate, with an exact clock.

    Sample k of the result lies at k / sfreq seconds, over hours. Fourier resampling turns n
    samples into a whole number m of samples, and its real rate is m / n of the old one: after
    padding to a length of its own choice, as MNE does by default, that is off by parts per million
    (1000 to 256 Hz: by 1.1 ms after ten minutes). Here the padded length is a multiple of the
    ratio's denominator (160 to 256 Hz is 8 / 5), so that the rate is the one asked for. For rates
    without a short ratio the error at the end of the recording is below 1e-4 samples.

    The transform's cut at the lower of the two Nyquist frequencies is the anti-aliasing filter.
    The edges are continued by a point reflection that fades out.

    Args:
        sfreq: Hz.
    """

    sfreq: float

    def __post_init__(self) -> None:
        if not self.sfreq > 0:
            raise ValueError(f"Resample: sfreq is {self.sfreq} Hz, expected above 0.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal at the new rate; it has round(n * sfreq / old rate) samples."""
        if signal.sfreq == self.sfreq:
            return noted(signal, signal.data, f"resample: already at {self.sfreq:g} Hz")
        require_finite(signal, "Resample")
        n = signal.data.shape[1]
        ratio = _ratio(signal.sfreq, self.sfreq, n)
        if round(n * ratio) < 1:
            raise ValueError(
                f"{signal.recording.id}: {n} samples at {signal.sfreq:g} Hz leave none at "
                f"{self.sfreq:g} Hz. Leave this recording out or use a higher rate."
            )
        data = _by_channel(signal.data, lambda block: _resample(block, ratio), round(n * ratio))
        line = (
            f"resample {signal.sfreq:g} -> {self.sfreq:g} Hz: Fourier, zero phase, exact ratio "
            f"{ratio.numerator}/{ratio.denominator}, cut at "
            f"{min(signal.sfreq, self.sfreq) / 2:g} Hz, edges reflected"
        )
        return replace(noted(signal, data, line), sfreq=float(self.sfreq))


def default_steps() -> list[Step]:
    """Notch at the card's line frequency, 0.1-96 Hz (or 0.45 of a lower rate), 256 Hz.

    Pass them through `build_steps`, which fills in the line frequency.
    """
    return [Notch(), Bandpass(0.1, 96.0, too_high="lower"), Resample(256.0)]


def build_steps(
    specs: Sequence[dict[str, Any] | Step] | None, *, line_freq: float | None
) -> list[Step]:
    """Steps from a recipe.

    Args:
        specs: `class_path`/`init_args` dicts, or steps already made; None for `default_steps`.
        line_freq: Hz, of the dataset card; used by a `Notch` without frequencies.

    Raises:
        ValueError: A spec that is not a step, or a `Notch` without any frequency.
    """
    steps: list[Step] = []
    for spec in default_steps() if specs is None else specs:
        step = build(spec)
        if not callable(step) or isinstance(step, type):
            raise ValueError(
                f"preprocessing step {spec!r} is not a step. Write {{class_path: "
                "neurofm.data.Bandpass, init_args: {low: 0.1, high: 75}}."
            )
        if isinstance(step, Notch) and step.freqs is None:
            if line_freq is None:
                raise ValueError(
                    "Notch: neither the step nor the dataset card says which line frequency. Set "
                    "`line_freq: 50` (or 60) in the card, or `freqs: [50]` in the step."
                )
            step = Notch([float(line_freq)], harmonics=step.harmonics)
        steps.append(step)
    return steps


def noted(signal: Signal, data: Float[np.ndarray, "channel time"], line: str) -> Signal:
    """The signal with new data and one more line of history."""
    return replace(signal, data=data, history=(*signal.history, line))


def _by_channel(
    data: Float[np.ndarray, "channel time"],
    function: Callable[[np.ndarray], np.ndarray],
    n_out: int,
) -> Float[np.ndarray, "channel new_time"]:
    """Apply a function to blocks of channels in float64, so that memory stays bounded."""
    result = np.empty((data.shape[0], n_out), dtype=np.float32)
    size = max(1, _BLOCK // max(data.shape[1], n_out, 1))
    for first in range(0, data.shape[0], size):
        result[first : first + size] = function(data[first : first + size].astype(np.float64))
    return result


def _ratio(old: float, new: float, n: int) -> Fraction:
    """The shortest ratio of the rates whose error over n samples is below 1e-4 samples."""
    exact = Fraction(new) / Fraction(old)
    limit = 1
    while abs(exact - (ratio := exact.limit_denominator(limit))) * n > Fraction(1, 10_000):
        limit *= 2
    return ratio


def _resample(block: np.ndarray, ratio: Fraction) -> np.ndarray:
    n, unit = block.shape[1], ratio.denominator
    margin = -(-max(min(n, 1000), 1) // unit)  # padding before, in units
    units = next_fast_len(margin + -(-n // unit) + margin)
    before, after = margin * unit, units * unit - margin * unit - n
    mean = block.mean(axis=1, keepdims=True)
    padded = np.pad(block - mean, ((0, 0), (before, after)), mode="edge")
    for length, at, step in ((before, before, 1), (after, before + n - 1, -1)):
        reach = min(length, n - 1)
        fade = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, reach + 1) / (reach + 1))
        inner = at + step * np.arange(1, reach + 1)
        outer = at - step * np.arange(1, length + 1)
        padded[:, outer[reach:]] = 0.0
        padded[:, outer[:reach]] = (2 * padded[:, [at]] - padded[:, inner]) * fade
    new = mne.filter.resample(
        padded, ratio.numerator, ratio.denominator, npad=0, method="fft", verbose="ERROR"
    )
    first = margin * ratio.numerator
    return new[:, first : first + round(n * ratio)] + mean


def _order(
    sfreq: float,
    low: float | np.ndarray | None,
    high: float | np.ndarray | None,
    *,
    transition: float | Literal["auto"] = "auto",
) -> int:
    """Order of the FIR that MNE designs for these edges."""
    taps = mne.filter.create_filter(
        None,
        sfreq,
        low,
        high,
        l_trans_bandwidth=transition,
        h_trans_bandwidth=transition,
        verbose="ERROR",
    )
    return len(taps) - 1


def _describe(order: int, sfreq: float) -> str:
    return (
        f"FIR (Hamming window), order {order} at {sfreq:g} Hz, zero phase, edges reflected "
        f"(affects {order / 2 / sfreq:.2g} s at each end)"
    )


def _warn_if_short(signal: Signal, order: int, what: str) -> None:
    if order >= signal.data.shape[1]:
        warnings.warn(
            f"{signal.recording.id}: {what} uses a filter of {order / signal.sfreq:.3g} s on a "
            f"recording of {signal.duration:.3g} s; expect distortion at both ends. Use longer "
            "recordings or a higher lower edge.",
            stacklevel=4,
        )


def require_finite(signal: Signal, step: str) -> None:
    """Refuse NaN and infinity, naming recording, channel and time, and an empty recording."""
    if not signal.data.shape[1]:
        raise ValueError(f"{signal.recording.id}: {step}: the recording has no samples.")
    bad = [row for row in range(len(signal.sensors)) if not np.isfinite(signal.data[row]).all()]
    if bad:
        first = bad[0]
        sample = int(np.flatnonzero(~np.isfinite(signal.data[first]))[0])
        raise ValueError(
            f"{signal.recording.id}: {step}: {len(bad)} of {len(signal.sensors)} channels contain "
            f"NaN or infinity, first {signal.sensors.names[first]} at {sample / signal.sfreq:g} s. "
            "Put InterpolateBads before this step, drop the channels with PickChannels, or leave "
            "the recording out."
        )
