"""Ridge regression of many voxels on the same features, each voxel with its own penalty.

Least squares plus penalty x sum of squared weights; the intercept is not penalised. The penalty of
each voxel is the one whose held-out predictions are best. Why not a library: this was measured
faster than himalaya's torch backend with the same penalties chosen (`tests/benchmarks`), and
himalaya is what the tests compare with.

Source: Hoerl & Kennard 1970; la Tour et al. 2022 (himalaya: one decomposition per fold, scores of
all penalties from it).
Axes: row = stimulus or sample; feature; voxel = any target, such as channel and time together.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.linear.blocks import (
    Sliceable,
    block_size,
    check_features,
    read_blocks,
    working_type,
)
from neurofm.linear.decomposition import (
    Decomposition,
    basis,
    decompose,
    decompose_kernel,
    row_products,
)
from neurofm.linear.folds import Fold, make_folds
from neurofm.nn.linear import linear
from neurofm.shapes import Float

PENALTIES = tuple(10.0**i for i in range(-3, 7))
SCORES = ("r2", "r")


class VoxelwiseRidge:
    """Ridge with a penalty per voxel, chosen by cross-validation over runs.

    Args:
        penalties: One of them is chosen for each voxel.
        folds: Parts that take turns in being held out. With `groups` (runs) given to `fit`, no
            group is divided, and None means one fold per group.
        score: "r2" or "r": what is averaged over folds to choose. A fold in which a voxel is
            constant does not count.
        standardize: Divide features by their standard deviation over the training rows of each
            fit. Features are centred in any case.
        max_bytes: Working memory beside features, their decomposition and the weights.
        device: "cpu" or a GPU; responses go there block by block.

    Attributes (after `fit`):
        coef: Weights, feature by voxel, of features as given.
        intercept: Per voxel.
        penalty: Chosen for each voxel; NaN where it is constant.
        cv_score: Mean score over the folds at that penalty; NaN where it is constant.

    It works in float64 if the responses are float64, otherwise in float32 (features are
    decomposed in float64 always).
    """

    takes_groups = True

    def __init__(
        self,
        penalties: Sequence[float | int] | np.ndarray = PENALTIES,
        *,
        folds: int | None = 5,
        score: str = "r2",
        standardize: bool = True,
        max_bytes: int = 800_000_000,
        device: str | torch.device = "cpu",
    ) -> None:
        self.penalties = _checked(penalties)
        if score not in SCORES:
            raise ValueError(f"{type(self).__name__}: score {score!r} is not 'r2' or 'r'.")
        self.folds, self.score, self.standardize = folds, score, standardize
        self.max_bytes, self.device = max_bytes, torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"{type(self).__name__}: device {device!r}, but torch finds no GPU. Use 'cpu'."
            )

    def fit(
        self,
        x: np.ndarray,
        y: Sliceable,
        groups: Sequence[Hashable] | np.ndarray | None = None,
        *,
        coef: np.ndarray | None = None,
    ) -> VoxelwiseRidge:
        """Choose penalties and compute weights.

        Args:
            x: Features, `row feature`.
            y: Responses, `row voxel`, in anything sliced by voxel; more axes (`row channel time`)
                are taken together and kept in `coef`, `intercept`, `penalty` and `cv_score`.
            groups: Run of each row.
            coef: Where to write weights, `feature voxel`, such as a memory map; a new array if not
                given.

        Raises:
            ValueError: Shapes that do not fit, NaN, or too few rows or groups for the folds.
        """
        flat, shape = flattened(y)
        chosen, score = self.choose(x, flat, groups)
        fitted = Fitted(self, x, flat)
        n, p = flat.shape[1], np.shape(x)[1]
        if coef is None:
            out = np.empty((n, p), dtype=fitted.numpy_type).T
        elif coef.shape == (p, n):
            out = coef
        else:
            raise ValueError(f"fit: coef to write has shape {coef.shape}, expected {(p, n)}.")
        intercept = np.empty(n)
        for block, weights, mean in fitted.weights(flat, chosen):
            out[:, block] = weights.T.cpu().numpy()
            intercept[block] = mean.cpu().numpy()
        constant = np.isnan(chosen)
        self.coef = out if coef is not None or len(shape) == 1 else out.reshape(p, *shape)
        self.intercept = intercept.reshape(shape)
        self.penalty = np.where(constant, np.nan, chosen).reshape(shape)
        self.cv_score = score.reshape(shape)
        return self

    def choose(
        self,
        x: np.ndarray,
        y: Sliceable,
        groups: Sequence[Hashable] | np.ndarray | None = None,
        *,
        rows: np.ndarray | None = None,
    ) -> tuple[Float[np.ndarray, " voxel"], Float[np.ndarray, " voxel"]]:
        """Penalty and its score for every voxel, without computing weights.

        Args:
            rows: Use only these rows of all three.
        """
        table = self.scores(x, y, groups, rows=rows)
        known = ~np.isnan(table).all(0)
        best = np.where(np.isnan(table), -np.inf, table).argmax(0)
        score = table[best, np.arange(table.shape[1])]
        return np.where(known, self.penalties[best], np.nan), score

    def scores(
        self,
        x: np.ndarray,
        y: Sliceable,
        groups: Sequence[Hashable] | np.ndarray | None = None,
        *,
        rows: np.ndarray | None = None,
    ) -> Float[np.ndarray, "penalty voxel"]:
        """Mean held-out score of every penalty; NaN for voxels that are constant in all folds."""
        data = Features(self, x, y, rows)
        own = None if groups is None else np.asarray(groups)
        own = own if own is None or rows is None else own[rows]
        folds = make_folds(len(data.x), self.folds, groups=own)
        total = np.zeros((len(self.penalties), y.shape[1]))
        count = np.zeros(y.shape[1])
        shared = None
        if data.x.shape[1] >= len(data.x) and not self.standardize:
            shared = row_products(data.x)
        most = max(self.max_bytes // 2, 1)
        ready: list[FoldPredictor] = []
        for i, fold in enumerate(folds):
            ready.append(FoldPredictor(self, data, fold, shared))
            used = sum(part.n_bytes for part in ready)
            if i + 1 < len(folds) and used + ready[-1].n_bytes <= most:
                continue  # read the responses once for as many folds as fit
            for block in data.blocks(max(part.per_voxel for part in ready)):
                products = data.products(block.values)
                for part in ready:
                    value, counted = part.score(block.values, products, self.score)
                    total[:, block.voxels] += value.double().cpu().numpy()
                    count[block.voxels] += counted.cpu().numpy()
            ready = []
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, total / count, np.nan)

    def predict(
        self, x: np.ndarray, *, out: np.ndarray | None = None
    ) -> Float[np.ndarray, "row ..."]:
        """Responses to new rows.

        Args:
            out: Where to write them, `row voxel`, such as a memory map.
        """
        coef = self.coef.reshape(len(self.coef), -1)
        intercept = self.intercept.reshape(-1)
        check_features(np.asarray(x), len(x))
        if np.shape(x)[1] != len(coef):
            raise ValueError(
                f"predict: {np.shape(x)[1]} features, but the model was fitted on {len(coef)}."
            )
        rows = torch.as_tensor(np.asarray(x, dtype=coef.dtype)).to(self.device)
        made = np.empty((len(rows), len(intercept)), dtype=coef.dtype) if out is None else out
        size = block_size(coef.itemsize * (len(coef) + len(rows)), self.max_bytes, len(intercept))
        for start in range(0, len(intercept), size):
            part = slice(start, start + size)
            weights = torch.from_numpy(np.ascontiguousarray(coef[:, part].T)).to(self.device)
            bias = torch.from_numpy(intercept[part]).to(self.device)
            values = linear(weights, rows) + bias[:, None].to(weights.dtype)
            made[:, part] = values.T.cpu().numpy()
        return made.reshape(len(rows), *self.intercept.shape) if out is None else out


class Features:
    """Features of the rows in use, centred over them, and the responses beside them."""

    def __init__(
        self, model: VoxelwiseRidge, x: np.ndarray, y: Sliceable, rows: np.ndarray | None
    ) -> None:
        given = np.asarray(x)
        check_features(given, y.shape[0])
        self.y, self.rows, self.device = y, rows, model.device
        self.dtype = working_type(y)
        self.max_bytes = model.max_bytes
        taken = given if rows is None else given[rows]
        self.mean = taken.mean(0, dtype=np.float64)
        # Centred in the wider type first: a large mean would cost digits.
        self.x = torch.from_numpy(taken - self.mean).to(self.device, self.dtype)
        self.dual = self.x.shape[1] >= len(self.x)
        self.across = None if self.dual else self.x.T.contiguous()

    def blocks(self, per_voxel: int) -> Iterator[Any]:
        """Responses, as many voxels at once as memory allows."""
        size = block_size(per_voxel, self.max_bytes // 2, self.y.shape[1])
        return read_blocks(self.y, size=size, dtype=self.dtype, device=self.device, rows=self.rows)

    def products(self, values: Float[Tensor, "voxel row"]) -> Tensor | None:
        """Sums of features times responses over all rows, `voxel feature`, where they are fewer."""
        return None if self.across is None else linear(values, self.across)


class FoldPredictor:
    """What predicts the test rows of a fold from the responses of its training rows."""

    def __init__(
        self, model: VoxelwiseRidge, data: Features, fold: Fold, shared: Tensor | None
    ) -> None:
        self.train, self.test = (torch.from_numpy(part).to(data.device) for part in fold)
        x, new = data.x[self.train], data.x[self.test]
        penalties = torch.from_numpy(model.penalties).to(data.device)
        if shared is not None:
            found, seen = decompose_kernel(shared, self.train, self.test)
        else:
            # Few rows may be left to a fold that had more rows than features before.
            found = decompose(x, standardize=model.standardize)
            seen = found.seen(new, x)
        self.dual = found.dual
        reach = seen.norm(dim=0) * (len(x) / len(new)) ** 0.5
        reach = reach if self.dual else reach * found.values.sqrt()
        chosen = basis(found.values, penalties, reach, tolerance=tolerance_of(data.dtype))
        size = torch.from_numpy(chosen.size).to(data.device)
        below = (found.values + penalties[:, None]) * size[:, None]
        shrunk = seen / below[chosen.members][:, None]
        right = found.vectors if self.dual else found.vectors / found.scale[:, None]
        self.hat = linear(shrunk.flatten(0, 1).to(data.dtype), right.to(data.dtype).contiguous())
        self.mix = torch.from_numpy(chosen.mix).to(data.device, data.dtype)
        self.size = size.to(data.dtype)
        if not self.dual:
            self.own = new.T.contiguous()
            middle = found.mean.to(data.dtype)
            self.offset = len(x) * (self.hat @ middle)
        members, words = len(chosen.members), self.hat.element_size()
        self.n_bytes = self.hat.numel() * words
        self.per_voxel = words * (
            3 * len(data.x) + (members + 2) * len(new) + 3 * (0 if self.dual else x.shape[1])
        )

    def score(
        self, y: Float[Tensor, "voxel row"], products: Tensor | None, kind: str
    ) -> tuple[Float[Tensor, "penalty voxel"], Tensor]:
        """Score of every penalty, 0 where it does not count, and where it counts."""
        train, test = y[:, self.train], y[:, self.test]
        mean = train.mean(1, keepdim=True)
        if self.dual:
            made = linear(train, self.hat)
        else:
            assert products is not None  # then all rows together are more than features, too
            made = linear(products - linear(test, self.own), self.hat) - mean * self.offset
        n = test.shape[1]
        made = made.view(len(y), -1, n)
        target = test - mean
        rows = torch.cat([made, target[:, None], torch.ones_like(target)[:, None]], 1)
        gram = rows @ rows.mT / n  # voxel member+2 member+2: every moment that a score needs
        cross = gram[:, :-2, -2] @ self.mix.T
        square = ((self.mix @ gram[:, :-2, :-2]) * self.mix).sum(-1)
        level = gram[:, :-2, -1] @ self.mix.T
        own, own_level = gram[:, -2, -2, None], gram[:, -2, -1, None]
        variance = (target - target.mean(1, keepdim=True)).square().mean(1, keepdim=True)
        if kind == "r2":
            value = 1 - (own - 2 * cross * self.size + square * self.size**2) / variance
        else:
            spread = (square - level**2).clamp(min=0)
            varies = spread > square * 1e-6  # a constant prediction predicts nothing
            value = (cross - level * own_level) / (spread * variance).sqrt()
            value = torch.where(varies, value, 0)
        counts = test.amax(1) > test.amin(1)
        return torch.where(counts[:, None], value, 0).T, counts


class Fitted:
    """Features decomposed once; weights or predictions of any block of voxels from it."""

    def __init__(
        self,
        model: VoxelwiseRidge,
        x: np.ndarray,
        y: Sliceable,
        *,
        rows: np.ndarray | None = None,
        new: np.ndarray | None = None,
    ) -> None:
        data = self.data = Features(model, x, y, rows)
        found: Decomposition = decompose(data.x, standardize=model.standardize)
        self.values = found.values.to(data.dtype)
        self.project = found.projector(data.x).contiguous()
        self.numpy_type = np.float64 if data.dtype == torch.float64 else np.float32
        if new is None:
            self.expand = found.expander(data.x).contiguous()
        else:
            rows_new = torch.from_numpy(new - data.mean).to(data.device, data.dtype)
            self.expand = found.seen(rows_new, data.x).to(data.dtype)
        self.mean = torch.from_numpy(data.mean).to(data.device)

    def _solved(self, y: Sliceable, penalty: np.ndarray) -> Iterator[tuple[Any, Tensor]]:
        per_voxel = self.values.element_size() * (
            3 * self.project.shape[1] + 2 * self.project.shape[0] + 2 * len(self.expand)
        )
        for block in self.data.blocks(per_voxel):
            own = torch.from_numpy(penalty[block.voxels]).to(self.values)
            shrunk = linear(block.values, self.project) / (self.values + own.nan_to_num(1)[:, None])
            yield block, linear(shrunk, self.expand)

    def weights(
        self, y: Sliceable, penalty: np.ndarray
    ) -> Iterator[tuple[slice, Float[Tensor, "voxel feature"], Float[Tensor, " voxel"]]]:
        """Voxels, their weights, and their intercepts in float64."""
        for block, coef in self._solved(y, penalty):
            yield block.voxels, coef, block.mean - coef.double() @ self.mean

    def predictions(
        self, y: Sliceable, penalty: np.ndarray
    ) -> Iterator[tuple[slice, Float[Tensor, "voxel new"]]]:
        """Voxels and their predictions for the new rows; no weights are made."""
        for block, values in self._solved(y, penalty):
            yield block.voxels, values + block.mean[:, None].to(values.dtype)


def flattened(y: Any) -> tuple[Any, tuple[int, ...]]:
    """Responses as `row voxel`, and the shape of what was taken together."""
    if len(y.shape) < 2:
        raise ValueError(
            f"y: responses of shape {tuple(y.shape)}; expected row by voxel. One voxel is "
            "y[:, None]."
        )
    shape = tuple(y.shape[1:])
    return (y if len(shape) == 1 else np.asarray(y).reshape(y.shape[0], -1)), shape


def tolerance_of(dtype: torch.dtype) -> float:
    """What rounding leaves of a prediction anyway, as a share of the responses' spread."""
    return 1e-6 if dtype == torch.float32 else 1e-13


def _checked(penalties: Sequence[float | int] | np.ndarray) -> np.ndarray:
    grid = np.asarray(penalties, dtype=np.float64)
    if grid.ndim != 1 or not len(grid) or not (np.isfinite(grid) & (grid > 0)).all():
        raise ValueError(
            f"penalties: {grid}; expected one or more positive numbers. (Least "
            "squares is the limit of a small penalty.)"
        )
    return np.unique(grid)
