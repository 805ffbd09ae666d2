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
    labels = tensors["labels"].tolist()
    patterns = by_label(tensors["measurements"], labels)
    got: Tensors = {"patterns": patterns}
    for name in tensors:
        if name.startswith("cov_"):
            got[name] = covariance(name, tensors)
        elif name.startswith("rdm_crossnobis_"):
            got[name] = crossnobis(name.removeprefix("rdm_crossnobis_"), tensors)
        elif name.startswith("rdm_mahalanobis_"):
            noise = covariance(f"cov_{name.removeprefix('rdm_mahalanobis_')}", tensors)
            got[name] = rsa.dissimilarities(patterns, "mahalanobis", noise=noise)
        elif name == "rdm_poisson":
            got[name] = rsa.dissimilarities(by_label(tensors["poisson_rates"], labels), "poisson")
        elif "rdm_" in name:
            edge, _, metric = name.rpartition("rdm_")
            x = tensors["edge_patterns"] if edge else patterns
            kept = metric.removesuffix("_remove_mean")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "rdm: ")  # of constant patterns
                got[name] = rsa.dissimilarities(x, kept, remove_mean=kept != metric)
    return got


def covariance(name: str, tensors: Tensors) -> Tensor:
    kind = name.removeprefix("cov_").removesuffix("_dof")
    if kind.startswith("from_measurements_"):
        kind = kind.removeprefix("from_measurements_")
        labels = tensors["labels"].tolist()
        return rsa.noise_covariance(tensors["measurements"], kind, conditions=labels)
    dof = tensors["dof"].item() if name.endswith("_dof") else None
    return rsa.noise_covariance(tensors["residuals"], kind, dof=dof)


def crossnobis(name: str, tensors: Tensors) -> Tensor:
    """What stands behind "rdm_crossnobis_": the noise, and whether means are removed."""
    kind = name.removesuffix("_remove_mean")
    if kind == "per_run_precision":
        names = sorted(set(tensors["runs"].tolist()))
        residuals = tensors["residuals_per_run"]
        noise: object = {
            run: rsa.noise_covariance(of_run, "shrinkage_eye")
            for run, of_run in zip(names, residuals, strict=True)
        }
    else:
        noise = None if kind == "identity" else covariance(f"cov_{kind}", tensors)
    return crossed(tensors, noise=noise, remove_mean=kind != name)


def by_label(x: Tensor, labels: list[int]) -> Tensor:
    means, names = rsa.condition_means(x, labels)
    return means[sorted(range(len(names)), key=names.__getitem__)]


def crossed(tensors: Tensors, **options: object) -> Tensor:
    """Conditions come in the order of their labels."""
    order = tensors["labels"].argsort(stable=True)
    x, labels, runs = (tensors[name][order] for name in ("measurements", "labels", "runs"))
    found = rsa.crossnobis(x, labels.tolist(), runs.tolist(), **options)
    return x.new_tensor(found.values)
