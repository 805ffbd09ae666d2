"""Noise-corrected predictivity against tests/golden/neural_predictivity."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.spatial.distance import squareform
from torch import Tensor

from neurofm.ceilings import spearman_brown
from neurofm.interpret import predictivity, rdm

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says."""
    allowed = fixture.description["tolerance"]
    return allowed["atol"], allowed["rtol"]


def components_of(fixture: Any) -> int:
    """Of PLS; the fixture says it in its configuration, or in words."""
    if "pls_components" in fixture.config:
        return int(fixture.config["pls_components"])
    words = " ".join(fixture.description["notes"])
    found = re.search(r"(\d+) components", words)
    assert found, "fixture.json names no number of PLS components"
    return int(found[1])


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every recorded quantity."""
    given, expected = (
        load_file(fixture.folder / f"{name}.safetensors") for name in ("inputs", "outputs")
    )
    config = fixture.config
    target, features = given["neural"], given["model_features"]
    splits = predictivity.stimulus_splits(
        target.shape[1], n_splits=config["num_splits"], train_fraction=config["train_frac"]
    )
    cases = {
        "model_ridge": (features, predictivity.ridge_map(config["ridge_alpha"])),
        "model_pls": (features, predictivity.pls_map(components_of(fixture))),
        "animal_ridge": (given["source_neural"], predictivity.ridge_map(config["ridge_alpha"])),
    }
    got: dict[str, Any] = {
        "splits_train": np.stack([train for train, _ in splits]),
        "splits_test": np.stack([test for _, test in splits]),
        "splithalf_permutations": np.stack(
            [
                predictivity.trial_halves(len(target), config["start_seed"] + b)
                for b in range(config["bootstrap_iters"])
            ]
        ),
        "rdm_neural": squareform(rdm(np.nanmean(target, 0)).values),
        "spearman_brown": spearman_brown(np.array([-0.2, 0.0, 0.3, 0.9])),
    }
    for method in ("pearson", "spearman"):
        got[f"rsa_{method}"] = predictivity.rdm_correlation(
            features, np.nanmean(target, 0), method=method
        )
    for name, (source, mapping) in cases.items():
        found = predictivity.neural_predictivity(
            source,
            target,
            mapping=mapping,
            splits=splits,
            n_bootstraps=config["bootstrap_iters"],
            start_seed=config["start_seed"],
        )
        for key in ("r_xy", "r_xx_sb", "r_yy", "r_yy_sb", "r_xy_n_sb"):
            got[f"{name}/test/{key}"] = getattr(found, key)
        got[f"{name}/score_median"] = found.score()
    # What is not a number must be that on both sides; the checker compares numbers.
    for name in expected:
        if np.isnan(expected[name]).any():
            same = np.isnan(expected[name]) == np.isnan(got[name])
            got[name] = np.where(same, np.nan_to_num(got[name]), np.inf)
            expected[name] = np.nan_to_num(expected[name])
    return (
        {name: torch.from_numpy(np.asarray(value)) for name, value in expected.items()},
        {name: torch.as_tensor(np.asarray(value)) for name, value in got.items()},
    )
