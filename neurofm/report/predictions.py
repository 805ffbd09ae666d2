"""What decoders say, method by method: confusion matrices and reliability of probabilities.

Source: Guo et al. 2017 (reliability diagrams). Axes: window = one prediction; output = class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, broken, color, headline, slant, styled
from neurofm.shapes import Float


@styled
def plot_confusions(
    counts: Mapping[str, Float[np.ndarray, "true predicted"]], labels: Sequence[str], *, title: str
) -> Figure:
    """One matrix per method: share of the true class as colour and percent, windows below it.

    Args:
        counts: Method to windows by true and predicted class; fractions (means over seeds) are
            rounded for display.

    Raises:
        ValueError: There is no method.
    """
    if not counts:
        raise ValueError(f"plot_confusions: there is nothing to draw for {title!r}.")
    side = max(1.75, 1.0 + 0.42 * len(labels))
    figure, axes_of = _panels(counts, side=side, columns=max(2, int(8.5 / side)))
    image = None
    for i, (name, values) in enumerate(counts.items()):
        axes = axes_of[i]
        total = values.sum(1, keepdims=True)
        share = np.divide(values, total, out=np.zeros(values.shape), where=total > 0)
        image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
        size = 8 if len(labels) < 4 else 6.5
        for (row, column), count in np.ndenumerate(values):
            tone = "white" if share[row, column] > 0.55 else INK
            text = f"{100 * share[row, column]:.0f} %\n{count:.0f}"
            axes.text(column, row, text, va="center", ha="center", color=tone, fontsize=size)
        axes.set_xticks(range(len(labels)), list(labels), fontsize=7.5)
        axes.set_yticks(range(len(labels)), list(labels), fontsize=7.5)
        slant(axes, 5 if max(map(len, labels)) > 6 else len(labels))
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(broken(name, int(11 * side)), fontsize=8.5)
    if image is not None:
        drawn = axes_of[: len(counts)]
        figure.colorbar(image, ax=drawn, label="share of the true class (%)", aspect=30, pad=0.02)
    figure.supxlabel("predicted class", fontsize=9.5)
    figure.supylabel("true class", fontsize=9.5)
    headline(figure, title)
    return figure


@styled
def plot_reliability(
    predictions: Mapping[str, tuple[np.ndarray, np.ndarray, Sequence[str]]],
    *,
    title: str,
    lowest: float,
    n_bins: int = 8,
    errors: Mapping[str, float] | None = None,
) -> Figure:
    """How often decoders are right when they say how sure they are; on the diagonal is honest.

    Args:
        predictions: Method to confidence (probability of the chosen class), whether it was right,
            and the person of each window: intervals draw people.
        lowest: Confidence of a guess, 1 / classes.
        n_bins: Of confidence, of equal width.
        errors: Calibration error of each method, 0 to 1, written into its panel.

    Raises:
        ValueError: There is no method.
    """
    if not predictions:
        raise ValueError(f"plot_reliability: there is nothing to draw for {title!r}.")
    figure, axes_of = _panels(predictions, side=2.15, columns=4)
    for i, (name, (confidence, right, person)) in enumerate(predictions.items()):
        axes = axes_of[i]
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        _reliability(axes, np.asarray(confidence), np.asarray(right), person, lowest, n_bins)
        axes.set(xlim=(100 * lowest - 2, 102), ylim=(0, 102))
        axes.set_title(broken(name), fontsize=9)
        if errors is not None:
            axes.text(
                0.04,
                0.97,
                f"error {100 * errors[name]:.1f} %",
                transform=axes.transAxes,
                va="top",
                fontsize=8,
            )
    figure.supxlabel("confidence (%), bars: share of windows", fontsize=9.5)
    figure.supylabel("right (%)", fontsize=9.5)
    headline(figure, title)
    return figure


def _reliability(
    axes: Axes,
    confidence: np.ndarray,
    right: np.ndarray,
    person: Sequence[str],
    lowest: float,
    n_bins: int,
) -> None:
    edges = np.linspace(lowest, 1, n_bins + 1)
    inside = np.clip(np.digitize(confidence, edges) - 1, 0, n_bins - 1)
    who = np.unique(np.asarray(person), return_inverse=True)[1].reshape(-1)
    shape = (int(who.max()) + 1, n_bins)
    n, hits, sure = (np.zeros(shape) for _ in range(3))
    for table, values in ((n, 1.0), (hits, right.astype(float)), (sure, confidence)):
        np.add.at(table, (who, inside), values)
    drawn = np.random.default_rng(0).multinomial(shape[0], [1 / shape[0]] * shape[0], size=1000)
    axes.bar(
        50 * (edges[:-1] + edges[1:]),
        100 * n.sum(0) / n.sum(),
        width=100 * (edges[1] - edges[0]) * 0.9,
        color=MUTED,
        alpha=0.3,
    )
    used = n.sum(0) > 0
    x, y = 100 * sure.sum(0)[used] / n.sum(0)[used], 100 * hits.sum(0)[used] / n.sum(0)[used]
    if shape[0] >= 3:
        total = drawn @ n
        share = np.divide(drawn @ hits, total, out=np.full(total.shape, np.nan), where=total > 0)
        low, high = np.nanquantile(share[:, used], [0.025, 0.975], axis=0)
        axes.vlines(x, 100 * low, 100 * high, color=color(0), linewidth=1.6, alpha=0.6)
    axes.plot(x, y, "o-", color=color(0), markersize=4.5)


def _panels(
    items: Mapping[str, object], *, side: float, columns: int
) -> tuple[Figure, Sequence[Axes]]:
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    figure = Figure(
        figsize=(1.3 + side * columns, 0.8 + (side + 0.35) * rows), layout="constrained"
    )
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(items) :]:
        axes.set_visible(False)
    for i in range(len(items)):
        if i + columns >= len(items):
            grid.flat[i].tick_params(labelbottom=True)
    return figure, list(grid.flat)
