"""How much of each frequency band a tokenizer's codes keep, with an interval over windows.

Every channel of every window counts alike, whatever its amplitude, so that tokenizers that
standardize and tokenizers that keep the unit can be compared. The share of a band is 1 minus the
power of the error over the power of the signal, both summed over windows. Only sums are kept, which
processes add up; the interval follows from them (a ratio's linearized variance). It is about
windows: those of one person are alike, so it says little about people.

Source: Cochran 1977, Sampling Techniques, section 6.4 (variance of a ratio).
Axes: batch channel ... time.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from neurofm.metrics import EEG_BANDS, band_powers, limit_bands
from neurofm.nn.processes import all_reduce
from neurofm.shapes import Float

Z95 = 1.959964  # normal quantile of a 95 % interval
FEWEST = 3  # windows that an interval needs


class BandShare:
    """Adds up reconstructions over an epoch, stage by stage, in a memory that does not grow."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(
        self,
        stage: str,
        x: Float[Tensor, "batch channel ... time"],
        made: Float[Tensor, "batch channel ... time"],
        *,
        sfreq: float,
        band: tuple[float, float] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            x: Signal, zero in padded channels; `made` is its reconstruction in the same unit.
            sfreq: Hz.
            band: Hz, what filters left of the signal; other bands are left out.
        """
        bands = limit_bands(sfreq=sfreq, band=band)
        spread = x.std(-1, keepdim=True, correction=0)
        scale = torch.where(spread > 0, 1 / spread.clamp(min=1e-12), 0)
        pair = torch.stack([x, made]).detach() * scale
        if not bands or not bool(pair.isfinite().all()):
            return
        signal, remade = pair.float().cpu().numpy()
        power = band_powers(signal, remade, sfreq, bands)[:2]
        power = power.sum(tuple(range(2, power.ndim - 1)))  # signal or error, window, band
        sums = self._sums.setdefault(stage, torch.zeros(len(EEG_BANDS), 6, dtype=torch.float64))
        for column, name in enumerate(bands):
            p, e = power[..., column]
            found = [len(p), p.sum(), e.sum(), (p * p).sum(), (e * e).sum(), (p * e).sum()]
            sums[list(EEG_BANDS).index(name)] += torch.tensor(np.array(found, dtype=np.float64))

    def pop(self, stage: str, *, device: torch.device) -> dict[str, float]:
        """`explained_BAND` with the ends of its 95 % interval, `_low` and `_high`; start afresh.

        Bands beyond the signal's are missing, and so are intervals of fewer than three windows.
        """
        sums = self._sums.pop(stage, torch.zeros(len(EEG_BANDS), 6, dtype=torch.float64))
        sums = sums.to(device)
        all_reduce(sums)
        out: dict[str, float] = {}
        for name, (n, p, e, pp, ee, pe) in zip(EEG_BANDS, sums.tolist(), strict=True):
            if p <= 0:
                continue
            lost = e / p
            out[f"explained_{name}"] = 1 - lost
            if n >= FEWEST:
                square = max(ee - 2 * lost * pe + lost**2 * pp, 0.0)
                half = Z95 * math.sqrt(square * n / (n - 1)) / p
                out[f"explained_{name}_low"] = 1 - lost - half
                out[f"explained_{name}_high"] = min(1 - lost + half, 1.0)
        return out
