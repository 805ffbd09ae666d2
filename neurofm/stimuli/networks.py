"""A network that has learned nothing: what any features of that shape predict.

Source: Saxe et al. 2011 (random weights); He et al. 2015 (their size).
Axes: stimulus, 3 height width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


def random_network(
    *, seed: int = 0, channels: Sequence[int] = (32, 64, 128, 128), kernel: int = 5
) -> nn.Sequential:
    """Convolutions with random weights, each halving the picture: sites "block1", "block2", ...

    Args:
        seed: Of the weights; nothing else is random.
        channels: Of each block.
        kernel: Side of the filters, pixels; odd.

    Raises:
        ValueError: No block, or an even kernel.
    """
    if not channels or kernel % 2 == 0:
        raise ValueError(
            f"random_network: channels {list(channels)}, kernel {kernel}; expected at least one "
            "block and an odd kernel."
        )
    generator = torch.Generator().manual_seed(seed)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for i, width in enumerate(channels, start=1):
        convolution = nn.Conv2d(before, width, kernel, stride=2, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
        # Filters that do not answer to plain light, as those of trained networks.
        with torch.no_grad():
            convolution.weight -= convolution.weight.mean(dim=(2, 3), keepdim=True)
        blocks[f"block{i}"] = nn.Sequential(convolution, nn.ReLU())
        before = width
    return nn.Sequential(blocks).eval().requires_grad_(False)
