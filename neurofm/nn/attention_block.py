"""AttentionBlock: attention and a feed-forward, each on normalized features.

Products of queries and keys are divided by the root of a head's features, or by that of all
features as several published decoders of EEG do, which makes the attention flatter.
Axes: batch token dim.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.linear import Linear
from neurofm.shapes import Float

Scale = Literal["all", "head"]


class AllToAll(nn.Module):
    """Self-attention without a mask.

    Args:
        scale: Whose features' root divides: "all", or those of a "head".
    """

    def __init__(self, dim: int, heads: int, *, dropout: float, scale: Scale) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"AttentionBlock: dim {dim} is not a multiple of heads {heads}.")
        if scale not in ("all", "head"):
            raise ValueError(f"AttentionBlock: scale is {scale!r}, expected 'all' or 'head'.")
        self.heads, self.dropout = heads, dropout
        self.factor = (dim if scale == "all" else dim // heads) ** -0.5
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=self.factor
        )
        return self.out(found.transpose(1, 2).flatten(-2))


class AttentionBlock(nn.Module):
    """Attention, then a feed-forward of four times the width with GELU."""

    def __init__(
        self, dim: int, heads: int, *, dropout: float = 0.5, scale: Scale = "head"
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = AllToAll(dim, heads, dropout=dropout, scale=scale)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))
