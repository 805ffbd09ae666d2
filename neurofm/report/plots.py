"""Figures of training, reconstruction and scores. Every axis says its unit.

All take plain arrays and return a `matplotlib.figure.Figure`; `Report.add_section` takes it.
Scalp maps are in `topography`, dissimilarities in `similarity`.
Axes: channel time; level = code book, code = its entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import signal as scipy_signal

from neurofm.figures.style import (
    INK,
    MUTED,
    PALETTE,
    color,
    label_width,
    single,
    styled,
    tick_labels,
)
from neurofm.shapes import Float, Int
from neurofm.types import Result


@styled
def plot_curves(
    curves: Mapping[str, tuple[Any, Any]],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "training step",
    references: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Values over training, with horizontal lines to judge them by.

    Args:
        curves: Name to (steps, values), lists or arrays.
        ylabel: With its unit, such as "loss (nats per code)".
        references: Name to value: entropy of the codes, chance.
        log: Logarithmic vertical axis.
    """
    if not curves:
        raise ValueError(f"plot_curves: no curve to draw for {title!r}.")
    figure, axes = single()
    for i, (name, (steps, values)) in enumerate(curves.items()):
        marker = "o" if len(steps) <= 12 else None
        axes.plot(steps, values, color=color(i), label=name, marker=marker, markersize=3.5)
    for name, value in (references or {}).items():
        axes.axhline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label=name)
    if log:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(axes, len(curves) + len(references or {}))
    return figure


@styled
def plot_scores(
    results: Sequence[Result],
    *,
    title: str,
    xlabel: str = "balanced accuracy",
    chance: float | None = None,
    points: Mapping[str, Any] | None = None,
    percent: bool = True,
) -> Figure:
    """Methods beside each other: mean with its 95 % interval, one dot per subject or fold, chance.

    Args:
        results: One per method, drawn from top to bottom.
        chance: Score of a guess; the results' own if they agree.
        points: Method to single values; `detail["values"]` of the result if not given.
        percent: Show fractions as percent.
    """
    if not results:
        raise ValueError(f"plot_scores: no result to draw for {title!r}.")
    factor = 100.0 if percent else 1.0
    width = max(6.8, 5.0 + label_width(result.name for result in results))
    figure, axes = single(width, 1.1 + 0.46 * len(results))
    generator = np.random.default_rng(0)
    for row, result in enumerate(results):
        single_values = (points or {}).get(result.name, result.detail.get("values", ()))
        jitter = generator.uniform(-0.06, 0.06, len(single_values))
        axes.plot(
            factor * np.asarray(single_values, dtype=float),
            row + 0.24 + jitter,
            "o",
            color=MUTED,
            alpha=0.45,
            markersize=4,
            markeredgewidth=0,
            zorder=2,
        )
        if result.low is not None and result.high is not None:
            axes.plot(
                [factor * result.low, factor * result.high],
                [row, row],
                color=color(row),
                linewidth=3,
                solid_capstyle="round",
                zorder=3,
            )
        axes.plot(
            factor * result.value,
            row,
            "D",
            color=color(row),
            markersize=7,
            markeredgecolor="white",
            zorder=4,
        )
        axes.annotate(
            f"{factor * result.value:.1f} %" if percent else f"{result.value:.3g}",
            (1.0, row),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            fontweight="bold",
            color=color(row),
        )
    known = {result.chance for result in results if result.chance is not None}
    chance = known.pop() if chance is None and len(known) == 1 else chance
    if chance is not None:
        axes.axvline(factor * chance, color=INK, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
        axes.annotate(
            "chance",
            (factor * chance, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
            color=MUTED,
        )
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.set_ylim(len(results) - 0.5, -0.75)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=f"{xlabel} (%)" if percent else xlabel, title=title)
    return figure


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
    time = np.arange(signal.shape[1]) / sfreq
    # One distance for all channels, so that amplitudes compare.
    gap = 2.2 * float(np.percentile(np.abs(signal - np.median(signal, 1, keepdims=True)), 99.5))
    gap = gap if gap > 0 else 1.0
    figure, axes = single(7.6, 1.1 + 0.62 * len(names))
    for row, (one, two) in enumerate(zip(signal, reconstruction, strict=True)):
        middle = np.median(one) + row * gap
        first, second = ("recording", "reconstruction") if row == 0 else (None, None)
        axes.plot(time, one - middle, color=MUTED, linewidth=1.0, label=first)
        axes.plot(time, two - middle, color=PALETTE[1], linewidth=1.3, label=second)
    axes.set_yticks([-row * gap for row in range(len(names))], list(names))
    axes.set_ylim(-(len(names) - 0.35) * gap, 0.75 * gap)
    axes.set_xlim(0, len(time) / sfreq)
    bar = _round_scale(gap / 2)
    axes.plot(
        [1.012, 1.012],
        [0, -bar],
        color=INK,
        linewidth=2.5,
        clip_on=False,
        transform=axes.get_yaxis_transform(),
        solid_capstyle="butt",
    )
    axes.text(
        1.022,
        -bar / 2,
        f"{bar:g} {unit}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8.5,
    )
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="time (s)", ylabel=f"channel (amplitude in {unit})")
    axes.set_title(title, pad=20)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    return figure


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
    _legend(axes, len(errors) + (reference is not None))
    return figure


@styled
def plot_spectrum(
    signals: Mapping[str, Float[np.ndarray, "channel time"]],
    sfreq: float,
    *,
    title: str,
    unit: str = "µV",
    high: float | None = None,
    bands: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Power spectral density, mean over channels (Welch, 2-s windows).

    Args:
        signals: Name to recording; they may differ in length.
        sfreq: Hz.
        high: Highest frequency drawn, Hz.
        bands: Name to edges in Hz, shaded.
    """
    figure, axes = single(6.4, 3.4)
    for i, (name, x) in enumerate(signals.items()):
        n = min(round(2 * sfreq), x.shape[-1])
        frequency, power = scipy_signal.welch(x, sfreq, nperseg=n)
        keep = (frequency > 0) & (frequency <= (high or sfreq / 2))
        axes.semilogy(frequency[keep], power.mean(0)[keep], color=color(i), label=name)
    for i, (name, (low, upper)) in enumerate((bands or {}).items()):
        axes.axvspan(low, upper, color=MUTED, alpha=0.14 if i % 2 else 0.07, linewidth=0, zorder=0)
        axes.annotate(
            name,
            ((low + upper) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=MUTED,
            rotation=90 if upper - low < 6 else 0,
        )
    axes.set_xlim(left=0)
    axes.set(xlabel="frequency (Hz)", ylabel=f"power density ({unit}²/Hz)", title=title)
    _legend(axes, len(signals))
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


def _legend(axes: Axes, entries: int) -> None:
    if entries > 5:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure = axes.figure
        if isinstance(figure, Figure):
            figure.set_figwidth(figure.get_figwidth() + 1.6)
    elif entries > 1:
        axes.legend(loc="best")


def _round_scale(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten below a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value * 1.0001))
