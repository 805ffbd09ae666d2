"""Dilated convolutions over time with residuals and gates; and ways to sum up time.

Source: Defossez et al. 2023 (arXiv 2208.12266), facebookresearch/brainmagick; time as in
facebookresearch/neuroai (neuraltrain).
Axes: batch dim time.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.shapes import Float

Summary = Literal["mean", "linear", "attention"]


class DilatedBlock(nn.Module):
    """Convolution, batch norm and GELU, added to the input where it has the same size.

    Args:
        gated: A further convolution to twice the features, half of which gate the others (GLU).
    """

    def __init__(self, dim_in: int, dim: int, *, kernel: int, dilation: int, gated: bool) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv1d(dim_in, dim, kernel, dilation=dilation, padding=padding)
        self.norm = BatchNorm1d(dim)
        self.gate = nn.Conv1d(dim, 2 * dim, 3, padding=1) if gated else None

    def forward(self, x: Float[Tensor, "batch feature time"]) -> Float[Tensor, "batch dim time"]:
        """As many samples."""
        y = F.gelu(self.norm(self.conv(x)))
        if y.shape == x.shape:
            y = y + x
        return y if self.gate is None else F.glu(self.gate(y), dim=1)


def dilated_blocks(
    dim_in: int, dim: int, depth: int, *, kernel: int = 3, period: int = 5, gate_every: int = 2
) -> nn.Sequential:
    """Blocks whose dilation doubles and starts again at 1 after `period` of them.

    Args:
        gate_every: Every so many blocks end with a gate; 0 for none.
    """
    if depth < 1 or period < 1 or kernel % 2 == 0 or gate_every < 0:
        raise ValueError(
            f"dilated_blocks: depth {depth}, period {period}, kernel {kernel}, gate_every "
            f"{gate_every}; expected depth and period of at least 1, an odd kernel, and no "
            "negative gate_every."
        )
    return nn.Sequential(
        *(
            DilatedBlock(
                dim if i else dim_in,
                dim,
                kernel=kernel,
                dilation=2 ** (i % period),
                gated=bool(gate_every) and (i + 1) % gate_every == 0,
            )
            for i in range(depth)
        )
    )


class TimeSummary(nn.Module):
    """One vector for all samples.

    Args:
        how: "mean"; "linear", a learned weight for every sample and an offset; or "attention", a
            softmax over samples of a small network of each.
        n_times: Samples of every window, for "linear".
        hidden: Width of that network.
    """

    def __init__(
        self, dim: int, how: Summary = "linear", *, n_times: int | None = None, hidden: int = 256
    ) -> None:
        super().__init__()
        if how not in ("mean", "linear", "attention"):
            raise ValueError(f"TimeSummary: {how!r} is not one of 'mean', 'linear', 'attention'.")
        self.how, self.n_times = how, n_times
        if how == "linear":
            if n_times is None:
                raise ValueError("TimeSummary: 'linear' has a weight per sample; give n_times.")
            self.weigh: nn.Module = nn.Linear(n_times, 1)
        elif how == "attention":
            self.weigh = nn.Sequential(
                nn.Linear(dim, hidden, bias=False), nn.Tanh(), nn.Linear(hidden, 1, bias=False)
            )

    def forward(self, x: Float[Tensor, "batch dim time"]) -> Float[Tensor, "batch dim"]:
        """Summary of each window.

        Raises:
            ValueError: Another number of samples than "linear" was built for.
        """
        if self.how == "mean":
            return x.mean(-1)
        if self.how == "attention":
            share = self.weigh(x.transpose(1, 2)).squeeze(-1).softmax(-1)  # batch time
            return torch.einsum("bdt,bt->bd", x, share)
        if x.shape[-1] != self.n_times:
            raise ValueError(
                f"TimeSummary: windows of {x.shape[-1]} samples, built for n_times={self.n_times}. "
                "Build it for these windows, or sum up time by 'mean' or 'attention'."
            )
        return self.weigh(x).squeeze(-1)
