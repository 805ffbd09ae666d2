"""Ridge whose penalties are chosen by leaving out one row at a time, in closed form.

Another estimator than `VoxelwiseRidge`, and not a faster form of it: it chooses other penalties
(for 29 % of voxels in one measurement), because the rows next to the one left out stay. Right for
independent rows, such as one response per stimulus in random order; in time series neighbours give
the answer away and penalties come out too small.

Source: Golub, Heath & Wahba 1979; Rifkin & Lippert 2007.
Axes: row; feature; voxel.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch

from neurofm.linear.blocks import Sliceable
from neurofm.linear.decomposition import basis, decompose
from neurofm.linear.ridge import PENALTIES, Features, VoxelwiseRidge, tolerance_of
from neurofm.nn.linear import linear
from neurofm.shapes import Float


class LeaveOneOutRidge(VoxelwiseRidge):
    """Ridge with a penalty per voxel, the one with the least squared leave-one-out error.

    Args and attributes as `VoxelwiseRidge`; `cv_score` is 1 - that error / variance. Features are
    standardised by all rows, once.
    """

    takes_groups = False

    def __init__(
        self,
        penalties: Sequence[float | int] | np.ndarray = PENALTIES,
        *,
        standardize: bool = True,
        max_bytes: int = 800_000_000,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(
            penalties, folds=None, standardize=standardize, max_bytes=max_bytes, device=device
        )

    def scores(
        self,
        x: np.ndarray,
        y: Sliceable,
        groups: Sequence[Hashable] | np.ndarray | None = None,
        *,
        rows: np.ndarray | None = None,
    ) -> Float[np.ndarray, "penalty voxel"]:
        """1 - leave-one-out squared error / variance for every penalty; NaN for constant voxels.

        Raises:
            ValueError: `groups` are given: rows of a run are left out together by `VoxelwiseRidge`.
        """
        if groups is not None:
            raise ValueError(
                "LeaveOneOutRidge: groups are given, but single rows are left out. Use "
                "VoxelwiseRidge to hold out runs."
            )
        data = Features(self, x, y, rows)
        n = len(data.x)
        if n < 3:
            raise ValueError(f"LeaveOneOutRidge: {n} rows; expected 3 or more.")
        found = decompose(data.x, standardize=self.standardize)
        penalties = torch.from_numpy(self.penalties).to(data.device)
        vectors, values = found.vectors, found.values
        below = values + penalties[:, None]
        if found.dual:
            # Row i left out: (G y)_i / (G_ii - 1 / (n penalty)), G the penalised inverse. Vectors
            # without their mean are those of G without the intercept's share, so that nothing is
            # taken from anything of nearly its size.
            seen = vectors - vectors.mean(0)
            reach, right = seen.norm(dim=0), vectors
            weight = 1 / torch.stack([(seen.square() / b).sum(1) for b in below])
        else:
            seen = found.scaled(data.x.double()) @ vectors
            reach, right = seen.norm(dim=0) * values.sqrt(), vectors / found.scale[:, None]
            leverage = torch.stack([(seen.square() / b).sum(1) for b in below])
            # The intercept adds 1 / n. At 1 a row would determine its own prediction.
            weight = 1 / (1 - leverage - 1 / n).clamp(min=1e-10)
        chosen = basis(values, penalties, reach, tolerance=tolerance_of(data.dtype))
        size = torch.from_numpy(chosen.size).to(data.device)
        shrunk = seen / (below * size[:, None])[chosen.members][:, None]
        hat = linear(shrunk.flatten(0, 1).to(data.dtype), right.to(data.dtype).contiguous())
        weight = (weight * size[:, None]).to(data.dtype) if found.dual else weight.to(data.dtype)
        mix = chosen.mix if found.dual else chosen.mix * chosen.size[:, None]
        mixing = torch.from_numpy(mix).to(data.device, data.dtype)
        members, words = len(chosen.members), hat.element_size()
        total = np.full((len(penalties), y.shape[1]), np.nan)
        for block in data.blocks(words * n * (3 + members + 3 * len(penalties))):
            products = data.products(block.values)
            made = linear(block.values if products is None else products, hat)
            made = mixing @ made.view(len(made), members, n)
            error = (made if found.dual else block.values[:, None] - made) * weight
            variance = block.values.square().sum(1, dtype=torch.float64)
            value = 1 - error.square().sum(2).double() / variance[:, None]
            value[block.constant] = torch.nan
            total[:, block.voxels] = value.T.cpu().numpy()
        return total
