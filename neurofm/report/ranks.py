"""Who is better than whom: critical-difference diagrams and tables of ranks.

Source: Demšar 2006 (the diagram: average ranks on a line, bars over those that do not differ).
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.stats import rankdata

from neurofm.figures.style import INK, MUTED, PALETTE, headline, label_width, single, styled
from neurofm.shapes import Float


@styled
def plot_critical_difference(
    labels: Sequence[str], ranks: Sequence[float], *, difference: float, title: str
) -> Figure:
    """Average ranks on a line; a bar joins methods that lie closer than the critical difference.

    Args:
        ranks: One per label; 1 is best.
        difference: Ranks further apart than this differ.
        title: Says what was ranked on how many rows.

    Raises:
        ValueError: Fewer than two methods, or not one rank each.
    """
    if len(labels) < 2 or len(labels) != len(ranks):
        raise ValueError(
            f"plot_critical_difference: {len(labels)} labels and {len(ranks)} ranks; expected one "
            "rank per label, and two or more."
        )
    order = np.argsort(ranks, kind="stable")
    values = np.asarray(ranks, dtype=float)[order]
    names = [labels[i] for i in order]
    k, left = len(values), (len(values) + 1) // 2
    cliques = _cliques(values, difference)
    step = 0.42
    floor = 0.35 + 0.2 * len(cliques)
    figure, axes = single(4.6 + 2 * label_width(names), 1.35 + 0.24 * len(cliques) + 0.36 * left)
    axes.set_xlim(k + 0.3, 0.7)  # the best at the right
    axes.set_ylim(-(floor + step * left), 1.0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.plot([1, k], [0, 0], color=INK, linewidth=1.2)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.1], color=INK, linewidth=1)
        axes.text(tick, 0.16, str(tick), ha="center", va="bottom", fontsize=8.5)
    axes.plot([k, k - difference], [0.72, 0.72], color=PALETTE[1], linewidth=2.4, clip_on=False)
    middle = k - difference / 2
    axes.text(
        middle,
        0.78,
        f"critical difference {difference:.2f}",
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=PALETTE[1],
    )
    for row, (low, high) in enumerate(cliques):
        y = -0.2 - 0.2 * row
        ends = [values[low] - 0.04, values[high] + 0.04]
        axes.plot(ends, [y, y], color=PALETTE[0], linewidth=3.2, solid_capstyle="round")
    for place, (value, name) in enumerate(zip(values, names, strict=True)):
        right = place < left  # the better half, read from the right edge inwards
        row = place if right else k - 1 - place
        y = -(floor + step * row + 0.15)
        edge = 0.85 if right else k + 0.15
        axes.plot([value, value, edge], [0, y, y], color=MUTED, linewidth=0.8)
        axes.annotate(
            f"{name}  {value:.2f}" if not right else f"{value:.2f}  {name}",
            (edge, y),
            xytext=(4 if right else -4, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    headline(figure, title)
    axes.text(
        1.0,
        -0.02,
        "average rank, 1 = best; blue bars join methods that do not differ",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=MUTED,
    )
    return figure


def _cliques(values: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """Longest runs of sorted ranks closer than the difference; of two or more methods."""
    found: list[tuple[int, int]] = []
    for low in range(len(values)):
        high = int(np.flatnonzero(values - values[low] < difference)[-1])
        if high > low and not (found and found[-1][1] >= high):
            found.append((low, high))
    return found


@styled
def plot_rank_table(
    scores: Float[np.ndarray, "method place"],
    methods: Sequence[str],
    places: Sequence[str],
    *,
    title: str,
    unit: str,
    better: int = 1,
    factor: float = 100.0,
) -> Figure:
    """Scores of every method at every place, coloured by rank; the average rank at the right.

    Args:
        scores: NaN where a method was not run.
        places: Data set and protocol.
        unit: Of the numbers in the cells.
        better: 1 if larger is better, -1 if smaller is.
        factor: Multiplies the numbers: 100 shows fractions as percent.
    """
    table = np.asarray(scores, dtype=float)
    if table.shape != (len(methods), len(places)):
        raise ValueError(
            f"plot_rank_table: scores {table.shape} for {len(methods)} methods and {len(places)} "
            "places."
        )
    ranks = np.full(table.shape, np.nan)
    for column in range(len(places)):
        known = ~np.isnan(table[:, column])
        ranks[known, column] = rankdata(-better * np.round(table[known, column], 9))
    known = ~np.isnan(ranks)
    total = np.where(known, ranks, 0).sum(1)
    mean = np.divide(total, known.sum(1), out=np.full(len(methods), np.nan), where=known.any(1))
    # Who misses a place cannot be averaged with the others; listed below them.
    order = np.lexsort((mean, ~known.all(1)))
    share = (ranks - 1) / max(len(methods) - 1, 1)
    width = 1.2 + label_width(methods) + 1.25 * (len(places) + 1)
    figure, axes = single(width, 1.5 + 0.36 * len(methods))
    shown = colormaps["Blues"](0.72 * (1 - np.nan_to_num(share[order], nan=1.0)))
    shown[~known[order]] = (1, 1, 1, 1)
    blank = np.ones((len(methods), 1, 4))
    axes.imshow(np.concatenate([shown, blank], 1), aspect="auto")
    for row, method in enumerate(order):
        for column in range(len(places)):
            value = table[method, column]
            first = ranks[method, column] == 1
            axes.text(
                column,
                row,
                "–" if np.isnan(value) else f"{factor * value:.{1 if factor > 1 else 2}f}",
                ha="center",
                va="center",
                fontweight="bold" if first else "normal",
                color="white" if share[method, column] < 0.3 else INK,
            )
        complete = bool(known[method].all())
        text = f"{mean[method]:.1f}" if complete else "–"
        axes.text(len(places), row, text, ha="center", va="center", fontweight="bold")
    axes.set_yticks(range(len(methods)), [methods[i] for i in order])
    named = ["\n".join(line for p in place.split(", ") for line in wrap(p, 18)) for place in places]
    axes.set_xticks(range(len(places) + 1), [*named, "mean rank"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    for line in range(1, len(methods)):
        axes.axhline(line - 0.5, color="white", linewidth=2)
    for line in range(1, len(places) + 1):
        axes.axvline(line - 0.5, color="white", linewidth=2)
    headline(figure, title)
    axes.set_xlabel(f"{unit}; the darker, the better the rank", fontsize=8.5)
    return figure
