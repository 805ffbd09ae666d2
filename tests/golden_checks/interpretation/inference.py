"""Bootstraps, ceilings and tests of RSA against `inference.safetensors`."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats as distributions
from torch import Tensor

from neurofm import stats
from neurofm.interpret import rsa
from neurofm.interpret.rsa.permutations import p_of

INPUTS = (
    "model_rdms",
    "subject_rdms",
    "boot_pattern_idx",
    "boot_subject_idx",
    "perm_idx",
    "pvals",
    "signflip",
    "signflip_data",
    "cluster_threshold",
)


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    given = {name: value.numpy() for name, value in tensors.items()}
    models, people = given["model_rdms"], given["subject_rdms"]
    got: dict[str, np.ndarray] = {}
    for name in given:
        kind, _, method = name.partition("_")
        if kind in ("eval", "ceiling"):
            whole = rsa.resample(models, people, method)
            got[name] = whole.by_subject[0] if kind == "eval" else whole.ceiling[0]
    methods = {name.removeprefix("eval_") for name in given if name.startswith("eval_")}
    for method in methods:
        got |= _bootstraps(given, models, people, method)
    for name in given:
        if name.startswith("perm_null_"):
            method = name.removeprefix("perm_null_")
            null = rsa.permuted(models, people, given["perm_idx"], method)
            value = rsa.resample(models, people, method).scores[0]
            counted = bool(
                (given["perm_idx"] == np.arange(given["perm_idx"].shape[1])).all(1).any()
            )
            got[name] = null
            got[f"perm_p_{method}"] = p_of(null, value, counted=counted)
    p = given["pvals"]
    got |= {
        "pvals_bh": stats.fdr(p)[1],
        "pvals_by": stats.fdr(p, dependent=True)[1],
        "pvals_holm": stats.holm(p),
    }
    data, flips = given["signflip_data"], given["signflip"].astype(float)
    largest = rsa.max_t(data, flips)
    found = rsa.cluster_test(data, flips, threshold=float(given["cluster_threshold"][0]))
    places = [np.flatnonzero(found.label == i + 1) for i in range(len(found.masses))]
    got |= {
        "signflip_t": largest.t,
        "signflip_maxT_p": largest.p,
        "clusters_mass": found.masses,
        "clusters_p": found.cluster_p,
        "clusters_start_stop": np.array([[one[0], one[-1] + 1] for one in places], dtype=np.int64),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in got.items()}


def _bootstraps(
    given: dict[str, np.ndarray], models: np.ndarray, people: np.ndarray, method: str
) -> dict[str, np.ndarray]:
    conditions, subjects = given["boot_pattern_idx"], given["boot_subject_idx"]
    draws = {
        "both": {"conditions": conditions, "subjects": subjects},
        "subject": {"subjects": subjects},
        "pattern": {"conditions": conditions},
    }
    got, covariance = {}, {}
    for kind, about in draws.items():
        if f"boot_{kind}_{method}" not in given:
            continue
        found = rsa.resample(models, people, method, **about)
        covariance[kind] = found.covariance()
        every = {
            f"boot_{kind}_{method}": found.scores,
            f"boot_{kind}_ceiling_{method}": found.ceiling,
            f"boot_{kind}_cov_{method}": covariance[kind],
            f"boot_{kind}_mean_{method}": np.nanmean(found.scores, 0),
        }
        got |= {name: value for name, value in every.items() if name in given}
    if len(covariance) < 3:
        return got
    k, (n, s) = len(models), (conditions.shape[1], len(people))
    pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
    contrasts = np.zeros((k + len(pairs), k + 2))
    contrasts[np.arange(k), np.arange(k)] = 1
    for row, (i, j) in enumerate(pairs):
        contrasts[k + row, i], contrasts[k + row, j] = 1, -1
    variance = rsa.dual_variance(
        covariance["both"],
        covariance["subject"],
        covariance["pattern"],
        n_subjects=s,
        n_conditions=n,
        contrasts=contrasts,
    )
    value = contrasts[:, :k] @ rsa.resample(models, people, method).scores[0]
    t, dof = value / np.sqrt(variance), min(s, n) - 1
    return got | {
        f"dual_var_model_{method}": variance[:k],
        f"dual_var_diff_{method}": variance[k:],
        f"p_gt_zero_{method}": distributions.t.sf(t[:k], dof),
        f"p_diff_{method}": 2 * distributions.t.sf(np.abs(t[k:]), dof),
    }
