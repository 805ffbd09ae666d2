"""Steps that use the past alone, and remember it: filters, changes of rate, running statistics.

A `Running` takes a recording piece by piece, of any sizes, and gives the same samples as in one
pass: a model trained on what these steps made of files meets the same signal in a stream. Filters
are recursive (Butterworth), so that they delay little; the delay depends on the frequency and is
stated in the history. A rate is changed by a polyphase filter of minimum phase. What is estimated
from a recording (`Tiles`) comes from the tiles before the one it is applied to.

Source: Oppenheim & Schafer, Discrete-Time Signal Processing (minimum phase by the cepstrum).
Axes: channel time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from scipy import signal as dsp

from neurofm.data.steps.step import noted, require_finite, stretches
from neurofm.shapes import Float
from neurofm.types import Event, Signal

WARMING_UP = "BAD warming up"
ORDER = 4  # of the Butterworth filter at each edge of a band
_PIECE = 2**15  # samples of a recording that go through at a time: bounds the memory
_LARGEST = 1000  # of the two numbers of a ratio of rates


class Running(ABC):
    """A step in the middle of a recording. Pieces go in by order; each call returns what is new."""

    warm_up: int = 0  # samples at the start that mean nothing

    @abstractmethod
    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "channel new_time"]:
        """The next samples, float32.

        Args:
            restart: What was before has nothing to do with these samples: another recording begins,
                or samples are missing in between.
        """

    def delay(self, freq: float) -> float:
        """Seconds by which an oscillation of this frequency (Hz) comes late."""
        return 0.0


@runtime_checkable
class Causal(Protocol):
    """A step that has a form for streams."""

    @property
    def causal(self) -> bool:
        """Whether it is used in this form."""
        ...

    def running(self, signal: Signal) -> Running:
        """Its state at the start of a recording like this one."""
        ...

    def line(self, signal: Signal) -> str:
        """Line of history."""
        ...


def run_causal(step: Causal, signal: Signal) -> Signal:
    """A whole recording through a causal step; it starts anew behind each join."""
    require_finite(signal, type(step).__name__)
    running = step.running(signal)
    found = []
    for number, part in enumerate(stretches(signal)):
        for first in range(part.start, part.stop, _PIECE):
            piece = signal.data[:, first : min(first + _PIECE, part.stop)]
            found.append(running(piece, restart=number > 0 and first == part.start))
    result = noted(signal, np.concatenate(found, axis=1), step.line(signal))
    if running.warm_up:
        start = Event(0.0, running.warm_up / signal.sfreq, WARMING_UP)
        result = replace(result, events=(start, *signal.events))
    return result


class RunningFilter(Running):
    """A recursive filter. It begins as if the first sample had been there forever.

    Args:
        sections: Second-order sections, as SciPy has them.
        sfreq: Hz.
    """

    def __init__(self, sections: Float[np.ndarray, "section 6"], sfreq: float) -> None:
        self.sections, self.sfreq = sections, sfreq
        self._steady = dsp.sosfilt_zi(sections)[:, None]  # section 1 2
        self._state: np.ndarray | None = None

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "channel time"]:
        """As many samples as came."""
        if restart:
            self._state = None
        if not x.shape[1]:
            return x.astype(np.float32)
        x = x.astype(np.float64)
        if self._state is None:
            self._state = self._steady * x[None, :, :1]
        y, self._state = dsp.sosfilt(self.sections, x, zi=self._state)
        return y.astype(np.float32)

    def delay(self, freq: float) -> float:
        """Group delay, seconds."""
        near = freq * np.array([0.999, 1.001])
        _, gain = dsp.sosfreqz(self.sections, near, fs=self.sfreq)
        turn = np.angle(gain[1] / gain[0])
        return float(-turn / (2 * np.pi * (near[1] - near[0])))


class Unchanged(Running):
    """Nothing to filter."""

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "channel time"]:
        """The same samples."""
        return x.astype(np.float32, copy=False)


def notch_sections(freqs: Float[np.ndarray, " freq"], sfreq: float) -> np.ndarray:
    """Notches 2 Hz wide (3 dB) at each frequency, Hz."""
    return np.concatenate([dsp.tf2sos(*dsp.iirnotch(freq, freq / 2, sfreq)) for freq in freqs])


def band_sections(low: float | None, high: float | None, sfreq: float) -> np.ndarray:
    """Butterworth filters of `ORDER` at both edges, Hz."""
    parts = []
    if low is not None:
        parts.append(dsp.butter(ORDER, low, "highpass", fs=sfreq, output="sos"))
    if high is not None:
        parts.append(dsp.butter(ORDER, high, "lowpass", fs=sfreq, output="sos"))
    return np.concatenate(parts)


class RunningRate(Running):
    """A change of rate. Sample k of the result is made of what came until k / new rate.

    Frequencies above 1.2 times the lower of the two Nyquist frequencies are stopped by 60 dB, those
    below 0.8 times it pass.

    Args:
        ratio: New rate over old rate.
        sfreq: Old rate, Hz.
    """

    def __init__(self, ratio: Fraction, sfreq: float) -> None:
        self.up, self.down = ratio.numerator, ratio.denominator
        self.sfreq = sfreq
        self.taps = _minimum_phase(self.up, self.down)
        reach = -(-len(self.taps) // self.up)
        self._lead = -(-reach // self.down) * self.down
        self._start = -self._lead  # number of the first sample held
        self._held: np.ndarray | None = None
        self._came = self._made = 0
        self._restart = False

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "channel new_time"]:
        """What can be known at the new rate."""
        self._restart |= restart
        if not x.shape[1]:
            return x.astype(np.float32)
        x = x.astype(np.float64)
        if self._held is None or self._restart:
            n = self._lead if self._held is None else self._held.shape[1]
            self._held, self._restart = np.repeat(x[:, :1], n, axis=1), False
        held = np.concatenate([self._held, x], axis=1)
        self._came += x.shape[1]
        stop = (self._came - 1) * self.up // self.down + 1
        first = self._start // self.down * self.up  # number of the first value of `upfirdn`
        new = dsp.upfirdn(self.taps, held, self.up, self.down, axis=1)
        result = new[:, self._made - first : stop - first].astype(np.float32)
        self._made = stop
        needed = stop * self.down // self.up - self._lead
        keep = max(needed // self.down * self.down, self._start)
        self._held, self._start = held[:, keep - self._start :], keep
        return result

    def delay(self, freq: float) -> float:
        """Group delay, seconds."""
        rate = self.sfreq * self.up
        _, found = dsp.group_delay((self.taps, [1.0]), [min(freq, 0.4 * self.sfreq)], fs=rate)
        return float(found[0] / rate)


def running_ratio(old: float, new: float) -> Fraction:
    """Ratio of two rates whose clock holds for as long as a stream may run.

    Raises:
        ValueError: There is no short one.
    """
    exact = Fraction(new) / Fraction(old)
    ratio = exact.limit_denominator(_LARGEST)
    if ratio.numerator > _LARGEST or abs(float(ratio / exact) - 1) > 1e-9:
        near = float(Fraction(old) * exact.limit_denominator(100))
        raise ValueError(
            f"Resample: {old:g} -> {new:g} Hz has no ratio of numbers up to {_LARGEST}, which the "
            f"causal form needs. Use {near:g} Hz."
        )
    return ratio


@lru_cache(maxsize=16)
def _minimum_phase(up: int, down: int) -> Float[np.ndarray, " tap"]:
    """Filter for a change of rate, at the old rate times `up`."""
    if up == down:
        return np.ones(1)
    longest = max(up, down)
    taps = dsp.firwin(18 * longest + 1, 1 / longest, window=("kaiser", 5.65))
    taps = dsp.minimum_phase(np.convolve(taps, taps), method="homomorphic")
    for phase in range(up):  # a constant stays what it is, at whichever of the phases it is seen
        taps[phase::up] /= taps[phase::up].sum()
    taps.flags.writeable = False
    return taps


class Tiles(Running):
    """Statistics of the tiles before the one they are applied to. The first tile becomes zeros.

    Args:
        n: Samples of a tile.
        learn: Given a tile, in order, returns how the next one is to be changed.
    """

    def __init__(
        self, n: int, learn: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]
    ) -> None:
        self.warm_up = n
        self._learn = learn
        self._change: Callable[[np.ndarray], np.ndarray] | None = None
        self._tile: list[np.ndarray] = []
        self._filled = 0

    def __call__(
        self, x: Float[np.ndarray, "channel time"], *, restart: bool = False
    ) -> Float[np.ndarray, "channel time"]:
        """As many samples as came."""
        if restart:  # a tile does not reach over missing samples
            self._tile, self._filled = [], 0
        result = np.zeros(x.shape, dtype=np.float32)
        first = 0
        while first < x.shape[1]:
            last = min(first + self.warm_up - self._filled, x.shape[1])
            piece = x[:, first:last]
            if self._change is not None:
                result[:, first:last] = self._change(piece)
            self._tile.append(piece.copy())
            self._filled += last - first
            if self._filled == self.warm_up:
                self._change = self._learn(np.concatenate(self._tile, axis=1))
                self._tile, self._filled = [], 0
            first = last
        return result
