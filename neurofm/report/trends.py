"""Scores against what they cost: labels, people to train on, processor time."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from neurofm.figures.style import INK, MUTED, color, headline, single, styled
from neurofm.types import Result

_TOGETHER = 8  # curves that can be told apart in one panel
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Trend:
    """One method at several amounts.

    Args:
        at: Trials per class, or people; increasing.
        results: One for each, with intervals.
    """

    at: Sequence[float]
    results: Sequence[Result]


@styled
def plot_learning_curves(
    trends: Mapping[str, Trend],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    chance: float | None = None,
    factor: float = 100.0,
) -> Figure:
    """Scores against the amount of training data, with 95 % intervals over people.

    Methods with one amount are left out beside others; more than eight have a panel each.

    Raises:
        ValueError: There is no curve.
    """
    if not trends:
        raise ValueError(f"plot_learning_curves: there is nothing to draw for {title!r}.")
    trends = {n: t for n, t in trends.items() if len(t.at) > 1} or trends
    if len(trends) > _TOGETHER:
        return _panels(trends, xlabel, ylabel, title, chance, factor)
    figure, axes = single(8.6, 3.9)
    for i, (name, trend) in enumerate(trends.items()):
        # Methods stand beside each other, so that their intervals can be told apart.
        _draw(
            axes, trend, factor, color(i), aside=1 + 0.012 * (i - (len(trends) - 1) / 2), label=name
        )
    _amounts(axes, trends, chance, factor)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    headline(figure, title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _panels(
    trends: Mapping[str, Trend],
    xlabel: str,
    ylabel: str,
    title: str,
    chance: float | None,
    factor: float,
) -> Figure:
    """A panel for each method, the best first, all others behind it in grey."""
    columns = 5
    rows = math.ceil(len(trends) / columns)
    figure = Figure(figsize=(0.6 + 2.1 * columns, 1.0 + 1.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    ordered = sorted(trends, key=lambda name: -trends[name].results[-1].value)
    for axes, name in zip(grid.flat, ordered, strict=False):
        for other in trends.values():
            values = [factor * r.value for r in other.results]
            axes.plot(other.at, values, color=MUTED, lw=0.6, alpha=0.35)
        _draw(axes, trends[name], factor, color(0))
        _amounts(axes, trends, chance, factor)
        axes.set_title(textwrap.fill(name, 28), fontsize=8)
    for i, axes in enumerate(grid.flat):
        axes.set_visible(i < len(trends))
        axes.tick_params(labelbottom=i + columns >= len(trends))
    figure.supxlabel(xlabel, fontsize=9.5)
    figure.supylabel(ylabel, fontsize=9.5)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _draw(
    axes: Axes, trend: Trend, factor: float, tone: str, *, aside: float = 1.0, label: str = ""
) -> None:
    x = np.asarray(trend.at, dtype=float) * aside
    values = [factor * r.value for r in trend.results]
    axes.plot(x, values, color=tone, marker="o", markersize=4.5, label=label)
    for place, r in zip(x, trend.results, strict=True):
        if r.low is not None and r.high is not None:
            axes.vlines(place, factor * r.low, factor * r.high, color=tone, lw=1, alpha=0.5)


def _amounts(axes: Axes, trends: Mapping[str, Trend], chance: float | None, factor: float) -> None:
    """Chance, and a tick for every amount."""
    if chance is not None:
        axes.axhline(factor * chance, color=INK, lw=1, linestyle=(0, (1, 2)), label="chance")
    places = sorted({x for trend in trends.values() for x in trend.at})
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [f"{x:.3g}" for x in places])


@styled
def plot_cost(
    points: Mapping[str, tuple[float, Result, int | None]],
    *,
    ylabel: str,
    title: str,
    chance: float | None = None,
    factor: float = 100.0,
) -> Figure:
    """Scores against the processor time of one decoder, pretraining included.

    Args:
        points: Method to processor seconds, its score, and the number of its parameters, if known:
            written beside the name.

    Raises:
        ValueError: There is no method.
    """
    if not points:
        raise ValueError(f"plot_cost: there is nothing to draw for {title!r}.")
    beside = 0.07 * max(map(len, points))  # inches of names
    figure, axes = single(6.0 + beside, 1.9 + 0.24 * max(8, len(points)))
    for i, (name, (seconds, result, size)) in enumerate(points.items()):
        x, y = max(seconds, 1e-3), factor * result.value
        if result.low is not None and result.high is not None:
            axes.vlines(
                x, factor * result.low, factor * result.high, color=color(i), lw=1.4, alpha=0.5
            )
        axes.plot(
            x,
            y,
            _MARKERS[i // 8 % len(_MARKERS)],
            color=color(i),
            markersize=8,
            markeredgecolor="white",
            label=f"{name}" + (f" ({_count(size)})" if size else ""),
            linestyle="none",
        )
    if chance is not None:
        axes.axhline(factor * chance, color=MUTED, lw=1, linestyle=(0, (1, 2)), label="chance")
    axes.set_xscale("log")
    axes.set(xlabel="processor time of one decoder, pretraining included (s)", ylabel=ylabel)
    headline(figure, title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="method (parameters)")
    return figure


def _count(size: int) -> str:
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{size / limit:.3g} {letter}"
    return str(size)
