"""Figures of representations: a dissimilarity matrix, and similarity over the depth of a network.

Both take what `neurofm.interpret` returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import MAGNITUDE, MUTED, color, single, slant, styled, tick_labels
from neurofm.types import RDM, Result


@styled
def plot_rdm(rdm: RDM, *, title: str, groups: Sequence[Any] | None = None) -> Figure:
    """A dissimilarity matrix.

    Args:
        groups: Of each condition; conditions are sorted by it and blocks are outlined.
    """
    square = rdm.square()
    n = len(square)
    labels = np.asarray(rdm.labels, dtype=object)
    blocks: list[tuple[str, int, int]] = []
    if groups is not None:
        names = [str(group) for group in groups]
        distinct = list(dict.fromkeys(names))
        order = sorted(range(n), key=lambda i: distinct.index(names[i]))
        square, labels = square[np.ix_(order, order)], labels[order]
        start = 0
        for name in distinct:
            blocks.append((name, start, start + names.count(name)))
            start += names.count(name)
    np.fill_diagonal(square, np.nan)
    known = square[np.isfinite(square)]
    figure, axes = single(5.4, 4.4)
    signed = rdm.metric == "crossnobis" and len(known) > 0 and known.min() < 0
    edge = float(np.abs(known).max()) if signed else 0.0
    image = axes.imshow(
        square,
        cmap="PuOr_r" if signed else MAGNITUDE,
        interpolation="nearest",
        vmin=-edge if signed else None,
        vmax=edge if signed else None,
    )
    axes.set_facecolor("#eceff3")
    if blocks:
        for _, first, _ in blocks[1:]:
            axes.axhline(first - 0.5, color="white", linewidth=1.5)
            axes.axvline(first - 0.5, color="white", linewidth=1.5)
        middles = [(first + last - 1) / 2 for _, first, last in blocks]
        axes.set_xticks(middles, [name for name, _, _ in blocks])
        axes.set_yticks(
            middles,
            [name for name, _, _ in blocks],
            rotation=90 if len(blocks) < 5 else 0,
            va="center",
        )
        axes.tick_params(length=0)
        slant(axes, len(blocks))
    elif n <= 24:
        tick_labels(axes, list(labels))
    axes.set(xlabel=f"condition (n = {n})", ylabel="condition", title=title)
    axes.grid(visible=False)
    unit = {"correlation": "1 - correlation", "cosine": "1 - cosine", "class": "different class"}
    figure.colorbar(
        image, ax=axes, label=unit.get(rdm.metric, f"{rdm.metric} distance"), shrink=0.9
    )
    return figure


@styled
def plot_layer_scores(
    results: Sequence[Result], *, title: str, ylabel: str | None = None
) -> Figure:
    """Similarity of each layer to each reference, over depth, beside relabelled conditions.

    Args:
        results: From `interpret.layer_rsa`: `detail` has layer, reference, null_low, null_high.
    """
    layers = list(dict.fromkeys(result.detail["layer"] for result in results))
    references = list(dict.fromkeys(result.detail["reference"] for result in results))
    figure = Figure(figsize=(1.6 + 3.0 * len(references), 3.6), layout="constrained")
    panels = figure.subplots(1, len(references), squeeze=False, sharey=True)[0]
    for i, (axes, reference) in enumerate(zip(panels, references, strict=True)):
        chosen = {r.detail["layer"]: r for r in results if r.detail["reference"] == reference}
        place = [layers.index(layer) for layer in chosen]
        rows = list(chosen.values())
        axes.fill_between(
            place,
            [r.detail["null_low"] for r in rows],
            [r.detail["null_high"] for r in rows],
            color=MUTED,
            alpha=0.2,
            linewidth=0,
            label="95 % of relabelled",
        )
        axes.axhline(0, color=MUTED, linewidth=0.8)
        values = np.array([r.value for r in rows])
        low = np.array([r.value if r.low is None else r.low for r in rows])
        high = np.array([r.value if r.high is None else r.high for r in rows])
        axes.errorbar(
            place,
            values,
            [np.maximum(values - low, 0), np.maximum(high - values, 0)],
            color=color(i),
            marker="o",
            markersize=5,
            capsize=2.5,
            elinewidth=1.2,
            label="similarity, 95 % interval",
        )
        axes.set_xticks(range(len(layers)), layers)
        axes.set_xlim(-0.4, len(layers) - 0.6)
        slant(axes, 99)
        axes.set(xlabel="layer", title=reference)
    panels[0].set_ylabel(ylabel or f"similarity ({results[0].unit or 'RDM'})")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower right", ncols=2)
    figure.suptitle(
        f"{title} (n = {results[0].n} conditions)",
        x=0.01,
        ha="left",
        fontweight="bold",
        fontsize=10.5,
    )
    return figure
