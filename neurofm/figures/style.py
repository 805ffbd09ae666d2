"""How every figure looks: one palette, one font size, no global state left changed.

Figures are made with the object interface of matplotlib (`Figure`, not pyplot), so that plotting
works in threads and without a display, and nothing stays open.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

# Distinguishable with the common colour deficiencies and on white.
PALETTE = ("#2563a8", "#d9722b", "#2f8f5b", "#8a5bb5", "#b5476b", "#6b7280", "#b8962e", "#3aa0b0")
INK, MUTED, GRID = "#1f2933", "#6b7280", "#e3e7ec"
SIGNED, MAGNITUDE, EVIDENCE = "RdBu_r", "viridis", "YlOrRd"
DPI = 150
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a plotting function under the project's style, and restore the caller's."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(RC):
            return function(*args, **kwargs)

    return wrapper


def single(width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def color(i: int) -> str:
    """The i-th colour of the palette, round and round."""
    return PALETTE[i % len(PALETTE)]


def tick_labels(axes: Axes, labels: Sequence[str]) -> None:
    """The same labels on both axes of a matrix."""
    axes.set_xticks(range(len(labels)), list(labels))
    axes.set_yticks(range(len(labels)), list(labels))
    axes.tick_params(length=0)
    slant(axes, len(labels) if max(map(len, labels), default=0) > 6 else len(labels) // 2)


def slant(axes: Axes, n: int) -> None:
    """Turn the labels of the horizontal axis if there are too many to stand side by side."""
    if n > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def told_apart(names: Sequence[str], *, longest: int = 18) -> list[str]:
    """Dotted names, if one is longer than that, without the parts that all share."""
    paths = [name.split(".") for name in names]
    same = len({len(path) for path in paths}) == 1 and not any(" " in name for name in names)
    if len(paths) < 2 or not same or max(map(len, names)) <= longest:
        return list(names)
    own = [k for k in range(len(paths[0])) if len({path[k] for path in paths}) > 1]
    if len(own) == 1 and own[0]:  # the number alone says little: blocks.0
        own = [own[0] - 1, *own]
    return [".".join(path[k] for k in own) for path in paths] if own else list(names)


def ending(name: str, width: int = 30) -> str:
    """The end of a name, which tells more of a place in a network than its beginning."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def broken(name: str, width: int = 26) -> str:
    """A long name on several lines."""
    return "\n".join(textwrap.wrap(name, width, break_on_hyphens=False)) or name


def label_width(names: Iterable[str]) -> float:
    """Inches that the longest of some labels takes."""
    return 0.07 * max(map(len, names), default=0)


def headline(figure: Figure, text: str) -> None:
    """A title over the whole width of a figure, on as many lines as it needs."""
    width = max(20, int(figure.get_figwidth() * 11.5))
    lines = textwrap.fill(text, width)
    figure.suptitle(lines, fontsize=10.5, fontweight="bold", x=0.01, ha="left")


def legend(axes: Axes, entries: int) -> None:
    """Names of what is drawn: none for one, beside the axes if there are many."""
    if entries > 5:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure = axes.figure
        if isinstance(figure, Figure):
            figure.set_figwidth(figure.get_figwidth() + 1.6)
    elif entries > 1:
        axes.legend(loc="best")
