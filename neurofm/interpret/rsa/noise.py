"""Covariance of the noise and patterns whitened by it.

From residuals of a regression (fMRI; their degrees of freedom are windows minus regressors), from
the samples before a stimulus (EEG, MEG), or from what is left of repeated windows without their
condition's mean.

Source: Ledoit & Wolf 2004 ("shrinkage_eye"); Schaefer & Strimmer 2005 ("shrinkage_diag"); Walther
et al. 2016 (which to take).
Axes: row = one sample of the noise, p = channel or voxel.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.rsa.products import gram_matrix
from neurofm.shapes import Float

KINDS = ("shrinkage_diag", "shrinkage_eye", "diag", "full")


@takes_either_by_torch
def noise_covariance(
    residuals: Float[Tensor, "row p"],
    kind: str = "shrinkage_diag",
    *,
    dof: float | int | None = None,
    conditions: Sequence[Hashable] | None = None,
) -> Float[Tensor, "p p"]:
    """Covariance between channels of what is not signal.

    Args:
        kind: "shrinkage_diag" (correlations shrunk to zero; needs the fewest rows),
            "shrinkage_eye" (towards equal variances), "diag" (variances alone: univariate noise
            normalisation) or "full" (rows must exceed channels to be inverted).
        dof: Degrees of freedom; rows - 1 if not given.
        conditions: Of each row, if rows are measurements: their means are taken off, and `dof` is
            rows - conditions.

    Returns:
        float64. Channels without variance have zeros and, in `whiten`, no weight.
    """
    if kind not in KINDS:
        raise ValueError(f"noise_covariance: kind {kind!r} is not one of {KINDS}.")
    n = len(residuals)
    if n < 2 or not residuals.isfinite().all():
        raise ValueError(
            f"noise_covariance: residuals of shape {tuple(residuals.shape)}; expected two rows or "
            "more of finite values. Leave out rows with NaN."
        )
    x = residuals.detach().double()
    if conditions is not None:
        x, dof = _without_means(x, conditions, dof)
    else:
        x = x - x.mean(0)
    dof = float(n - 1 if dof is None else dof)
    if dof <= 0:
        raise ValueError(
            f"noise_covariance: {dof:g} degrees of freedom. Give more rows, or every condition "
            "twice."
        )
    still = x.abs().amax(0) <= 16 * torch.finfo(torch.float64).eps * residuals.abs().amax(0)
    if still.any():
        warnings.warn(
            f"noise_covariance: {int(still.sum())} of {len(still)} channels have no variance; they "
            "are left out of the noise model and get no weight in whitened patterns.",
            stacklevel=3,
        )
        x = x.masked_fill(still, 0.0)
    if kind == "diag":
        return torch.diag(x.square().sum(0) / dof)
    if kind == "shrinkage_eye":
        return _towards_equal(x, ~still, dof)
    full = _products(x) / dof
    return full if kind == "full" else _towards_diagonal(x, full, ~still, dof)


@takes_either_by_torch
def baseline_covariance(
    baseline: Float[Tensor, "trial channel time"], kind: str = "shrinkage_diag"
) -> Float[Tensor, "channel channel"]:
    """Covariance of the samples before the stimulus, pooled over trials; see `noise_covariance`.

    Neighbouring samples are alike, so that fewer of them are independent than are counted.
    """
    return noise_covariance(baseline.swapaxes(1, 2).reshape(-1, baseline.shape[1]), kind)


@takes_either_by_torch
def whiten(
    patterns: Float[Tensor, "*batch condition p"],
    noise: Float[Tensor, "channel channel"],
    *,
    eigenspace: bool = False,
) -> Float[Tensor, "*batch condition q"]:
    """Patterns in which the noise is uncorrelated and of variance 1.

    Args:
        eigenspace: For a covariance that lost rank (ICA, SSP, average reference): project on the
            eigenvectors with variance, q of them, in place of a Cholesky factor, which fails.

    Returns:
        float64; squared Euclidean distances are Mahalanobis's.
    """
    x = patterns.detach().double()
    missing = x.isnan().any(-1, keepdim=True)
    x = x.masked_fill(missing, 0.0)
    if eigenspace:
        values, vectors = torch.linalg.eigh(_checked(noise, x.shape[-1]))
        real = values > len(values) * torch.finfo(torch.float64).eps * values[-1]
        x = x @ (vectors[:, real] / values[real].sqrt())
    else:
        x = whiten_by(x, noise)
    return x.masked_fill(missing, torch.nan)


def whiten_by(
    x: Float[Tensor, "*batch condition p"], noise: Float[Tensor, "channel channel"]
) -> Float[Tensor, "*batch condition p"]:
    """`whiten` of patterns without NaN, which would spread through the solution."""
    noise = _checked(noise, x.shape[-1])
    variance = noise.diagonal()
    used = variance > 0
    if not noise.triu(1).any() and not (variance < 0).any():
        scale = variance.rsqrt().masked_fill(~used, 0.0)
        return x * scale
    if used.all():
        return _solve(x, noise)
    white = torch.zeros_like(x)
    white[..., used] = _solve(x[..., used], noise[used][:, used])
    return white


def _checked(noise: Tensor, p: int) -> Tensor:
    if noise.shape != (p, p):
        raise ValueError(f"rdm: noise has shape {tuple(noise.shape)} for patterns of {p} columns.")
    if not noise.isfinite().all():
        raise ValueError("rdm: the noise covariance holds NaN or infinite values.")
    return noise.detach().double()


def _solve(x: Tensor, noise: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(noise)
    # What is left of each channel's variance given those before it.
    left = factor.diagonal().square() / noise.diagonal()
    if failed or bool((left <= 4 * len(noise) * torch.finfo(torch.float64).eps).any()):
        raise ValueError(
            "rdm: the noise covariance is singular. Estimate it with shrinkage or from more data, "
            "or give patterns of `whiten(patterns, noise, eigenspace=True)` to 'euclidean'."
        )
    # One right-hand side for all sets: a batch would be solved one by one.
    rows = x.reshape(-1, x.shape[-1])
    return torch.linalg.solve_triangular(factor.mT, rows, upper=True, left=False).view(x.shape)


def _without_means(
    x: Tensor, conditions: Sequence[Hashable], dof: float | int | None
) -> tuple[Tensor, float | int]:
    if len(conditions) != len(x):
        raise ValueError(f"noise_covariance: {len(conditions)} conditions for {len(x)} rows.")
    place = {name: i for i, name in enumerate(dict.fromkeys(conditions))}
    index = torch.tensor([place[c] for c in conditions], device=x.device)
    sums = x.new_zeros((len(place), x.shape[1])).index_add(0, index, x)
    means = sums / index.bincount(minlength=len(place)).unsqueeze(-1)
    return x - means[index], len(x) - len(place) if dof is None else dof


def _products(x: Tensor) -> Tensor:
    """Sum over rows of products of channels, both triangles."""
    half = gram_matrix(x.mT)
    return half.triu() + half.triu(1).mT


def _towards_equal(x: Tensor, used: Tensor, dof: float) -> Tensor:
    n, p = len(x), int(used.sum())
    s = _products(x) / n
    target = torch.diag(used.double() * s.trace() / max(p, 1))
    distance = (s - target).square().sum()
    # The squared norm of an outer product is the norm to the power of four: no loop over rows.
    spread = (x.square().sum(1).square().sum() / n - s.square().sum()) / n
    share = torch.minimum(distance, spread) / distance if distance > 0 else distance.new_ones(())
    return (share * target + (1 - share) * s) * (n / dof)


def _towards_diagonal(x: Tensor, full: Tensor, used: Tensor, dof: float) -> Tensor:
    n = len(x)
    variance = full.diagonal()
    inverse = torch.where(used, 1 / variance, 0.0)
    scale = inverse.sqrt()
    r = full * (dof / (n - 1)) * scale.unsqueeze(-1) * scale
    r2 = _products(x.square()) * inverse.unsqueeze(-1) * inverse / (n - 1)
    spread = (r2 - r.square()) * (n / dof**2)
    off, squares = spread.sum() - spread.trace(), r.square().sum() - r.diagonal().square().sum()
    share = (off / squares).clamp(0, 1) if squares > 0 else off.new_ones(())
    shrunk = full * (1 - share)
    shrunk.diagonal().copy_(variance)
    return shrunk
