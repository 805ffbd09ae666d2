"""How the results of this folder draw themselves; a `.plot()` calls the function of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures import plot_arrangement, plot_curves, plot_matrix
from neurofm.figures.style import MUTED, color, single, styled

if TYPE_CHECKING:
    from neurofm.interpret.similarity.cca import Canonical
    from neurofm.interpret.similarity.dichotomies import Dichotomies
    from neurofm.interpret.similarity.geometry import Arrangement, Geometry
    from neurofm.interpret.similarity.information import InformationPlane
    from neurofm.interpret.similarity.layers import LayerSimilarity
    from neurofm.interpret.similarity.regression import RegressionSimilarity
    from neurofm.interpret.similarity.stochastic_shape import StochasticShape
    from neurofm.interpret.similarity.trajectory import Return, Trajectory
    from neurofm.interpret.similarity.units import UnitSimilarity, UniversalNeurons

PATHS = 40  # of single samples, drawn faintly
NAMED = 24  # stimuli or units whose names are readable on an axis


def draw_layers(result: LayerSimilarity) -> Figure:
    """A table of layers by layers, the first layer at the top."""
    chance = "" if np.isnan(result.chance) else f", shuffled {result.chance:.2g}"
    if result.error is not None:
        chance += f", errors up to {np.nanmax(result.error):.2g}"
    return plot_matrix(
        result.values,
        title=f"n = {result.n} samples{chance}",
        unit=result.unit,
        rows=result.rows,
        columns=result.columns,
        signed=False,
    )


def draw_arrangement(result: Arrangement) -> Figure:
    """Points of multidimensional scaling."""
    return plot_arrangement(
        result.position,
        title=f"{len(result.names)} by multidimensional scaling",
        labels=result.names,
        groups=result.groups,
        stress=result.stress,
    )


@styled
def draw_trajectory(result: Trajectory) -> Figure:
    """Paths on the left; cosine, step, turn and density on the right."""
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4)
    path = figure.add_subplot(grid[:, :2])
    places = result.projection
    flat = places[..., 1] if places.shape[2] > 1 else np.zeros(places.shape[:2])
    some = np.linspace(0, places.shape[1] - 1, min(places.shape[1], PATHS)).astype(int)
    for i in some:
        path.plot(places[:, i, 0], flat[:, i], color=MUTED, linewidth=0.6, alpha=0.7)
    x, y = places[..., 0].mean(1), flat.mean(1)
    path.plot(x, y, color=color(0), marker="o", markersize=4, label="mean")
    for i in (0, len(x) - 1):
        path.annotate(
            result.names[i],
            (x[i], y[i]),
            xytext=(5, 5),
            textcoords="offset points",
            fontweight="bold",
            zorder=5,
        )
    share = [100 * s for s in result.explained[:2]] + [0.0]
    path.set(xlabel=f"component 1 ({share[0]:.0f} %)", ylabel=f"component 2 ({share[1]:.0f} %)")
    path.set_title(f"mean of {places.shape[1]} samples, {len(some)} of them")
    rows = (
        ("cosine with next", result.cosine, 0.5),
        ("step length", result.velocity, 0.5),
        ("turn (rad)", result.turning_angle, 1.0),
        (f"share |h| > {result.threshold:g}", result.density, 0.0),
    )
    for k, (name, values, shift) in enumerate(rows):
        axes = figure.add_subplot(grid[k // 2, 2 + k % 2])
        if not len(values):
            continue
        place = np.arange(len(values)) + shift
        low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75], axis=1)
        axes.fill_between(place, low, high, color=color(k), alpha=0.2, linewidth=0)
        axes.plot(place, middle, color=color(k), marker="o", markersize=3)
        if name.startswith("turn"):
            axes.axhline(np.pi / 2, color=MUTED, linestyle="--", linewidth=1)
        axes.set(xlabel="layer", title=name, xlim=(-0.2, len(result.names) - 0.8))
    return figure


def draw_return(result: Return) -> Figure:
    """Distance over the push, by layer; middle half of the samples."""
    low, middle, high = np.quantile(result.distance, [0.25, 0.5, 0.75], axis=1)
    place = list(range(len(middle)))
    return plot_curves(
        {"median, middle half": (place, middle, low, high)},
        title=f"after a push at {result.names[0]} (n = {result.distance.shape[1]} samples)",
        ylabel="distance / push",
        xlabel="layers after the push",
        references={"neither pulled back nor amplified": 1.0},
    )


@styled
def draw_information(result: InformationPlane) -> Figure:
    """Layers in the plane of what they know of input and labels."""
    figure, axes = single(5.4, 4.2)
    found = list(result.layers.values())
    x, y = [i.input_bits for i in found], [i.label_bits for i in found]
    axes.plot(x, y, color=MUTED, linewidth=0.9)
    axes.plot(x, y, "o", color=color(0), label="layer")
    axes.plot(x, [i.chance_bits for i in found], "x", color=color(1), label="shuffled labels")
    for name, i in result.layers.items():
        place = (i.input_bits, i.label_bits)
        axes.annotate(name, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    first = found[0]
    axes.axhline(first.entropy_of_labels, color=MUTED, linestyle="--", linewidth=1, label="H(Y)")
    axes.axvline(first.most_bits, color=MUTED, linestyle=":", linewidth=1.2, label="log2 n")
    axes.set(xlabel="I(X;T) (bits)", ylabel="I(T;Y) (bits)", ylim=(0, None))
    how = "noise" if first.estimator == "kde" else "bins"
    axes.set_title(f"{first.estimator}, {first.setting:g} {how}, n = {first.n}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.set_figwidth(figure.get_figwidth() + 1.4)
    return figure


def draw_canonical(result: Canonical) -> Figure:
    """Canonical correlations in order."""
    place = list(range(1, len(result.correlations) + 1))
    forced = f", {result.forced} forced to 1" if result.forced else ""
    means = f"mean {result.mean:.2f}, weighted (PWCCA) {result.weighted:.2f}"
    return plot_curves(
        {"canonical correlation": (place, result.correlations)},
        title=f"{means}; {result.dims[0]} and {result.dims[1]} of n = {result.n}{forced}",
        ylabel="correlation",
        xlabel="direction",
        references={"independent data (root mean square)": float(np.sqrt(result.chance))},
    )


@styled
def draw_units(result: UnitSimilarity) -> Figure:
    """Histograms of the best counterpart, as they are and after a rotation."""
    figure, axes = single()
    both = {"units": result.best, "after a rotation": result.baseline}
    low = min(0.0, *(float(np.nanmin(values)) for values in both.values()))
    for i, (name, values) in enumerate(both.items()):
        known = values[np.isfinite(values)]
        label = f"{name}, mean {known.mean():.2f}"
        axes.hist(
            known, bins=np.linspace(low, 1, 41).tolist(), color=color(i), alpha=0.55, label=label
        )
    axes.set(xlabel="correlation with the best counterpart", ylabel="units")
    axes.set_title(f"{len(result.best)} units, n = {result.n}; CKA of the layers {result.cka:.2f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.set_figwidth(figure.get_figwidth() + 1.6)
    return figure


@styled
def draw_universal(result: UniversalNeurons) -> Figure:
    """Correlation of each unit against that of rotated units, least over networks."""
    figure, axes = single(5.2, 4.0)
    worst = np.nan_to_num(result.excess, nan=np.inf).argmin(0)
    units = np.arange(len(worst))
    x, y = result.baseline[worst, units], result.best[worst, units]
    for inside, name, shade in ((~result.universal, "other", MUTED), (result.universal, "", None)):
        label = name or f"universal ({int(inside.sum())} of {len(units)})"
        axes.plot(x[inside], y[inside], "o", markersize=4, color=shade or color(0), label=label)
    edge = np.array([0.0, 1.0])
    axes.plot(edge, edge, color=MUTED, linewidth=0.8)
    axes.plot(edge, edge + result.threshold, color=color(1), linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="best r, other network rotated", ylabel="best r")
    axes.set_title(f"worst of {len(result.best)} networks, n = {result.n}")
    axes.legend(loc="lower right")
    return figure


@styled
def draw_geometry(result: Geometry) -> Figure:
    """Share of the variance by component."""
    figure, axes = single()
    place = np.arange(1, len(result.spectrum) + 1)
    axes.plot(place, 100 * result.spectrum, color=color(0), marker="o", markersize=3)
    ratio, dimension = result.participation_ratio, result.intrinsic_dimension
    axes.axvline(ratio, color=color(1), linestyle="--", label=f"participation ratio {ratio:.1f}")
    axes.axvline(
        dimension, color=color(2), linestyle=":", label=f"two-NN dimension {dimension:.1f}"
    )
    if np.isfinite(result.target_alignment):
        axes.plot([], [], " ", label=f"alignment with labels {result.target_alignment:.2f}")
    if np.isfinite(result.input_alignment):
        axes.plot([], [], " ", label=f"alignment with inputs {result.input_alignment:.2f}")
    axes.set(xlabel="component", ylabel="variance (%)", title=f"n = {result.n} samples")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(1e-4, 70 * float(result.spectrum.min())))
    axes.legend(loc="upper right")
    return figure


@styled
def draw_dichotomies(result: Dichotomies) -> Figure:
    """Decoding against generalisation."""
    figure, axes = single(4.8, 4.2)
    axes.plot(result.decoding, result.generalisation, "o", color=color(0), markersize=5)
    if len(result.sides) <= NAMED:
        for name, x, y in zip(result.names(), result.decoding, result.generalisation, strict=True):
            axes.annotate(name, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7.5)
    for line in (axes.axhline, axes.axvline):
        line(result.chance, color=MUTED, linestyle="--", linewidth=1)
    axes.set(xlim=(0.3, 1.05), ylim=(-0.05, 1.05))
    axes.set(xlabel="decoding (accuracy)", ylabel="generalisation to new conditions (accuracy)")
    axes.set_title(f"{len(result.sides)} dichotomies of {len(result.conditions)} conditions")
    return figure


@styled
def draw_regression(result: RegressionSimilarity) -> Figure:
    """Units in order of their ceiling."""
    figure, axes = single(6.8, 3.4)
    order = np.argsort(np.nan_to_num(result.ceiling, nan=-1.0))
    place = np.arange(len(order))
    axes.fill_between(
        place, 0, result.ceiling[order], color=MUTED, alpha=0.25, linewidth=0, label="noise ceiling"
    )
    axes.plot(place, result.raw[order], "o", color=color(0), markersize=4, label="predicted")
    axes.plot(place, result.chance[order], "x", color=color(1), markersize=4, label="shuffled")
    axes.set(xlabel="unit, by ceiling", ylabel="correlation, stimuli left out")
    axes.set_title(f"n = {result.n} stimuli; corrected, median of units {result.score:.2f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def draw_stochastic(result: StochasticShape) -> Figure:
    """What each stimulus adds to the squared distance."""
    figure, axes = single()
    place = np.arange(len(result.means))
    axes.bar(place, result.means, color=color(0), label="means")
    axes.bar(place, result.noise, bottom=result.means, color=color(1), label="covariances")
    axes.axhline(result.distance**2, color=MUTED, linestyle="--", linewidth=1, label="mean")
    axes.set(xlabel="stimulus", ylabel="squared distance")
    axes.set_title(
        f"distance {result.distance:.3g} (alpha {result.alpha:g}; best of {len(result.starts)} "
        f"starts, reached by {result.n_at_best})"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
