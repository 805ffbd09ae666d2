"""Where in a picture a channel looks, from its weights of contrast energy.

Axes: channel; feature of `gabor_pyramid`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from neurofm.shapes import Float
from neurofm.stimuli.pictures import GaborLayout


@dataclass(frozen=True)
class ReceptiveFields:
    """Where and for what weights are largest.

    Args:
        maps: Weights summed over frequency and orientation, smoothed; `channel row column`.
        center: Row and column of the largest, from 0 to 1.
        orientation: Radians, the mean direction of the weights there (they have no sign).
        selectivity: Length of that mean: 0 all orientations alike, 1 one alone.
    """

    maps: Float[np.ndarray, "channel row column"]
    center: Float[np.ndarray, "channel 2"]
    orientation: Float[np.ndarray, " channel"]
    selectivity: Float[np.ndarray, " channel"]


def receptive_fields(
    weights: Float[np.ndarray, "feature channel"], layout: GaborLayout, *, smooth: float = 0.7
) -> ReceptiveFields:
    """Receptive fields out of the weights of a linear encoding model of `gabor_pyramid`.

    Frequencies that have as many cells as the finest are used. Weights are of features with their
    own scales: multiply by the standard deviation of each feature first.

    Args:
        smooth: Standard deviation of the smoothing, cells.

    Raises:
        ValueError: Another number of weights than of features.
    """
    if len(weights) != len(layout.cycles):
        raise ValueError(
            f"receptive_fields: {len(weights)} weights for {len(layout.cycles)} features; make the "
            "layout with the arguments of `gabor_pyramid`."
        )
    rows = {f: len(np.unique(layout.row[layout.cycles == f])) for f in np.unique(layout.cycles)}
    side = max(rows.values())
    fine = np.isin(layout.cycles, [f for f, n in rows.items() if n == side])
    row = np.floor(layout.row[fine] * side).astype(int)
    column = np.floor(layout.column[fine] * side).astype(int)
    own = np.asarray(weights)[fine]
    maps = np.zeros((own.shape[1], side, side))
    np.add.at(maps.transpose(1, 2, 0), (row, column), own)
    maps = gaussian_filter(maps, (0, smooth, smooth))
    best = maps.reshape(len(maps), -1).argmax(axis=1)
    at = np.stack(np.unravel_index(best, (side, side)), axis=1)
    center = np.empty(at.shape)
    for i, (y, x) in enumerate(at):  # the middle of what is positive around the largest
        around = np.clip(maps[i, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2], 0, None)
        ys, xs = np.meshgrid(
            np.arange(max(y - 1, 0), max(y - 1, 0) + around.shape[0]),
            np.arange(max(x - 1, 0), max(x - 1, 0) + around.shape[1]),
            indexing="ij",
        )
        total = around.sum() or 1.0
        center[i] = ((ys * around).sum() / total, (xs * around).sum() / total)
    near = (np.abs(row[:, None] - at[:, 0]) <= 1) & (np.abs(column[:, None] - at[:, 1]) <= 1)
    strong = np.clip(own, 0, None) * near
    turn = (strong * np.exp(2j * layout.orientation[fine])[:, None]).sum(axis=0)
    return ReceptiveFields(
        maps=maps,
        center=(center + 0.5) / side,
        orientation=np.mod(np.angle(turn) / 2, np.pi),
        selectivity=np.abs(turn) / np.maximum(strong.sum(axis=0), 1e-12),
    )
