"""Similarity of RDMs.

Source: Kriegeskorte et al. 2008 (RSA); Schuett et al. 2023 (comparison; Spearman's rho-a because
category models, which have ties, are favoured by plain Spearman or tau-b).
Axes: pair = upper triangle by rows.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from neurofm.interpret.rsa.ranks import kendall
from neurofm.shapes import Float
from neurofm.types import RDM

METHODS = ("cosine", "corr", "spearman", "rho-a", "tau-a", "tau-b")


def compare(
    a: Float[np.ndarray, "first pair"],
    b: Float[np.ndarray, "second pair"],
    method: str = "rho-a",
    *,
    strict: bool = False,
) -> Float[np.ndarray, "first second"]:
    """Similarity of every RDM of one stack with every RDM of another.

    Args:
        method: "cosine"; "corr" (Pearson); "spearman"; "rho-a" (expected Spearman when ties are
            broken at random); "tau-a"; "tau-b".
        strict: Raise on NaN instead of leaving out pairs that are NaN in any RDM.

    Returns:
        NaN where fewer than three pairs remain, or where one side is constant and the method needs
        its variance; a cosine with zeros is 0.
    """
    if method not in METHODS:
        raise ValueError(f"compare: method {method!r} is not one of {METHODS}.")
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"compare: RDMs of {a.shape[1]} and {b.shape[1]} pairs.")
    drop = np.isnan(a).any(0) | np.isnan(b).any(0)
    if strict and drop.any():
        raise ValueError(f"compare: {int(drop.sum())} of {len(drop)} pairs are NaN.")
    a, b = a[:, ~drop], b[:, ~drop]
    if a.shape[1] < 3:
        return np.full((len(a), len(b)), np.nan)
    if method in ("tau-a", "tau-b"):
        return np.array([[kendall(one, two, method) for two in b] for one in a])
    a, b, scale = prepare(a, method), prepare(b, method), _scale(a.shape[1], method)
    return np.clip(a @ b.T * scale, -1.0, 1.0)


def compare_rdms(a: RDM, b: RDM, method: str = "rho-a", *, strict: bool = False) -> float:
    """Similarity of two RDMs over the same conditions in the same order; see `compare`."""
    same_conditions(a, b)
    return float(compare(a.values[None], b.values[None], method, strict=strict)[0, 0])


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
    """RDMs in the form in which a dot product is the similarity (times `_scale`)."""
    if method in ("spearman", "rho-a"):
        x = stats.rankdata(x, axis=1)
    if method != "cosine":
        x = x - x.mean(1, keepdims=True)
    if method == "rho-a":
        return x
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if method == "cosine":
        return x / np.where(norm > 0, norm, 1.0)
    return np.divide(x, norm, out=np.full_like(x, np.nan), where=norm > 0)


def _scale(n_pairs: int, method: str) -> float:
    return 12.0 / (float(n_pairs) ** 3 - n_pairs) if method == "rho-a" else 1.0
