"""Scores against what they cost: labels, people to train on, processor time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from neurofm.figures.style import INK, MUTED, color, headline, single, styled
from neurofm.types import Result

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

    Raises:
        ValueError: There is no curve.
    """
    if not trends:
        raise ValueError(f"plot_learning_curves: there is nothing to draw for {title!r}.")
    figure, axes = single(8.6, 3.9)
    places = sorted({x for trend in trends.values() for x in trend.at})
    for i, (name, trend) in enumerate(trends.items()):
        # Methods stand beside each other, so that their intervals can be told apart.
        aside = 1 + 0.012 * (i - (len(trends) - 1) / 2)
        x = np.asarray(trend.at, dtype=float) * aside
        axes.plot(
            x,
            [factor * r.value for r in trend.results],
            color=color(i),
            marker=_MARKERS[i // 8 % len(_MARKERS)],
            linestyle="-" if i < 8 else (0, (4, 2)),
            markersize=4.5,
            label=name,
        )
        for place, r in zip(x, trend.results, strict=True):
            if r.low is not None and r.high is not None:
                axes.vlines(place, factor * r.low, factor * r.high, color=color(i), lw=1, alpha=0.5)
    if chance is not None:
        axes.axhline(factor * chance, color=INK, lw=1, linestyle=(0, (1, 2)), label="chance")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, [f"{x:.3g}" for x in places])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    headline(figure, title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


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
    figure, axes = single(9.0, 1.9 + 0.24 * max(8, len(points)))
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
