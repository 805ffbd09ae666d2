"""Figures of reconstruction, confusions and codes. Every axis says its unit.

All take plain arrays and return a `matplotlib.figure.Figure`; `Report.add_section` takes it.
What results of any kind share (curves, scores, spectra, scalp maps) is in `neurofm.figures`.
Axes: channel time; level = code book, code = its entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.courses import plot_traces
from neurofm.figures.style import INK, MUTED, color, legend, single, styled, tick_labels
from neurofm.shapes import Float, Int


@styled
def plot_confusion(
    counts: Int[np.ndarray, "true predicted"], labels: Sequence[str], *, title: str
) -> Figure:
    """Windows by true and predicted class: counts, and the share of each row as colour."""
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = 2.2 + 0.55 * len(labels)
    figure, axes = single(side + 1.2, side)
    image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(
            j,
            i,
            f"{int(count)}",
            ha="center",
            va="center",
            color="w" if share[i, j] > 0.55 else INK,
        )
    tick_labels(axes, labels)
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.85)
    return figure


@styled
def plot_reconstruction(
    signal: Float[np.ndarray, "channel time"],
    reconstruction: Float[np.ndarray, "channel time"],
    sfreq: float,
    *,
    names: Sequence[str],
    title: str,
    unit: str = "µV",
) -> Figure:
    """A recording and what the tokenizer makes of it, channel over channel.

    Args:
        sfreq: Hz.
        names: Of the channels drawn; up to eight are readable.
        unit: Of both arrays.
    """
    if signal.shape != reconstruction.shape or len(names) != len(signal):
        raise ValueError(
            f"plot_reconstruction: signal {signal.shape}, reconstruction {reconstruction.shape}, "
            f"{len(names)} names; they must agree."
        )
    both = {"recording": signal, "reconstruction": reconstruction}
    return plot_traces(both, sfreq, names=names, title=title, unit=unit)


@styled
def plot_band_error(
    errors: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    ylabel: str = "error (fraction of the band's power)",
    reference: float | None = 1.0,
) -> Figure:
    """Reconstruction error of each frequency band, one group of bars per band.

    Args:
        errors: What was compared (model, control) to band to error.
        reference: Error of predicting nothing, drawn as a line.
    """
    bands = list(next(iter(errors.values())))
    figure, axes = single(6.4, 3.2)
    width = 0.8 / len(errors)
    for i, (name, by_band) in enumerate(errors.items()):
        place = np.arange(len(bands)) + (i - (len(errors) - 1) / 2) * width
        bars = axes.bar(
            place, [by_band[band] for band in bands], width * 0.92, color=color(i), label=name
        )
        if len(errors) * len(bands) <= 14:
            labels = axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2, color=INK)
            for label in labels:
                label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0})
    if reference is not None:
        axes.axhline(
            reference, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="predicting nothing"
        )
    axes.set_xticks(range(len(bands)), bands)
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="frequency band", ylabel=ylabel, title=title)
    legend(axes, len(errors) + (reference is not None))
    return figure


@styled
def plot_code_usage(counts: Int[np.ndarray, "level code"], *, title: str) -> Figure:
    """How evenly each code book is used: share of each entry, most used first.

    The legend gives the perplexity: how many entries, used equally often, would say as much.
    """
    figure, axes = single(6.4, 3.2)
    for level, row in enumerate(counts):
        share = np.sort(row)[::-1] / max(int(row.sum()), 1)
        used = share[share > 0]
        perplexity = float(np.exp(-(used * np.log(used)).sum()))
        axes.semilogy(
            np.arange(1, len(used) + 1),
            100 * used,
            color=color(level),
            label=f"level {level}: {len(used)} of {len(row)} used, perplexity {perplexity:.0f}",
        )
    axes.axhline(
        100 / counts.shape[1], color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="all equal"
    )
    axes.set(xlabel="entry of the code book, by use", ylabel="share of tokens (%)", title=title)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.set_size_inches(8.2, 3.2)
    return figure
