"""High-gamma envelope: how strong fast activity is, at a rate a model can follow.

The spectrum of each channel is cut into sub-bands; the magnitude of each one's analytic signal is
its amplitude. Cortical power falls with frequency, so that a single wide band hears mostly its
lower edge: sub-bands taken relative to their own mean or as z count alike.

Source: Crone et al. 1998 (high gamma); sub-bands of 10 Hz relative to their mean as in Lachaux et
al. 2012, Prog. Neurobiol. 98:279.
Axes: channel = sensor, time = sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import scipy.fft

from neurofm.cards import configured
from neurofm.data.steps.channels import kind_names, kinds_of, kinds_present
from neurofm.data.steps.filters import Resample
from neurofm.data.steps.step import noted, require_finite
from neurofm.shapes import Float
from neurofm.types import Signal
from neurofm.units import Kind

_BLOCK = 4_000_000  # complex values worked on at a time
_PAD_S = 1.0  # reflected at each end, longer than the response of the band's edges


@configured
@dataclass(frozen=True)
class HighGamma:
    """Amplitude within a band, at a lower rate; other kinds of channel are left out.

    Line noise has harmonics in the band: put `Notch` before this step (a warning says if it is
    missing). "mean" and "z" use the whole recording, test parts included.

    Args:
        low: Hz.
        high: Hz.
        sfreq: Rate of the result, Hz.
        width_hz: Width of the sub-bands; None for one band.
        relative: "none" gives the mean amplitude of the sub-bands in the channels' own unit,
            "mean" the mean of each one's amplitude in percent of its mean over the recording, "z"
            the mean of their z-scores. `details["unit"]` says which of the last two.
        edge_hz: Width of the cosine edges of the bands, half inside and half outside.
        kinds: Kinds that have high gamma.
    """

    low: float = 70.0
    high: float = 150.0
    sfreq: float = 100.0
    width_hz: float | None = None
    relative: Literal["none", "mean", "z"] = "none"
    edge_hz: float = 4.0
    kinds: Sequence[str | Kind] = ("seeg", "ecog")
    by_channel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(
                f"HighGamma: band {self.low} to {self.high} Hz, expected 0 < low < high."
            )
        if self.relative not in ("none", "mean", "z"):
            raise ValueError(f"HighGamma: relative is {self.relative!r}, expected none, mean or z.")
        if not (self.sfreq > 0 and 0 < self.edge_hz < 2 * self.low):
            raise ValueError(
                f"HighGamma: rate {self.sfreq} Hz and edges of {self.edge_hz} Hz, expected above 0 "
                "and edges narrower than twice `low`."
            )
        if self.width_hz is not None and not self.edge_hz <= self.width_hz <= self.high - self.low:
            raise ValueError(
                f"HighGamma: sub-bands of {self.width_hz} Hz, expected {self.edge_hz:g} to "
                f"{self.high - self.low:g} (the widths of the edges and of the band)."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The envelopes.

        Raises:
            ValueError: No channel of these kinds, or a rate too low for the band.
        """
        require_finite(signal, "HighGamma")
        picked = signal.pick_kinds(kinds_of(self.kinds))
        where = signal.recording.id
        if not len(picked.sensors):
            raise ValueError(
                f"{where}: HighGamma: no channel of kind {kind_names(self.kinds)}; it has "
                f"{kinds_present(signal)}."
            )
        top = self.high + self.edge_hz / 2
        if top > signal.sfreq / 2:
            raise ValueError(
                f"{where}: HighGamma up to {self.high:g} Hz (edge {top:g} Hz) is not possible at "
                f"{signal.sfreq:g} Hz. Put it before Resample, or use a lower `high`."
            )
        if not any(line.startswith("notch") for line in signal.history):
            warnings.warn(
                f"{where}: HighGamma without Notch before it: harmonics of the mains lie in "
                f"{self.low:g}-{self.high:g} Hz and would be taken for brain activity.",
                stacklevel=2,
            )
        data = np.empty_like(picked.data)
        edges = self.bands()
        size = max(1, _BLOCK // (picked.data.shape[1] + int(2 * _PAD_S * signal.sfreq)))
        for first in range(0, len(data), size):
            block = picked.data[first : first + size]
            data[first : first + size] = self._envelope(block, signal.sfreq, edges)
        details = dict(signal.details)
        if self.relative != "none":
            details["unit"] = {"mean": "% of mean", "z": "z"}[self.relative]
        line = (
            f"envelope {self.low:g}-{self.high:g} Hz in {len(edges)} bands, cosine edges of "
            f"{self.edge_hz:g} Hz, zero phase, ends reflected; "
            f"{ {'none': 'amplitude', 'mean': 'percent of mean', 'z': 'z'}[self.relative] }; "
            f"{len(signal.sensors) - len(data)} other channels left out"
        )
        result = noted(replace(picked, data=data, details=details), data, line)
        return Resample(self.sfreq)(result)

    def bands(self) -> list[tuple[float, float]]:
        """Edges of the sub-bands, Hz; the last one may be wider than the others."""
        if self.width_hz is None:
            return [(self.low, self.high)]
        count = max(int((self.high - self.low) / self.width_hz + 1e-9), 1)
        starts = [self.low + i * self.width_hz for i in range(count)]
        return list(zip(starts, [*starts[1:], self.high], strict=True))

    def _envelope(
        self,
        block: Float[np.ndarray, "channel time"],
        sfreq: float,
        bands: Sequence[tuple[float, float]],
    ) -> Float[np.ndarray, "channel time"]:
        n = block.shape[1]
        pad = min(int(_PAD_S * sfreq), n - 1)
        padded = np.pad(
            block.astype(np.float64), ((0, 0), (pad, pad)), mode="reflect", reflect_type="odd"
        )
        length = scipy.fft.next_fast_len(padded.shape[1])
        spectrum = scipy.fft.rfft(padded, length)
        freqs = scipy.fft.rfftfreq(length, 1 / sfreq)
        total = np.zeros(block.shape)
        full = np.zeros((len(block), length), dtype=np.complex128)
        for low, high in bands:
            # Twice the positive frequencies alone: the analytic signal.
            gain = 2 * self._edge(freqs - low) * self._edge(high - freqs)
            full[:, : len(freqs)] = spectrum * gain
            amplitude = np.abs(scipy.fft.ifft(full))[:, pad : pad + n]
            if self.relative != "none":
                mean = amplitude.mean(axis=1, keepdims=True)
                if self.relative == "mean":
                    amplitude = 100 * amplitude / np.where(mean > 0, mean, 1)
                else:
                    spread = amplitude.std(axis=1, keepdims=True)
                    amplitude = (amplitude - mean) / np.where(spread > 0, spread, 1)
            total += amplitude
        return (total / len(bands)).astype(np.float32)

    def _edge(self, distance: np.ndarray) -> np.ndarray:
        """0 below an edge, 1 above it, a cosine of width `edge_hz` between."""
        place = np.clip(distance / self.edge_hz + 0.5, 0, 1)
        return 0.5 - 0.5 * np.cos(np.pi * place)
