"""Maps of the brain: slices, glass brains, surfaces.

Slices need matplotlib alone, for any set of voxels on a grid, also a single slice. Glass brains and
surfaces are drawn by nilearn (extra `fmri`) and need positions in MNI space; nothing is downloaded.
A map is shown with its unit; what is not significant can be left out or is outside the outline.

Axes: voxel; positions in metres.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurofm.compat import optional
from neurofm.figures.style import EVIDENCE, GRID, INK, SIGNED, headline, styled
from neurofm.io.mri.images import Grid
from neurofm.io.mri.maps import map_image, volume_of
from neurofm.shapes import Bool, Float

Plane = Literal["axial", "coronal", "sagittal"]
_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}
_SIDES = {"axial": ("left-right", "back-front"), "coronal": ("left-right", "down-up")}
_SIDES["sagittal"] = ("back-front", "down-up")


def _limits(
    values: np.ndarray, chance: float | None, signed: bool | None
) -> tuple[float, float, str]:
    """Lowest and highest value shown, and the colours."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError("brain map: no value is finite.")
    signed = bool(chance is None and finite.min() < 0) if signed is None else signed
    if signed:
        reach = float(np.abs(finite).max()) or 1.0
        return -reach, reach, SIGNED
    low = float(finite.min()) if chance is None else float(chance)
    high = float(finite.max())
    return low, high if high > low else low + 1.0, EVIDENCE


@styled
def plot_slices(
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    title: str,
    unit: str,
    chance: float | None = None,
    signed: bool | None = None,
    significant: Bool[np.ndarray, " voxel"] | None = None,
    background: Float[np.ndarray, " voxel"] | None = None,
    plane: Plane = "axial",
    n_slices: int = 8,
    grid: Grid | None = None,
    note: str = "",
) -> Figure:
    """A mosaic of slices, seen from the front, from above or from the left; left is left.

    Args:
        values: In `unit`; NaN is not drawn.
        unit: Of the values, with what the uncertainty is, for the colour bar.
        chance: Where the colours begin; below it nothing is drawn but the background.
        signed: Colours centred on zero; found from the values if not given.
        significant: Voxels to outline.
        background: Such as the mean image, in grey.
        plane: Of the slices.
        n_slices: At most; those with the strongest values.
        grid: Of the image; the smallest that holds the voxels if not given.
        note: A line below: what the outline means, how many runs.

    Raises:
        ValueError: Lengths that differ, or voxels on no grid.
    """
    low, high, colours = _limits(values, chance, signed)
    volume, own = volume_of(values, position, grid=grid)
    outline = under = None
    if significant is not None:
        outline, _ = volume_of(np.asarray(significant, dtype=float), position, grid=own)
    if background is not None:
        under, _ = volume_of(background, position, grid=own)
    axis = _AXIS[plane]
    strength = np.abs(volume - (low if chance is not None else 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a slice without voxels
        best = np.nanmax(np.moveaxis(strength, axis, 0).reshape(volume.shape[axis], -1), axis=1)
    filled = np.flatnonzero(np.isfinite(best))
    chosen = np.sort(filled[np.argsort(-best[filled], kind="stable")][:n_slices])
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    extent = _extent(own, axis)
    window = _window(np.take(volume, chosen, axis=axis), extent, axis)
    width, height = window[1] - window[0], window[3] - window[2]
    side = 2.4 if len(chosen) > 1 else 4.6
    size = (0.9 + columns * side, 0.9 + rows * side * height / width + 0.25 * bool(note))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    image: Any = None
    for panel in panels[len(chosen) :]:
        panel.set_axis_off()
    for k, (panel, at) in enumerate(zip(panels, chosen.tolist(), strict=False)):
        place = own.affine[axis, 3] + at * own.affine[axis, axis]
        if under is not None:
            panel.imshow(_cut(under, axis, at), cmap="gray", extent=extent, **_PIXELS)
        else:
            known = np.where(np.isfinite(_cut(volume, axis, at)), 1.0, np.nan)
            panel.imshow(known, cmap="Greys", vmin=0, vmax=6, extent=extent, **_PIXELS)
        shown = _cut(volume, axis, at)
        shown = np.where(shown > low, shown, np.nan) if chance is not None else shown
        image = panel.imshow(shown, cmap=colours, vmin=low, vmax=high, extent=extent, **_PIXELS)
        if outline is not None:
            _outline(panel, np.nan_to_num(_cut(outline, axis, at)) > 0.5, extent)
        panel.set(xlim=window[:2], ylim=window[2:])
        _label(panel, plane, f"{'xyz'[axis]} = {place:.0f} mm", first=k % columns == 0)
    figure.colorbar(image, ax=panels.tolist(), label=unit, shrink=0.85)
    headline(figure, title)
    if note:
        figure.supxlabel(note, fontsize=8.5)
    return figure


_PIXELS: dict[str, Any] = {"origin": "lower", "interpolation": "nearest", "aspect": "equal"}


def _cut(volume: np.ndarray, axis: int, at: int) -> Float[np.ndarray, "row column"]:
    return np.take(volume, at, axis=axis).T


def _extent(grid: Grid, axis: int) -> tuple[float, float, float, float]:
    """Millimetres of the edges of a slice."""
    across = [i for i in range(3) if i != axis]
    ends = []
    for i in across:
        first, step = float(grid.affine[i, 3]), float(grid.affine[i, i])
        ends += [first - step / 2, first + (grid.shape[i] - 0.5) * step]
    return ends[0], ends[1], ends[2], ends[3]


def _window(
    volume: np.ndarray, extent: tuple[float, float, float, float], axis: int
) -> tuple[float, float, float, float]:
    """Millimetres of the part of the slices that holds voxels, and one voxel around it."""
    filled = np.isfinite(volume).any(axis)
    ends = []
    for i, (low, high) in enumerate((extent[:2], extent[2:])):
        at = np.flatnonzero(filled.any(1 - i))
        step = (high - low) / filled.shape[i]
        ends += [low + step * max(at[0] - 1, 0), low + step * min(at[-1] + 2, filled.shape[i])]
    return ends[0], ends[1], ends[2], ends[3]


def _outline(axes: Axes, inside: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    """Edges between voxels inside and outside, drawn between voxels."""
    rows, columns = inside.shape
    x = np.linspace(extent[0], extent[1], columns + 1)
    y = np.linspace(extent[2], extent[3], rows + 1)
    padded = np.pad(inside, 1)
    lines = []
    for i, j in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]):
        lines.append([(x[j], y[i]), (x[j], y[i + 1])])
    for i, j in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]):
        lines.append([(x[j], y[i]), (x[j + 1], y[i])])
    axes.add_collection(mpl.collections.LineCollection(lines, colors=INK, linewidths=1.2))


def _label(axes: Axes, plane: str, title: str, *, first: bool) -> None:
    across, up = _SIDES[plane]
    axes.set_title(title, fontsize=8.5, fontweight="normal")
    axes.set_xlabel(f"{across} (mm)", fontsize=8)
    if first:
        axes.set_ylabel(f"{up} (mm)", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(visible=False)
    axes.set_facecolor("white")
    for spine in axes.spines.values():
        spine.set_color(GRID)


def _require_mni(frame: str, what: str) -> None:
    if frame != "mni":
        raise ValueError(
            f"{what}: positions are in the frame {frame!r}; the template is in MNI space. Register "
            "the images first (fMRIPrep's `space-MNI...`), or use `plot_slices`."
        )


def plot_glass(
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    title: str,
    unit: str,
    frame: str,
    threshold: float | int | None = None,
    signed: bool | None = None,
    significant: Bool[np.ndarray, " voxel"] | None = None,
    grid: Grid | None = None,
) -> Figure:
    """A glass brain from three sides: the strongest value along the line of sight (nilearn).

    Args:
        values: In `unit`.
        frame: Of the positions (`Sensors.frame`); "mni" is required.
        threshold: Values nearer to zero are not shown.
        signed: Both directions in two colours; found from the values if not given.
        significant: Other voxels are left out.
        grid: Of the image; the smallest that holds the voxels if not given.

    Raises:
        ValueError: Another frame, or nothing to show.
        ImportError: No nilearn.
    """
    _require_mni(frame, "plot_glass")
    shown = np.asarray(values, dtype=np.float64)
    if significant is not None:
        shown = np.where(significant, shown, 0.0)
    low, high, colours = _limits(shown, None if signed else 0.0, signed)
    plotting = optional("nilearn.plotting")
    pyplot = optional("matplotlib.pyplot")
    with mpl.rc_context({"font.family": "DejaVu Sans", "figure.constrained_layout.use": False}):
        figure = pyplot.figure(figsize=(8.6, 3.4), facecolor="white")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of matplotlib about fonts and masked values
            plotting.plot_glass_brain(
                map_image(np.nan_to_num(shown), position, grid=grid),
                figure=figure,
                display_mode="lyrz" if signed else "ortho",
                colorbar=True,
                cmap=colours,
                threshold=threshold if threshold is not None else "auto",
                vmax=high,
                vmin=low if signed else 0,
                plot_abs=False,
            )
        figure.axes[-1].set_ylabel(unit)  # that of the colours
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
        pyplot.close(figure)
    return figure


def plot_surface(
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    title: str,
    unit: str,
    frame: str,
    flat: bool = False,
    threshold: float | int | None = None,
    signed: bool | None = None,
    significant: Bool[np.ndarray, " voxel"] | None = None,
    grid: Grid | None = None,
) -> Figure:
    """Values of voxels at the cortex of fsaverage5, inflated from the side, or as flat maps.

    Voxels between the two surfaces of the cortex are averaged; vertices without any stay grey.

    Args:
        values: In `unit`.
        frame: Of the positions; "mni" is required.
        flat: The whole cortex at once.
        threshold: Values nearer to zero are not shown.
        signed: Both directions in two colours; found from the values if not given.
        significant: Other voxels are left out.
        grid: Of the image; the smallest that holds the voxels if not given.

    Raises:
        ValueError: Another frame, or nothing to show.
        ImportError: No nilearn.
    """
    _require_mni(frame, "plot_surface")
    shown = np.asarray(values, dtype=np.float64)
    if significant is not None:
        shown = np.where(significant, shown, 0.0)
    low, high, colours = _limits(shown, None if signed else 0.0, signed)
    plotting, datasets = optional("nilearn.plotting"), optional("nilearn.datasets")
    surface, pyplot = optional("nilearn.surface"), optional("matplotlib.pyplot")
    image = map_image(np.nan_to_num(shown), position, grid=grid)
    mesh = datasets.fetch_surf_fsaverage("fsaverage5")
    with mpl.rc_context({"font.family": "DejaVu Sans", "figure.constrained_layout.use": False}):
        figure = pyplot.figure(figsize=(8.6, 3.9), facecolor="white")
        panels = [figure.add_subplot(1, 2, i, projection="3d") for i in (1, 2)]
        for axes, side in zip(panels, ("left", "right"), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # vertices without a voxel
                texture = surface.vol_to_surf(
                    image, mesh[f"pial_{side}"], inner_mesh=mesh[f"white_{side}"]
                )
                plotting.plot_surf_stat_map(
                    mesh[f"{'flat' if flat else 'infl'}_{side}"],
                    texture,
                    hemi=side,
                    view=(90, -90) if flat else "lateral",
                    bg_map=mesh[f"sulc_{side}"],
                    threshold=threshold,
                    cmap=colours,
                    vmax=high,
                    vmin=low if signed else 0,
                    colorbar=False,
                    axes=axes,
                    figure=figure,
                )
            axes.set_title(side, fontsize=9)
        shades = mpl.cm.ScalarMappable(mpl.colors.Normalize(low if signed else 0, high), colours)
        figure.colorbar(shades, ax=panels, label=unit, shrink=0.6)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
        pyplot.close(figure)
    return figure
