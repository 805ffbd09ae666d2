"""A core that needs no download and learns nothing: local contrast energy and colour.

What early visual areas are known to answer to, as feature maps: quadrature pairs of Gabor filters
of several orientations and spatial frequencies on grey, log of 1 + their energy, and luminance and
two opponent colours, averaged over the cells of a grid.

Source: Adelson & Bergen 1985 (energy); Kay et al. 2008 (encoding models from Gabor wavelets).
Axes: batch rgb height width, 0 to 1; batch dim row column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models.visual_cores import check_images
from neurofm.shapes import Float

_OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0))
_BANDWIDTH = 0.56  # deviation of the envelope in wavelengths: one octave
_GAIN = 20.0  # before the logarithm, so that usual contrasts are compressed


@configured
class GaborCore(nn.Module):
    """Fixed filters.

    Args:
        grid: Rows and columns of the maps.
        orientations: From 0 to below 180 degrees.
        cycles: Spatial frequencies, cycles per pixel, below 0.5.
    """

    def __init__(
        self,
        *,
        grid: int = 8,
        orientations: int = 4,
        cycles: Sequence[float] = (0.06, 0.14, 0.28),
    ) -> None:
        super().__init__()
        if grid < 1 or orientations < 1 or not cycles or not all(0 < c < 0.5 for c in cycles):
            raise ValueError(
                f"GaborCore: grid {grid}, {orientations} orientations, cycles {list(cycles)}; "
                "expected at least 1 of each, and 0 to 0.5 cycles per pixel."
            )
        self.grid, self.cycles = grid, tuple(cycles)
        self.dim = orientations * len(self.cycles) + len(_OPPONENT)
        for i, cycle in enumerate(self.cycles):
            self.register_buffer(f"pair_{i}", gabors(cycle, orientations), persistent=False)
        self.register_buffer("opponent", torch.tensor(_OPPONENT), persistent=False)

    @torch.no_grad()
    def forward(
        self, image: Float[Tensor, "batch rgb height width"]
    ) -> Float[Tensor, "batch dim row column"]:
        """Feature maps: energies, slow waves first, then luminance and colours.

        Raises:
            ValueError: No images, or of fewer pixels than the grid has cells.
        """
        check_images(image, "GaborCore")
        if min(image.shape[2:]) < self.grid:
            raise ValueError(
                f"GaborCore: images of {image.shape[2]} x {image.shape[3]} for a grid of "
                f"{self.grid} x {self.grid}. Use larger images or a smaller grid."
            )
        grey = image.mean(1, keepdim=True)
        grey = grey - grey.mean((2, 3), keepdim=True)
        maps = []
        for i in range(len(self.cycles)):
            filters = self.get_buffer(f"pair_{i}")  # twice orientation, 1, size, size
            reach = filters.shape[-1] // 2
            found = F.conv2d(grey, filters, padding=reach).unflatten(1, (2, -1))
            maps.append(self._cells(found.square().sum(1).sqrt(), log=True))
        colours = torch.einsum("or,brhw->bohw", self.get_buffer("opponent"), image)
        return torch.cat([*maps, self._cells(colours, log=False)], 1)

    def _cells(self, maps: Tensor, *, log: bool) -> Tensor:
        means = F.adaptive_avg_pool2d(maps, self.grid)
        return torch.log1p(_GAIN * means) if log else means


def gabors(cycle: float, orientations: int) -> Float[Tensor, "filter 1 size size"]:
    """Even filters of all orientations, then odd ones; each sees nothing in a plain field."""
    sigma = _BANDWIDTH / cycle
    reach = min(math.ceil(2.5 * sigma), 15)
    line = torch.arange(-reach, reach + 1.0)
    row, column = torch.meshgrid(line, line, indexing="ij")
    envelope = torch.exp(-(row.square() + column.square()) / (2 * sigma**2))
    even: list[Tensor] = []
    odd: list[Tensor] = []
    for k in range(orientations):
        angle = math.pi * k / orientations
        phase = 2 * math.pi * cycle * (math.cos(angle) * column + math.sin(angle) * row)
        for kept, wave in ((even, phase.cos()), (odd, phase.sin())):
            wave = envelope * wave
            wave = wave - envelope * wave.sum() / envelope.sum()
            kept.append(wave / wave.norm())
    return torch.stack([*even, *odd]).unsqueeze(1)
