"""Transformer blocks whose attention costs grow linearly with the number of tokens.

Keys are softmaxed over the sequence and queries over their features, so keys and values meet first
in one small matrix per head. There are no positions: the order of the tokens makes no difference.

Source: Shen et al. 2018 (efficient attention), in the form of lucidrains'
linear-attention-transformer 0.19 (MIT).
Axes: batch token dim.
"""

from __future__ import annotations

from torch import Tensor, nn

from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float


class LinearAttention(nn.Module):
    """Every token asks one summary of all tokens per head.

    Args:
        heads: Split the features in order.
        dropout: Of the output, in training mode.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.query = Linear(dim, dim, bias=False)
        self.key = Linear(dim, dim, bias=False)
        self.value = Linear(dim, dim, bias=False)
        self.out = Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        mask: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Same shape; tokens where `mask` is False are asked by none."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # batch head token feature
            for layer in (self.query, self.key, self.value)
        )
        key = key.float()
        if mask is not None:
            key = key.masked_fill(~mask[:, None, :, None], float("-inf"))
        query = query.float().softmax(-1).to(value.dtype) * query.shape[-1] ** -0.5
        summary = key.softmax(-2).to(value.dtype).transpose(-1, -2) @ value
        return self.dropout(self.out((query @ summary).transpose(1, 2).flatten(-2)))


class LinearBlock(nn.Module):
    """Pre-norm block: linear attention, then a GELU layer of four times the width."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = LinearAttention(dim, heads, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(Linear(dim, 4 * dim), nn.GELU(), Linear(4 * dim, dim))

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        mask: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.feedforward(self.feedforward_norm(x))


class LinearTransformer(nn.ModuleList):
    """Blocks one after the other, without a norm behind the last."""

    def __init__(self, dim: int, *, depth: int, heads: int, dropout: float = 0.0) -> None:
        if dim % heads:
            raise ValueError(f"LinearTransformer: dim {dim} is not a multiple of heads {heads}.")
        super().__init__(LinearBlock(dim, heads, dropout) for _ in range(depth))

    def forward(
        self,
        x: Float[Tensor, "batch token dim"],
        mask: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch token dim"]:
        """Same shape."""
        for block in self:
            x = block(x, mask)
        return x
