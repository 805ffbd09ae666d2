"""Linear maps at the full width of the processor's vectors.

PyTorch multiplies float32 matrices on a CPU through MKL, which uses half of the vector width on
processors that are not Intel's. Its convolutions go through oneDNN, which asks the processor
itself. A linear map over many rows is a convolution of size 1, so that is how it runs here: twice
as fast there, forward and backward, equal to rounding, and no slower elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.shapes import Float

_IMAGES = 16  # PyTorch hands small convolutions of fewer images to MKL
_FEWEST = 8_000_000  # multiply-adds below which setting up a convolution costs more than it saves
_WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"


def linear(
    x: Float[Tensor, "... feature"],
    weight: Float[Tensor, "out feature"],
    bias: Float[Tensor, " out"] | None = None,
) -> Float[Tensor, "... out"]:
    """`F.linear`, by whichever library is faster at this size."""
    out, features = weight.shape
    rows = x.numel() // features
    if (
        not _WIDE
        or x.device.type != "cpu"
        or not x.dtype == weight.dtype == torch.float32
        or rows * features * out < _FEWEST
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    flat = x.reshape(rows, features)
    if rows % _IMAGES:
        flat = F.pad(flat, (0, 0, 0, -rows % _IMAGES))
    image = flat.view(_IMAGES, 1, -1, features).permute(0, 3, 1, 2)  # channels-last in memory
    y = F.conv2d(image, weight[:, :, None, None], bias).permute(0, 2, 3, 1)
    return y.reshape(-1, out)[:rows].view(*x.shape[:-1], out)


class Linear(nn.Linear):
    """`nn.Linear` through `linear`; the same parameters and start."""

    def forward(self, input: Float[Tensor, "... feature"]) -> Float[Tensor, "... out"]:
        """One linear map for every row."""
        return linear(input, self.weight, self.bias)
