"""Figures of decoding over time: a curve for every moment, a square from moment to moment."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from neurofm import stats
from neurofm.figures.style import INK, MUTED, SIGNED, color, single, styled
from neurofm.types import OverTime

_METRICS = {"auroc": "AUROC (%)", "balanced_accuracy": "balanced accuracy (%)"}
_ALPHA = 0.05


@styled
def plot_over_time(
    curves: Mapping[str, OverTime],
    *,
    title: str,
    replicates: tuple[str, str] = ("person", "people"),
) -> Figure:
    """Score at every moment: mean over people, its 95 % interval, and bars where it beats chance.

    Args:
        curves: What was decoded, to its scores; of one metric.
        replicates: What each row of scores is of, one and several: of a single person's fMRI, runs.
    """
    if len({curve.metric for curve in curves.values()}) != 1:
        raise ValueError("plot_over_time: expected one or more curves of one metric.")
    figure, axes = single(7.2, 3.4)
    first = next(iter(curves.values()))
    for i, (name, curve) in enumerate(curves.items()):
        people = len(curve.subjects)
        label = f"{name}, {people} {replicates[people != 1]}"
        axes.plot(curve.times, 100 * curve.diagonal.mean(0), color=color(i), label=label)
        ends = [stats.bootstrap_interval(column, n_resamples=2000) for column in curve.diagonal.T]
        low, high = np.array(ends).T
        axes.fill_between(curve.times, 100 * low, 100 * high, color=color(i), alpha=0.18, lw=0)
    axes.axhline(100 * first.chance, color=MUTED, linestyle=(0, (4, 3)), lw=1.2, label="chance")
    bottom, top = axes.get_ylim()
    for i, curve in enumerate(curves.values()):
        place = bottom - (0.04 + 0.035 * i) * (top - bottom)
        for cluster in curve.clusters:
            if cluster.p < _ALPHA and cluster.inside.ndim == 1:
                bar = np.where(cluster.inside, place, np.nan)
                axes.plot(curve.times, bar, color=color(i), lw=3.5, solid_capstyle="butt")
    if first.times[0] < 0 < first.times[-1]:
        axes.axvline(0, color=INK, lw=0.8)
    axes.set(xlabel="time from the event (s)", ylabel=_METRICS[first.metric], title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_generalization(found: OverTime, *, title: str) -> Figure:
    """Score from every training moment to every test moment; outlined where it beats chance.

    Raises:
        ValueError: Scores were not generalized over time.
    """
    if found.scores.ndim != 3:
        raise ValueError("plot_generalization: decode with `generalize=True` for a square.")
    figure, axes = single(4.9, 4.0)
    mean = 100 * found.mean
    chance = 100 * found.chance
    reach = max(float(np.abs(mean - chance).max()), 1.0)
    step = float(np.diff(found.times).mean()) if len(found.times) > 1 else 1.0
    ends = (found.times[0] - step / 2, found.times[-1] + step / 2)
    image = axes.imshow(
        mean,
        origin="lower",
        extent=(*ends, *ends),
        cmap=SIGNED,
        vmin=chance - reach,
        vmax=chance + reach,
        interpolation="nearest",
    )
    for cluster in found.clusters:
        if cluster.p < _ALPHA and cluster.inside.any() and not cluster.inside.all():
            axes.contour(
                found.times, found.times, cluster.inside, levels=[0.5], colors=INK, linewidths=1.1
            )
    axes.plot(ends, ends, color=MUTED, lw=0.8, linestyle=(0, (2, 2)))
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=_METRICS[found.metric], shrink=0.85)
    axes.set(xlabel="tested at (s)", ylabel="trained at (s)", title=title)
    return figure
