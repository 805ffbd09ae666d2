"""CKA, CCA, shape and their neighbours of two representations of the same samples."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret import similarity as s
from neurofm.interpret.predictivity import rdm_correlation

INPUTS = ("X", "Y", "Y_same_width", "labels_onehot", "knn_k")


def _cka(x: np.ndarray, y: np.ndarray, rest: list[str]) -> float:
    """`linear_biased`, `linear_minibatch3_debiased`, `rbf_0.5_debiased`."""
    debiased = rest[-1] == "debiased"
    if rest[0] == "rbf":
        return s.rbf_cka(x, y, factor=float(rest[1]), debiased=debiased)
    if rest[1].startswith("minibatch"):
        parts = np.array_split(np.arange(len(x)), int(rest[1].removeprefix("minibatch")))
        return s.batched_cka((x[part], y[part]) for part in parts)
    return s.linear_cka(x, y, debiased=debiased)


def _by_name(name: str, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float | None:
    """What has its settings in its name."""
    if name.startswith("cka_"):
        return _cka(x, y, name.split("_")[1:])
    if name.startswith("shape_alpha"):
        alpha, distance = name.removeprefix("shape_alpha").split("_")
        return s.shape_distance(x, z, alpha=float(alpha), distance=distance)
    return None


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every measure that the file names, each by itself: one that refuses is one miss."""
    t = {name: value.numpy() for name, value in tensors.items()}
    x, y, z = t["X"], t["Y"], t["Y_same_width"]
    measures: dict[str, Callable[[], object]] = {
        "cca_correlations": lambda: s.cca(x, y).correlations,
        "cca_mean": lambda: s.cca(x, y).mean,
        "cca_r2_mean": lambda: s.cca(x, y).mean_squared,
        "pwcca": lambda: s.cca(x, y).weighted,
        "svcca_dims": lambda: s.cca(x, y, variance=0.99).dims,
        "svcca_mean": lambda: s.cca(x, y, variance=0.99).mean,
        "hsic_linear_biased": lambda: s.hsic(x, y, debiased=False),
        "hsic_linear_unbiased": lambda: s.hsic(x, y),
        "rbf_median_distance": lambda: [s.median_distance(x), s.median_distance(y)],
        "distance_correlation": lambda: s.distance_correlation(x, y),
        "knn_jaccard_cosine": lambda: s.neighbour_overlap(x, y, k=int(t["knn_k"][0])),
        "rsa_correlation_spearman": lambda: rdm_correlation(x, y, method="spearman"),
        "linreg_r2_X_to_Y": lambda: s.regression_r2(x, y),
        "neuron_correlation_XY": lambda: s.correlate_units(x, y),
        "max_correlation_per_unit": lambda: s.best_correlation(
            s.correlate_units(x, y), absolute=False
        ),
        "participation_ratio_X": lambda: s.participation_ratio(x),
        "target_alignment": lambda: s.target_alignment(x, t["labels_onehot"]),
        "procrustes_angular": lambda: s.shape_distance(x, y),
        "procrustes_euclidean": lambda: s.shape_distance(x, y, distance="euclidean"),
        "procrustes_normalized_sq": lambda: 2 - 2 * np.cos(s.shape_distance(x, y)),
        "permutation_angular": lambda: s.permutation_distance(x, z),
        "permutation_assignment": lambda: s.match_units(x, z),
    }
    got: dict[str, Tensor] = {}
    for name in t:
        measure = measures.get(name, functools.partial(_by_name, name, x, y, z))
        try:
            value = measure()
        except ValueError as refusal:
            print(f"  {name}: {refusal}")
            continue
        if value is not None:
            got[name] = torch.from_numpy(np.atleast_1d(value))
    return got
