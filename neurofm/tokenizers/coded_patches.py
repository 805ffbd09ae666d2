"""CodedPatches: every patch of every channel as a code, with any quantizer between two networks.

The encoder maps each patch to a vector, mixing neighbouring patches of its channel; the quantizer
replaces the vector by codes; the decoder makes the signal from them. Channels never meet, so any
montage will do.

Amplitude is kept. Signals are divided by one fixed number per kind of channel, the typical spread
of a channel in the training data, and `decode` multiplies by it: a window, a channel or a person
with larger rhythms has other codes. Standardizing each window instead, as most tokenizers do, lets
the codes describe shape alone and throws away what desynchronization, sleep stages or a lesion
change first. The price is that codes are spent on amplitude, and that recordings of another scale
(another reference, say) are out of range.

Source: van den Oord et al. 2017 (VQ-VAE), with the quantizers of `neurofm.nn`; blocks as in
ConvNeXt (Liu et al. 2022).
Axes: batch channel time; row = one channel of one window; patch sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.nn.processes import all_reduce, batch_mean
from neurofm.nn.quantize import Quantized
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.grid import channel_tokens, kind_rows
from neurofm.units import Kind

# Scaled values beyond this are artefacts; they would rule the error and the code book.
LIMIT = 15.0
# Rows quieter than this, in units of the typical spread, need not be exact in their own unit.
QUIET = 0.05


class Block(nn.Module):
    """Neighbouring patches meet feature by feature, then the features of each patch."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.neighbours = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "row patch width"]) -> Float[Tensor, "row patch width"]:
        """The same shape; zeros lie beyond the ends of a window."""
        y = self.neighbours(x.transpose(1, 2)).transpose(1, 2)
        return x + self.narrow(F.gelu(self.widen(self.norm(y))))


def _network(n_in: int, n_out: int, width: int, depth: int, kernel: int) -> nn.Sequential:
    blocks = [Block(width, kernel) for _ in range(depth)]
    last = nn.Linear(width, n_out)
    return nn.Sequential(nn.Linear(n_in, width), *blocks, nn.LayerNorm(width), last)


@configured
class CodedPatches(nn.Module):
    """Autoencoder of patches around a quantizer.

    Args:
        quantizer: `nn.ResidualVQ` (one level: plain VQ), `nn.FSQ`, `nn.CosineQuantizer` or another
            module with their methods, for vectors of `dim` features.
        dim: Features of a token.
        patch_s: Seconds of a patch. What is left of a window after its last whole patch is not
            looked at.
        sfreq: Hz, of the batches it accepts.
        width: Features inside the networks.
        depth: Blocks of the encoder, and of the decoder.
        kernel: Patches that meet in a block; odd. 1 lets every patch stand for itself.
        kinds: Kinds of channels it accepts; each has a scale of its own.
    """

    quantizer: Any
    log_spread: Tensor
    amount: Tensor

    def __init__(
        self,
        quantizer: nn.Module,
        *,
        dim: int = 64,
        patch_s: float = 0.125,
        sfreq: float = 128.0,
        width: int = 128,
        depth: int = 2,
        kernel: int = 3,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        self.patch = round(patch_s * sfreq)
        if self.patch < 1 or abs(self.patch - patch_s * sfreq) > 1e-3:
            raise ValueError(
                f"CodedPatches: patches of {patch_s:g} s at {sfreq:g} Hz are {patch_s * sfreq:g} "
                f"samples, expected a whole number. Set patch_s to {max(self.patch, 1) / sfreq:g}."
            )
        if kernel % 2 == 0:
            raise ValueError(f"CodedPatches: kernel is {kernel}, expected an odd number.")
        if not hasattr(quantizer, "lookup") or not hasattr(quantizer, "n_codes"):
            raise ValueError(
                f"CodedPatches: {type(quantizer).__name__} is no quantizer (`lookup`, `n_codes`). "
                "Use neurofm.nn.ResidualVQ, FSQ or CosineQuantizer."
            )
        self.dim, self.sfreq, self.patch_s = dim, sfreq, patch_s
        self.n_codes, self.n_levels = int(quantizer.n_codes), int(quantizer.n_levels)  # type: ignore[arg-type]
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        self.encoder = _network(self.patch, dim, width, depth, kernel)
        # Vectors of one length, whatever the networks do: the code book has something to follow.
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.quantizer = quantizer
        self.decoder = _network(dim, self.patch, width, depth, kernel)
        n = len(self.kinds)
        self.register_buffer("log_spread", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("amount", torch.zeros(n, dtype=torch.float64))

    # Scale

    def signal(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Checked signal of whole patches in its own unit; zeros in padded channels.

        Raises:
            ValueError: Rate, kind of channel, length or values are not what it expects.
        """
        check_batch(
            batch, name="CodedPatches", kinds=self.kinds, sfreq=self.sfreq, least=self.patch
        )
        n = batch.x.shape[-1] // self.patch * self.patch
        return torch.where(batch.channel_mask.unsqueeze(-1), batch.x[..., :n], 0).float()

    @torch.no_grad()
    def fit_scale(self, x: Float[Tensor, "batch channel time"], batch: Batch) -> None:
        """Let these windows count in the spread of their kinds: the geometric mean over channels
        and windows, which a few artefacts do not move."""
        spread = x.std(-1, correction=0)
        chosen = batch.channel_mask & (spread > 0)
        row = kind_rows(batch.kind, self.kinds)[chosen]
        sums = [torch.zeros_like(self.amount), torch.zeros_like(self.amount)]
        sums[0].index_add_(0, row, spread[chosen].double().log())
        sums[1].index_add_(0, row, torch.ones_like(row, dtype=torch.float64))
        all_reduce(*sums)
        self.log_spread += sums[0]
        self.amount += sums[1]

    def scale(self, batch: Batch) -> Float[Tensor, "batch channel 1"]:
        """Typical spread of each channel's kind in the training data; 1 if none was seen."""
        scale = (self.log_spread / self.amount.clamp(min=1)).exp().float()
        return scale[kind_rows(batch.kind, self.kinds)].unsqueeze(-1)

    def scaled(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Signal over its scale. Like a code book, the scale starts from the first batch."""
        x = self.signal(batch)
        if self.training or not bool(self.amount.any()):
            self.fit_scale(x, batch)
        return (x / self.scale(batch)).clamp(-LIMIT, LIMIT)

    # Rows: the real channels of all windows

    def encode_rows(self, rows: Float[Tensor, "row time"]) -> Float[Tensor, "row patch dim"]:
        """Scaled signal to what is quantized."""
        return self.norm(self.encoder(rows.unflatten(-1, (-1, self.patch))))

    def decode_rows(self, values: Float[Tensor, "row patch dim"]) -> Float[Tensor, "row time"]:
        """Quantized vectors to scaled signal."""
        return self.decoder(values).flatten(1)

    # Batches

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """One token per channel and patch; `time` is the patch's middle."""
        x, mask = self.scaled(batch), batch.channel_mask
        found: Quantized = self.quantizer(self.encode_rows(x[mask]), generator=generator)
        n = x.shape[-1] // self.patch
        time = ((torch.arange(n, device=x.device) + 0.5) * self.patch - 0.5) / self.sfreq
        return channel_tokens(_spread(found.values, mask), mask, time, _spread(found.codes, mask))

    def decode(self, tokens: Tokens, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Signal of codes in the unit of the data it was trained on; zeros in padded channels.

        Raises:
            ValueError: The tokens carry no codes.
        """
        if tokens.codes is None:
            raise ValueError("CodedPatches: the tokens carry no codes.")
        mask = batch.channel_mask
        codes = tokens.codes.unflatten(1, (mask.shape[1], -1))[mask]
        return _spread(self.decode_rows(self.quantizer.lookup(codes)), mask) * self.scale(batch)

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """batch channel time, twice: the signal, and what its codes make of it."""
        return self.signal(batch), self.decode(self(batch), batch)

    def loss(self, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Reconstruct the signal and its slope from codes, every channel of a window alike.

        Slopes have about equal power at all frequencies of EEG; the error of the signal alone is
        that of its slowest waves. Both are Huber errors, over the spread of the channel (of its
        slope) in that window, so that neither spikes nor loud channels rule.

        Returns:
            "loss" and its parts "signal", "slope" and "commitment"; "pcc", the mean correlation of
            signal and reconstruction; "codes".
        """
        rows = self.scaled(batch)[batch.channel_mask]
        found: Quantized = self.quantizer(self.encode_rows(rows), generator=generator)
        made = self.decode_rows(found.values).float()
        signal = batch_mean(_error(made, rows), len(rows))
        slope = batch_mean(_error(made.diff(), rows.diff()), len(rows))
        with torch.no_grad():
            both = torch.stack([rows, made])
            both = F.normalize(both - both.mean(-1, keepdim=True), dim=-1)
            correlation = (both[0] * both[1]).sum(-1).mean()
        return {
            "loss": signal + slope + found.loss,
            "signal": signal,
            "slope": slope,
            "commitment": found.loss,
            "pcc": correlation,
            "codes": found.codes,
        }


def _error(made: Float[Tensor, "row time"], rows: Float[Tensor, "row time"]) -> Float[Tensor, ""]:
    """Huber error over each row's spread; that of a flat row is not blown up."""
    spread = rows.std(-1, keepdim=True, correction=0).clamp(min=QUIET)
    return F.smooth_l1_loss(made / spread, rows / spread)


def _spread(rows: Tensor, mask: Bool[Tensor, "batch channel"]) -> Tensor:
    """Rows of real channels back in place; zeros in padded channels."""
    return rows.new_zeros(*mask.shape, *rows.shape[1:]).index_put((mask,), rows)
