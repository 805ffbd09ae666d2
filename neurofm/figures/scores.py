"""Scores beside each other: with intervals, single people, chance and the noise ceiling.

A number that nothing judges is no result: what is drawn here has its reference next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurofm.figures.style import (
    INK,
    MUTED,
    broken,
    color,
    ending,
    label_width,
    single,
    slant,
    styled,
    told_apart,
)
from neurofm.types import Result


@styled
def plot_scores(
    results: Sequence[Result],
    *,
    title: str,
    xlabel: str = "balanced accuracy",
    chance: float | int | None = None,
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
def plot_bars(
    values: Mapping[str, float | int] | Mapping[str, Mapping[str, float | int]],
    *,
    title: str,
    unit: str,
    intervals: Mapping[str, Any] | None = None,
    ceiling: tuple[float | int, float | int] | None = None,
    chance: float | int | None = None,
    marks: Mapping[str, Any] | None = None,
    xlabel: str = "",
) -> Figure:
    """Bars with 95 % intervals under a noise ceiling.

    Args:
        values: Name of the bar to its height in `unit`; or name of a series to its bars, which
            then stand beside each other in groups.
        intervals: Ends of the interval under the same names as `values`.
        ceiling: Lower and upper noise ceiling.
        chance: A line: what a guess or a control reaches.
        marks: Written at the ends of bars, such as "*" where significant; named as `values` are.
    """
    if not values:
        raise ValueError(f"plot_bars: no value to draw for {title!r}.")
    nested = isinstance(next(iter(values.values())), Mapping)
    series: Any = values if nested else {"": values}
    ends: Any = (intervals or {}) if nested else {"": intervals or {}}
    names = list(dict.fromkeys(name for bars in series.values() for name in bars))
    labels = [ending(name) for name in told_apart(names)]
    slanted = len(names) > 4 and max(map(len, labels)) > 7
    labels = labels if slanted else [broken(name, 18) for name in labels]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    each = max(0.55 * len(series), 0 if slanted else 0.08 * longest + 0.1)
    height_in = 3.4 + max(0.0, 0.045 * longest - 0.5 if slanted else 0.0)
    figure, axes = single(float(np.clip(1.8 + each * len(names), 3.6, 9.0)), height_in)
    width = 0.8 / len(series)
    for i, (label, bars) in enumerate(series.items()):
        at = np.array([k for k, name in enumerate(names) if name in bars])
        place = at + (i - (len(series) - 1) / 2) * width
        height = np.array([bars[names[k]] for k in at], dtype=float)
        own = ends.get(label, {})
        above: Any = (marks or {}).get(label, {}) if nested else marks or {}
        error = np.array([own.get(names[k], (np.nan, np.nan)) for k in at], dtype=float).T
        shades = color(i) if nested else [color(int(k)) for k in at]
        axes.bar(place, height, width * 0.88, color=shades, alpha=0.85, label=label)
        if np.isfinite(error).any():
            reach = np.maximum([height - error[0], error[1] - height], 0)
            axes.errorbar(place, height, reach, fmt="none", color=INK, capsize=3, elinewidth=1.2)
        ends_at = np.where(height < 0, np.fmin(height, error[0]), np.fmax(height, error[1]))
        for k, x, y in zip(at, place, ends_at, strict=True):
            axes.annotate(
                above.get(names[k], ""),
                (x, y),
                xytext=(0, -2 if y < 0 else 2),
                textcoords="offset points",
                ha="center",
                va="top" if y < 0 else "bottom",
                fontsize=11,
            )
    if marks:  # which belong inside
        axes.margins(y=0.12)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    if ceiling is not None:
        axes.axhspan(*ceiling, color=MUTED, alpha=0.25, linewidth=0, zorder=0)
        _beside(axes, "noise ceiling", sum(ceiling) / 2, "center" if chance is None else "bottom")
    if chance is not None:
        axes.axhline(chance, color=INK, linestyle=(0, (4, 3)), linewidth=1.2)
        _beside(axes, "chance", chance, "center" if ceiling is None else "top")
    axes.set_xticks(range(len(names)), labels)
    slant(axes, len(names) if slanted else 0)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel=xlabel, ylabel=unit, title=title)
    if len(series) > 1:
        axes.set_title(title, pad=20)
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, borderaxespad=0.1)
    return figure


def _beside(axes: Axes, text: str, height: float, align: str) -> None:
    axes.annotate(
        text,
        (1.01, height),
        xycoords=("axes fraction", "data"),
        va=align,
        fontsize=8.5,
        color=MUTED,
    )


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
        axes.set_xticks(range(len(layers)), told_apart(layers))
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
