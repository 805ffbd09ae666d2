"""Matrices as colours: any table of values, dissimilarities, scores of layers over time or regions.

What is significant is outlined along the edges of its cells, so that nothing is smoothed.
Axes: row, column = cells of the table; rows are drawn from the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from neurofm.figures.style import (
    INK,
    MAGNITUDE,
    MUTED,
    SIGNED,
    color,
    ending,
    label_width,
    single,
    slant,
    styled,
    told_apart,
)
from neurofm.shapes import Bool, Float
from neurofm.types import RDM

MISSING = "#eceff3"
NAMED = 24  # more labels than this are not readable, and only counted
WRITTEN = 64  # cells whose numbers are written into them


@styled
def plot_matrix(
    values: Float[np.ndarray, "row column"],
    *,
    title: str,
    unit: str,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    signed: bool | None = None,
    limits: tuple[float | int, float | int] | None = None,
    outlined: Bool[np.ndarray, "row column"] | None = None,
    written: bool | None = None,
    square: bool | None = None,
) -> Figure:
    """Any table of values with one colour scale.

    Args:
        values: In `unit`; NaN cells are grey.
        rows: Labels of the rows; left out beyond 24 of them.
        columns: Labels of the columns.
        signed: Colours centred on zero; found from the values if not given.
        limits: Ends of the colour scale; those of the values if not given.
        outlined: Cells inside a line, such as the significant ones.
        written: Numbers in the cells; up to 64 cells if not given.
        square: Cells as wide as high; those of square tables if not given.
    """
    values = _table("plot_matrix", np.asarray(values, dtype=float), outlined)
    n_rows, n_columns = values.shape
    square = n_rows == n_columns if square is None else square
    beside = 0.0 if rows is None else max(label_width(_short(rows)) - 0.6, 0.0)
    below = 0.0 if columns is None else max(0.6 * label_width(_short(columns)) - 0.4, 0.0)
    width = float(np.clip(0.5 * n_columns, 3.4, 6.4)) + 2.0 + beside
    figure, axes = single(width, float(np.clip(0.5 * n_rows, 2.0, 5.2)) + 1.2 + below)
    low, high, colors = _scale(values, signed, limits)
    image = axes.imshow(
        values,
        cmap=colors,
        interpolation="nearest",
        vmin=low,
        vmax=high,
        aspect="equal" if square else "auto",
    )
    axes.set_facecolor(MISSING)
    if written or (written is None and values.size <= WRITTEN):
        _write(axes, image, values)
    if outlined is not None:
        outline(axes, outlined)
    _label(axes, "x", columns, n_columns)
    _label(axes, "y", rows, n_rows)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    return figure


@styled
def plot_rdm(
    rdm: RDM | np.ndarray,
    *,
    title: str,
    groups: Sequence[Any] | None = None,
    unit: str | None = None,
) -> Figure:
    """A dissimilarity matrix.

    Args:
        rdm: Or a square table, or its upper triangle by rows.
        groups: Of each condition; conditions are sorted by it and blocks are outlined.
        unit: That of the RDM's measure if not given.
    """
    rdm = rdm if isinstance(rdm, RDM) else _rdm(np.asarray(rdm, dtype=float))
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
    axes.set_facecolor(MISSING)
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
    else:
        _label(axes, "x", labels, n)
        _label(axes, "y", labels, n)
    axes.set(xlabel=f"condition (n = {n})", ylabel="condition", title=title)
    axes.grid(visible=False)
    known_units = {"correlation": "1 - correlation", "cosine": "1 - cosine"}
    known_units["class"] = "different class"
    unit = unit or known_units.get(rdm.metric, f"{rdm.metric} distance")
    figure.colorbar(image, ax=axes, label=unit, shrink=0.9)
    return figure


@styled
def plot_score_map(
    values: Float[np.ndarray, "row column"],
    *,
    title: str,
    unit: str,
    rows: Sequence[str],
    columns: Sequence[Any],
    xlabel: str,
    ylabel: str = "layer",
    ceiling: tuple[Any, Any] | None = None,
    chance: float | int | None = 0.0,
    significant: Bool[np.ndarray, "row column"] | None = None,
    signed: bool | None = None,
) -> Figure:
    """Scores of layers over time or regions: the best of every column above, all of them below.

    Args:
        values: In `unit`; the first row is drawn lowest, as the first layer of a network is.
        columns: Names of regions, or numbers on an even grid (seconds, Hz), which become an axis.
        ceiling: Lower and upper noise ceiling, one number or one per column.
        chance: Score of a guess.
        significant: Cells to outline.
    """
    values = _table("plot_score_map", np.asarray(values, dtype=float), significant)
    n_rows, n_columns = values.shape
    if (len(rows), len(columns)) != values.shape:
        raise ValueError(
            f"plot_score_map: {len(rows)} rows and {len(columns)} columns named for values of "
            f"shape {values.shape}."
        )
    numeric = all(isinstance(c, (int, float, np.number)) for c in columns) and n_columns > 1
    place = np.asarray(columns, dtype=float) if numeric else np.arange(n_columns, dtype=float)
    step = (place[-1] - place[0]) / max(n_columns - 1, 1) or 1.0
    figure = Figure(
        figsize=(7.2, 2.6 + float(np.clip(0.32 * n_rows, 1.4, 4.0))), layout="constrained"
    )
    height = [1.0, float(np.clip(0.22 * n_rows, 1.1, 3.0))]
    top, axes = figure.subplots(2, 1, sharex=True, height_ratios=height)
    with np.errstate(all="ignore"):
        best = np.array([np.nanmax(c) if np.isfinite(c).any() else np.nan for c in values.T])
    top.plot(place, best, color=color(0), marker="o" if n_columns <= 24 else None, markersize=3.5)
    if ceiling is not None:
        low, high = (np.broadcast_to(np.asarray(c, dtype=float), n_columns) for c in ceiling)
        around = np.array([place[0] - step / 2, *place, place[-1] + step / 2])
        low, high = (np.array([c[0], *c, c[-1]]) for c in (low, high))
        top.fill_between(around, low, high, color=MUTED, alpha=0.3, linewidth=0)
        top.annotate(
            "noise ceiling",
            (1.01, high[-1]),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
            color=MUTED,
        )
    if chance is not None:
        top.axhline(chance, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2)
    top.set(ylabel=f"best {ylabel}\n({unit})", title=title)
    low_end, high_end, colors = _scale(values, signed, None)
    image = axes.imshow(
        values,
        origin="lower",
        aspect="auto",
        cmap=colors,
        vmin=low_end,
        vmax=high_end,
        interpolation="nearest",
        extent=(place[0] - step / 2, place[-1] + step / 2, -0.5, n_rows - 0.5),
    )
    axes.set_facecolor(MISSING)
    if significant is not None:
        outline(axes, significant, x=place, step=step)
    if not numeric:
        _label(axes, "x", columns, n_columns)
        slant(axes, n_columns if max(len(str(c)) for c in columns) > 5 else n_columns // 3)
    _label(axes, "y", rows, n_rows)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=unit)
    return figure


def outline(
    axes: Axes,
    inside: Bool[np.ndarray, "row column"],
    *,
    x: np.ndarray | None = None,
    step: float = 1.0,
) -> None:
    """A line around the cells that are inside, along their edges.

    Args:
        x: Middle of each column on the axis; its index if not given.
        step: Width of a column.
    """
    start = 0.0 if x is None else float(x[0])
    padded = np.pad(np.asarray(inside, dtype=bool), 1)
    across = np.argwhere(padded[:, 1:] != padded[:, :-1])  # row, column left of which it changes
    along = np.argwhere(padded[1:] != padded[:-1])
    lines = [
        [(start + (c - 0.5) * step, r - 1.5), (start + (c - 0.5) * step, r - 0.5)]
        for r, c in across
    ]
    lines += [
        [(start + (c - 1.5) * step, r - 0.5), (start + (c - 0.5) * step, r - 0.5)] for r, c in along
    ]
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=1.3, capstyle="projecting"))


def _table(who: str, values: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{who}: values of shape {values.shape}, expected (row, column).")
    if inside is not None and inside.shape != values.shape:
        raise ValueError(f"{who}: {inside.shape} cells to outline in values of {values.shape}.")
    return values


def _scale(
    values: np.ndarray, signed: bool | None, limits: tuple[float | int, float | int] | None
) -> tuple[float, float, str]:
    """Ends of the colour scale and its colours."""
    known = values[np.isfinite(values)]
    if not known.size:
        known = np.zeros(1)
    low, high = limits or (float(known.min()), float(known.max()))
    if signed is None:
        signed = low < 0 < high
    if signed and limits is None:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return low, high if high > low else low + 1.0, SIGNED if signed else MAGNITUDE


def _write(axes: Axes, image: Any, values: np.ndarray) -> None:
    """The numbers in their cells, in ink or white, whichever is readable."""
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            shade = "white" if dark else INK
            text = f"{value:.0f}" if float(value).is_integer() else f"{value:.2g}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=shade)


def _label(axes: Axes, which: str, labels: Sequence[Any] | np.ndarray | None, n: int) -> None:
    if labels is None:
        return
    if len(labels) != n:
        raise ValueError(f"{len(labels)} labels for {n} rows or columns: {list(labels)[:5]} ...")
    names = _short(labels)
    place = list(range(n))
    if n > NAMED:  # a few of them, evenly
        place = [int(i) for i in np.linspace(0, n - 1, 8).round()]
    if which == "x":
        axes.set_xticks(place, [names[i] for i in place])
        slant(axes, n if max(map(len, names)) > 4 else n // 3)
    else:
        axes.set_yticks(place, [names[i] for i in place])
    axes.tick_params(length=0)


def _short(labels: Sequence[Any] | np.ndarray) -> list[str]:
    return [ending(name) for name in told_apart([str(label) for label in labels])]


def _rdm(values: np.ndarray) -> RDM:
    """A table or a triangle without labels."""
    if values.ndim == 2:
        n = len(values)
        values = values[np.triu_indices(n, 1)]
    else:
        n = round((1 + np.sqrt(1 + 8 * len(values))) / 2)
        if n * (n - 1) // 2 != len(values):
            raise ValueError(f"plot_rdm: {len(values)} dissimilarities are no upper triangle.")
    return RDM(values, tuple(str(i) for i in range(n)), "dissimilarity")
