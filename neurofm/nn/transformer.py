"""Attention and transformer blocks.

Masks are True where there is data.
Axes: batch token dim; query = token that asks, source = latent channel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.linear import Linear
from neurofm.nn.positions import Rotary
from neurofm.shapes import Bool, Float


def RMSNorm(dim: int) -> nn.RMSNorm:
    """`x / sqrt(mean(x^2) + 1e-6) * weight`; the mean is taken in float32 under autocast."""
    return nn.RMSNorm(dim, eps=1e-6)


class FeedForward(nn.Sequential):
    """Linear to four times the width, SELU, Linear back, Dropout."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__(Linear(dim, 4 * dim), nn.SELU(), Linear(4 * dim, dim), nn.Dropout(dropout))


def initialize(module: nn.Module) -> None:
    """Linear and Embedding weights from a truncated normal of 0.02, biases zero."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def attend(
    query: Float[Tensor, "batch query dim"],
    key: Float[Tensor, "batch token dim"],
    value: Float[Tensor, "batch token dim"],
    *,
    heads: int,
    mask: Bool[Tensor, "batch token"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "batch query dim"]:
    """Multi-head scaled dot-product attention; heads split the features in order."""
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)
    )
    allowed = None if mask is None else mask[:, None, None, :]
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return out.transpose(1, 2).flatten(-2)


class SelfAttention(nn.Module):
    """Self-attention over the second axis, with rotary positions if `rotary` is given."""

    def __init__(
        self, dim: int, heads: int, *, dropout: float = 0.0, rotary: Rotary | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.rotary = rotary
        self.query_key_value = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        query, key, value = self.query_key_value(x).chunk(3, -1)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        # Gated by the training mode; the original leaves attention dropout on in evaluation.
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(query, key, value, heads=self.heads, dropout=dropout))


class CrissCrossBlock(nn.Module):
    """Pre-norm block on a grid of sources and steps: half the features attend along each axis.

    The first half attends over steps (rotary), the second over sources (no positions). The halves
    come back swapped, as BrainOmni's published weights expect.

    Args:
        heads: Over both halves; even.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        dropout: float = 0.0,
        rotary: Literal["rotate", "cosine"] = "rotate",
    ) -> None:
        super().__init__()
        half = dim // 2
        self.attention_norm = RMSNorm(dim)
        self.time_attention = SelfAttention(
            half, heads // 2, dropout=dropout, rotary=Rotary(half, mode=rotary)
        )
        self.source_attention = SelfAttention(half, heads // 2, dropout=dropout)
        self.feedforward_norm = RMSNorm(dim)
        self.feedforward = FeedForward(dim, dropout)

    def forward(
        self, x: Float[Tensor, "batch source step dim"]
    ) -> Float[Tensor, "batch source step dim"]:
        """Same shape."""
        sources, steps = x.shape[1:3]
        over_time, over_sources = self.attention_norm(x).chunk(2, -1)
        time = self.time_attention(over_time.flatten(0, 1)).unflatten(0, (-1, sources))
        source = self.source_attention(over_sources.transpose(1, 2).flatten(0, 1))
        source = source.unflatten(0, (-1, steps)).transpose(1, 2)
        x = x + torch.cat([source, time], -1)
        return x + self.feedforward(self.feedforward_norm(x))
