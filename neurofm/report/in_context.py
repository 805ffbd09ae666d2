"""Figures of encoding models that are read from a context.

Axes: voxel; stimulus of the context.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, SIGNED, color, single, styled
from neurofm.shapes import Float
from neurofm.types import Result


@styled
def plot_context_curve(
    sizes: Sequence[int],
    curves: Mapping[str, Sequence[Result]],
    *,
    title: str,
    limits: Mapping[str, Result | float] | None = None,
    unit: str = "explained variance (%)",
) -> Figure:
    """Score against the size of the context, with intervals, and what it could reach.

    Args:
        sizes: Of contexts; a logarithmic axis.
        curves: A result for every size, by method; shares, drawn as percent.
        limits: Scores that need no context, such as of weights fitted to everything, and ceilings.

    Raises:
        ValueError: Another number of results than of sizes.
    """
    wrong = [name for name, results in curves.items() if len(results) != len(sizes)]
    if wrong:
        raise ValueError(f"plot_context_curve: {wrong} have no result for each of {sizes}.")
    figure, axes = single(6.4, 3.6)
    for i, (name, results) in enumerate(curves.items()):
        low, value, high = (
            100 * np.array([getattr(result, end) for result in results], dtype=float)
            for end in ("low", "value", "high")
        )
        axes.plot(sizes, value, "o-", ms=4, color=color(i), label=name)
        axes.fill_between(sizes, low, high, color=color(i), alpha=0.2, lw=0)
    for i, (name, limit) in enumerate((limits or {}).items()):
        height = limit.value if isinstance(limit, Result) else limit
        style = ("--", ":", "-.")[i % 3]
        axes.axhline(100 * height, color=INK if i else MUTED, lw=1.2, ls=style, label=name)
        if isinstance(limit, Result) and limit.low is not None and limit.high is not None:
            axes.axhspan(100 * limit.low, 100 * limit.high, color=MUTED, alpha=0.12, lw=0)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_xscale("log")
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="stimuli in the context", ylabel=unit, title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_defining_stimuli(
    attention: Mapping[str, Float[np.ndarray, " stimulus"]],
    response: Mapping[str, Float[np.ndarray, " stimulus"]],
    *,
    title: str,
    content: Mapping[str, Float[np.ndarray, " stimulus"]] | None = None,
    content_name: str = "",
) -> Figure:
    """Attention to each stimulus of a context against the voxel's response to it.

    Args:
        attention: By voxel: share of what is read that came from the stimulus, 0 to 1.
        response: By voxel, z.
        content: By voxel: how much of something a stimulus holds, as colour.
        content_name: What of.
    """
    n = len(attention)
    figure = Figure(figsize=(2.9 * n + 1.0, 3.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, n, sharey=True))
    reach = max((float(np.abs(c).max()) for c in (content or {}).values()), default=1.0)
    image = None
    for panel, name in zip(panels, attention, strict=True):
        values = content[name] if content else np.zeros(len(attention[name]))
        given = (response[name], 100 * attention[name])
        options = {"cmap": SIGNED, "vmin": -reach, "vmax": reach, "edgecolor": INK, "lw": 0.3}
        image = panel.scatter(*given, c=values, s=22, **options)
        panel.axhline(100 / len(values), color=MUTED, ls=(0, (4, 3)), lw=1.2, label="all alike")
        panel.set(xlabel="response to the stimulus (z)", title=name)
    panels[0].set_ylabel("attention (%)")
    panels[0].legend(loc="upper center")
    if content and image is not None:
        figure.colorbar(image, ax=list(panels), label=content_name)
    figure.suptitle(title, x=0.01, ha="left", weight="bold", color=INK)
    return figure


@styled
def plot_sheets(
    rows: Mapping[str, Mapping[str, Float[np.ndarray, " voxel"]]],
    position: Float[np.ndarray, "voxel 2"],
    *,
    title: str,
    unit: str,
) -> Figure:
    """Maps on a flat sheet of voxels: a row for each way of getting them, a column for each thing.

    Args:
        rows: Values by row and column; all rows have the same columns. Each row has its own scale.
        position: Column and row of each voxel on the sheet.
        unit: Of the values.
    """
    columns = list(next(iter(rows.values())))
    size = (1.5 * len(columns) + 1.2, 1.55 * len(rows) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    column, row = position.astype(int).T
    for number, (name, maps) in enumerate(rows.items()):
        line = panels[number]
        reach = max(float(np.nanmax(np.abs(values))) for values in maps.values()) or 1.0
        for axes, key in zip(line, columns, strict=True):
            sheet = np.full((row.max() + 1, column.max() + 1), np.nan)
            sheet[row, column] = maps[key]
            image = axes.imshow(sheet, cmap=SIGNED, vmin=-reach, vmax=reach, origin="lower")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            if number == 0:
                axes.set_title(key, loc="center")
        line[0].set_ylabel(name)
        figure.colorbar(image, ax=list(line), label=unit, shrink=0.85)
    panels[-1][0].set_xlabel(f"{sheet.shape[1]} voxels")
    figure.suptitle(title, x=0.01, ha="left", weight="bold", color=INK)
    return figure
