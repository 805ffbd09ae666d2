"""Figures of encoding models: what was seen, scores by region, shares of variance, fields.

Axes: stimulus; channel; region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MAGNITUDE, MUTED, broken, color, headline, single, styled
from neurofm.shapes import Bool, Float
from neurofm.types import Result


@styled
def plot_pictures(
    pictures: Float[np.ndarray, "stimulus 3 height width"],
    names: Sequence[str] = (),
    *,
    title: str,
    columns: int = 8,
) -> Figure:
    """Pictures beside each other, with their names."""
    n = len(pictures)
    rows = -(-n // columns)
    figure = Figure(figsize=(1.1 * columns, 1.3 * rows + 0.4), layout="constrained")
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axes.axis("off")
        if i < n:
            axes.imshow(np.clip(pictures[i], 0, 1).transpose(1, 2, 0))
            if len(names):
                axes.set_title(broken(names[i], 18), fontsize=7, loc="center", fontweight="normal")
    headline(figure, title)
    return figure


@styled
def plot_region_scores(
    scores: Mapping[str, Mapping[str, Result]],
    *,
    title: str,
    unit: str = "r / noise ceiling",
    limit: float | None = 1.0,
) -> Figure:
    """Scores of several models by region, with 95 % intervals.

    Args:
        scores: Name of the model to its results by region.
        limit: A line: what could be reached.

    Raises:
        ValueError: No model.
    """
    if not scores:
        raise ValueError("plot_region_scores: no model.")
    regions = list(dict.fromkeys(name for results in scores.values() for name in results))
    figure, axes = single(1.6 + 1.3 * len(regions), 3.4)
    width = 0.7 / len(scores)
    for i, (name, results) in enumerate(scores.items()):
        at = [k for k, region in enumerate(regions) if region in results]
        found = [results[regions[k]] for k in at]
        value = np.array([result.value for result in found])
        ends = np.array([(r.low or np.nan, r.high or np.nan) for r in found], dtype=float)
        error = np.abs(np.nan_to_num(ends.T - value))
        place = np.array(at) + width * (i - (len(scores) - 1) / 2)
        axes.errorbar(place, value, error, fmt="o", ms=4, color=color(i), capsize=2, label=name)
    if limit is not None:
        axes.axhline(limit, color=INK, lw=1, ls="--")
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_xticks(range(len(regions)), regions)
    axes.set(ylabel=unit, title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_shares(
    shares: Mapping[str, np.ndarray], region: Sequence[str], *, title: str, least: float = 0.0
) -> Figure:
    """Parts of the explained variance, mean over the channels of each region, on one another.

    Args:
        shares: Name of the part to R2 of each channel; negative means count downwards.
        least: Only channels whose parts add up to at least this.
    """
    total = sum(shares.values(), np.zeros(len(region)))
    names = [name for name in dict.fromkeys(region) if name]
    figure, axes = single(2.4 + 1.0 * len(names), 3.4)
    up, down = np.zeros(len(names)), np.zeros(len(names))
    chosen = [np.flatnonzero((np.array(region) == name) & (total >= least)) for name in names]
    for i, (part, value) in enumerate(shares.items()):
        mean = np.array([100 * np.nanmean(value[own]) if len(own) else 0.0 for own in chosen])
        base = np.where(mean >= 0, up, down)
        axes.bar(range(len(names)), mean, 0.6, bottom=base, color=color(i), label=part)
        up, down = up + np.clip(mean, 0, None), down + np.clip(mean, None, 0)
    labels = [f"{name}\n{len(own)} channels" for name, own in zip(names, chosen, strict=True)]
    axes.set_xticks(range(len(names)), labels)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(ylabel="held-out variance explained (%)", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


@styled
def plot_fields(
    maps: Float[np.ndarray, "channel row column"],
    center: Float[np.ndarray, "channel 2"],
    *,
    title: str,
    planted: Float[np.ndarray, "channel 2"] | None = None,
    names: Sequence[str] = (),
) -> Figure:
    """Maps of weights over the picture; dots where a field was found, crosses where it was planted.

    Args:
        center: Row and column from 0 to 1.
    """
    n = len(maps)
    figure = Figure(figsize=(1.25 * n + 0.6, 2.0), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, n, squeeze=False)[0]):
        axes.imshow(maps[i], cmap=MAGNITUDE, extent=(0, 1, 1, 0))
        axes.plot(center[i, 1], center[i, 0], "o", color="white", mec=INK, ms=5)
        if planted is not None:
            axes.plot(planted[i, 1], planted[i, 0], "x", color="red", ms=6, mew=2)
        axes.set(xticks=[0, 1], yticks=[0, 1] if i == 0 else [])
        axes.grid(False)
        if len(names):
            axes.set_title(names[i], fontsize=8)
        if i == 0:
            axes.set_ylabel("height of the picture")
    figure.supxlabel("width of the picture", fontsize=8.5)
    headline(figure, title)
    return figure


@styled
def plot_against_ceiling(
    r: Float[np.ndarray, " channel"],
    ceiling: Float[np.ndarray, " channel"],
    significant: Bool[np.ndarray, " channel"],
    region: Sequence[str] = (),
    *,
    title: str,
) -> Figure:
    """Every channel's correlation against the largest that its noise allows."""
    figure, axes = single(5.2, 3.8)
    names = [name for name in dict.fromkeys(region) if name] or [""]
    kind = np.array(region) if len(region) else np.full(len(r), "")
    for i, name in enumerate(names):
        for passed, alpha in ((False, 0.2), (True, 0.8)):
            own = (kind == name) & (significant == passed)
            label = (name or "channels") if passed else None
            axes.plot(ceiling[own], r[own], ".", color=color(i), alpha=alpha, ms=4, label=label)
    axes.plot([0, 1], [0, 1], "--", color=INK, lw=1)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set(xlabel="noise ceiling (largest r)", ylabel="r on held-out pictures", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2)
    return figure
