"""Ridge from one brain to very many targets with one penalty: tokens of an embedding.

One regression per token would decompose the same responses hundreds of times; here one factor
serves all targets, which stream through in blocks (257 tokens of 768 dimensions are 197,376
targets).

Source: Ozcelik & VanRullen 2023 (Brain-Diffuser: penalties 50,000 for latents of an autoencoder,
60,000 for vision and 100,000 for text tokens, for z-scored voxels and some 9,000 images); Ferrante
et al. 2023 (brain captioning: 60,000).
Axes: row = stimulus; feature = voxel of the brain; token dim = target.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.linear.blocks import (
    Block,
    Sliceable,
    block_size,
    check_features,
    read_blocks,
    working_type,
)
from neurofm.linear.decomposition import gram, row_products
from neurofm.linear.ridge import flattened
from neurofm.metrics import Moments, moment_match
from neurofm.nn.linear import linear
from neurofm.shapes import Float

MATCHES = (None, "batch", "training")


class TokenwiseRidge:
    """Ridge with one penalty for all targets, and predictions of natural spread if asked for.

    Args:
        penalty: Of squared weights; the published values are for z-scored voxels.
        match: Moment matching of predictions. None: as they are. "batch": each target is z-scored
            over the predicted rows and given the training targets' moments: the published form,
            which needs many rows and mixes them. "training": z-scored by the moments of
            leave-one-out predictions of the training rows, right for single trials.
        ddof: Of standard deviations (0 Brain-Diffuser, 1 brain captioning).
        max_bytes: Working memory beside what is decomposed and the weights.
        device: "cpu" or a GPU.

    Attributes (after `fit`):
        coef: Weights, `feature token dim` (as many axes as targets have).
        intercept: `token dim`.
        target: Moments of the training targets.
        source: Moments of the leave-one-out predictions, with match "training".
    """

    def __init__(
        self,
        penalty: float | int = 60_000.0,
        *,
        match: str | None = None,
        ddof: int = 0,
        max_bytes: int = 800_000_000,
        device: str | torch.device = "cpu",
    ) -> None:
        if not penalty > 0:
            raise ValueError(f"TokenwiseRidge: penalty {penalty}; expected a positive number.")
        if match not in MATCHES:
            raise ValueError(f"TokenwiseRidge: match {match!r} is none of {MATCHES}.")
        self.penalty, self.match, self.ddof = float(penalty), match, ddof
        self.max_bytes, self.device = max_bytes, torch.device(device)
        self.target: Moments | None = None
        self.source: Moments | None = None

    def fit(self, x: np.ndarray, y: Sliceable, *, coef: np.ndarray | None = None) -> TokenwiseRidge:
        """Compute weights of all targets.

        Args:
            x: Responses, `row feature`.
            y: Targets, `row token dim` or `row target`, such as a memory map.
            coef: Where to write weights, `feature target`, such as a memory map (fastest the
                transpose of one that is `target feature`); a new array if not given.
        """
        flat, shape = flattened(y)
        factor = _Factor(self, x, flat)
        n, p = flat.shape[1], np.shape(x)[1]
        out = np.empty((n, p), dtype=factor.numpy_type).T if coef is None else coef
        if out.shape != (p, n):
            raise ValueError(f"fit: coef to write has shape {out.shape}, expected {(p, n)}.")
        intercept = np.empty(n)
        centre = torch.from_numpy(factor.mean).to(self.device)
        moments = _Collected(self, n)
        for block in factor.blocks(p):
            weights = linear(block.values, factor.expand)
            out[:, block.voxels] = weights.T.cpu().numpy()
            level = block.mean - weights.double() @ centre
            intercept[block.voxels] = level.cpu().numpy()
            moments.add(block, factor.held_out(block, weights))
        self._shape = shape
        self.coef = out if coef is not None else out.reshape(p, *shape)
        self.intercept = intercept.reshape(shape)
        self.target, self.source = moments.done()
        return self

    def predict(
        self, x: np.ndarray, *, out: np.ndarray | None = None
    ) -> Float[np.ndarray, "row ..."]:
        """Targets of new rows, `row token dim`.

        Args:
            out: Where to write them, such as a memory map; C order, so that it can be flattened.
        """
        coef, intercept = self.coef.reshape(len(self.coef), -1), self.intercept.reshape(-1)
        given = np.asarray(x, dtype=coef.dtype)
        check_features(given, len(given))
        if given.shape[1] != len(coef):
            raise ValueError(f"predict: {given.shape[1]} features; fitted on {len(coef)}.")
        rows = torch.from_numpy(given).to(self.device)
        made, flat = _room(out, (len(rows), *self._shape), coef.dtype)
        size = block_size(
            coef.itemsize * (len(coef) + 3 * len(rows)), self.max_bytes, len(intercept)
        )
        for start in range(0, len(intercept), size):
            part = slice(start, start + size)
            weights = torch.from_numpy(np.ascontiguousarray(coef[:, part].T)).to(self.device)
            values = linear(weights, rows).cpu().numpy().T + intercept[part]
            flat[:, part] = self._matched(values, part)
        return made

    def fit_predict(
        self, x: np.ndarray, y: Sliceable, new: np.ndarray, *, out: np.ndarray | None = None
    ) -> Float[np.ndarray, "row ..."]:
        """Targets of new rows without keeping weights, which may not fit into memory.

        Args:
            x: Responses of the training rows, `row feature`.
            y: Their targets, `row token dim`.
            new: Responses of the rows to predict, `new feature`.
            out: Where to write predictions; C order.
        """
        flat, shape = flattened(y)
        factor = _Factor(self, x, flat)
        given = np.asarray(new)
        check_features(given, len(given), name="new")
        if given.shape[1] != np.shape(x)[1]:
            raise ValueError(f"fit_predict: new has {given.shape[1]} features, x {np.shape(x)[1]}.")
        rows = torch.from_numpy(given - factor.mean).to(factor.x)
        answer = linear(rows, factor.expand.T.contiguous())
        made, room = _room(out, (len(rows), *shape), factor.numpy_type)
        moments = _Collected(self, flat.shape[1])
        for block in factor.blocks(len(rows)):
            values = linear(block.values, answer).cpu().numpy().T + block.mean.cpu().numpy()
            weights = None
            if self.match == "training" and not factor.dual:
                weights = linear(block.values, factor.expand)
            moments.add(block, factor.held_out(block, weights))
            self.target, self.source = moments.done()
            room[:, block.voxels] = self._matched(values, block.voxels)
        self._shape = shape
        return made

    def _matched(self, values: np.ndarray, part: slice) -> np.ndarray:
        if self.match is None:
            return values
        assert self.target is not None
        source = None if self.source is None else _part(self.source, part)
        target = _part(self.target, part)
        return moment_match(values, target, source=source, ddof=self.ddof)


class _Factor:
    """The penalised inverse, once for all targets."""

    def __init__(self, model: TokenwiseRidge, x: np.ndarray, y: Sliceable) -> None:
        given = np.asarray(x)
        check_features(given, y.shape[0])
        self.model, self.y, self.dtype = model, y, working_type(y)
        self.numpy_type = np.float64 if self.dtype == torch.float64 else np.float32
        self.mean = given.mean(0, dtype=np.float64)
        self.x = torch.from_numpy(given - self.mean).to(model.device, self.dtype)
        self.dual = self.x.shape[1] >= len(self.x)
        products = row_products(self.x) if self.dual else gram(self.x)
        products.diagonal().add_(model.penalty)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
        wide = inverse.to(self.dtype)
        across = self.x.T.contiguous()  # feature row
        self.expand = linear(across, wide) if self.dual else linear(wide, self.x)
        self.inverse = wide if self.dual and model.match == "training" else None
        n = len(self.x)
        if self.dual:
            left = model.penalty * inverse.diagonal()
        else:
            left = 1 - (self.x * self.expand.T).sum(1).double()
        # What a row leaves of its own residual; the intercept takes 1 / n.
        self.left = (left - 1 / n).clamp(min=1e-10).to(self.dtype)

    def blocks(self, wide: int) -> Any:
        """Targets, as many at once as memory allows."""
        n = len(self.x)
        per = self.x.element_size() * (6 * n + 2 * wide)
        size = block_size(per, self.model.max_bytes, self.y.shape[1])
        return read_blocks(self.y, size=size, dtype=self.dtype, device=self.model.device)

    def held_out(self, block: Block, weights: Tensor | None) -> Float[Tensor, "voxel row"] | None:
        """Leave-one-out predictions of the training rows, if they are asked for."""
        if self.model.match != "training":
            return None
        if self.inverse is not None:
            residual = self.model.penalty * linear(block.values, self.inverse)
        else:
            assert weights is not None
            residual = block.values - linear(weights, self.x)
        return block.values - residual / self.left


class _Collected:
    """Moments of targets and of held-out predictions, block by block."""

    def __init__(self, model: TokenwiseRidge, n: int) -> None:
        self.ddof = model.ddof
        self.target = Moments(np.zeros(n), np.zeros(n))
        self.source = Moments(np.zeros(n), np.zeros(n)) if model.match == "training" else None

    def add(self, block: Block, held_out: Tensor | None) -> None:
        """One block."""
        level = block.mean.cpu().numpy()
        for moments, values in ((self.target, block.values), (self.source, held_out)):
            if moments is None or values is None:
                continue
            mean = values.mean(1, dtype=torch.float64)
            square = (values - mean[:, None].to(values.dtype)).square().sum(1, dtype=torch.float64)
            moments.mean[block.voxels] = level + mean.cpu().numpy()
            moments.std[block.voxels] = (
                (square / max(values.shape[1] - self.ddof, 1)).sqrt().cpu().numpy()
            )

    def done(self) -> tuple[Moments, Moments | None]:
        """Both, as far as they go."""
        return self.target, self.source


def _part(moments: Moments, part: slice) -> Moments:
    return Moments(moments.mean[part], moments.std[part])


def _room(
    out: np.ndarray | None, shape: tuple[int, ...], dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """An array of the shape, and itself with targets in one axis."""
    made = np.empty(shape, dtype=dtype) if out is None else out
    if made.shape != shape:
        raise ValueError(f"out has shape {made.shape}; expected {shape}.")
    flat = made.reshape(len(made), math.prod(shape[1:]))
    if not np.shares_memory(flat, made):
        raise ValueError("out must be in C order, or its tokens cannot be taken together.")
    return made, flat
