"""How probes draw themselves; loaded when the first one does, as matplotlib is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures import plot_bars, plot_curves
from neurofm.figures.style import MUTED, color, single, slant, styled

if TYPE_CHECKING:
    from neurofm.interpret.probing.depth import ConceptDepth
    from neurofm.interpret.probing.layers import LayerProbes
    from neurofm.interpret.probing.linear import Probe
    from neurofm.interpret.probing.sparse import SparseProbe

_ALWAYS = 99


def draw_probe(result: Probe) -> Figure:
    """Probe, control and baselines as bars, chance as a line."""
    figure = plot_bars(
        {"probe": result.score, "control labels": result.control, **result.baselines},
        title=f"Linear probe, {len(result.folds)} folds",
        unit=result.metric.replace("_", " "),
        intervals={"probe": (result.low, result.high)},
        chance=result.chance,
    )
    slant(figure.axes[0], _ALWAYS)
    return figure


@styled
def draw_sparse(result: SparseProbe) -> Figure:
    """Both curves, with the range of the middle half of the folds, and chance."""
    figure, axes = single()
    for i, (name, table) in enumerate((("units", result.score), ("rotated", result.rotated))):
        if np.isnan(table).all():
            continue
        axes.plot(result.ks, np.nanmean(table, 1), "o-", color=color(i), label=name)
        low, high = np.nanquantile(table, (0.25, 0.75), axis=1)
        axes.fill_between(result.ks, low, high, color=color(i), alpha=0.2, linewidth=0)
    axes.axhline(result.chance, color=MUTED, linestyle="--", label="chance")
    axes.set(xscale="log", xlabel="units used (k)", ylabel="balanced accuracy")
    axes.set_xticks(result.ks, [str(k) for k in result.ks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title(f"Sparse probe, {result.score.shape[1]} folds (band: middle half)")
    axes.legend()
    return figure


@styled
def draw_depths(depths: Mapping[str, ConceptDepth]) -> Figure:
    """Scores over relative depth, with a mark where each concept is reached."""
    figure, axes = single()
    for i, (name, one) in enumerate(depths.items()):
        places = np.linspace(0, 1, len(one.scores))
        axes.plot(places, one.scores, ".-", color=color(i), label=name)
        axes.plot(one.depth, one.at([one.depth])[0], "v", color=color(i), markersize=9)
    for level in {one.chance for one in depths.values()}:
        axes.axhline(level, color=MUTED, linestyle="--", linewidth=0.9)
    share = 100 * next(iter(depths.values())).share
    axes.set(xlabel="relative depth (0 first, 1 last layer)", ylabel="score")
    axes.set_title(f"Where concepts become readable (mark: {share:.0f} % of the maximum)")
    axes.legend()
    return figure


def draw_layers(result: LayerProbes) -> Figure:
    """Trained layers with intervals, untrained ones, control, features of the signal, chance."""
    probes = list(result.layers.values())
    places = np.arange(len(probes))
    curves: dict[str, tuple[Any, ...]] = {
        "network": (
            places,
            [one.score for one in probes],
            [one.low for one in probes],
            [one.high for one in probes],
        ),
        "control labels": (places, [one.control for one in probes]),
    }
    for name in dict.fromkeys(key for one in probes for key in one.baselines):
        curves[name] = (places, [one.baselines.get(name, np.nan) for one in probes])
    for name, one in result.signal.items():
        curves[f"signal: {name}"] = (places, np.full(len(places), one.score))
    figure = plot_curves(
        curves,
        title=f"Linear probes, {len(probes[0].folds)} folds (band: 95 % interval)",
        xlabel="layer",
        ylabel=probes[0].metric.replace("_", " "),
        references={"chance": probes[0].chance},
    )
    (axes, *_) = figure.axes
    axes.set_xticks(places, list(result.layers))
    slant(axes, len(places))
    return figure
