"""Centred kernel alignment (CKA): do two representations tell the same samples apart?

Linear CKA ignores rotation and a common scale of either side. Biased CKA goes to 1 when there are
more columns than samples, even for random data: use the debiased form unless there are many
samples. It weighs directions by their variance, so a few strong ones decide it; look at a measure
of another family (shape, neighbours, units) beside it.

Source: Kornblith et al. 2019 (CKA); Song et al. 2012 (unbiased HSIC); Nguyen et al. 2021 (batches);
Murphy et al. 2024 (why the bias matters for neural data).
Axes: sample (window, stimulus); p and q = columns of the two sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.arrays import require_finite, takes_either_by_torch
from neurofm.shapes import Float

_NAN = float("nan")


@takes_either_by_torch
def linear_cka(
    x: Float[Tensor, "sample p"],
    y: Float[Tensor, "_ q"],
    *,
    debiased: bool = True,
    dtype: torch.dtype = torch.float64,
) -> float:
    """Linear CKA of two representations; on a GPU if their tensors are there.

    Args:
        x: One row per sample.
        y: The same samples in the same order (checked here, with a message, not by its annotation).
        debiased: Leave out products of a sample with itself; the result can be negative.
        dtype: Of the products; float32 is faster and good to six digits.

    Returns:
        NaN if a side has no variance (or, debiased, a non-positive one) or contains NaN.

    Raises:
        ValueError: Different numbers of samples, fewer than four when debiased, or infinite values.
    """
    x, y = _checked(x, y, debiased, dtype)
    a, b = _squares(x), _squares(y)
    pairs = zip(_traces(x, y), ((a, b), (a, a), (b, b)), strict=True)
    return _ratio([_of_trace(trace, *pair, debiased) for trace, pair in pairs])


@takes_either_by_torch
def hsic(
    x: Float[Tensor, "sample p"],
    y: Float[Tensor, "_ q"],
    *,
    debiased: bool = True,
) -> float:
    """Hilbert-Schmidt independence criterion with linear kernels, float64.

    Works on p × q or sample × sample products, whichever is smaller.
    """
    x, y = _checked(x, y, debiased)
    if len(x) ** 2 < x.shape[1] * y.shape[1]:
        trace = _inner(_product(x, x), _product(y, y))
    else:
        trace = _inner(*[_product(x.T, y.T)] * 2)
    return _of_trace(trace, _squares(x), _squares(y), debiased)


@takes_either_by_torch
def rbf_cka(
    x: Float[Tensor, "sample p"],
    y: Float[Tensor, "_ q"],
    *,
    factor: float | int = 0.5,
    debiased: bool = True,
) -> float:
    """CKA of Gaussian kernels, which see neighbourhoods and not only directions.

    Args:
        factor: Width of the kernel over the median distance of that representation. A fixed width
            makes the kernel of a wide layer the identity, and any two such layers the same.
    """
    x, y = _checked(x, y, debiased)
    kernels = [_gaussian(side, factor) for side in (x, y)]
    if any(kernel is None for kernel in kernels):
        return _NAN
    return kernel_cka(*kernels, debiased=debiased)


@takes_either_by_torch
def median_distance(x: Float[Tensor, "sample p"]) -> float:
    """Root of the median squared distance of two samples, from which `rbf_cka` sets its width."""
    return float(np.sqrt(_median(_squared_distances(x.double()))))


@takes_either_by_torch
def kernel_cka(
    k: Float[Tensor, "sample sample"], l: Float[Tensor, "_ _"], *, debiased: bool = True
) -> float:
    """CKA of two kernels of the same samples, however they were made; they need no centring."""
    return prepared_cka(*(prepare_kernel(side, debiased=debiased) for side in (k, l)))


@dataclass(frozen=True)
class PreparedKernel:
    """A kernel ready to be compared with others: what compares of one layer is computed once.

    Args:
        values: Centred (biased), or without its diagonal.
        sums: Of its rows.
        own: Its HSIC with itself.
    """

    values: Float[Tensor, "sample sample"]
    sums: Float[Tensor, " sample"]
    own: float
    debiased: bool


def prepare_kernel(k: Tensor, *, debiased: bool = True) -> PreparedKernel:
    """Centre a kernel by the means of its rows, or take its diagonal away."""
    _enough(len(k), debiased)
    k = k.double().clone()
    if debiased:
        k.fill_diagonal_(0.0)
    else:
        rows = k.mean(1, keepdim=True)
        k = k - rows - rows.T + rows.mean()
    kept = PreparedKernel(k, k.sum(1), _NAN, debiased)
    return PreparedKernel(k, kept.sums, _kernel_hsic(kept, kept), debiased)


@takes_either_by_torch
def linear_kernel(x: Float[Tensor, "sample p"], *, debiased: bool = True) -> PreparedKernel:
    """Of one layer, for `prepared_cka` with many others."""
    x, _ = _checked(x, x, debiased)
    return prepare_kernel(_product(x, x), debiased=debiased)


def prepared_cka(k: PreparedKernel, l: PreparedKernel) -> float:
    """CKA of two prepared kernels: one inner product."""
    if k.values.shape != l.values.shape or k.debiased != l.debiased:
        raise ValueError(
            f"CKA: kernels of {tuple(k.values.shape)} and {tuple(l.values.shape)}, debiased "
            f"{k.debiased} and {l.debiased}; both need the same samples and form."
        )
    return _ratio([_kernel_hsic(k, l), k.own, l.own])


def batched_cka(batches: Iterable[tuple[Any, Any]]) -> float:
    """Linear CKA of data that come in batches: unbiased HSICs are averaged, then divided.

    Args:
        batches: Pairs of `sample p` and `sample q`, arrays or tensors, at least four samples each.
            Larger batches have a smaller variance; batches of one recording see only its samples.

    Raises:
        ValueError: There is no batch.
    """
    found = [(hsic(x, y), hsic(x, x), hsic(y, y)) for x, y in batches]
    if not found:
        raise ValueError("batched_cka: no batch.")
    return _ratio([float(value) for value in np.mean(found, axis=0)])


def _traces(x: Tensor, y: Tensor) -> list[float]:
    """tr(K L), tr(K K), tr(L L) by the smaller products; half a product where both sides agree."""
    n, p, q = len(x), x.shape[1], y.shape[1]
    if n * (p + q) / 2 < p * p / 2 + p * q + q * q / 2:
        k, l = _product(x, x), _product(y, y)
        return [_inner(k, l), _inner(k, k), _inner(l, l)]
    products = (_product(x.T, y.T), _product(x.T, x.T), _product(y.T, y.T))
    return [_inner(product, product) for product in products]


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ. On a CPU by numpy, which computes half of a product with itself (BLAS syrk)."""
    if a.device.type != "cpu":
        return a @ b.T
    same = a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
    left = a.numpy()
    return torch.from_numpy(left @ (left if same else b.numpy()).T)


def _inner(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.reshape(-1), b.reshape(-1)))


def _squares(x: Tensor) -> Tensor:
    """Squared length of each row: the diagonal of its kernel."""
    return torch.einsum("ij,ij->i", x, x)


def _of_trace(trace: float, own_x: Tensor, own_y: Tensor, debiased: bool) -> float:
    """From tr(K L) and the diagonals of centred data, whose kernels have rows that sum to zero."""
    n = len(own_x)
    if not debiased:
        return trace / (n - 1) ** 2
    # Without its diagonal, a row of a kernel sums to minus that diagonal entry.
    both = float(own_x @ own_y)
    return _unbiased(trace - both, float(own_x.sum() * own_y.sum()), both, n)


def _kernel_hsic(k: PreparedKernel, l: PreparedKernel) -> float:
    n = len(k.values)
    trace = _inner(k.values, l.values)
    if not k.debiased:
        return trace / (n - 1) ** 2
    return _unbiased(trace, float(k.sums.sum() * l.sums.sum()), float(k.sums @ l.sums), n)


def _unbiased(trace: float, totals: float, rows: float, n: int) -> float:
    return (trace + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows) / (n * (n - 3))


def _ratio(found: list[float]) -> float:
    cross, own_x, own_y = found
    if not (own_x > 0 and own_y > 0):
        return _NAN
    return float(cross / np.sqrt(own_x * own_y))


def _squared_distances(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    norms = centred.square().sum(1)
    squared = norms[:, None] + norms - 2 * _product(centred, centred)
    return squared.clamp(min=0).fill_diagonal_(0.0)


def _median(squared: Tensor) -> float:
    n = len(squared)
    upper = torch.triu_indices(n, n, 1, device=squared.device)
    # torch.median takes the lower of two middle values; the mean of both is wanted.
    values = squared[upper[0], upper[1]].sort().values
    return float((values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2)


def _gaussian(x: Tensor, factor: float | int) -> Tensor | None:
    squared = _squared_distances(x)
    middle = _median(squared)
    if not middle > 0:
        return None
    return torch.exp(-squared / (2 * factor**2 * middle))


def _enough(n: int, debiased: bool) -> None:
    least = 4 if debiased else 2
    if n < least:
        raise ValueError(f"CKA: {n} windows; at least {least} are needed.")


def _checked(
    x: Tensor, y: Tensor, debiased: bool, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or y.ndim != 2:
        raise ValueError(f"CKA: shapes {tuple(x.shape)} and {tuple(y.shape)}; expected 2 axes.")
    if len(y) != len(x):
        raise ValueError(f"CKA: {len(x)} and {len(y)} windows; both sides need the same ones.")
    _enough(len(x), debiased)
    first = _centred(x.detach(), dtype)
    return first, first if y is x else _centred(y.detach(), dtype)


def _centred(x: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.double()
    mean = x.mean(0)
    if not mean.isfinite().all() and x.isinf().any():  # NaN alone is passed on
        require_finite("CKA", x)
    centred = x - mean
    # A constant column would leave the rounding error of its mean, and an alignment made of it.
    centred[:, x.amax(0) == x.amin(0)] = 0.0
    return centred.to(dtype)
