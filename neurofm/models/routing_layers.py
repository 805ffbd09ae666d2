"""Layers of the transformer brain encoder: positions on a grid, memory, routing by queries.

Source: Hosseinadeli/transformer_brain_encoder (arXiv 2505.17329), after DETR (Carion et al. 2020).
Axes: batch token dim, tokens of a grid row by row; query = area, hemisphere or vertex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.linear import Linear
from neurofm.shapes import Float

LONGEST = 50  # rows or columns that learned positions know
_HEADS = 16  # of the variant, whatever is asked for


class SinePositions(nn.Module):
    """Sines and cosines of row and column: first half of the features row, second half column."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.width = dim // 2

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "token dim"]:
        """Codes of the tokens of a grid of this size, the same for every image."""
        along = [self._line(n, x) for n in x.shape[2:]]
        rows, columns = torch.broadcast_tensors(along[0].unsqueeze(1), along[1].unsqueeze(0))
        return torch.cat([rows, columns], -1).flatten(0, 1)

    def _line(self, n: int, x: Tensor) -> Float[Tensor, "place feature"]:
        place = torch.arange(1, n + 1, dtype=x.dtype, device=x.device) / (n + 1e-6) * 2 * math.pi
        j = torch.arange(self.width, dtype=x.dtype, device=x.device)
        angle = place.unsqueeze(1) / 10000 ** (2 * torch.floor(j / 2) / self.width)
        return torch.where(j % 2 == 0, angle.sin(), angle.cos())


class LearnedPositions(nn.Module):
    """A vector for each column and row, at most `LONGEST`; first half column, second half row."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(LONGEST, dim // 2)
        self.col_embed = nn.Embedding(LONGEST, dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, x: Float[Tensor, "batch dim height width"]) -> Float[Tensor, "token dim"]:
        """Codes of the tokens of a grid of this size.

        Raises:
            ValueError: More rows or columns than there are vectors.
        """
        if max(x.shape[2:]) > LONGEST:
            raise ValueError(
                f"LearnedPositions: a grid of {x.shape[2]} x {x.shape[3]}, expected at most "
                f"{LONGEST} x {LONGEST}. Use smaller images, larger patches, or sine positions."
            )
        height, width = x.shape[2:]
        columns = self.col_embed.weight[:width].expand(height, -1, -1)
        rows = self.row_embed.weight[:height].unsqueeze(1).expand(-1, width, -1)
        return torch.cat([columns, rows], -1).flatten(0, 1)


class Feedforward(nn.Module):
    """Linear, ReLU, Linear; the names of the original."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = Linear(dim, hidden), Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class MemoryLayer(nn.Module):
    """Self-attention among the tokens of the image, with positions in queries and keys."""

    def __init__(
        self, dim: int, heads: int, hidden: int, *, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.feedforward = Feedforward(dim, hidden, dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def _attend(self, x: Tensor, positions: Tensor) -> Tensor:
        placed = x + positions
        return self.dropout(self.self_attn(placed, placed, x, need_weights=False)[0])

    def forward(
        self, x: Float[Tensor, "batch token dim"], positions: Float[Tensor, "token dim"]
    ) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        if self.pre_norm:
            x = x + self._attend(self.norm1(x), positions)
            return x + self.dropout(self.feedforward(self.norm2(x)))
        x = self.norm1(x + self._attend(x, positions))
        return self.norm2(x + self.dropout(self.feedforward(x)))


class Memory(nn.Module):
    """Layers over the tokens of the image; which of their outputs queries read is `layer`."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        depth: int,
        layer: int,
        dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        if not -depth <= layer < depth:
            raise ValueError(
                f"TransformerBrainEncoder: memory_layer is {layer}, there are {depth} encoder "
                f"layers. Choose {-depth} to {depth - 1}."
            )
        self.layer = layer % depth
        self.layers = nn.ModuleList(
            MemoryLayer(dim, heads, hidden, dropout=dropout, pre_norm=pre_norm)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim) if pre_norm else None

    def forward(
        self, x: Float[Tensor, "batch token dim"], positions: Float[Tensor, "token dim"]
    ) -> Float[Tensor, "batch token dim"]:
        """Output of the chosen layer, normed if norms come first; the next layer sees it as is."""
        for layer in self.layers[: self.layer + 1]:
            x = layer(x, positions)
        return x if self.norm is None else self.norm(x)


class RoutingLayer(nn.Module):
    """Each query gathers what it needs from the image; queries do not see each other.

    With norms first, `norm2` has no part (as in the original) and rests.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, *, dropout: float, pre_norm: bool
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.feedforward = Feedforward(dim, hidden, dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        if pre_norm:
            self.norm2.requires_grad_(False)

    def forward(
        self,
        target: Float[Tensor, "batch query dim"],
        queries: Float[Tensor, "query dim"],
        memory: Float[Tensor, "batch token dim"],
        positions: Float[Tensor, "token dim"],
        *,
        maps: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What was gathered, batch x query x dim; where, batch x query x token, if `maps`."""
        normed = self.norm1(target)
        found, weights = self.attention(
            normed + queries, memory + positions, memory, need_weights=maps
        )
        if self.pre_norm:
            target = target + self.dropout(found)
            return target + self.dropout(self.feedforward(self.norm3(target))), weights
        target = self.norm2(normed + self.dropout(found))
        return self.norm3(target + self.dropout(self.feedforward(target))), weights


class PlainRoutingLayer(nn.Module):
    """The original's variant: no norm before, values not projected, no way around attention.

    16 heads, whatever is asked for.
    """

    def __init__(self, dim: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        if dim % _HEADS:
            raise ValueError(
                f"TransformerBrainEncoder: dim is {dim}, expected a multiple of {_HEADS}, the "
                "heads of the router 'custom_transformer'."
            )
        self.q_proj, self.k_proj, self.c_proj = (Linear(dim, dim) for _ in range(3))
        self.feedforward = Feedforward(dim, hidden, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        target: Float[Tensor, "batch query dim"],
        queries: Float[Tensor, "query dim"],
        memory: Float[Tensor, "batch token dim"],
        positions: Float[Tensor, "token dim"],
        *,
        maps: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What was gathered, batch x query x dim; where, batch x query x token, if `maps`."""
        query, key, value = (
            part.unflatten(-1, (_HEADS, -1)).transpose(1, 2)
            for part in (self.q_proj(target + queries), self.k_proj(memory + positions), memory)
        )
        weights = (query @ key.transpose(2, 3) / math.sqrt(key.shape[-1])).softmax(-1)
        dropped = F.dropout(weights, self.dropout.p, self.training)
        target = self.c_proj((dropped @ value).transpose(1, 2).flatten(2))
        target = target + self.dropout(self.feedforward(self.norm3(target)))
        return target, weights.mean(1) if maps else None


class Routing(nn.Module):
    """Layers of queries, one after the other, and the norm of what the last one gathered."""

    def __init__(self, layers: Sequence[nn.Module], norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
