"""Small functional images with known voxels, for the tests of their reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from neurofm.types import Recording

WHO = Recording("tiny", "1")

SHAPE, N, TR = (5, 6, 4), 12, 2.0

AFFINE = np.array([[3.0, 0, 0, -6], [0, 3, 0, -9], [0, 0, 4, -4], [0, 0, 0, 1]])


def series(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE, n: int = N) -> np.ndarray:
    """Voxels around 1000 with noise of 20: 2 %."""
    return 1000 + 20 * rng.standard_normal((*shape, n))


def write(
    path: Path,
    data: np.ndarray,
    *,
    dtype: Any = np.float32,
    affine: np.ndarray = AFFINE,
    tr: float = TR,
    unit: str = "sec",
    code: int = 1,
    nifti: Any = nibabel.Nifti1Image,
) -> Path:
    stored = np.asarray(data)
    if np.dtype(dtype).kind in "iu":
        stored = np.rint(stored)
    image = nifti(stored.astype(dtype), affine)
    image.header.set_data_dtype(dtype)
    if stored.ndim > 3:
        image.header["pixdim"][4] = tr
        image.header.set_xyzt_units("mm", unit)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    nibabel.save(image, path)
    return path


def percent(data: np.ndarray) -> np.ndarray:
    """Canonical voxels (first axis fastest) in percent of their mean."""
    flat = data.reshape(-1, data.shape[-1], order="F").astype(np.float64)
    return 100 * (flat / flat.mean(axis=1, keepdims=True) - 1)


def atlas_image(tmp_path: Path, *, affine: np.ndarray = AFFINE, shape=SHAPE) -> Path:
    labels = np.zeros(shape)
    labels[:2], labels[2:4] = 3, 7
    return write(tmp_path / "atlas.nii.gz", labels, dtype=np.int16, affine=affine)
