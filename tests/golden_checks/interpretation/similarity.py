"""CKA, CCA, shape and their neighbours of two representations of the same samples."""

from __future__ import annotations

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
    """Every measure that the file names."""
    t = {name: value.numpy() for name, value in tensors.items()}
    x, y, z = t["X"], t["Y"], t["Y_same_width"]
    found = s.cca(x, y)
    svcca = s.cca(x, y, variance=0.99)
    angle = s.shape_distance(x, y)
    k = int(t["knn_k"][0])
    correlation = s.correlate_units(x, y)
    got = {
        "cca_correlations": found.correlations,
        "cca_mean": found.mean,
        "cca_r2_mean": found.mean_squared,
        "pwcca": found.weighted,
        "svcca_dims": np.array(svcca.dims),
        "svcca_mean": svcca.mean,
        "hsic_linear_biased": s.hsic(x, y, debiased=False),
        "hsic_linear_unbiased": s.hsic(x, y),
        "rbf_median_distance": np.array([s.median_distance(x), s.median_distance(y)]),
        "distance_correlation": s.distance_correlation(x, y),
        "knn_jaccard_cosine": s.neighbour_overlap(x, y, k=k),
        "rsa_correlation_spearman": rdm_correlation(x, y, method="spearman"),
        "linreg_r2_X_to_Y": s.regression_r2(x, y),
        "neuron_correlation_XY": correlation,
        "max_correlation_per_unit": s.best_correlation(correlation, absolute=False),
        "participation_ratio_X": s.participation_ratio(x),
        "target_alignment": s.target_alignment(x, t["labels_onehot"]),
        "procrustes_angular": angle,
        "procrustes_euclidean": s.shape_distance(x, y, distance="euclidean"),
        "procrustes_normalized_sq": 2 - 2 * np.cos(angle),
        "permutation_angular": s.permutation_distance(x, z),
        "permutation_assignment": s.match_units(x, z),
    }
    for name in t:
        value = _by_name(name, x, y, z)
        if value is not None:
            got[name] = value
    return {
        name: torch.from_numpy(np.atleast_1d(value)) for name, value in got.items() if name in t
    }
