"""What drives an objective, measured again with pure tones that no optimisation has touched.

Axes: window channel time; frequency.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.synthesis.result import Synthesis, Tuning
from neurofm.interpret.synthesis.signals import rms_of

WINDOWS, TONES = 16, 24


def measure_tuning(
    score: Callable[[Tensor], np.ndarray],
    found: Synthesis,
    windows: Tensor,
    band: tuple[float, float],
    generator: torch.Generator,
) -> Tuning:
    """Add tones to real windows: over frequencies, then over channels.

    Args:
        score: Objective of signals.
        found: Its topography says which channels the tones are on, and its peak is among them.
        band: Hz, of the tones.
    """
    _, sfreq = found.spectrum(), found._rate()
    x = windows[torch.linspace(0, len(windows) - 1, min(WINDOWS, len(windows))).long()]
    rms = rms_of(windows)
    before = score(x)
    map_ = torch.from_numpy(found.polarity()).to(x)
    relative = torch.where(rms > 0, map_ / rms.clamp(min=torch.finfo(x.dtype).tiny), map_ * 0)
    weight = rms * relative / relative.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
    time = torch.arange(x.shape[-1]).to(x) / sfreq
    phase = 2 * torch.pi * torch.rand(len(x), 1, 1, generator=generator).to(x)

    def change(weight: Tensor, hertz: float) -> np.ndarray:
        wave = 2**0.5 * torch.sin(2 * torch.pi * hertz * time + phase)
        return score(x + weight[:, None] * wave) - before

    frequency = _frequencies(found, x.shape[-1], sfreq, band)
    rows = np.stack([change(weight, float(hertz)) for hertz in frequency])
    best = float(frequency[int(np.argmax(rows.mean(1)))])
    single = np.stack([change(one, best) for one in torch.diag(rms)])
    return Tuning(
        frequency,
        rows.mean(1),
        _error(rows),
        by_channel=single.mean(1),
        channel_error=_error(single),
    )


def _frequencies(
    found: Synthesis, n_times: int, sfreq: float, band: tuple[float, float]
) -> np.ndarray:
    """Whole periods in a window, evenly over the part of the band that matters, and the peak."""
    high = min(band[1], max(45.0, 1.5 * found.peak_hz))
    bins = np.arange(max(1, round(band[0] * n_times / sfreq)), int(high * n_times / sfreq) + 1)
    bins = bins[bins < n_times / 2]
    if len(bins) > TONES:
        bins = bins[np.linspace(0, len(bins) - 1, TONES).round().astype(int)]
    peak = max(1, round(found.peak_hz * n_times / sfreq))
    return np.unique(np.append(bins, peak)) * sfreq / n_times


def _error(rows: np.ndarray) -> np.ndarray:
    n = rows.shape[1]
    return rows.std(1, ddof=1) / n**0.5 if n > 1 else np.full(len(rows), np.nan)
