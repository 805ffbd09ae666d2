"""Maps of the scalp, drawn by MNE: one value per sensor, seen from above, nose up.

Axes: channel. Positions are metres in the head frame (x right, y front, z up).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import mne
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from neurofm.figures.style import EVIDENCE, INK, SIGNED, styled
from neurofm.shapes import Float

SAME_PLACE_M = 1e-3
# The vertex of the 10-20 system lies this far in front of the head frame's vertical, and its
# equator (Fpz, T7, Oz, T8) this far from the vertex. Radians, measured on the 10-05 positions.
TILT, OUTLINE = np.deg2rad(8.0), np.deg2rad(97.0)


@styled
def plot_topography(
    values: Float[np.ndarray, " channel"],
    position: Float[np.ndarray, "channel 3"],
    *,
    title: str,
    unit: str,
    names: Sequence[str] | None = None,
    mark: Sequence[str] = (),
    signed: bool | None = None,
) -> Figure:
    """One map.

    Args:
        values: In `unit`; NaN values and sensors without a position are left out.
        names: Of the sensors, needed for `mark`.
        mark: Sensors to name on the map, such as C3 and C4.
        signed: Colours centred on zero; found from the values if not given.
    """
    return plot_topographies(
        {title: values}, position, unit=unit, names=names, mark=mark, signed=signed
    )


@styled
def plot_topographies(
    maps: Mapping[str, Float[np.ndarray, " channel"]],
    position: Float[np.ndarray, "channel 3"],
    *,
    unit: str,
    title: str = "",
    names: Sequence[str] | None = None,
    mark: Sequence[str] = (),
    signed: bool | None = None,
    shared: bool = True,
) -> Figure:
    """A row of maps, one per class, with one colour scale.

    Args:
        maps: Title of each map to its values; see `plot_topography`.
        shared: One scale for all maps, so that they compare; otherwise one each.
    """
    if not maps:
        raise ValueError("plot_topographies: no map to draw.")
    use = np.isfinite(position).all(1)
    for name, values in maps.items():
        if values.shape != use.shape:
            raise ValueError(
                f"plot_topographies: {name!r} has {values.shape} values for {len(use)} sensors."
            )
        use &= np.isfinite(values)
    if use.sum() < 4:
        raise ValueError(
            f"plot_topographies: {int(use.sum())} of {len(use)} sensors have a value and a "
            "position; at least 4 are needed. Give the dataset card a montage."
        )
    left_out = int((~use).sum())
    index, cluster = _places(position[use])
    stacked = {name: _average(values[use], cluster, len(index)) for name, values in maps.items()}
    everything = np.concatenate(list(stacked.values()))
    if signed is None:
        signed = bool(everything.min() < 0)
    place = project(position[use][index])
    shown = [str(names[i]) for i in np.flatnonzero(use)[index]] if names is not None else []
    columns = min(len(maps), 5)
    rows = -(-len(maps) // columns)
    height = 2.9 * rows + (0.3 if title else 0.0)
    figure = Figure(figsize=(max(2.35 * columns + 0.9, 3.6), height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    image: Any = None
    for axes, (name, values) in zip(panels, stacked.items(), strict=False):
        limits = limits_of(everything if shared else values, signed)
        marked = [name if name in set(mark) else "" for name in shown]
        image = draw_map(axes, values, place, limits, signed, marked)
        axes.set_title(name, loc="center")
        if not shared:
            figure.colorbar(image, ax=axes, label=unit, shrink=0.7)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    if shared:
        figure.colorbar(image, ax=list(panels), label=unit, shrink=0.75, pad=0.02)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    if left_out:
        figure.supxlabel(f"{left_out} sensors without position or value left out", fontsize=8)
    return figure


def draw_topography(
    axes: Axes,
    values: Float[np.ndarray, " channel"],
    position: Float[np.ndarray, "channel 3"],
    *,
    signed: bool,
) -> Any:
    """A map inside a figure of something larger; the image, for a colour bar.

    Args:
        values: NaN values and sensors without a position are left out; at least 4 are needed.
    """
    use = np.isfinite(position).all(1) & np.isfinite(values)
    index, cluster = _places(position[use])
    means = _average(values[use], cluster, len(index))
    place = project(position[use][index])
    return draw_map(axes, means, place, limits_of(means, signed), signed, [""] * len(index))


def draw_map(
    axes: Axes,
    values: np.ndarray,
    place: Float[np.ndarray, "channel 2"],
    limits: tuple[float, float],
    signed: bool,
    marked: list[str],
) -> Any:
    """Interpolated values inside the outline of a head, with the electrodes; the image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        image, _ = mne.viz.plot_topomap(
            values,
            place,
            axes=axes,
            show=False,
            cmap=SIGNED if signed else EVIDENCE,
            vlim=limits,
            sphere=(0.0, 0.0, 0.0, 1.0),
            contours=_levels(limits, signed),
            sensors="k.",
            extrapolate="head",
            outlines="head",
            names=marked or None,
            mask=np.array([bool(name) for name in marked]) if any(marked) else None,
            mask_params={"markersize": 5, "markerfacecolor": INK, "markeredgecolor": "white"},
        )
    for line in axes.lines:
        line.set_clip_on(False)  # sensors at the rim
    for text in axes.texts:
        text.set(fontsize=8.5, fontweight="bold", va="bottom", color=INK)
        text.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    return image


def limits_of(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Ends of the colour scale: symmetric about 0 if signed."""
    if signed:
        edge = float(np.abs(values).max()) or 1.0
        return -edge, edge
    low, high = float(values.min()), float(values.max())
    low = 0.0 if low < 0.5 * high else low
    return low, high if high > low else low + 1.0


def _levels(limits: tuple[float, float], signed: bool) -> list[float]:
    """Contours away from zero, where lines would only follow noise."""
    low, high = limits
    if signed:
        return [
            sign * part * high
            for sign, part in ((-1, 0.9), (-1, 0.6), (-1, 0.3), (1, 0.3), (1, 0.6), (1, 0.9))
        ]
    return [low + part * (high - low) for part in (0.25, 0.5, 0.75)]


def _places(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First sensor of each place, and the place of each sensor.

    The two gradiometers and the magnetometer of one MEG chip lie at the same place.
    """
    first: list[int] = []
    cluster = np.zeros(len(position), dtype=int)
    for i, point in enumerate(position):
        if first:
            distance = np.linalg.norm(position[first] - point, axis=1)
            nearest = int(distance.argmin())
            if distance[nearest] < SAME_PLACE_M:
                cluster[i] = nearest
                continue
        cluster[i] = len(first)
        first.append(i)
    return np.array(first), cluster


def _average(values: np.ndarray, cluster: np.ndarray, n: int) -> np.ndarray:
    return np.bincount(cluster, values.astype(float), n) / np.bincount(cluster, minlength=n)


def project(position: np.ndarray) -> Float[np.ndarray, "channel 2"]:
    """Seen from above: distance from the centre is the angle from the vertex, 1 at the outline.

    The centre is that of the sphere which fits the sensors best.
    """
    # Least squares: |p|² = 2 c·p + (r² - |c|²).
    design = np.column_stack([2 * position, np.ones(len(position))])
    solution = np.linalg.lstsq(design, np.square(position).sum(1), rcond=None)[0]
    centre = solution[:3]
    radius = float(np.sqrt(max(solution[3] + centre @ centre, 0.0)))
    spread = np.linalg.norm(position - position.mean(0), axis=1).max()
    if not 0.03 < radius < 0.3 or radius > 3 * spread:  # a few sensors fix no sphere
        centre = np.array([0.0, 0.015, 0.044])
    x, y, z = (position - centre).T
    y, z = np.cos(TILT) * y - np.sin(TILT) * z, np.sin(TILT) * y + np.cos(TILT) * z
    angle, azimuth = np.arctan2(np.hypot(x, y), z) / OUTLINE, np.arctan2(y, x)
    return np.column_stack([angle * np.cos(azimuth), angle * np.sin(azimuth)])
