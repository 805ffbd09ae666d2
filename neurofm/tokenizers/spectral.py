"""SpectralTokenizer: each patch of each channel as the power of its frequency bands.

A feature is the mean power density of a band, 10 log10 of unit²/Hz, standardized. Bands are given
in Hz, so any sampling rate that reaches them makes the same tokens. There is nothing to learn and
there are no codes; phase is lost, so nothing can be decoded.

Source: Welch 1967 (Hann taper); Thomson 1982 (multitaper: less leakage and variance for the same
patch, bands smeared by `half_width_hz`).
Axes: batch channel time; patch sample; band in ascending order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from scipy.signal.windows import dpss
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.nn.processes import all_reduce
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.grid import channel_tokens, kind_rows
from neurofm.units import Kind

# Added to every power density, unit²/Hz, so that silence has a logarithm: far below any amplifier.
FLOOR = 1e-6


@configured
class SpectralTokenizer(nn.Module):
    """Log power in bands of every channel and patch, for signals of any rate.

    Args:
        edges: Hz; neighbours are the lower (included) and upper (excluded) edge of a band.
        step: Hz; bins of this width from the first edge to the last, instead of the bands.
        patch_s: Seconds of a patch. A band is at least 1 / patch_s wide.
        hop_s: Seconds between patches; a patch if not given.
        taper: "hann", or "multitaper", the mean over orthogonal tapers.
        half_width_hz: Of the multitaper's smearing, Hz; 2 x patch_s x half_width_hz - 1 tapers.
        standardize: "window": over the channels and patches of a window, by kind and band, which
            takes away how strong the window is. "fitted": by mean and deviation of the training
            data (`TrainTokenizer` counts them; an unfitted one starts from its first batch).
        kinds: Kinds of channels it accepts.
    """

    n_codes = 0
    amount: Tensor
    total: Tensor
    square: Tensor

    def __init__(
        self,
        *,
        edges: Sequence[float] = (1.0, 4.0, 8.0, 13.0, 30.0, 45.0),
        step: float | None = None,
        patch_s: float = 1.0,
        hop_s: float | None = None,
        taper: Literal["hann", "multitaper"] = "hann",
        half_width_hz: float = 2.0,
        standardize: Literal["window", "fitted"] = "window",
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        if step is not None:
            n = round((edges[-1] - edges[0]) / step)
            edges = [edges[0] + i * step for i in range(n + 1)]
        widths = [high - low for low, high in itertools.pairwise(edges)]
        if not widths or min(widths) < 1 / patch_s - 1e-6 or edges[0] < 0:
            raise ValueError(
                f"SpectralTokenizer: bands {list(edges)} Hz with patches of {patch_s:g} s, whose "
                f"frequencies are {1 / patch_s:g} Hz apart. Use ascending edges at least that far "
                "apart, or longer patches."
            )
        if taper not in ("hann", "multitaper") or standardize not in ("window", "fitted"):
            raise ValueError(
                f"SpectralTokenizer: taper {taper!r} is not 'hann' or 'multitaper', or standardize "
                f"{standardize!r} is not 'window' or 'fitted'."
            )
        if taper == "multitaper" and patch_s * half_width_hz < 1:
            raise ValueError(
                f"SpectralTokenizer: half_width_hz {half_width_hz:g} in patches of {patch_s:g} s "
                f"leaves no taper. Use {1 / patch_s:g} Hz or more."
            )
        self.dim = len(widths)
        self.edges = tuple(float(edge) for edge in edges)
        self.patch_s, self.hop_s = patch_s, patch_s if hop_s is None else hop_s
        self.taper, self.half_width_hz, self.standardize = taper, half_width_hz, standardize
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        shape = (len(self.kinds), self.dim)
        self.register_buffer("amount", torch.zeros(len(self.kinds), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(shape, dtype=torch.float64))

    def decibels(self, batch: Batch) -> Float[Tensor, "batch channel patch band"]:
        """10 log10 of the power density of each band, unit²/Hz; zeros in padded channels.

        Raises:
            ValueError: Kind of channel, rate, length or values are not what it expects.
        """
        sfreq = batch.sfreq
        n, hop = round(self.patch_s * sfreq), max(round(self.hop_s * sfreq), 1)
        check_batch(batch, name="SpectralTokenizer", kinds=self.kinds, least=n)
        if self.edges[-1] > sfreq / 2:
            raise ValueError(
                f"SpectralTokenizer: the batch has {sfreq:g} Hz and so nothing above "
                f"{sfreq / 2:g} Hz, the bands reach {self.edges[-1]:g} Hz. Prepare the data with "
                "a higher rate, or use lower edges."
            )
        weights = self._bands(n, sfreq)
        if n < 3 or not bool(weights.any(0).all()):
            raise ValueError(
                f"SpectralTokenizer: a patch of {n} samples at {sfreq:g} Hz has no frequency in "
                f"one of the bands {list(self.edges)} Hz. Use longer patches or wider bands."
            )
        mask = batch.channel_mask.unsqueeze(-1)
        patches = torch.where(mask, batch.x, 0).float().unfold(-1, n, hop)
        patches = patches - patches.mean(-1, keepdim=True)
        tapers = self._tapers(n).to(patches)
        # Tapers have unit energy, so this is a one-sided density.
        density = torch.zeros(*patches.shape[:-1], n // 2 + 1, device=patches.device)
        for taper in tapers:
            found = torch.fft.rfft(patches * taper)
            density = density + 2 / sfreq * (found.real.square() + found.imag.square())
        power = density / len(tapers) @ weights.to(density)
        return 10 * torch.log10(power + FLOOR) * mask.unsqueeze(-1)

    def _tapers(self, n: int) -> Tensor:
        """taper sample, each of unit energy."""
        if self.taper == "hann":
            window = torch.hann_window(n, periodic=False)
            return (window / window.norm()).unsqueeze(0)
        return _slepian(n, self.patch_s * self.half_width_hz)

    def _bands(self, n: int, sfreq: float) -> Tensor:
        """frequency band: weights that average the frequencies of each band."""
        frequency = torch.arange(n // 2 + 1) * (sfreq / n)
        edges = torch.tensor(self.edges) - 1e-3 * sfreq / n  # rounding must not move a bin
        band = torch.bucketize(frequency, edges, right=True) - 1
        weights = (band.unsqueeze(1) == torch.arange(self.dim)).float()
        return weights / weights.sum(0).clamp(min=1)

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Add a batch to the statistics of `standardize="fitted"`; order does not matter."""
        x, mask = self.decibels(batch).double(), batch.channel_mask
        row = kind_rows(batch.kind, self.kinds)[mask]
        part = x[mask]  # channel patch band
        sums = [self.amount, self.total, self.square]
        added = [torch.zeros_like(value) for value in sums]
        added[0].index_add_(0, row, torch.full_like(part[:, 0, 0], part.shape[1]))
        added[1].index_add_(0, row, part.sum(1))
        added[2].index_add_(0, row, part.square().sum(1))
        all_reduce(*added)
        for value, more in zip(sums, added, strict=True):
            value += more

    @property
    def fitted(self) -> bool:
        """Whether data, or a checkpoint, have given it statistics."""
        return bool(self.amount.any())

    def features(self, batch: Batch) -> Float[Tensor, "batch channel patch band"]:
        """Standardized power; zeros in padded channels."""
        x, mask = self.decibels(batch), batch.channel_mask
        row = kind_rows(batch.kind, self.kinds)
        if self.standardize == "window":
            return _standardized(x, mask, row, len(self.kinds))
        if not self.fitted:
            self.fit(batch)
        count = self.amount.clamp(min=1).unsqueeze(1)
        mean = self.total / count
        deviation = (self.square / count - mean.square()).clamp(min=1e-6).sqrt()
        centred = x - mean.float()[row].unsqueeze(2)
        return centred / deviation.float()[row].unsqueeze(2) * mask[..., None, None]

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """One token per channel and patch; `time` is the patch's middle. Nothing is drawn."""
        values = self.features(batch)
        n = round(self.patch_s * batch.sfreq)
        hop = max(round(self.hop_s * batch.sfreq), 1)
        place = torch.arange(values.shape[2], device=values.device) * hop
        return channel_tokens(values, batch.channel_mask, (place + (n - 1) / 2) / batch.sfreq)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """In training mode, fit the batch. "loss" is the mean square of the features, without a
        gradient: 1 for data like those it was fitted on."""
        if self.training:
            self.fit(batch)
        with torch.no_grad():
            values = self.features(batch)[batch.channel_mask]
        return {"loss": values.square().mean()}


def _standardized(
    x: Float[Tensor, "batch channel patch band"],
    mask: Bool[Tensor, "batch channel"],
    row: Tensor,
    n_kinds: int,
) -> Float[Tensor, "batch channel patch band"]:
    """Mean 0 and deviation 1 over the channels of a kind and all patches, in each window."""
    out = torch.zeros_like(x)
    for kind in range(n_kinds):
        chosen = (mask & (row == kind))[..., None, None]
        count = (chosen.sum((1, 2), keepdim=True) * x.shape[2]).clamp(min=1)
        part = torch.where(chosen, x, 0)
        part = torch.where(chosen, part - part.sum((1, 2), keepdim=True) / count, 0)
        deviation = (part.square().sum((1, 2), keepdim=True) / count).clamp(min=1e-6).sqrt()
        out = out + part / deviation
    return out


@functools.lru_cache(maxsize=8)
def _slepian(n: int, half_width: float) -> Tensor:
    """taper sample: discrete prolate sequences of unit energy."""
    count = max(int(2 * half_width) - 1, 1)
    return torch.tensor(dpss(n, half_width, count, norm=2).copy(), dtype=torch.float32)
