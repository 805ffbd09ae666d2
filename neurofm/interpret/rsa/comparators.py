"""Similarity of RDMs.

"cosine_cov" with crossnobis RDMs if a model predicts ratios of distances; "rho-a" if it predicts
ranks alone. Never plain Spearman or tau-b if a model has ties: they favour category models.

Source: Kriegeskorte et al. 2008 (RSA); Nili et al. 2014 (tau-a); Schuett et al. 2023 (rho-a);
Diedrichsen et al. 2021 (whitened).
Axes: pair = upper triangle by rows.
"""

from __future__ import annotations

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.rsa.ranks import kendall, mid_ranks
from neurofm.interpret.rsa.second_moments import bures, riemannian, without_missing
from neurofm.interpret.rsa.whitened import whitened_cosine
from neurofm.shapes import Float
from neurofm.types import RDM

METHODS = (
    "cosine",
    "corr",
    "cosine_cov",
    "corr_cov",
    "spearman",
    "rho-a",
    "tau-a",
    "tau-b",
    "bures",
    "bures_metric",
    "neg_riem_dist",
)
WITH_SIGMA = ("cosine_cov", "corr_cov", "neg_riem_dist")


@takes_either
def compare(
    a: Float[np.ndarray, "first pair"],
    b: Float[np.ndarray, "second pair"],
    method: str = "rho-a",
    *,
    sigma_k: Float[np.ndarray, " condition"]
    | Float[np.ndarray, "condition condition"]
    | None = None,
    strict: bool = False,
) -> Float[np.ndarray, "first second"]:
    """Similarity of every RDM of one stack with every RDM of another.

    Args:
        method: "cosine"; "corr" (Pearson); both in the metric of the covariance that noise gives
            to distances ("cosine_cov", "corr_cov"); "spearman"; "rho-a" (expected Spearman when
            ties are broken at random); "tau-a"; "tau-b"; "bures" (of Gram matrices),
            "bures_metric" (a squared distance: 0 if equal); "neg_riem_dist".
        sigma_k: Covariance of conditions, or their variances, for "_cov" and "neg_riem_dist";
            independent and equal if not given.
        strict: Raise on NaN instead of leaving out pairs that are NaN in any RDM.

    Returns:
        NaN where fewer than three pairs remain, or where one side is constant and the method needs
        its variance; a cosine with zeros is 0.
    """
    if method not in METHODS:
        raise ValueError(f"compare: method {method!r} is not one of {METHODS}.")
    if sigma_k is not None and method not in WITH_SIGMA:
        raise ValueError(f"compare: {method!r} takes no sigma_k; {WITH_SIGMA} do.")
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"compare: RDMs of {a.shape[1]} and {b.shape[1]} pairs.")
    if np.isinf(a).any() or np.isinf(b).any():
        raise ValueError("compare: RDMs hold infinite values; NaN stands for missing pairs.")
    keep = ~(np.isnan(a).any(0) | np.isnan(b).any(0))
    if strict and not keep.all():
        raise ValueError(f"compare: {int((~keep).sum())} of {len(keep)} pairs are NaN.")
    if keep.sum() < 3:
        return np.full((len(a), len(b)), np.nan)
    if method in ("cosine_cov", "corr_cov"):
        if method == "corr_cov":
            a, b = (x - x[:, keep].mean(1, keepdims=True) for x in (a, b))
        return np.clip(whitened_cosine(a, b, sigma_k, keep), -1.0, 1.0)
    if method in ("bures", "bures_metric", "neg_riem_dist"):
        a, b, there = without_missing(a, b, keep, method)
        if method != "neg_riem_dist":
            return bures(a, b, metric=method == "bures_metric")
        if sigma_k is not None and not there.all():
            sigma_k = sigma_k[there] if sigma_k.ndim == 1 else sigma_k[there][:, there]
        return riemannian(a, b, sigma_k)
    if not keep.all():
        a, b = a[:, keep], b[:, keep]
    if method in ("tau-a", "tau-b"):
        return kendall(a, b, method)
    scale = 12.0 / (float(a.shape[1]) ** 3 - a.shape[1]) if method == "rho-a" else 1.0
    return np.clip(prepare(a, method) @ prepare(b, method).T * scale, -1.0, 1.0)


def compare_rdms(
    a: RDM,
    b: RDM,
    method: str = "rho-a",
    *,
    sigma_k: np.ndarray | None = None,
    strict: bool = False,
) -> float:
    """Similarity of two RDMs over the same conditions in the same order; see `compare`."""
    same_conditions(a, b)
    found = compare(a.values[None], b.values[None], method, sigma_k=sigma_k, strict=strict)
    return float(found[0, 0])


def same_conditions(a: RDM, b: RDM) -> None:
    """Stop unless two RDMs are about the same conditions in the same order."""
    if a.labels == b.labels:
        return
    if len(a.labels) != len(b.labels):
        what = f"{len(a.labels)} and {len(b.labels)} conditions"
    else:
        i = next(i for i, (x, y) in enumerate(zip(a.labels, b.labels, strict=True)) if x != y)
        what = f"condition {i} is {a.labels[i]!r} in one and {b.labels[i]!r} in the other"
    raise ValueError(
        f"RDMs cannot be compared: {what}. Build both from the same conditions in the same order."
    )


def prepare(x: Float[np.ndarray, "rdm pair"], method: str) -> Float[np.ndarray, "rdm pair"]:
    """RDMs whose dot product is the similarity (times 12 / (m^3 - m) for rho-a)."""
    if method in ("spearman", "rho-a"):
        x = mid_ranks(x)
    if method != "cosine":
        x = x - x.mean(1, keepdims=True)
    if method == "rho-a":
        return x
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if method == "cosine":
        return x / np.where(norm > 0, norm, 1.0)
    return np.divide(x, norm, out=np.full_like(x, np.nan), where=norm > 0)
