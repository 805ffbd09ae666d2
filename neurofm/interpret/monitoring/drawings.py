"""How results of monitoring draw themselves; loaded when the first one does, as matplotlib is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures import plot_bars, plot_curves, plot_matrix, plot_scores
from neurofm.figures.style import color, single, styled
from neurofm.types import Result

if TYPE_CHECKING:
    from neurofm.interpret.monitoring.coverage import Coverage
    from neurofm.interpret.monitoring.detection import Detection, Detections
    from neurofm.interpret.monitoring.effect import MassiveEffect
    from neurofm.interpret.monitoring.massive import MassiveActivations


def draw_coverage(result: Coverage) -> Figure:
    """States of every unit, units in order of how much of them is covered."""
    order = np.argsort(-result.values.sum(0), kind="stable")
    samples = int(result.counts[:, 0].sum())
    return plot_matrix(
        result.values[::-1, order],
        title=f"{samples} samples cover {100 * result.generalisation:.0f} % of the states",
        unit="coverage (0 to 1)",
        xlabel="unit, most covered first",
        ylabel="state (1 at the top, 0 at the bottom)",
        limits=(0.0, 1.0),
        signed=False,
        written=False,
        square=False,
    )


@styled
def draw_detection(result: Detection) -> Figure:
    """Both distributions of a score."""
    figure, axes = single()
    bins = np.histogram_bin_edges(np.concatenate([result.inside, result.outside]), bins=40)
    for i, (name, values) in enumerate((("familiar", result.inside), ("other", result.outside))):
        share = np.full(len(values), 1 / len(values))
        label = f"{name}, n = {len(values)}"
        axes.hist(values, bins.tolist(), weights=share, alpha=0.6, color=color(i), label=label)
    axes.set(xlabel="familiarity (score)", ylabel="share of samples", title=result.summary())
    axes.legend()
    return figure


def draw_detections(result: Detections) -> Figure:
    """AUROC of each score with its interval over groups, and chance."""
    rows = [
        Result(
            f"{name} (FPR95 {one.fpr95:.2f})",
            one.auroc,
            low=None if np.isnan(one.low) else one.low,
            high=None if np.isnan(one.high) else one.high,
            chance=one.chance,
        )
        for name, one in result.scores.items()
    ]
    groups = next(iter(result.scores.values())).n_groups
    over = "" if groups is None else f": {groups[0]} familiar, {groups[1]} other groups"
    between = "AUROC" if groups is None else "AUROC, 95 % interval over groups"
    return plot_scores(rows, title=f"Familiar or not{over}", xlabel=between, percent=False)


def draw_massive(result: MassiveActivations) -> Figure:
    """The three largest ratios of every hidden state, means over all axes but the first."""
    ratios = np.atleast_2d(result.top_ratio)
    ratios = ratios.reshape(len(ratios), -1, ratios.shape[-1]).mean(1)
    layers = np.arange(len(ratios))
    n_massive, n_outliers = int(result.massive.sum()), int(result.outlier.sum())
    return plot_curves(
        {f"{k + 1}. largest": (layers, column) for k, column in enumerate(ratios.T)},
        title=f"{n_massive} massive activations, {n_outliers} outliers",
        xlabel="layer (first axis)",
        ylabel="magnitude / median",
        references={f"{limit:g} medians": limit for limit in result.thresholds[1:]},
        log=True,
    )


def draw_effect(result: MassiveEffect) -> Figure:
    """The four values side by side."""
    return plot_bars(
        {
            "intact": result.intact,
            "zero": result.zero,
            "mean": result.mean,
            "random zero": result.random_zero,
        },
        title=f"{result.n_places} massive activations taken away",
        unit="metric",
    )


@styled
def draw_history(
    history: Sequence[Mapping[str, float]], measures: Sequence[str], *, over: str
) -> Figure:
    """Values `layer/measure` over steps or epochs, one panel per measure, a line per layer.

    Args:
        history: A row per moment; `over` is its place on the horizontal axis.
    """
    keys = (key for row in history for key in row if key.rpartition("/")[2] in measures)
    layers = list(dict.fromkeys(key.rpartition("/")[0] for key in keys))
    figure = Figure(figsize=(3.1 * len(measures) + 1.2, 3.0), layout="constrained")
    for i, measure in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), i + 1)
        for j, layer in enumerate(layers):
            rows = [row for row in history if f"{layer}/{measure}" in row]
            places = [row.get(over, k) for k, row in enumerate(history) if row in rows]
            values = [row[f"{layer}/{measure}"] for row in rows]
            axes.plot(places, values, ".-", color=color(j), label=layer)
        axes.set(xlabel=over, title=measure.replace("_", " "))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure
