"""RDMs, crossnobis and noise covariances; the names of outputs say the measure and the noise."""

from __future__ import annotations

import warnings

from torch import Tensor

from neurofm.interpret import rsa

Tensors = dict[str, Tensor]
INPUTS = (
    "measurements",
    "labels",
    "runs",
    "residuals",
    "residuals_per_run",
    "dof",
    "poisson_rates",
    "edge_patterns",
)


def check(tensors: Tensors) -> Tensors:
    residuals = tensors["residuals"]
    labels, runs = tensors["labels"].tolist(), tensors["runs"].tolist()
    got: Tensors = {"patterns": by_label(tensors["measurements"], labels)}
    patterns = got["patterns"]
    for kind in ("full", "diag", "shrinkage_eye", "shrinkage_diag"):
        dof = tensors["dof"].item() if "dof" in tensors else None
        got[f"cov_{kind}"] = noise = rsa.noise_covariance(residuals, kind)
        got[f"cov_{kind}_dof"] = rsa.noise_covariance(residuals, kind, dof=dof)
        got[f"cov_from_measurements_{kind}"] = rsa.noise_covariance(
            tensors["measurements"], kind, conditions=labels
        )
        got[f"rdm_mahalanobis_{kind}"] = rsa.dissimilarities(patterns, "mahalanobis", noise=noise)
        got[f"rdm_crossnobis_{kind}"] = crossed(tensors, noise=noise)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "rdm: 1 of")  # one of the edge patterns is constant
        for metric in ("euclidean", "correlation", "cosine"):
            for name, x in (("", patterns), ("edge_", tensors["edge_patterns"])):
                got[f"{name}rdm_{metric}"] = rsa.dissimilarities(x, metric)
                got[f"{name}rdm_{metric}_remove_mean"] = rsa.dissimilarities(
                    x, metric, remove_mean=True
                )
    got["rdm_poisson"] = rsa.dissimilarities(by_label(tensors["poisson_rates"], labels), "poisson")
    got["rdm_crossnobis_identity"] = crossed(tensors)
    got["rdm_crossnobis_identity_remove_mean"] = crossed(tensors, remove_mean=True)
    names = sorted(set(runs))
    per_run = {
        run: rsa.noise_covariance(of_run, "shrinkage_eye")
        for run, of_run in zip(names, tensors["residuals_per_run"], strict=True)
    }
    got["rdm_crossnobis_per_run_precision"] = crossed(tensors, noise=per_run)
    return {name: value for name, value in got.items() if name in tensors}


def by_label(x: Tensor, labels: list[int]) -> Tensor:
    means, names = rsa.condition_means(x, labels)
    return means[sorted(range(len(names)), key=names.__getitem__)]


def crossed(tensors: Tensors, **options: object) -> Tensor:
    """Conditions come in the order of their labels."""
    order = tensors["labels"].argsort(stable=True)
    x, labels, runs = (tensors[name][order] for name in ("measurements", "labels", "runs"))
    found = rsa.crossnobis(x, labels.tolist(), runs.tolist(), **options)
    return x.new_tensor(found.values)
