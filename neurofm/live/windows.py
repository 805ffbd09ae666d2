"""Windows of a stream as a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.shapes import Float
from neurofm.types import Sensors


def batch_of(
    x: Float[np.ndarray, "window channel time"],
    sensors: Sensors,
    *,
    sfreq: float,
    unit: str = "physical",
    band: tuple[float, float] | None = None,
) -> Batch:
    """Windows of the same sensors.

    Args:
        x: Working units, or z-scores with unit "z".
        sfreq: Hz.
        band: Hz, what filters left.
    """
    n, known = len(x), sensors.has_position

    def spread(values: np.ndarray, dtype: torch.dtype) -> Tensor:
        value = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        return value.expand(n, *value.shape)

    return Batch(
        x=torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)),
        channel_mask=torch.ones(n, len(sensors), dtype=torch.bool),
        kind=spread(sensors.kind, torch.int64),
        position=spread(np.where(known[:, None], sensors.position, 0), torch.float32),
        orientation=spread(sensors.orientation, torch.float32),
        has_position=spread(known, torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        unit=unit,
        names=sensors.names,
        band=band,
    )
