"""QuantileTokenizer: every sample (or mean of a few) of every channel as one of a few values.

The signal keeps its unit; nothing is standardized, so amplitudes differ between channels, people
and moments as they were recorded, and `decode` gives working units back. Codes are fitted, not
trained: training data are counted in narrow bins of amplitude, whose counts add up over batches and
processes in any order to the same numbers, and the codes are cut from the counts.

* "quantile": every code equally often, so that no code is dead and perplexity is the number of
  codes, with coarse steps where samples are rare.
* "uniform": equal steps over the range that holds nearly all samples.
* "mu_law": steps that grow with amplitude over that range, as in telephony.

Source: G.711 and van den Oord et al. 2016 (mu-law); Ansari et al. 2024 (Chronos: uniform and
quantile codes of time series).
Axes: batch channel time; place = token of a channel, bin = narrow bin of the counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.nn.processes import all_reduce
from neurofm.shapes import Float, Int
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.grid import channel_tokens, kind_rows
from neurofm.units import Kind

# Bins of equal width in asinh(x / FLOOR): half a percent of the value, from 0.001 to a million
# working units.
FLOOR = 1e-3
WIDTH = 0.005
REACH = math.ceil(math.asinh(1e6 / FLOOR) / WIDTH)  # bins on either side of zero
MU = 255.0


@configured
class QuantileTokenizer(nn.Module):
    """Scalar codes of amplitude. Like a code book, an unfitted one starts from its first batch.

    Args:
        dim: Features of a token: the value of its code over the spread of its kind, and cosines of
            the code's rank. A linear map of as many features as codes is a lookup table; of fewer,
            a smooth one.
        n_codes: Values a sample can take.
        method: See above.
        n_mean: Samples whose mean is one token.
        coverage: Share of samples inside the range of "uniform" and "mu_law"; the others get the
            outermost codes.
        sfreq: Hz, of the batches it accepts; None accepts any rate.
        kinds: Kinds of channels it accepts. Each has codes of its own.
    """

    counts: Tensor
    edges: Tensor
    centres: Tensor
    spread: Tensor
    wave: Tensor

    def __init__(
        self,
        dim: int = 16,
        n_codes: int = 64,
        *,
        method: Literal["quantile", "uniform", "mu_law"] = "quantile",
        n_mean: int = 1,
        coverage: float = 0.999,
        sfreq: float | None = None,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        if method not in ("quantile", "uniform", "mu_law"):
            raise ValueError(
                f"QuantileTokenizer: method {method!r} is not 'quantile', 'uniform' or 'mu_law'."
            )
        if n_codes < 2 or dim < 1 or n_mean < 1 or not 0 < coverage <= 1:
            raise ValueError(
                f"QuantileTokenizer: n_codes {n_codes}, dim {dim}, n_mean {n_mean}, coverage "
                f"{coverage}; expected at least 2, 1 and 1, and a share above 0 and up to 1."
            )
        self.dim, self.n_codes, self.n_levels = dim, n_codes, 1
        self.method, self.n_mean, self.coverage, self.sfreq = method, n_mean, coverage, sfreq
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        n = len(self.kinds)
        self.register_buffer("counts", torch.zeros(n, 2 * REACH + 1, dtype=torch.int64))
        self.register_buffer("edges", torch.zeros(n, n_codes - 1))
        self.register_buffer("centres", torch.zeros(n, n_codes))
        self.register_buffer("spread", torch.ones(n))
        rank = (torch.arange(n_codes) + 0.5) / n_codes
        wave = torch.cos(math.pi * rank.unsqueeze(1) * torch.arange(1, dim))
        self.register_buffer("wave", wave, persistent=False)

    def signal(self, batch: Batch) -> Float[Tensor, "batch channel place"]:
        """What is coded: the mean of every `n_mean` samples, zero in padded channels.

        Raises:
            ValueError: Rate, kind of channel, length or values are not what it expects.
        """
        check_batch(
            batch, name="QuantileTokenizer", kinds=self.kinds, sfreq=self.sfreq, least=self.n_mean
        )
        x = torch.where(batch.channel_mask.unsqueeze(-1), batch.x, 0).float()
        return x.unfold(-1, self.n_mean, self.n_mean).mean(-1) if self.n_mean > 1 else x

    @torch.no_grad()
    def fit(self, batch: Batch) -> None:
        """Count the batch's samples and cut the codes anew. Order does not matter."""
        x, mask = self.signal(batch), batch.channel_mask
        place = (torch.asinh(x[mask].double() / FLOOR) / WIDTH).round().clamp(-REACH, REACH)
        row = kind_rows(batch.kind, self.kinds)[mask].unsqueeze(-1)
        bins = self.counts.shape[1]
        index = (row * bins + place.long() + REACH).flatten()
        found = torch.bincount(index, minlength=self.counts.numel()).view_as(self.counts)
        all_reduce(found)
        self.counts += found
        for number in range(len(self.kinds)):
            self._cut(number)

    def _cut(self, row: int) -> None:
        """Edges and values of the codes of one kind, from its counts."""
        count = self.counts[row].double()
        total = count.sum()
        if total == 0:
            return
        middle = torch.arange(-REACH, REACH + 1, device=count.device, dtype=torch.float64)
        amount = FLOOR * torch.sinh(WIDTH * middle)
        if self.method == "quantile":
            share = torch.arange(1, self.n_codes, device=count.device) / self.n_codes
            edges = _quantiles(count, share)
        else:
            size = count + count.flip(0)  # of |x|, twice
            limit = _quantiles(size, size.new_tensor([0.5 + self.coverage / 2])).clamp(min=FLOOR)
            edges = 2 * torch.arange(1, self.n_codes, device=count.device) / self.n_codes - 1
            if self.method == "mu_law":
                edges = edges.sign() * ((1 + MU) ** edges.abs() - 1) / MU
            edges = edges * limit
        code = torch.bucketize(amount, edges)
        weight = count.new_zeros(self.n_codes).index_add(0, code, count)
        mean = count.new_zeros(self.n_codes).index_add(0, code, count * amount) / weight
        # A code without samples stands for the middle of its step, the outermost for their edge.
        low, high = torch.cat([edges[:1], edges]), torch.cat([edges, edges[-1:]])
        centre = torch.where(weight > 0, mean.maximum(low), (low + high) / 2)
        centre[0] = torch.where(weight[0] > 0, mean[0], edges[0])
        self.edges[row] = edges.float()
        self.centres[row] = centre.float()
        self.spread[row] = ((count * amount.square()).sum() / total).sqrt().clamp(min=FLOOR)

    @property
    def fitted(self) -> bool:
        """Whether data, or a checkpoint, have given the codes their values."""
        return bool(self.counts.any())

    def codes_of(
        self, x: Float[Tensor, "batch channel place"], row: Int[Tensor, "batch channel"]
    ) -> Int[Tensor, "batch channel place"]:
        """Codes of amplitudes of channels of the kinds `row`."""
        codes = torch.bucketize(x, self.edges[0])
        for number in range(1, len(self.kinds)):
            chosen = (row == number).unsqueeze(-1)
            codes = torch.where(chosen, torch.bucketize(x, self.edges[number]), codes)
        return codes

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """One token per channel and place; `time` is the middle of its samples. Nothing drawn."""
        if not self.fitted:
            self.fit(batch)
        x, row = self.signal(batch), kind_rows(batch.kind, self.kinds)
        codes = self.codes_of(x, row)
        amount = self._amount(codes, row) / self.spread[row].unsqueeze(-1)
        values = torch.cat([amount.unsqueeze(-1), self.wave[codes]], -1)
        middle = torch.arange(x.shape[-1], device=x.device) + 0.5 * (1 - 1 / self.n_mean)
        time = middle * self.n_mean / batch.sfreq
        return channel_tokens(values, batch.channel_mask, time, codes.unsqueeze(-1))

    def _amount(self, codes: Tensor, row: Tensor) -> Tensor:
        return self.centres[row.unsqueeze(-1), codes]

    def decode(self, tokens: Tokens, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Signal of codes in the unit of the data it was fitted on; zeros in padded channels.

        A code becomes the mean of the training samples that had it, held for `n_mean` samples.

        Raises:
            ValueError: The tokens carry no codes.
        """
        if tokens.codes is None:
            raise ValueError("QuantileTokenizer: the tokens carry no codes.")
        codes = tokens.codes[..., 0].unflatten(1, (batch.x.shape[1], -1))
        x = self._amount(codes, kind_rows(batch.kind, self.kinds))
        x = torch.where(batch.channel_mask.unsqueeze(-1), x, 0)
        return x.repeat_interleave(self.n_mean, -1)

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """batch channel time, twice: the signal, and what its codes make of it."""
        made = self.decode(self(batch), batch)
        real = batch.channel_mask.unsqueeze(-1)
        return torch.where(real, batch.x, 0)[..., : made.shape[-1]].float(), made

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """How much of the signal's power the codes lose; in training mode they are fitted first.

        Returns:
            "loss", the power of the error over that of the signal, without a gradient, and "codes".
        """
        if self.training:
            self.fit(batch)
        with torch.no_grad():
            tokens = self(batch)
            made = self.decode(tokens, batch)
            x = torch.where(batch.channel_mask.unsqueeze(-1), batch.x, 0)[..., : made.shape[-1]]
            lost = (x - made).square().sum() / x.square().sum().clamp(min=1e-12)
        assert tokens.codes is not None
        return {"loss": lost.float(), "codes": tokens.codes[tokens.mask]}


def _quantiles(count: Tensor, share: Tensor) -> Tensor:
    """Amplitudes below which these shares of the counted samples lie: upper ends of bins.

    Never inside a bin, so that where values repeat (steps of a converter) all have one code.
    """
    reached = count.cumsum(0)
    index = torch.searchsorted(reached, share.to(count) * reached[-1]).clamp(max=len(count) - 1)
    return FLOOR * torch.sinh(WIDTH * (index + 0.5 - REACH))
