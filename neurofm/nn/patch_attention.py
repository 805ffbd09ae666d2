"""Attention of samples to patches of the past, each patch compressed to one key.

The input is grouped into patches; a patch longer than one sample is compressed over its samples and
over heads. The most recent samples may be added as keys of their own. Every one of the last
`length_out` inputs is a query, so a layer may shorten the sequence from its beginning.

Source: "GASP" attention of OHBA-analysis/MEG-GPT (MIT), arXiv 2510.18080.
Axes: row = everything attention is independent over; query, key, dim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.linear import Linear
from neurofm.shapes import Bool, Float


def visible_patches(
    n_patches: int,
    patch: int,
    length_out: int,
    *,
    recent: int = 0,
    band: int | None = None,
    recent_band: int | None = None,
) -> Bool[Tensor, "query key"]:
    """True where a query may look: patches that are over, then recent samples up to itself.

    Queries and keys are aligned at their last sample.

    Args:
        recent: Samples that are keys of their own, behind the patches; at most `length_out`.
        band: Patches this far from the query's at most; all if not given. Counted from the first
            query, so it means a distance in time only where nothing is shortened.
        recent_band: Recent keys whose column is this far from the query's number at most.
    """
    if recent > length_out:
        raise ValueError(
            f"visible_patches: {recent} recent samples for {length_out} queries; there cannot be "
            f"more than queries. Use {length_out} or fewer."
        )
    query = torch.arange(length_out).unsqueeze(1)
    index = torch.arange(n_patches)
    seen = query >= (index + 1 - n_patches) * patch + length_out - 1
    if band is not None:
        seen = seen & ((query // patch - index).abs() <= band)
    if not recent:
        return seen
    index = torch.arange(recent)
    newer = query >= length_out - recent + index
    far = n_patches * patch if recent_band is None else recent_band
    newer = newer & ((query - (n_patches + index)).abs() <= far)
    return torch.cat([seen, newer], 1)


def rotate_halves(
    x: Float[Tensor, "... time dim"], start: int, base: float
) -> Float[Tensor, "... time dim"]:
    """Rotary positions from `start` on; features i and i + dim/2 turn together."""
    time, dim = x.shape[-2:]
    half = torch.arange(dim // 2, device=x.device, dtype=torch.float32)
    position = torch.arange(start, start + time, device=x.device, dtype=torch.float32)
    angle = position.unsqueeze(1) * base ** (-2 * half / dim)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class PatchAttention(nn.Module):
    """Multi-head attention to patches.

    Args:
        patch: Samples of a patch.
        recent: Latest samples that are also keys of their own, uncompressed.
        visible: True where a query (row) may look at a key (column). A query that sees nothing gets
            zeros, before the output's linear map.
        rotary_base: Of rotary positions; none if not given. Needs patches of one sample.
    """

    visible: Tensor
    alive: Tensor

    def __init__(
        self,
        dim: int,
        n_heads: int,
        *,
        patch: int,
        visible: Bool[Tensor, "query key"],
        recent: int = 0,
        rotary_base: float | None = None,
    ) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"PatchAttention: dim {dim} is not a multiple of {n_heads} heads.")
        if rotary_base is not None and (patch > 1 or recent or (dim // n_heads) % 2):
            raise ValueError(
                f"PatchAttention: rotary positions need patches of 1 sample (here {patch}), no "
                f"recent keys (here {recent}) and an even number of features of a head."
            )
        self.n_heads, self.patch, self.recent = n_heads, patch, recent
        self.rotary_base = rotary_base
        if patch > 1:
            self.compress_key = Linear(n_heads * patch, n_heads)
            self.compress_value = Linear(n_heads * patch, n_heads)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        if recent:
            self.recent_key = Linear(dim, dim)
            self.recent_value = Linear(dim, dim)
        self.query = Linear(dim, dim)
        self.out = Linear(dim, dim)
        alive = visible.any(1)
        # A row without any key would divide by zero: it looks everywhere and is then set to zero.
        self.register_buffer("visible", visible | ~alive.unsqueeze(1), persistent=False)
        self.register_buffer("alive", alive.unsqueeze(1), persistent=False)

    def _compress(
        self, x: Float[Tensor, "row time dim"], layer: nn.Module
    ) -> Float[Tensor, "row patch dim"]:
        x = x.unflatten(1, (-1, self.patch)).unflatten(-1, (self.n_heads, -1))
        x = x.permute(0, 1, 4, 3, 2).flatten(-2)  # row patch feature (head sample)
        return layer(x).transpose(-1, -2).flatten(-2)

    def _heads(self, x: Float[Tensor, "row time dim"]) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # row head time feature

    def forward(
        self,
        queries: Float[Tensor, "row query dim"],
        context: Float[Tensor, "row time dim"],
        *,
        key_mask: Bool[Tensor, "row key"] | None = None,
    ) -> Float[Tensor, "row query dim"]:
        """What each query gathers from the context.

        Args:
            queries: The last inputs; as many as `visible` has rows, or fewer without patches.
            key_mask: True = a real key; only without patches and recent keys.
        """
        keys = values = context
        if self.patch > 1:
            keys = self._compress(context, self.compress_key)
            values = self._compress(context, self.compress_value)
        keys, values = self.key(keys), self.value(values)
        if self.recent:
            latest = context[:, -self.recent :]
            keys = torch.cat([keys, self.recent_key(latest)], 1)
            values = torch.cat([values, self.recent_value(latest)], 1)
        q, k, v = (self._heads(x) for x in (self.query(queries), keys, values))
        if self.rotary_base is not None:
            q = rotate_halves(q, context.shape[1] - queries.shape[1], self.rotary_base)
            k = rotate_halves(k, 0, self.rotary_base)
        visible = self.visible[: q.shape[2], : k.shape[2]]
        alive: Tensor = self.alive[: q.shape[2]]
        if key_mask is not None:
            visible = visible & key_mask.unsqueeze(1) & alive
            alive = visible.any(-1, keepdim=True)
            visible, alive = (visible | ~alive).unsqueeze(1), alive.unsqueeze(1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(torch.where(alive, y, 0).transpose(1, 2).flatten(-2))
