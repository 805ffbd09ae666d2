"""Every person against the reference: scatter plots, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, broken, color, headline, label_width, single, styled
from neurofm.types import Result


@dataclass(frozen=True)
class Pairs:
    """One method beside the reference.

    Args:
        reference: Score of each person by the reference.
        method: The same people by the method.
        difference: Mean difference with its interval; `detail` may hold `p_fdr` and `left_out`.
    """

    reference: Sequence[float]
    method: Sequence[float]
    difference: Result


@styled
def plot_people(
    panels: Mapping[str, Pairs],
    *,
    reference: str,
    quantity: str,
    title: str,
    factor: float = 100.0,
    chance: float | None = None,
) -> Figure:
    """One panel per method and one dot per person; above the diagonal the method is better.

    Args:
        panels: Method to scores.
        reference: Its name.
        quantity: With its unit, such as "balanced accuracy (%)".
        factor: Multiplies the scores.
        chance: Dotted lines on both axes.

    Raises:
        ValueError: There is no panel.
    """
    if not panels:
        raise ValueError(f"plot_people: there is nothing to draw for {title!r}.")
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(0.9 + 2.3 * columns, 0.9 + 2.45 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    values = [v for p in panels.values() for v in (*p.reference, *p.method)]
    low, high = factor * min(values), factor * max(values)
    margin = 0.06 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    for i, (name, pairs) in enumerate(panels.items()):
        axes = grid.flat[i]
        axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        if chance is not None:
            axes.axhline(factor * chance, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.axvline(factor * chance, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        first, second = factor * np.array(pairs.reference), factor * np.array(pairs.method)
        axes.plot(
            first, second, "o", color=color(0), markersize=5.5, alpha=0.75, markeredgecolor="white"
        )
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.set_title(broken(name), fontsize=9)
        axes.text(
            0.97,
            0.03,
            _difference(pairs.difference, factor),
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
        if i + columns >= len(panels):
            axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel(f"{reference}: {quantity}", fontsize=9.5)
    figure.supylabel(f"method: {quantity}", fontsize=9.5)
    headline(figure, title)
    return figure


@styled
def plot_differences(
    results: Sequence[Result], *, title: str, quantity: str, factor: float = 100.0
) -> Figure:
    """Mean paired differences with their 95 % intervals; filled where they survive correction.

    Args:
        results: One per method; `detail["p_fdr"]` decides the marker.
        quantity: Of the horizontal axis, with its unit.
    """
    if not results:
        raise ValueError(f"plot_differences: there is nothing to draw for {title!r}.")
    figure, axes = single(
        5.8 + label_width(result.name for result in results), 1.1 + 0.34 * len(results)
    )
    axes.axvline(0, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    for row, result in enumerate(results):
        sure = result.detail.get("p_fdr", 1.0) <= 0.05
        tone = color(0) if sure else MUTED
        if result.low is not None and result.high is not None:
            ends = [factor * result.low, factor * result.high]
            axes.plot(ends, [row, row], color=tone, linewidth=2.6, solid_capstyle="round")
        axes.plot(
            factor * result.value,
            row,
            "D",
            color=tone,
            markersize=6.5,
            markerfacecolor=tone if sure else "white",
            markeredgewidth=1.4,
        )
        axes.annotate(
            _difference(result, factor).replace("\n", "   "),
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=tone if sure else INK,
        )
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=quantity)
    headline(figure, title)
    return figure


def _difference(result: Result, factor: float) -> str:
    text = f"{factor * result.value:+.1f}".replace("-", "−")
    if result.low is not None and result.high is not None:
        ends = f" [{factor * result.low:+.1f}, {factor * result.high:+.1f}]"
        text += ends.replace("-", "−")
    p = result.detail.get("p_fdr", np.nan)
    parts = [] if np.isnan(p) else ["p < 0.001" if p < 0.001 else f"p {p:.3f}"]
    parts += [f"{result.n} people"]
    return text + "\n" + ", ".join(parts)
