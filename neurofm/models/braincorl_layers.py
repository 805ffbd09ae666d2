"""Layers of BraInCoRL: residual blocks, and attention over a set of any size.

Axes: batch token dim; query = token that attends.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.linear import Linear, linear
from neurofm.shapes import Bool, Float


class ResidualBlock(nn.Module):
    """Two linear maps behind norms and leaky rectifiers, beside a bypass."""

    def __init__(self, n_in: int, n_out: int, hidden: int, *, dropout: float | int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(n_in),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            Linear(n_in, hidden),
            nn.LayerNorm(hidden),
            nn.LeakyReLU(0.1),
            nn.Dropout(dropout),
            Linear(hidden, n_out),
        )
        self.bypass = Linear(n_in, n_out) if n_in != n_out else nn.Identity()

    def forward(self, x: Float[Tensor, "... feature"]) -> Float[Tensor, "... dim"]:
        """The bypass plus the block."""
        return self.bypass(x) + self.block(x)


class SetAttention(nn.Module):
    """Attention whose queries grow with the logarithm of the number of tokens.

    The softmax over more tokens is flatter; queries times log(n) keep it as sharp.
    """

    def __init__(self, dim: int, heads: int, *, dropout: float | int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query_key_value = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def project(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        *,
        only_first: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each batch head token feature."""
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        dim = x.shape[-1]
        # The factor is on the input of the queries' map: it does not reach their bias.
        if not only_first and scale.numel() == 1:
            scaled = torch.cat([weight[:dim] * scale.flatten(), weight[dim:]])
            queries, keys, values = linear(x, scaled, bias).chunk(3, -1)
        else:
            queries = linear((x[:, :1] if only_first else x) * scale, weight[:dim], bias[:dim])
            keys, values = linear(x, weight[dim:], bias[dim:]).chunk(2, -1)
        split = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (queries, keys, values))
        queries, keys, values = split
        return queries, keys, values

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query dim"]:
        """What each token, or the first alone, gathers from all."""
        queries, keys, values = self.project(x, scale, only_first=only_first)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.out(y.transpose(1, 2).flatten(2))

    def weights(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query token"]:
        """Attention, mean over heads; rows sum to 1."""
        queries, keys, _ = self.project(x, scale, only_first=only_first)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).mean(1)


class GatedLinear(nn.Module):
    """SwiGLU: two maps to the hidden width, one gating the other, and one back."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.widen = Linear(dim, 2 * hidden)
        self.narrow = Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Each token by itself."""
        gate, value = self.widen(x).chunk(2, -1)
        return self.narrow(F.silu(gate) * value)


class SetBlock(nn.Module):
    """Pre-norm attention and feed-forward part."""

    def __init__(self, dim: int, heads: int, hidden: int, *, dropout: float | int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SetAttention(dim, heads, dropout=dropout)
        self.feed_forward = GatedLinear(dim, hidden)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        scale: Float[Tensor, "#batch 1 1"],
        mask: Bool[Tensor, "batch 1 1 token"] | None,
        *,
        only_first: bool = False,
    ) -> Float[Tensor, "batch query dim"]:
        """All tokens, or what becomes of the first one."""
        y = x[:, :1] if only_first else x
        y = y + self.attention(self.norm_1(x), scale, mask, only_first=only_first)
        return y + self.feed_forward(self.norm_2(y))
