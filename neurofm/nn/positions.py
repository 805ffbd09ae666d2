"""Rotary positions in time.

Adjacent features (2i, 2i+1) turn by `time * base^(-2i/dim)`. The frequencies span the full width
of the attention, so its heads turn at different speeds.

Source: Su et al. 2021 (rotary embedding); the span over all heads follows BrainOmni.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neurofm.shapes import Float

# The released BrainOmni weights carry a table of this many positions; longer inputs rebuild it.
RELEASED_POSITIONS = 240


class Rotary(nn.Module):
    """Turn queries and keys by their position.

    Args:
        dim: Width of the attention over all heads; even.
        mode: "rotate" is the rotation. "cosine" multiplies by the cosine alone, which is what the
            released BrainOmni code does with its released weights: exporting them dropped the
            imaginary half of the table. Inputs longer than `RELEASED_POSITIONS` steps make that
            code rebuild the table, so they are rotated in either mode.
    """

    def __init__(
        self, dim: int, *, base: float = 10000.0, mode: Literal["rotate", "cosine"] = "rotate"
    ) -> None:
        super().__init__()
        if mode not in ("rotate", "cosine"):
            raise ValueError(f"Rotary: mode {mode!r} is not one of 'rotate', 'cosine'.")
        self.dim = dim
        self.base = base
        self.mode = mode

    def forward(self, x: Float[Tensor, "... time dim"]) -> Float[Tensor, "... time dim"]:
        """Turn `x`, whose features still hold all heads side by side."""
        n = x.shape[-2]
        pair = torch.arange(self.dim // 2, device=x.device, dtype=torch.float32)
        frequency = self.base ** (-2 * pair / self.dim)
        time = torch.arange(n, device=x.device, dtype=torch.float32)
        angle = torch.outer(time, frequency)  # time pair
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cosine = angle.cos()
        if self.mode == "cosine" and n <= RELEASED_POSITIONS:
            turned = torch.stack([even * cosine, odd * cosine], -1)
        else:
            sine = angle.sin()
            turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
        return turned.flatten(-2).to(x.dtype)
