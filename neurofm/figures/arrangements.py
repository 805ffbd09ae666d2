"""Points in a plane: multidimensional scaling, trajectories through layers, any two measures.

Axes: point = condition, layer or model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, color, single, styled
from neurofm.shapes import Float

NAMED = 40


@styled
def plot_arrangement(
    points: Float[np.ndarray, "point dim"],
    *,
    title: str,
    labels: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    connected: bool = False,
    stress: float | int | None = None,
    axes_labels: tuple[str, str] | None = None,
) -> Figure:
    """Points whose distances mean something, such as those of multidimensional scaling.

    Args:
        points: The first two dimensions are drawn, to one scale.
        labels: Of the points; written beside up to 40 of them.
        groups: Of each point, one colour each.
        connected: A line through the points in their order: a trajectory.
        stress: How badly distances are kept, written into the title.
        axes_labels: With units. Without them the axes are arbitrary and have no numbers.
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] < 1:
        raise ValueError(f"plot_arrangement: points of shape {points.shape}, expected (point, 2).")
    if points.shape[1] == 1:
        points = np.column_stack([points, np.zeros(len(points))])
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != len(points):
            raise ValueError(f"plot_arrangement: {len(given)} {name} for {len(points)} points.")
    figure, axes = single(5.6, 4.4)
    if connected:
        axes.plot(points[:, 0], points[:, 1], color=INK, linewidth=0.9, alpha=0.5, zorder=1)
    names = [str(group) for group in groups] if groups is not None else [""] * len(points)
    for i, name in enumerate(dict.fromkeys(names)):
        own = np.array([other == name for other in names])
        axes.plot(
            points[own, 0],
            points[own, 1],
            "o",
            color=color(i),
            markersize=7 if len(points) <= NAMED else 4,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=name,
        )
    if labels is not None and len(points) <= NAMED:
        for (x, y), label in zip(points[:, :2], labels, strict=True):
            axes.annotate(str(label), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8)
    if groups is not None:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.set_figwidth(figure.get_figwidth() + 1.2)
    if axes_labels is None:
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticklabels([])
        axes.set_yticklabels([])
        axes.tick_params(length=0)
        axes.set(xlabel="dimension 1 (arbitrary)", ylabel="dimension 2 (arbitrary)")
    else:
        axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
    axes.set_title(title if stress is None else f"{title} (stress {stress:.2f})")
    return figure
