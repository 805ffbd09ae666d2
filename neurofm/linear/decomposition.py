"""One eigendecomposition of the features, from which every penalty follows by matrix products.

With fewer features than rows the features' covariance is decomposed (primal), otherwise the rows'
kernel (dual). Sums of products and eigenvectors are float64; what is multiplied with the responses
of many voxels afterwards is in the type of the responses.

Predictions at neighbouring penalties are nearly the same functions of the eigenvalues. A few of the
penalties (`Basis`), chosen by a pivoted QR decomposition, therefore give the predictions at all
others by weights that do not depend on the voxel, to a bound that is checked beforehand. Fewer
products per fold, same numbers.

Axes: row = stimulus or sample; feature; m = eigenvalue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from neurofm.nn.linear import linear
from neurofm.shapes import Bool, Float, Int

_CHUNK = 1024  # features or rows turned into float64 at once


@dataclass(frozen=True)
class Decomposition:
    """Eigenvectors of centred, possibly scaled features.

    Args:
        mean: Of the rows, float64.
        scale: Standard deviations (ddof 0), or ones.
        values: Eigenvalues, float64, not negative.
        vectors: Eigenvectors: rows by m (dual) or features by m (primal), float64.
        dual: More features than rows.
    """

    mean: Float[Tensor, " feature"]
    scale: Float[Tensor, " feature"]
    values: Float[Tensor, " m"]
    vectors: Float[Tensor, "q m"]
    dual: bool

    def scaled(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """Other rows, centred and scaled by the rows decomposed here, in the type of `x`."""
        return (x - self.mean.to(x.dtype)) / self.scale.to(x.dtype)

    def projector(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "m row"]:
        """What takes centred responses of the decomposed rows to one number per eigenvector."""
        if self.dual:
            return self.vectors.T.to(x.dtype)
        return linear(self.vectors.T.to(x.dtype).contiguous(), self.scaled(x))

    def expander(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "feature m"]:
        """What takes those numbers over (eigenvalue + penalty) to weights of unscaled features."""
        if not self.dual:
            return (self.vectors / self.scale[:, None]).to(x.dtype)
        scaled = self.scaled(x) / self.scale.to(x.dtype)
        return linear(scaled.T.contiguous(), self.vectors.T.to(x.dtype).contiguous())

    def seen(
        self, new: Float[Tensor, "new feature"], x: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "new m"]:
        """What takes the same numbers to predictions for new rows, float64."""
        if not self.dual:
            return self.scaled(new.double()) @ self.vectors
        product = new.new_zeros((len(new), len(x)), dtype=torch.float64)
        for part in torch.arange(x.shape[1], device=x.device).split(_CHUNK):
            a, b = (
                (rows[:, part].double() - self.mean[part]) / self.scale[part] for rows in (new, x)
            )
            product += a @ b.T
        return product @ self.vectors


def decompose(x: Float[Tensor, "row feature"], *, standardize: bool) -> Decomposition:
    """Decompose training features.

    Args:
        standardize: Divide by the standard deviation of these rows; constant features are left at
            zero and get zero weights in any case.
    """
    mean = torch.cat([part.mean(0, dtype=torch.float64) for part in x.split(_CHUNK, 1)])
    varies = x.amax(0) > x.amin(0)
    scale = torch.ones_like(mean)
    dual = x.shape[1] >= len(x)
    if standardize:
        parts = x.split(_CHUNK, 1)
        square = torch.cat([p.double().var(0, correction=0) for p in parts])
        scale = torch.where(varies, square.sqrt(), scale)
    make = _kernel if dual else _covariance
    values, vectors = torch.linalg.eigh(make(x, mean, scale, varies))
    return Decomposition(mean, scale, values.clamp(min=0), vectors, dual)


def decompose_kernel(
    kernel: Float[Tensor, "row row"],
    train: Int[Tensor, " train"],
    test: Int[Tensor, " test"],
) -> tuple[Decomposition, Float[Tensor, "test m"]]:
    """The same from products of rows that were centred anyhow: once for all folds, if unscaled.

    Returns:
        The decomposition, whose `mean` and `scale` are empty, and `seen` of the test rows.
    """
    own = kernel[train][:, train]
    mean = own.mean(0)
    total = mean.mean()
    values, vectors = torch.linalg.eigh(own - mean - mean[:, None] + total)
    other = kernel[test][:, train]
    other = other - other.mean(1, keepdim=True) - mean + total
    empty = kernel.new_empty(0)
    return Decomposition(empty, empty, values.clamp(min=0), vectors, True), other @ vectors


def row_products(x: Float[Tensor, "row feature"]) -> Float[Tensor, "row row"]:
    """Products of centred rows, float64."""
    mean = torch.cat([part.mean(0, dtype=torch.float64) for part in x.split(_CHUNK, 1)])
    return _kernel(x, mean, torch.ones_like(mean), x.amax(0) > x.amin(0))


def gram(x: Float[Tensor, "row feature"]) -> Float[Tensor, "feature feature"]:
    """Products of centred features, float64."""
    mean = x.mean(0, dtype=torch.float64)
    return _covariance(x, mean, torch.ones_like(mean), x.amax(0) > x.amin(0))


@dataclass(frozen=True)
class Basis:
    """Penalties that stand for all.

    Args:
        members: Their places in the list.
        mix: Predictions at every penalty from those at the members, all over their `size`.
        size: Largest possible prediction at every penalty, in units of the responses' spread.
    """

    members: Int[np.ndarray, " member"]
    mix: Float[np.ndarray, "penalty member"]
    size: Float[np.ndarray, " penalty"]


def basis(
    values: Float[Tensor, " m"],
    penalties: Float[Tensor, " penalty"],
    reach: Float[Tensor, " m"],
    *,
    tolerance: float,
) -> Basis:
    """The fewest penalties (by pivoting) that give the rest.

    Args:
        reach: Largest change of a prediction (root mean square over rows, in units of that of the
            responses) per change of 1 / (eigenvalue + penalty).
        tolerance: Largest error of a prediction of any voxel, as a share of `size`: a bound for all
            possible responses, seldom approached by any.
    """
    table = (reach / (values + penalties[:, None])).cpu().numpy()
    size = np.linalg.norm(table, axis=1)
    size = np.where(size > 0, size, 1)
    _, upper, order = scipy.linalg.qr((table / size[:, None]).T, mode="economic", pivoting=True)
    count = len(upper)
    for r in range(1, count):
        if np.linalg.norm(upper[r:, r:], axis=0).max() <= tolerance:
            count = r
            break
    mix = np.zeros((len(order), count))
    mix[order[:count], np.arange(count)] = 1
    if count < len(order):
        square, rest = upper[:count, :count], upper[:count, count:]
        mix[order[count:]] = scipy.linalg.lstsq(square, rest)[0].T
    return Basis(order[:count].astype(np.int64), mix, size)


def _kernel(x: Tensor, mean: Tensor, scale: Tensor, varies: Bool[Tensor, " feature"]) -> Tensor:
    total = x.new_zeros((len(x), len(x)), dtype=torch.float64)
    for part in torch.arange(x.shape[1], device=x.device).split(_CHUNK):
        rows = (x[:, part].double() - mean[part]) / scale[part] * varies[part]
        total += _own_products(rows)
    return total


def _covariance(x: Tensor, mean: Tensor, scale: Tensor, varies: Bool[Tensor, " feature"]) -> Tensor:
    total = x.new_zeros((x.shape[1], x.shape[1]), dtype=torch.float64)
    for rows in x.split(4 * _CHUNK):
        total += _own_products(((rows.double() - mean) / scale * varies).T)
    return total


def _own_products(a: Tensor) -> Tensor:
    if a.device.type != "cpu":
        return a @ a.T
    rows = a.contiguous().numpy()
    return torch.from_numpy(rows @ rows.T)  # NumPy sees the symmetry and does half of the work
