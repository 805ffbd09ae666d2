"""Scores against the share of labels, one panel per model, baselines and chance behind them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from neurofm.figures.style import INK, MUTED, color, styled

_GREYS = ("#6b7280", "#9aa1ab", "#b9bec6", "#d0d4da")
_DASHES = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1, 1, 1)), (0, (2, 2)))


@dataclass(frozen=True)
class ShareCurve:
    """One method over shares of the labels.

    Args:
        label: In the legend.
        shares: 0 to 1, increasing.
        values: Percent, one per share.
        low: Ends of the intervals; None draws none.
        high: The same.
        hue: Number of the colour; None is grey.
        dashed: Drawn with dashes.
    """

    label: str
    shares: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    hue: int | None = None
    dashed: bool = False


@styled
def plot_share_curves(
    panels: Mapping[str, Sequence[ShareCurve]],
    baselines: Sequence[ShareCurve],
    *,
    chance: float,
    ylabel: str,
    title: str,
    trials: Mapping[float, float] | None = None,
) -> Figure:
    """Learning curves in panels of one scale.

    Args:
        panels: Title to curves.
        baselines: Drawn grey in every panel.
        chance: Percent.
        ylabel: With its unit.
        title: Of the figure; says how many people.
        trials: Share to number of training trials, for the tick labels.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError(f"plot_share_curves: there is nothing to draw for {title!r}.")
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 1.4 + 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, panels, strict=False):
        axes.axhline(chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        for i, curve in enumerate(baselines):
            dash = _DASHES[i % len(_DASHES)]
            axes.plot(
                curve.shares, curve.values, color=_GREYS[i % len(_GREYS)], linestyle=dash, lw=1.2
            )
        for curve in panels[name]:
            _draw(axes, curve)
        axes.set_title(textwrap.fill(name, 32))
        _share_axis(axes, [c for c in (*panels[name], *baselines)], trials or {})
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    xlabel = "share of the labels" + (", trials of a group" if trials else "")
    for i in range(len(panels)):
        row, column = divmod(i, columns)
        if i + columns >= len(panels):  # nothing below
            grid[row, column].set_xlabel(xlabel)
            grid[row, column].tick_params(labelbottom=True)
    figure.supylabel(ylabel, fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    handles = _handles(panels, baselines)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, handlelength=3.6)
    return figure


def _draw(axes: Axes, curve: ShareCurve) -> None:
    tone = MUTED if curve.hue is None else color(curve.hue)
    style = (0, (4, 2)) if curve.dashed else "-"
    axes.plot(
        curve.shares,
        curve.values,
        color=tone,
        linestyle=style,
        marker="o",
        markersize=3.5,
        markerfacecolor="white" if curve.dashed else tone,
    )
    if curve.low is not None and curve.high is not None:
        alpha = 0.07 if curve.dashed else 0.16
        axes.fill_between(curve.shares, curve.low, curve.high, color=tone, alpha=alpha, lw=0)


def _share_axis(axes: Axes, curves: Sequence[ShareCurve], trials: Mapping[float, float]) -> None:
    shares = sorted({share for curve in curves for share in curve.shares})
    axes.set_xscale("log")
    axes.minorticks_off()
    texts = [
        f"{100 * share:g} %" + (f"\n{trials[share]:.0f}" if share in trials else "")
        for share in shares
    ]
    axes.set_xticks(shares, texts)


def _handles(
    panels: Mapping[str, Sequence[ShareCurve]], baselines: Sequence[ShareCurve]
) -> list[Line2D]:
    handles: dict[str, Line2D] = {}
    for curve in (curve for curves in panels.values() for curve in curves):
        tone = MUTED if curve.hue is None else color(curve.hue)
        line = Line2D([], [], color=tone, marker="o", ms=3.5, label=curve.label)
        if curve.dashed:
            line.set_linestyle((0, (4, 2)))
            line.set_markerfacecolor("white")
        handles.setdefault(curve.label, line)
    for i, curve in enumerate(baselines):
        handles[curve.label] = Line2D(
            [],
            [],
            color=_GREYS[i % len(_GREYS)],
            linestyle=_DASHES[i % len(_DASHES)],
            label=curve.label,
        )
    handles["chance"] = Line2D([], [], color=INK, lw=0.9, linestyle=(0, (1, 2)), label="chance")
    return list(handles.values())
