"""Betas of a mask's voxels from images with a volume per trial: NIfTI, or HDF5 of the same grid.

Axes: trial voxel. Metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file
from neurofm.io.mri.images import Image, open_image, require_same_grid
from neurofm.shapes import Bool, Float
from neurofm.types import Sensors
from neurofm.units import Kind

_BLOCK_BYTES = 64 << 20


def read_mask(path: Path) -> tuple[Image, Bool[np.ndarray, " voxel"]]:
    """A mask image and which of its voxels (in canonical order) are above 0.

    Raises:
        ValueError: No voxel is.
    """
    image = open_image(path)
    inside = np.nan_to_num(image.read_volume()) > 0
    if not inside.any():
        raise ValueError(f"{path}: the mask is empty. Give another one.")
    return image, inside


def read_labels(path: Path, mask: Image, inside: np.ndarray) -> np.ndarray:
    """Whole numbers of an image at the voxels of a mask.

    Raises:
        ValueError: It is on another grid.
    """
    image = open_image(path)
    require_same_grid(mask, image, "image of regions", "Take the one of the same space.")
    return np.rint(np.nan_to_num(image.read_volume()[inside])).astype(int)


def read_volumes(
    path: Path, mask: Image, inside: Bool[np.ndarray, " grid"], *, affine: bool = True
) -> tuple[Float[np.ndarray, "trial voxel"], bool]:
    """Values of the mask's voxels in every volume; whether they are whole numbers as stored.

    Args:
        affine: The image must lie where the mask lies; else the same shape is enough.

    Raises:
        ValueError: Another grid than the mask's, or damaged.
    """
    columns = mask.order[inside]
    if path.suffix == ".hdf5":
        return _from_hdf5(path, mask, columns)
    image = open_image(path)
    if affine:
        remedy = "Take the mask of the same space (such as func1pt8mm) as the betas."
        require_same_grid(image, mask, "mask", remedy)
        columns = image.order[inside]
    elif image.shape != mask.shape:
        raise ValueError(
            f"{path}: {' x '.join(map(str, image.shape))} voxels, but the mask {mask.path} has "
            f"{' x '.join(map(str, mask.shape))}. Is it the mask of another person?"
        )
    values = np.empty((image.n_volumes, len(columns)), dtype=np.float32)
    for first, block in image.blocks():
        values[first : first + len(block)] = image.values(block[:, columns])
    return values, image.dtype.kind in "iu"


def _from_hdf5(path: Path, mask: Image, columns: np.ndarray) -> tuple[np.ndarray, bool]:
    """HDF5 written by MATLAB: axes reversed, so that a trial is z, y, x."""
    check_file(path)
    h5py = optional("h5py")
    try:
        with h5py.File(path, "r") as file:
            betas: Any = file["betas"]
            if tuple(betas.shape[1:]) != tuple(reversed(mask.shape)):
                raise ValueError(
                    f"{path}: betas of {' x '.join(map(str, reversed(betas.shape[1:])))} voxels, "
                    f"but the mask {mask.path} has {' x '.join(map(str, mask.shape))}. Take the "
                    "mask of the same space (such as func1pt8mm) as the betas."
                )
            n = len(betas)
            values = np.empty((n, len(columns)), dtype=np.float32)
            step = max(1, _BLOCK_BYTES // (betas.dtype.itemsize * mask.n_voxels))
            for lo in range(0, n, step):
                block = betas[lo : lo + step]
                values[lo : lo + step] = block.reshape(len(block), -1)[:, columns]
            return values, betas.dtype.kind in "iu"
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path}: no readable HDF5 file with `betas` ({error}). Fetch it again."
        ) from error


def voxel_sensors(
    mask: Image, inside: Bool[np.ndarray, " voxel"], region: tuple[str, ...] = ()
) -> Sensors:
    """The voxels of a mask, named by their number in canonical order."""
    voxel = np.flatnonzero(inside)
    width = len(str(mask.n_voxels - 1))
    return Sensors(
        names=tuple(f"v{i:0{width}d}" for i in voxel),
        kind=np.full(len(voxel), int(Kind.BOLD), dtype=np.int8),
        position=mask.grid.positions(voxel),
        orientation=np.zeros((len(voxel), 3)),
        frame=mask.frame,
        region=region,
    )
