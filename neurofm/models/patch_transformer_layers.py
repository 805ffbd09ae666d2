"""Layers of PatchTransformer: where and when a token is, and blocks that attend over tokens.

Tokens of a window are a grid of rows (channels or latent sources) and steps in time. "full" blocks
let every token look at every other, as LaBraM does; "criss_cross" blocks let half of the heads look
along the row and half along the step, as BrainOmni and CBraMod do, so that memory grows linearly
with channels.

Axes: batch token dim; row x step = token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.nn.transformer import RMSNorm
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.normalize import MEG
from neurofm.units import Kind

# Rates of the rotation, radians per second: from fast beside one sample to slow beside a minute.
FASTEST, SLOWEST = 60.0, 0.05
# Positions are a few centimetres to a decimetre from the origin.
METRES = 0.1
OCTAVES = 4


class Place(nn.Module):
    """What each channel is and where: kind, position, and direction of a MEG coil, to features.

    Positions enter as sines of several lengths, so that neighbours can be told apart and electrodes
    nobody has seen lie between those that were. A channel without a position has its kind alone.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kind = nn.Embedding(len(Kind) - 1, dim)
        self.geometry = nn.Sequential(
            nn.Linear(3 + 6 * OCTAVES + 3 + 1, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, batch: Batch) -> Float[Tensor, "batch channel dim"]:
        """One vector per channel; zeros where the channel is padding."""
        known = (batch.has_position & batch.channel_mask).unsqueeze(-1)
        position = torch.where(known, batch.position.float(), 0) / METRES
        octave = 2.0 ** torch.arange(OCTAVES, device=position.device)
        angle = (position.unsqueeze(-1) * octave).flatten(-2)
        meg = torch.zeros_like(batch.channel_mask)
        for kind in MEG:
            meg = meg | (batch.kind == int(kind))
        direction = torch.where((meg & batch.channel_mask).unsqueeze(-1), batch.orientation, 0)
        features = torch.cat(
            [position, angle.sin() * known, angle.cos() * known, direction.float(), known], -1
        )
        out = self.kind(batch.kind.long().clamp(min=0)) + self.geometry(features)
        return out * batch.channel_mask.unsqueeze(-1)


@dataclass(frozen=True)
class Layout:
    """How tokens relate to each other, the same for all blocks of a pass.

    Args:
        rows: Channels or sources of the grid; 1 if its tokens are of all channels.
        turn: Unit complex number of each token and pair of features, for rotary positions; None
            without them.
        over: Where a query may look, for each kind of attention; None = everywhere.
        causal: Steps along a row see themselves and the past; only where `over` is None.
    """

    rows: int
    turn: Tensor | None
    over: dict[str, Tensor | None]
    causal: bool


def turns(time: Float[Tensor, "batch token"], pairs: int) -> Tensor:
    """Rotation of each pair of features at each time: complex, batch 1 token pair."""
    place = torch.arange(pairs, device=time.device) / max(pairs - 1, 1)
    angle = time.float().unsqueeze(-1) * FASTEST * (SLOWEST / FASTEST) ** place
    return torch.polar(torch.ones_like(angle), angle).unsqueeze(1)


def layout(
    time: Float[Tensor, "batch token"],
    mask: Bool[Tensor, "batch token"],
    *,
    rows: int,
    pairs: int,
    attention: Literal["full", "criss_cross"],
    causal: bool,
) -> Layout:
    """What the blocks need to know of a batch's tokens.

    Args:
        pairs: Features of a head that turn with time, in pairs; 0 for no rotation.
    """
    whole = bool(mask.all())  # without a mask the fastest kernels apply
    over: dict[str, Tensor | None] = {"full": None, "row": None, "step": None}
    if attention == "full":
        seen = None if whole else _alive(mask.unsqueeze(1))
        if causal:
            past = time.unsqueeze(1) <= time.unsqueeze(2) + 1e-6
            seen = past if seen is None else _alive(past & mask.unsqueeze(1))
        over["full"] = None if seen is None else seen.unsqueeze(1)
    elif not whole:
        grid = mask.unflatten(1, (rows, -1))  # batch row step
        along = grid.unsqueeze(2)
        if causal:
            n = grid.shape[2]
            along = along & torch.ones(n, n, dtype=torch.bool, device=mask.device).tril()
        over["row"] = _alive(along).flatten(0, 1).unsqueeze(1)
        over["step"] = _alive(grid.transpose(1, 2).unsqueeze(2)).flatten(0, 1).unsqueeze(1)
    return Layout(rows, turns(time, pairs) if pairs else None, over, causal)


def _alive(seen: Bool[Tensor, "*other key"]) -> Bool[Tensor, "*other key"]:
    """A query that may look nowhere looks everywhere: its softmax would divide by zero."""
    return seen | ~seen.any(-1, keepdim=True)


class Block(nn.Module):
    """Pre-norm transformer block, query, key and value in one product, without biases.

    Args:
        feedforward: Width between its two layers; four times `dim` if not given.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        attention: Literal["full", "criss_cross"],
        feedforward: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        wide = feedforward or 4 * dim
        self.heads, self.attention, self.dropout = heads, attention, dropout
        self.attention_norm = RMSNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.feedforward_norm = RMSNorm(dim)
        self.widen = nn.Linear(dim, wide, bias=False)
        self.narrow = nn.Linear(wide, dim, bias=False)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        causal = causal and seen is None
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, is_causal=causal
        )

    def forward(self, x: Float[Tensor, "batch token dim"], at: Layout) -> Tensor:
        """Same shape."""
        qkv = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        qkv = qkv.permute(2, 0, 3, 1, 4)  # part batch head token feature
        (q, k), v = (qkv[:2] if at.turn is None else _turned(qkv[:2], at.turn)), qkv[2]
        if self.attention == "full":
            y = self._attend(q, k, v, at.over["full"], False)
        else:
            y = self._criss_cross(q, k, v, at)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(-2)), self.dropout, self.training)
        y = self.narrow(F.gelu(self.widen(self.feedforward_norm(x))))
        return x + F.dropout(y, self.dropout, self.training)

    def _criss_cross(self, q: Tensor, k: Tensor, v: Tensor, at: Layout) -> Tensor:
        batch, half = len(q), self.heads // 2
        q, k, v = (part.unflatten(2, (at.rows, -1)) for part in (q, k, v))  # batch head row step

        def along_row(part: Tensor) -> Tensor:
            return part[:, :half].transpose(1, 2).flatten(0, 1)

        def along_step(part: Tensor) -> Tensor:
            return part[:, half:].permute(0, 3, 1, 2, 4).flatten(0, 1)

        row, step = at.over["row"], at.over["step"]
        time = self._attend(along_row(q), along_row(k), along_row(v), row, at.causal)
        space = self._attend(along_step(q), along_step(k), along_step(v), step, False)
        time = time.unflatten(0, (batch, -1)).transpose(1, 2)
        space = space.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4)
        return torch.cat([time, space], 1).flatten(2, 3)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring features of every head, turned together by the token's time."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)
