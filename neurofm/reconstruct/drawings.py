"""Figures of images made for regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, color, headline, slant, styled

if TYPE_CHECKING:
    from torch import Tensor

    from neurofm.reconstruct.roi_synthesis import RegionImages

_SHOWN = 4


@styled
def plot_region_images(found: RegionImages) -> Figure:
    """Its images above those for random voxels; responses; tuning over regions."""
    own, control = found.images[:_SHOWN], found.control_images[:_SHOWN]
    columns = max(len(own), len(control))
    tuned = bool(found.tuning)
    width = 1.5 * columns + 3.0 + 3.0 * tuned
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    ratios = [1.5] * columns + [3.0] * (1 + tuned)
    grid = figure.add_gridspec(2, columns + 1 + tuned, width_ratios=ratios)
    for row, (images, label) in enumerate(((own, "its images"), (control, "random voxels"))):
        for column in range(columns):
            axes = figure.add_subplot(grid[row, column])
            axes.set_axis_off()
            if column < len(images):
                _show(axes, images[column])
            if column == 0:
                axes.set_title(label, fontsize=9)
    _responses(figure.add_subplot(grid[:, columns]), found)
    if tuned:
        _tuning(figure.add_subplot(grid[:, columns + 1]), found)
    headline(figure, str(found))
    return figure


def _show(axes: Axes, image: Tensor) -> None:
    pixels = image.detach().cpu().float().numpy().transpose(1, 2, 0).clip(0, 1)
    axes.imshow(pixels, interpolation="nearest")


def _responses(axes: Axes, found: RegionImages) -> None:
    rng = np.random.default_rng(0)
    groups = {"its images": found.response, "random voxels": found.control_response}
    if found.natural_response.size:
        groups["natural"] = found.natural_response
    for k, (_, values) in enumerate(groups.items()):
        shade = MUTED if k == 2 else color(k)
        axes.scatter(
            k + rng.uniform(-0.15, 0.15, len(values)), values, s=12, color=shade, alpha=0.6
        )
        axes.hlines(values.mean(), k - 0.3, k + 0.3, color=INK)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(ylabel=f"mean response of {found.region}")
    slant(axes, 5)


def _tuning(axes: Axes, found: RegionImages) -> None:
    names = list(found.tuning)
    at = np.arange(len(names))
    shades = [color(0) if name == found.region else MUTED for name in names]
    axes.bar(at, [found.tuning[name] for name in names], color=shades)
    if found.tuning_natural:
        mean, spread = np.array([found.tuning_natural[name] for name in names]).T
        axes.errorbar(at, mean, spread, fmt="o", color=INK, ms=4, label="natural, mean ± SD")
        axes.legend(loc="best")
    axes.set_xticks(at, names)
    axes.set(ylabel="mean response", title="all regions, to its images")
    slant(axes, 5)
