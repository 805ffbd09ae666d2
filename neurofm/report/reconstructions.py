"""Figures of reconstructions: images under those seen, regions taken away, optimal images.

Axes: stimulus, 3 height width (0 to 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, broken, color, headline, styled
from neurofm.shapes import Float


@styled
def plot_image_rows(
    rows: Mapping[str, Float[np.ndarray, "stimulus 3 height width"]],
    *,
    title: str,
    columns: int = 12,
    names: Sequence[str] = (),
) -> Figure:
    """Rows of images, the same column for the same stimulus.

    Args:
        rows: Name of each row to its images; the first is usually what was seen.
        columns: As many stimuli are drawn.
        names: Of the columns, below the last row.
    """
    if not rows:
        raise ValueError(f"plot_image_rows: no rows for {title!r}.")
    columns = min(columns, max(len(images) for images in rows.values()))
    figure = Figure(figsize=(1.3 + 0.75 * columns, 0.55 + 0.8 * len(rows) + 0.3 * bool(names)))
    figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.01)
    table = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, images) in zip(table, rows.items(), strict=True):
        for i, axes in enumerate(line):
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if i < len(images):
                axes.imshow(np.clip(np.asarray(images[i]), 0, 1).transpose(1, 2, 0))
        line[0].set_ylabel(broken(name, 14), rotation=0, ha="right", va="center", fontsize=8.5)
    for axes, name in zip(table[-1], names, strict=False):
        axes.set_xlabel(broken(name, 14), fontsize=6.5, color=MUTED)
    headline(figure, title)
    return figure


@styled
def plot_losses(
    losses: Mapping[str, Mapping[str, tuple[float, Float[np.ndarray, " mask"]]]],
    *,
    intact: Mapping[str, float],
    title: str,
    chance: float | None = 0.5,
    xlabel: str = "two-way identification",
) -> Figure:
    """Scores without each region, over those without as many random voxels.

    Args:
        losses: Metric to region to the score without it and the null scores.
        intact: Score of each metric with everything.
    """
    figure = Figure(figsize=(2.2 + 3.0 * len(losses), 1.6 + 0.4 * len(next(iter(losses.values())))))
    figure.set_layout_engine("constrained")
    table = figure.subplots(1, len(losses), squeeze=False, sharey=True)[0]
    for k, (axes, (metric, regions)) in enumerate(zip(table, losses.items(), strict=True)):
        for row, (without, null) in enumerate(regions.values()):
            low, high = np.quantile(null, [0.025, 0.975])
            axes.plot(
                [low, high],
                [row, row],
                color=MUTED,
                linewidth=6,
                alpha=0.4,
                solid_capstyle="butt",
                label="as many random voxels, 95 %" if row == 0 else None,
            )
            axes.plot(without, row, "o", color=color(k), label="without it" if row == 0 else None)
        axes.axvline(intact[metric], color=INK, linewidth=1, label="all voxels")
        if chance is not None:
            axes.axvline(chance, color=MUTED, linestyle=":", linewidth=1, label="chance")
        axes.set(title=metric, xlabel=xlabel, yticks=range(len(regions)))
        axes.set_yticklabels(list(regions))
        axes.set_ylim(len(regions) - 0.5, -0.5)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    headline(figure, title)
    return figure


@styled
def plot_region_responses(
    responses: Mapping[str, Mapping[str, Float[np.ndarray, " image"]]],
    *,
    title: str,
    unit: str = "mean response of the region (z)",
) -> Figure:
    """Responses of regions to kinds of images: every image a dot, the mean a line.

    Args:
        responses: Region to kind of image to a number per image.
    """
    figure = Figure(figsize=(2.0 + 2.2 * len(responses), 3.2), layout="constrained")
    table = figure.subplots(1, len(responses), squeeze=False, sharey=True)[0]
    rng = np.random.default_rng(0)
    for axes, (region, kinds) in zip(table, responses.items(), strict=True):
        for i, values in enumerate(kinds.values()):
            spread = i + rng.uniform(-0.12, 0.12, len(values))
            axes.plot(spread, values, "o", color=color(i), alpha=0.5, markersize=4,
                      markeredgewidth=0)  # fmt: skip
            axes.plot([i - 0.28, i + 0.28], [np.mean(values)] * 2, color=INK, linewidth=1.6)
        axes.set(title=region, xticks=range(len(kinds)))
        axes.set_xticklabels([broken(kind, 10) for kind in kinds])
    table[0].set_ylabel(unit)
    headline(figure, title)
    return figure
