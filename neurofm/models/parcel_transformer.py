"""ParcelTransformer: patches of time of single parcels as tokens, told apart by place and time.

Two ways to learn without labels: hidden tokens are given back, by a small decoder ("masked", as
BrainLM); or the embeddings that a slow copy of the network makes of hidden blocks are predicted
from what is shown ("latents", as Brain-JEPA). Nothing depends on how many parcels there are or in
which order, unless places come from a table.

Source: BrainLM (vandijklab/BrainLM, ICLR 2024); Brain-JEPA (Eric-LRL/Brain-JEPA, NeurIPS 2024).
Deviations: attention is full, not BrainLM's approximation by landmarks; codes of time are of
seconds, so that scans of other TRs share them; the copy is updated when a batch comes, which is
after every step unless gradients are accumulated. The published weights do not load.
Axes: batch channel time (parcel, volume); batch token dim, token = patch of a parcel, time fast.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.parcel_masks import BlockShares, crossed_blocks, random_tokens
from neurofm.shapes import Bool, Float

_SHORTEST_S, _LONGEST_S = 4.0, 4000.0  # wavelengths of the code of time
_PLACE_M = 0.05  # places are divided by it, so that coordinates are near 1


def time_code(seconds: Float[Tensor, " step"], dim: int) -> Float[Tensor, "step dim"]:
    """Sines and cosines of wavelengths from 4 to 4000 s."""
    n = (dim + 1) // 2
    span = torch.linspace(0, 1, n, device=seconds.device)
    rate = 2 * math.pi / (_SHORTEST_S * (_LONGEST_S / _SHORTEST_S) ** span)
    angle = seconds.float().unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :dim]


def blocks_of(dim: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Pre-norm blocks with a feed-forward of four times the width, and a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout, "gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, depth, nn.LayerNorm(dim), enable_nested_tensor=False)


class ParcelEncoder(nn.Module):
    """Tokens of patches, and what blocks of attention make of those that are shown."""

    def __init__(
        self, patch: int, coordinates: int, dim: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.patch = nn.Linear(patch, dim)
        self.place = nn.Linear(coordinates, dim)
        self.summary = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = blocks_of(dim, depth, heads, dropout)

    def tokens(
        self,
        patches: Float[Tensor, "batch channel step patch"],
        place: Float[Tensor, "batch channel coordinate"],
        seconds: Float[Tensor, " step"],
    ) -> Float[Tensor, "batch token dim"]:
        """Content, place and time of each patch."""
        x = self.patch(patches) + self.place(place).unsqueeze(2)
        return (x + time_code(seconds, x.shape[-1])).flatten(1, 2)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], shown: Bool[Tensor, "batch token"]
    ) -> Float[Tensor, "batch more dim"]:
        """A summary token and the given ones, which saw each other where shown."""
        first = self.summary.expand(len(tokens), 1, -1)
        seen = F.pad(shown, (1, 0), value=True)
        return self.blocks(torch.cat([first, tokens], 1), src_key_padding_mask=~seen)


def take(
    tokens: Float[Tensor, "batch token dim"], chosen: Bool[Tensor, "batch token"]
) -> tuple[Float[Tensor, "batch few dim"], Bool[Tensor, "batch few"], Tensor]:
    """The chosen tokens of each window side by side, which are no filling, and where they were."""
    n = int(chosen.sum(1).max())
    at = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :n]
    found = torch.gather(tokens, 1, at.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    return found, torch.gather(chosen, 1, at), at


@dataclass(frozen=True)
class MaskedPatches:
    """Hidden patches as they were and as given back; see `objectives.MaskedSignal`."""

    signal: Tensor
    true_signal: Tensor
    spectrum: Tensor
    true_spectrum: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class PredictedLatents:
    """Embeddings of hidden tokens, as predicted and as the slow copy makes them."""

    prediction: Tensor
    target: Tensor
    hidden: Tensor


@configured
class ParcelTransformer(nn.Module):
    """Encoder of parcels' time series. Defaults: BrainLM's released size.

    Signals should be z-scored (`StandardizeRun`).

    Args:
        patch: Volumes of a token.
        width: Features of a token.
        depth: Blocks.
        heads: Of attention.
        dropout: In training.
        places: "xyz", the positions of parcels in metres; or a table with a row of coordinates
            (such as gradients of connectivity) for each parcel of every window, in their order.
        pretraining: "masked", "latents", or None for neither.
        hidden: Share of tokens hidden for "masked".
        decoder_depth: Blocks of the decoder ("masked") or the predictor ("latents").
        decoder_width: Their features.
        decoder_heads: Of their attention.
        copy_rate: Of the copy ("latents"): how much it keeps of itself at a step, at first.
        copy_steps: Steps after which it keeps all.
        kinds: Kinds of channels it accepts.
    """

    steps: Tensor
    table: Tensor | None

    def __init__(
        self,
        *,
        patch: int = 20,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        places: Literal["xyz"] | Sequence[Sequence[float]] = "xyz",
        pretraining: Literal["masked", "latents"] | None = "masked",
        hidden: float = 0.2,
        decoder_depth: int = 2,
        decoder_width: int = 256,
        decoder_heads: int = 4,
        copy_rate: float = 0.996,
        copy_steps: int = 100_000,
        kinds: Sequence[str] = ("bold",),
    ) -> None:
        super().__init__()
        if pretraining not in ("masked", "latents", None):
            raise ValueError(
                f"ParcelTransformer: pretraining {pretraining!r}, expected 'masked', 'latents' or "
                "None."
            )
        if not 0 < hidden < 1 or not 0 <= copy_rate <= 1 or copy_steps < 1 or patch < 1:
            raise ValueError(
                f"ParcelTransformer: patch {patch}, hidden {hidden}, copy_rate {copy_rate}, "
                f"copy_steps {copy_steps}; expected 1+, 0 to 1, 0 to 1 and 1+."
            )
        self.dim, self.size, self.pretraining, self.share = width, patch, pretraining, hidden
        self.copy_rate, self.copy_steps = copy_rate, copy_steps
        coordinates, n_parcels, table = 3, None, None
        if places != "xyz":
            table = torch.tensor([list(row) for row in places], dtype=torch.float32)
            n_parcels, coordinates = table.shape
        self.register_buffer("table", table)
        self.contract = Contract(kinds=tuple(kinds), n_channels=n_parcels)
        self.inner = ParcelEncoder(patch, coordinates, width, depth, heads, dropout)
        if pretraining is not None:
            self.enter = nn.Linear(width, decoder_width)
            self.blank = nn.Parameter(0.02 * torch.randn(decoder_width))
            self.where = nn.Linear(coordinates, decoder_width)
            self.decoder = blocks_of(decoder_width, decoder_depth, decoder_heads, dropout)
            self.leave = nn.Linear(decoder_width, patch if pretraining == "masked" else width)
        if pretraining == "latents":
            self.copy = copy.deepcopy(self.inner).requires_grad_(False)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> ParcelTransformer:
        """Training mode, but for the copy."""
        super().train(mode)
        if self.pretraining == "latents":
            self.copy.eval()
        return self

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Patches, places, seconds of steps, and which channels are real."""
        self.contract.check(batch, model="ParcelTransformer")
        x, real = batch.x, batch.channel_mask
        if x.shape[-1] < self.size:
            raise ValueError(
                f"ParcelTransformer: windows of {x.shape[-1]} volumes, a patch has {self.size}. "
                f"Set window_s to a multiple of {self.size / batch.sfreq:g} s."
            )
        n = x.shape[-1] // self.size
        patches = x[..., : n * self.size].unflatten(-1, (n, self.size))
        if self.table is None:
            known = (batch.has_position & real).unsqueeze(-1)
            place = torch.where(known, batch.position / _PLACE_M, 0.0)
        else:
            place = self.table.expand(len(x), -1, -1)
            patches, real = patches[:, : place.shape[1]], real[:, : place.shape[1]]
        seconds = (torch.arange(n, device=x.device) + 0.5) * self.size / batch.sfreq
        return patches.float(), place.float(), seconds, real

    def encode(self, batch: Batch) -> Embedding:
        """A token for every patch of every parcel; `summary` is the token that saw all."""
        return self(batch)  # cards are compared before `forward`

    def forward(self, batch: Batch) -> Embedding:
        """As `encode`; volumes after the last whole patch are left out.

        Raises:
            ValueError: The batch is not what the model was built for.
        """
        patches, place, seconds, real = self._read(batch)
        mask = real.repeat_interleave(len(seconds), 1)
        found = self.inner(self.inner.tokens(patches, place, seconds), mask)
        return Embedding(found[:, 1:], mask, summary=found[:, 0])

    def _decoded(
        self, shown: Tensor, place: Tensor, seconds: Tensor, tokens: Tensor, wanted: Tensor
    ) -> Tensor:
        """What is said of wanted tokens from the shown ones; of others anything."""
        seen, real, at = take(tokens, shown)
        known = self.enter(self.inner(seen, real))
        n_steps, width = len(seconds), known.shape[-1]
        where = self.where(place).unsqueeze(2) + time_code(seconds, width)
        where = where.flatten(1, 2).expand(len(tokens), tokens.shape[1], -1)
        assert n_steps * place.shape[1] == tokens.shape[1]
        blank = (self.blank + where).to(known.dtype)
        at = at.unsqueeze(-1).expand(-1, -1, width)
        fill = torch.where(
            real.unsqueeze(-1), known[:, 1:] + where.gather(1, at), blank.gather(1, at)
        )
        every = torch.cat([known[:, :1], blank.scatter(1, at, fill)], 1)
        visible = F.pad(shown | wanted, (1, 0), value=True)
        return self.leave(self.decoder(every, src_key_padding_mask=~visible)[:, 1:])

    def _require(self, wanted: str) -> None:
        if self.pretraining != wanted:
            raise ValueError(
                f"ParcelTransformer: built with pretraining {self.pretraining!r}, and this "
                f"objective needs {wanted!r}. Build it with `pretraining: {wanted}`."
            )

    def reconstruct_signal(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> MaskedPatches:
        """Hide tokens and give their samples back, for `objectives.MaskedSignal`.

        Raises:
            ValueError: It was built for something else.
        """
        self._require("masked")
        patches, place, seconds, real = self._read(batch)
        mask = real.repeat_interleave(len(seconds), 1)
        hidden = random_tokens(mask, self.share, generator)
        tokens = self.inner.tokens(patches, place, seconds)
        given = self._decoded(mask & ~hidden, place, seconds, tokens, hidden)
        true, nothing = patches.flatten(1, 2), patches.new_zeros(*given.shape[:2], 0)
        return MaskedPatches(given, true, nothing, nothing, hidden)

    def predict_latents(
        self, batch: Batch, *, generator: torch.Generator | None = None
    ) -> PredictedLatents:
        """Predict embeddings of hidden blocks, for `objectives.HiddenLatents`.

        In training mode the copy first follows what the network has learned.

        Raises:
            ValueError: It was built for something else, or windows are too small.
        """
        self._require("latents")
        if self.training:
            self._follow()
        patches, place, seconds, real = self._read(batch)
        mask = real.repeat_interleave(len(seconds), 1)
        blocks = crossed_blocks(real, len(seconds), BlockShares(), generator)
        shown, hidden = blocks.shown.flatten(1), blocks.hidden.flatten(1)
        with torch.no_grad():
            target = self.copy(self.copy.tokens(patches, place, seconds), mask)[:, 1:]
            target = F.layer_norm(target, target.shape[-1:])
        tokens = self.inner.tokens(patches, place, seconds)
        given = self._decoded(shown, place, seconds, tokens, hidden)
        return PredictedLatents(given, target, hidden)

    @torch.no_grad()
    def _follow(self) -> None:
        done = min(int(self.steps) / self.copy_steps, 1.0)
        rate = self.copy_rate + (1 - self.copy_rate) * done
        for slow, fast in zip(self.copy.parameters(), self.inner.parameters(), strict=True):
            slow.lerp_(fast, 1 - rate)
        self.steps += 1
