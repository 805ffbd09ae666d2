"""Representational dissimilarity matrices (RDMs).

Conditions are rows, channels or units are columns; all but correlation and cosine are divided by
the number of columns, so that layers and searchlights of different size compare. Products are
float64 unless float32 is asked for, on the device of the patterns. A NaN in a pattern makes that
condition's row and column of the RDM NaN; comparisons leave such pairs out.

Source: Kriegeskorte et al. 2008 (RSA); Walther et al. 2016 (reliability of measures); Schuett et
al. 2019 (symmetrised Kullback-Leibler divergence of Poisson rates).
Axes: condition, window = row before averaging, p = column of a pattern, pair = upper triangle.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.rsa.noise import whiten_by
from neurofm.interpret.rsa.products import (
    DTYPES,
    blocks,
    gram_matrix,
    row_sums,
    squared_distances,
    touching,
    upper,
)
from neurofm.shapes import Bool, Float
from neurofm.types import RDM

METRICS = ("correlation", "euclidean", "cosine", "mahalanobis", "poisson")
PRIOR_RATE = 1.0  # of `poisson`, which mixes a little of it into every rate so that none is zero
PRIOR_WEIGHT = 0.1


@takes_either_by_torch
def condition_means(
    patterns: Float[Tensor, "window p"], conditions: Sequence[Hashable]
) -> tuple[Float[Tensor, "condition p"], tuple[Hashable, ...]]:
    """Average the windows of each condition.

    Args:
        patterns: One row per window.
        conditions: Of each window: a label, or a tuple such as (class, subject, run), which gives
            pseudo-trials that are less noisy than windows and still replicate.

    Returns:
        float64 means and the conditions, in order of first appearance.
    """
    if len(conditions) != len(patterns):
        raise ValueError(
            f"condition_means: {len(conditions)} conditions for {len(patterns)} windows."
        )
    names = tuple(dict.fromkeys(conditions))
    place = {name: i for i, name in enumerate(names)}
    index = torch.tensor([place[c] for c in conditions], device=patterns.device)
    total = patterns.new_zeros((len(names), patterns.shape[1]), dtype=torch.float64)
    for some, block in blocks(patterns):
        total[:, some].index_add_(0, index, block)
    return total / index.bincount(minlength=len(names)).unsqueeze(-1), names


@takes_either_by_torch
def dissimilarities(
    patterns: Float[Tensor, "*batch condition p"],
    metric: str = "correlation",
    *,
    noise: Float[Tensor, "channel channel"] | None = None,
    remove_mean: bool = False,
    dtype: str = "float64",
) -> Float[Tensor, "*batch pair"]:
    """Dissimilarity of every pair of patterns, for one set of patterns or many (times, centres).

    Args:
        metric: "correlation" (1 - Pearson), "cosine" (1 - cosine), "euclidean" (squared, per
            column), "mahalanobis" (squared, per column, needs `noise`) or "poisson" (for rates:
            difference times difference of logarithms, per column).
        noise: Covariance of the noise, positive definite; see `noise_covariance`.
        remove_mean: Take each pattern's mean over columns off first.
        dtype: "float32" halves the time of the products, for about six digits.

    Raises:
        ValueError: Fewer than two conditions, infinite values, negative rates, or a singular
            `noise`.
    """
    return _dissimilarities(patterns, metric, noise, remove_mean, dtype)


@takes_either_by_torch
def rdm(
    patterns: Float[Tensor, "condition p"],
    metric: str = "correlation",
    *,
    labels: Sequence[Any] | None = None,
    noise: Float[Tensor, "channel channel"] | None = None,
    remove_mean: bool = False,
    dtype: str = "float64",
) -> RDM:
    """The RDM of one set of patterns; `dissimilarities` explains the arguments.

    Args:
        labels: Of the conditions; numbers if not given.
    """
    values = _dissimilarities(patterns, metric, noise, remove_mean, dtype)
    names = tuple(map(str, range(len(patterns)) if labels is None else labels))
    if len(names) != len(patterns):
        raise ValueError(f"rdm: {len(names)} labels for {len(patterns)} patterns.")
    return RDM(values=values.cpu().numpy(), labels=names, metric=metric)


def _dissimilarities(
    patterns: Tensor, metric: str, noise: Tensor | None, remove_mean: bool, dtype: str
) -> Float[Tensor, "*batch pair"]:
    if metric not in METRICS:
        raise ValueError(f"rdm: metric {metric!r} is not one of {METRICS} (or use `crossnobis`).")
    if dtype not in DTYPES:
        raise ValueError(f"rdm: dtype {dtype!r} is not one of {tuple(DTYPES)}.")
    if (noise is None) == (metric == "mahalanobis"):
        raise ValueError("rdm: metric 'mahalanobis' needs `noise`, the others do not take it.")
    if remove_mean and metric == "poisson":
        raise ValueError(
            "rdm: rates have no mean to remove; leave `remove_mean` out for 'poisson'."
        )
    sums, missing = check_patterns(patterns)
    p = patterns.shape[-1]
    mean = sums.masked_fill(missing, 0.0) / p
    if metric == "poisson":
        values = _poisson(patterns, missing) / p
    elif metric in ("correlation", "cosine"):
        centre = mean if metric == "correlation" or remove_mean else None
        gram = gram_matrix(patterns, rows=centre, keep=_keep(missing), dtype=dtype)
        values, flat = _angles(gram, mean**2 * p if centre is not None else None, missing, metric)
        missing = missing | flat
    else:
        x, rows = patterns, mean if remove_mean else None
        if noise is not None:
            x = x.double() if rows is None else x.double() - rows.unsqueeze(-1)
            x, rows = whiten_by(x.masked_fill(missing.unsqueeze(-1), 0.0), noise), None
        gram = gram_matrix(x, rows=rows, columns=True, keep=_keep(missing), dtype=dtype)
        values = squared_distances(gram).clamp_(min=0.0).div_(p)
    return values.masked_fill_(touching(missing), torch.nan) if missing.any() else values


def check_patterns(
    patterns: Float[Tensor, "*batch condition p"],
) -> tuple[Float[Tensor, "*batch condition"], Bool[Tensor, "*batch condition"]]:
    """Sum of each pattern and whether it holds a NaN; stops at what no RDM can be made of."""
    shape = tuple(patterns.shape)
    if len(shape) < 2 or shape[-2] < 2 or shape[-1] < 1:
        raise ValueError(f"rdm: patterns of shape {shape}; expected (condition >= 2, p >= 1).")
    sums = row_sums(patterns)
    missing = ~sums.isfinite()
    if missing.any():
        infinite = int(patterns[missing].isinf().any(-1).sum())
        if infinite:
            raise ValueError(
                f"rdm: {infinite} patterns hold infinite values. Repair or leave out what made "
                "them; NaN stands for what is not known."
            )
    return sums, missing


def _keep(missing: Tensor) -> Tensor | None:
    return ~missing if missing.any() else None


def _angles(
    gram: Tensor, removed: Tensor | None, missing: Tensor, metric: str
) -> tuple[Tensor, Tensor]:
    """1 - cosine of all pairs and which patterns have no direction, of which it warns."""
    squared = gram.diagonal(dim1=-2, dim2=-1).clone()
    # Exactly constant rows leave rounding errors of the mean behind.
    limit = 0.0 if removed is None else (16 * torch.finfo(torch.float64).eps) ** 2 * removed
    flat = (squared <= limit) & ~missing
    if flat.any():
        what = "zero" if removed is None else "constant"
        warnings.warn(
            f"rdm: {int(flat.sum())} of {flat.numel()} patterns are {what}; their {metric} "
            "distances are undefined (NaN).",
            stacklevel=5,
        )
    norm = squared.sqrt().masked_fill_(flat | missing, 1.0)
    gram.div_(norm.unsqueeze(-1)).div_(norm.unsqueeze(-2))
    return (1 - upper(gram)).clamp_(0.0, 2.0), flat


def _poisson(patterns: Tensor, missing: Tensor) -> Tensor:
    total: Tensor | None = None
    gone = missing.unsqueeze(-1)
    for _, block in blocks(patterns):
        if (block < 0).any():
            raise ValueError(
                f"rdm: {int((block < 0).sum())} rates are negative; 'poisson' is for firing rates "
                "and other counts."
            )
        rate = (block.masked_fill(gone, 0.0) + PRIOR_RATE * PRIOR_WEIGHT) / (1 + PRIOR_WEIGHT)
        log = rate.log()
        # Only differences count: without means, fewer digits cancel.
        product = (rate - rate.mean(-2, keepdim=True)) @ (log - log.mean(-2, keepdim=True)).mT
        total = product if total is None else total + product
    assert total is not None
    return squared_distances((total + total.mT) / 2).clamp_(min=0.0)
