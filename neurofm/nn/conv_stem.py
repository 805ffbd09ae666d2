"""ConvStem: mix channels, filter each mixture in time, average over patches.

The first layers of small networks for windows of one montage: common spatial patterns and a filter
bank, both learned.

Source: IFNet (Wang et al. 2023) with one band, as in DBConformer (arXiv 2506.21140) and MVCNet
(arXiv 2502.17482).
Axes: batch channel time; patch = samples that are averaged.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.shapes import Float


class ConvStem(nn.Module):
    """Convolution over channels, one filter for each of its outputs, GELU, averages of patches.

    Args:
        n_channels: Of every window.
        dim: Mixtures of channels.
        patch: Samples that are averaged; a rest at the end is left out.
        kernel: Samples of a filter in time, odd.
        dropout: Of the averages, in training mode.
        drop_last_sample: Leave the last sample out before averaging.
    """

    def __init__(
        self,
        n_channels: int,
        dim: int,
        *,
        patch: int,
        kernel: int = 63,
        dropout: float = 0.5,
        drop_last_sample: bool = False,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"ConvStem: kernel {kernel} is even, expected an odd number.")
        self.patch, self.drop_last_sample = patch, drop_last_sample
        self.spatial = nn.Conv1d(n_channels, dim, 1, bias=False)
        self.spatial_norm = BatchNorm1d(dim)
        self.temporal = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        self.temporal_norm = BatchNorm1d(dim)
        self.dropout = nn.Dropout(dropout)
        for conv in (self.spatial, self.temporal):
            nn.init.trunc_normal_(conv.weight, std=0.01)

    def n_patches(self, samples: int) -> int:
        """Patches of a window."""
        return (samples - self.drop_last_sample) // self.patch

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch dim patch"]:
        """Averages of each mixture over each patch."""
        x = self.spatial_norm(self.spatial(x))
        x = F.gelu(self.temporal_norm(self.temporal(x)))
        x = x[..., :-1] if self.drop_last_sample else x
        return self.dropout(F.avg_pool1d(x, self.patch))
