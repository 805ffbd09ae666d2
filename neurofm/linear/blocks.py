"""Responses of many voxels, some at a time.

Responses may be anything that is sliced by voxel (`y[:, start:stop]`): an array, a memory map, an
HDF5 or zarr data set. What leaves here is voxel-major, finite and centred.

Axes: row = stimulus or sample; voxel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from neurofm.shapes import Bool, Float

_VECTOR = 16  # voxels in multiples of this waste no lane
_MOST = 1024  # voxels at once: products are as fast as they get


@runtime_checkable
class Sliceable(Protocol):
    """An array, or what is indexed like one."""

    shape: tuple[int, ...]

    def __getitem__(self, key: Any, /) -> Any:
        """The values at rows and columns."""
        ...


@dataclass(frozen=True)
class Block:
    """Some voxels.

    Args:
        voxels: Which.
        values: Centred over the rows.
        mean: What was taken off, float64.
        constant: Voxels that never change; their values are exactly zero.
    """

    voxels: slice
    values: Float[Tensor, "voxel row"]
    mean: Float[Tensor, " voxel"]
    constant: Bool[Tensor, " voxel"]


def working_type(y: Sliceable) -> torch.dtype:
    """float64 for float64 responses, float32 for all others."""
    return torch.float64 if getattr(y, "dtype", None) == np.float64 else torch.float32


def block_size(bytes_per_voxel: int, max_bytes: int, n_voxels: int) -> int:
    """Voxels at once within a budget, a multiple of 16."""
    most = min(_MOST, max_bytes // max(bytes_per_voxel, 1))
    return max(_VECTOR, min(most, n_voxels + -n_voxels % _VECTOR) // _VECTOR * _VECTOR)


def read_blocks(
    y: Sliceable,
    *,
    size: int,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    rows: np.ndarray | None = None,
) -> Iterator[Block]:
    """Blocks of voxels, in order.

    Args:
        size: Voxels at once.
        rows: Only these; all if not given.

    Raises:
        ValueError: NaN or infinite responses, with the voxels that hold them.
    """
    n = y.shape[1]
    for start in range(0, n, size):
        voxels = slice(start, min(start + size, n))
        taken = np.asarray(y[:, voxels])
        taken = taken if rows is None else taken[rows]
        values = torch.from_numpy(np.array(taken.T, order="C", copy=True)).to(device)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.to(dtype)
        mean = values.mean(1, dtype=torch.float64)
        if not mean.isfinite().all():
            bad = (~mean.isfinite()).nonzero().flatten() + start
            raise ValueError(
                f"y: NaN or infinite responses in {len(bad)} of voxels {start} to "
                f"{voxels.stop - 1} (first: voxel {int(bad[0])}). Leave those voxels or rows out."
            )
        constant = values.amax(1) == values.amin(1)
        values = (values - mean[:, None].to(values.dtype)).to(dtype)
        values[constant] = 0
        yield Block(voxels, values, mean, constant)


def check_features(x: np.ndarray, n_rows: int, *, name: str = "x") -> None:
    """Features that fit the responses and are numbers.

    Raises:
        ValueError: Other shape, or NaN.
    """
    if x.ndim != 2 or len(x) != n_rows or not x.size:
        raise ValueError(
            f"{name}: features of shape {x.shape} for {n_rows} rows of responses; expected row by "
            "feature with one row per response. Are stimuli and volumes of one length, and the "
            "features aligned to the responses?"
        )
    sums = x.sum(0, dtype=np.float64)
    if not np.isfinite(sums).all():
        bad = np.flatnonzero(~np.isfinite(sums))
        raise ValueError(
            f"{name}: NaN or infinite values in {len(bad)} of {x.shape[1]} features (first: "
            f"feature {bad[0]})."
        )
