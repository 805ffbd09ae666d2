"""Coverage, massive activations, trajectories, probes and binned information.

Bins, thresholds and k are in the names and tensors of the file.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.monitoring import (
    coverage,
    massive_activations,
    neuron_states,
    uniform_divergence,
)
from neurofm.interpret.probing import (
    f_statistic,
    fit_sparse,
    mean_difference,
    rank_units,
    ridge_weights,
)
from neurofm.interpret.similarity import binned_information, describe_trajectory, quantile_edges

INPUTS = (
    "hidden",
    "mi_act",
    "mi_labels",
    "nac_M",
    "nac_act",
    "nac_alpha",
    "nac_head_weight",
    "nac_r",
    "nac_test_act",
    "probe_X",
    "probe_y",
    "ridge_Y",
    "ridge_lambda",
    "trajectory",
)


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor that is not an input."""
    given = {key: value.numpy() for key, value in tensors.items()}
    got = _coverage(tensors) | _massive(given) | _trajectory(given) | _probes(given)
    got |= _information(given)
    return {key: torch.as_tensor(np.atleast_1d(value)) for key, value in got.items()}


def _coverage(given: dict[str, Tensor]) -> dict[str, np.ndarray]:
    alpha = float(given["nac_alpha"])

    def states(activation: Tensor) -> tuple[Tensor, Tensor]:
        leaf = activation.clone().requires_grad_(True)
        loss = uniform_divergence(leaf @ given["nac_head_weight"]).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient, neuron_states(activation, gradient, alpha=alpha)

    gradient, seen = states(given["nac_act"])
    _, judged = states(given["nac_test_act"])
    found = coverage(seen.numpy(), n_edges=int(given["nac_M"]), saturation=int(given["nac_r"]))
    return {
        "nac_kl_grad": gradient.numpy(),
        "nac_state": seen.numpy(),
        "nac_hist": found.counts,
        "nac_coverage": found.values,
        "nac_generalization_score": np.array(found.generalisation),
        "nac_test_state": judged.numpy(),
        "nac_test_score": found.score(judged.numpy()),
    }


def _massive(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = massive_activations(given["hidden"])
    return {
        "hidden_median_abs": found.median,
        "massive_mask": found.massive,
        "massive_ratio_top3": found.top_ratio,
        "outlier_mask_mad": found.outlier,
    }


def _trajectory(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = describe_trajectory(given["trajectory"])
    means = found.means()
    return {
        "traj_cosine_consecutive": means["cosine"],
        "traj_velocity": means["velocity"],
        "traj_turning_angle": means["turning_angle"],
        "traj_unit_correlation": found.unit_correlation,
    }


def _probes(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x, y = given["probe_X"], given["probe_y"]
    f, p = f_statistic(x, y)
    order = rank_units(x, y)
    got = {
        "probe_f": f,
        "probe_f_p": p,
        "probe_mean_difference": mean_difference(x, y),
        "probe_rank_mean_difference": order,
        "ridge_coef": ridge_weights(x, given["ridge_Y"], penalty=float(given["ridge_lambda"][0])),
    }
    for k in _numbers(given, r"probe_k(\d+)_coef"):
        fit = fit_sparse(x, y, order[:k])
        got |= {f"probe_k{k}_coef": fit.coef, f"probe_k{k}_intercept": np.array(fit.intercept)}
    return got


def _information(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    activity, labels = given["mi_act"], given["mi_labels"]
    bins = given["mi_bins_quantile_edges"].shape[1] + 1
    got = {"mi_bins_quantile_edges": quantile_edges(activity, bins)}
    for rule in ("quantile", "uniform"):
        for n in _numbers(given, rf"mi_XT_{rule}(\d+)_bits"):
            found = binned_information(activity, labels, bins=n, rule=rule, shuffles=0)
            got[f"mi_XT_{rule}{n}_bits"] = np.array(found.input_bits)
            got[f"mi_TY_{rule}{n}_bits"] = np.array(found.label_bits)
    return got


def _numbers(given: dict[str, np.ndarray], pattern: str) -> list[int]:
    """Of every name that fits."""
    return [int(m.group(1)) for key in given if (m := re.fullmatch(pattern, key))]
