"""A value for each voxel as an image, and as a NIfTI file that other programs open.

Axes: voxel. Positions in metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from neurofm.io.mri.images import Grid
from neurofm.shapes import Float

_SAME_M = 1e-5  # positions are stored to a hundredth of a millimetre or better


def grid_of(position: Float[np.ndarray, "voxel 3"]) -> Grid:
    """The smallest grid along the three axes that voxels lie on.

    An axis along which all voxels have one place gets the voxel size of the others.

    Raises:
        ValueError: No position, or places that are on no such grid, as those of a tilted image.
    """
    at = np.asarray(position, dtype=np.float64)
    at = at[np.isfinite(at).all(1)]
    if not len(at):
        raise ValueError("map: no voxel has a position. Read images with an affine.")
    sides = [_distinct(axis) for axis in at.T]
    steps = [_step(side) for side in sides]
    usual = max([step for step in steps if step > 0] or [1e-3])
    steps = [step or usual for step in steps]
    shape = [
        round((side[-1] - side[0]) / step) + 1 for side, step in zip(sides, steps, strict=True)
    ]
    affine = np.diag([*(1000 * np.array(steps)), 1.0])
    affine[:3, 3] = 1000 * at.min(0)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _distinct(values: np.ndarray) -> Float[np.ndarray, " place"]:
    ordered = np.sort(values)
    return ordered[np.append(True, np.diff(ordered) > _SAME_M)]


def _step(places: Float[np.ndarray, " place"]) -> float:
    """The largest step that leads to all places; 0 where there is one place alone."""
    if len(places) < 2:
        return 0.0
    for parts in range(1, 5):  # parts of a brain may lie half a voxel apart
        step = float(np.diff(places).min()) / parts
        # The step from end to end is exact, the smallest has the rounding of two places.
        step = float(np.ptp(places)) / round(float(np.ptp(places)) / step)
        index = (places - places[0]) / step
        if np.abs(index - np.round(index)).max() < 0.05:
            return step
    raise ValueError(
        "map: voxels lie on no grid along the axes (parcels, or a tilted image). Give the `grid` "
        "of the image they come from."
    )


def volume_of(
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    grid: Grid | None = None,
) -> tuple[Float[np.ndarray, "x y z"], Grid]:
    """Values at their places, NaN elsewhere, and the grid.

    Args:
        grid: Of the image the voxels come from; the smallest that holds them if not given.

    Raises:
        ValueError: Lengths that differ, or voxels outside the grid.
    """
    values, at = np.asarray(values, dtype=np.float64), np.asarray(position, dtype=np.float64)
    if values.shape != at.shape[:1]:
        raise ValueError(f"map: values of shape {values.shape} for {len(at)} positions.")
    own = grid_of(at) if grid is None else grid
    known = np.isfinite(at).all(1)
    inverse = np.linalg.inv(own.affine)
    index = 1000 * at[known] @ inverse[:3, :3].T + inverse[:3, 3]
    place = np.round(index).astype(int)
    if (place < 0).any() or (place >= own.shape).any() or np.abs(index - place).max() > 0.1:
        raise ValueError(
            f"map: voxels lie beside the grid of {own.shape} voxels. It belongs to an image of "
            "another space."
        )
    volume = np.full(own.shape, np.nan)
    volume[tuple(place.T)] = values[known]
    return volume, own


def map_image(
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    grid: Grid | None = None,
) -> Any:
    """A nibabel image of the values, 0 where there is no voxel, as plotting libraries take it."""
    volume, own = volume_of(values, position, grid=grid)
    return nibabel.Nifti1Image(np.nan_to_num(volume).astype(np.float32), own.affine)


def write_map(
    path: Path | str,
    values: Float[np.ndarray, " voxel"],
    position: Float[np.ndarray, "voxel 3"],
    *,
    grid: Grid | None = None,
    frame: str = "unknown",
) -> Path:
    """Write values as NIfTI: NaN where there is no voxel.

    Args:
        path: Ends in `.nii` or `.nii.gz`.
        frame: "mni" or "scanner" is written into the header, others leave it open.

    Raises:
        ValueError: Another ending.
    """
    target = Path(path)
    if not target.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"write_map: {target.name}; expected a name ending in .nii or .nii.gz.")
    volume, own = volume_of(values, position, grid=grid)
    image = nibabel.Nifti1Image(volume.astype(np.float32), own.affine)
    code = {"mni": 4, "scanner": 1}.get(frame, 0)
    image.set_sform(own.affine, code=code)
    image.set_qform(own.affine, code=code)
    nibabel.save(image, target)
    return target
