"""Filters in time and changes of rate, as steps.

Filters are the zero-phase windowed FIRs that MNE designs. `engine: fft` applies them in float32
through the frequency domain; consecutive steps are then one pass (`Chain`, made by `build_steps`).
`engine: mne` lets MNE apply each step by itself in float64. Away from the ends the two differ by
less than 1e-5 of the signal. `causal: true` uses the past alone (`causal.py`). Filters
stop at joins (events labelled "EDGE ..."), as MNE's do, and so do changes of rate, on one clock.

Axes: channel time.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, Literal

import mne.filter
import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.causal import (
    ORDER,
    Running,
    RunningFilter,
    RunningRate,
    Unchanged,
    band_sections,
    notch_sections,
    run_causal,
    running_ratio,
)
from neurofm.data.steps.fast_filter import exact_ratio, filter_resample
from neurofm.data.steps.mne_filter import by_channel, by_stretch, design, resampled
from neurofm.data.steps.step import Step, at_new_rate, noted, require_finite, stretches
from neurofm.shapes import Float
from neurofm.types import Signal

Engine = Literal["fft", "mne"]


@configured
@dataclass(frozen=True)
class Notch:
    """Remove line noise and its harmonics below the Nyquist frequency.

    Args:
        freqs: Hz. None means the line frequency of the dataset card, which `build_steps` fills in.
        harmonics: Also remove the multiples of each frequency.
        engine: "fft" or "mne".
        causal: Recursive notches that use the past alone, 2 Hz wide.
    """

    by_channel: ClassVar[bool] = True
    freqs: Sequence[float] | None = None
    harmonics: bool = True
    engine: Engine = "fft"
    causal: bool = False

    def __call__(self, signal: Signal) -> Signal:
        """The signal without those frequencies."""
        if self.causal:
            return run_causal(self, signal)
        if self.engine == "fft":
            return Chain((self,))(signal)
        freqs = self.stopped(signal)
        if not len(freqs):
            return noted(signal, signal.data, self.line(signal))
        require_finite(signal, "Notch")
        _warn_if_short(self, signal)

        def apply(block: np.ndarray) -> np.ndarray:
            return mne.filter.notch_filter(block, signal.sfreq, freqs, verbose="ERROR")

        return noted(signal, by_stretch(signal, apply), self.line(signal))

    def stopped(self, signal: Signal) -> Float[np.ndarray, " freq"]:
        """Frequencies below the Nyquist frequency that are removed, Hz."""
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
        # The stop band (freq / 200 wide) and half its 1 Hz transition must end below Nyquist.
        return np.array(sorted(f for f in wanted if f * (1 + 1 / 400) + 0.5 < nyquist))

    def taps(self, signal: Signal) -> Float[np.ndarray, " tap"] | None:
        """The filter at the signal's rate; None if there is nothing to remove."""
        freqs = self.stopped(signal)
        if not len(freqs):
            return None
        half = freqs / 400 + 0.5
        return design(signal.sfreq, tuple(freqs + half), tuple(freqs - half), 0.5)

    def running(self, signal: Signal) -> Running:
        """The causal form at the signal's rate."""
        freqs = self.stopped(signal)
        if not len(freqs):
            return Unchanged()
        return RunningFilter(notch_sections(freqs, signal.sfreq), signal.sfreq)

    def line(self, signal: Signal) -> str:
        """Line of history."""
        freqs = self.stopped(signal)
        if not len(freqs):
            return f"notch: no line frequency below {signal.sfreq / 2:g} Hz"
        listed = ", ".join(f"{freq:g}" for freq in freqs)
        if self.causal:
            return f"notch {listed} Hz: causal, recursive, 2 Hz wide"
        return f"notch {listed} Hz: {_describe(self.taps(signal), signal.sfreq)}"


@configured
@dataclass(frozen=True)
class Bandpass:
    """Keep the frequencies from `low` to `high`.

    Args:
        low: Hz; None for a low-pass.
        high: Hz; None for a high-pass.
        too_high: What to do when `high` does not fit the sampling rate: "error", or "lower" it to
            0.45 of the rate. "lower" is for corpora of mixed rates; the history says what was used.
        engine: "fft" or "mne".
        causal: Recursive filters that use the past alone and delay the signal a little.
    """

    by_channel: ClassVar[bool] = True
    low: float | None
    high: float | None
    too_high: Literal["error", "lower"] = "error"
    engine: Engine = "fft"
    causal: bool = False

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
        if self.causal:
            return run_causal(self, signal)
        if self.engine == "fft":
            return Chain((self,))(signal)
        high = self.upper(signal)
        require_finite(signal, "Bandpass")
        _warn_if_short(self, signal)

        def apply(block: np.ndarray) -> np.ndarray:
            return mne.filter.filter_data(
                block, signal.sfreq, self.low, high, copy=False, verbose="ERROR"
            )

        return noted(signal, by_stretch(signal, apply), self.line(signal))

    def upper(self, signal: Signal) -> float | None:
        """Upper edge at the signal's rate, Hz.

        Raises:
            ValueError: The band does not fit below the Nyquist frequency.
        """
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
        return high

    def taps(self, signal: Signal) -> Float[np.ndarray, " tap"]:
        """The filter at the signal's rate."""
        high = self.upper(signal)
        return design(signal.sfreq, self.low, high, "auto")

    def running(self, signal: Signal) -> RunningFilter:
        """The causal form at the signal's rate."""
        sections = band_sections(self.low, self.upper(signal), signal.sfreq)
        return RunningFilter(sections, signal.sfreq)

    def line(self, signal: Signal) -> str:
        """Line of history."""
        band = self._band(self.upper(signal))
        if self.causal:
            low, high = self.low or 0.0, self.upper(signal) or signal.sfreq / 2
            middle = (low * high) ** 0.5 or high / 2
            delay = 1000 * self.running(signal).delay(middle)
            return (
                f"bandpass {band}: causal, Butterworth of order {ORDER} at each edge, delays "
                f"{middle:.3g} Hz by {delay:.3g} ms"
            )
        return f"bandpass {band}: {_describe(self.taps(signal), signal.sfreq)}"

    def _band(self, high: float | None) -> str:
        return f"{self.low or 0:g}-{'Nyquist' if high is None else f'{high:g}'} Hz"


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
        engine: "fft" or "mne".
        causal: A filter of minimum phase that uses the past alone.
    """

    by_channel: ClassVar[bool] = True
    sfreq: float
    engine: Engine = "fft"
    causal: bool = False

    def __post_init__(self) -> None:
        if not self.sfreq > 0:
            raise ValueError(f"Resample: sfreq is {self.sfreq} Hz, expected above 0.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal at the new rate; it has round(n * sfreq / old rate) samples.

        The causal form has as many as can be known: floor((n - 1) * sfreq / old rate) + 1.
        """
        if self.causal:
            return replace(run_causal(self, signal), sfreq=float(self.sfreq))
        if self.engine == "fft":
            return Chain((self,))(signal)
        ratio = self.ratio(signal)
        if ratio == 1:
            return noted(signal, signal.data, self.line(signal))
        require_finite(signal, "Resample")

        def apply(data: np.ndarray) -> np.ndarray:
            n_out = round(data.shape[1] * ratio)
            return by_channel(data, lambda block: resampled(block, ratio), n_out)

        pieces = stretches(signal)
        whole = len(pieces) == 1
        data = apply(signal.data) if whole else at_new_rate(signal.data, pieces, ratio, apply)
        return replace(noted(signal, data, self.line(signal)), sfreq=float(self.sfreq))

    def running(self, signal: Signal) -> Running:
        """The causal form at the signal's rate."""
        if signal.sfreq == self.sfreq:
            return Unchanged()
        return RunningRate(running_ratio(signal.sfreq, self.sfreq), signal.sfreq)

    def ratio(self, signal: Signal) -> Fraction:
        """New rate over old rate."""
        n = signal.data.shape[1]
        if signal.sfreq == self.sfreq:
            return Fraction(1)
        ratio = exact_ratio(signal.sfreq, self.sfreq, n)
        if n and round(n * ratio) < 1:
            raise ValueError(
                f"{signal.recording.id}: {n} samples at {signal.sfreq:g} Hz leave none at "
                f"{self.sfreq:g} Hz. Leave this recording out or use a higher rate."
            )
        return ratio

    def line(self, signal: Signal) -> str:
        """Line of history."""
        if signal.sfreq == self.sfreq:
            return f"resample: already at {self.sfreq:g} Hz"
        if self.causal:
            edge = min(signal.sfreq, self.sfreq) / 2
            delay = 1000 * self.running(signal).delay(edge / 4)
            return (
                f"resample {signal.sfreq:g} -> {self.sfreq:g} Hz: causal, minimum phase, delays "
                f"{edge / 4:g} Hz by {delay:.3g} ms, cut at {edge:g} Hz"
            )
        ratio = self.ratio(signal)
        return (
            f"resample {signal.sfreq:g} -> {self.sfreq:g} Hz: Fourier, zero phase, exact ratio "
            f"{ratio.numerator}/{ratio.denominator}, cut at "
            f"{min(signal.sfreq, self.sfreq) / 2:g} Hz, edges reflected"
        )


@configured
@dataclass(frozen=True)
class Chain:
    """Filters, and at the end perhaps a change of rate, in one pass.

    Args:
        steps: `Notch` and `Bandpass`, then at most one `Resample`.
    """

    by_channel: ClassVar[bool] = True
    steps: Sequence[Notch | Bandpass | Resample]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if any(isinstance(step, Resample) for step in self.steps[:-1]):
            raise ValueError("Chain: Resample must be the last step, filters act before it.")

    def __call__(self, signal: Signal) -> Signal:
        """The signal after all of them."""
        require_finite(signal, " and ".join(type(step).__name__ for step in self.steps))
        taps, ratio, sfreq = [], Fraction(1), signal.sfreq
        for step in self.steps:
            if isinstance(step, Resample):
                ratio, sfreq = step.ratio(signal), float(step.sfreq)
            elif (item := step.taps(signal)) is not None:
                _warn_if_short(step, signal)
                taps.append(item)
        lines = tuple(step.line(signal) for step in self.steps)
        data, pieces = signal.data, stretches(signal)
        if taps and len(pieces) > 1:
            data = np.concatenate([filter_resample(data[:, at], taps) for at in pieces], axis=1)
        if ratio != 1 and len(pieces) > 1:
            data = at_new_rate(data, pieces, ratio, lambda x: filter_resample(x, (), ratio))
        elif len(pieces) == 1 and (taps or ratio != 1):
            data = filter_resample(data, taps, ratio)
        return replace(signal, data=data, sfreq=sfreq, history=(*signal.history, *lines))


def chained(steps: Sequence[Step]) -> list[Step]:
    """The steps, with neighbours that can share a pass joined to a `Chain`."""
    joined: list[Step] = []
    run: list[Notch | Bandpass | Resample] = []

    def close() -> None:
        joined.extend([Chain(tuple(run))] if len(run) > 1 else run)
        run.clear()

    for step in steps:
        if (
            isinstance(step, (Notch, Bandpass, Resample))
            and step.engine == "fft"
            and not step.causal
        ):
            run.append(step)
            if isinstance(step, Resample):
                close()
        else:
            close()
            joined.append(step)
    close()
    return joined


def _warn_if_short(step: Notch | Bandpass, signal: Signal) -> None:
    taps = step.taps(signal)
    if taps is not None and len(taps) > signal.data.shape[1]:
        what = step.line(signal).split(":", 1)[0]
        warnings.warn(
            f"{signal.recording.id}: {what} uses a filter of {len(taps) / signal.sfreq:.3g} s on a "
            f"recording of {signal.duration:.3g} s; expect distortion at both ends. Use longer "
            "recordings or a higher lower edge.",
            stacklevel=4,
        )


def _describe(taps: np.ndarray | None, sfreq: float) -> str:
    order = 0 if taps is None else len(taps) - 1
    return (
        f"FIR (Hamming window), order {order} at {sfreq:g} Hz, zero phase, edges reflected "
        f"(affects {order / 2 / sfreq:.2g} s at each end)"
    )
