"""Scores of decoding and encoding against tests/golden/decoding_metrics."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from neurofm import ceilings, metrics

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says; float32 quantities have 1e-5."""
    if name.startswith(("retrieval", "soft_clip")):
        return 1e-5, 1e-5
    allowed = fixture.description["tolerance"]
    return allowed["atol"], allowed["rtol"]


def outputs_of(given: dict[str, np.ndarray], names: list[str]) -> dict[str, Any]:
    """The quantities of `outputs.safetensors`."""
    true, predicted = given["feat_true"], given["feat_pred"]
    true32, predicted32 = given["feat_true_f32"], given["feat_pred_f32"]
    got = {
        "two_way_identification": metrics.two_way_identification(true, predicted),
        "correlation_distance": metrics.correlation_distance(true, predicted),
        "moment_match": metrics.moment_match(predicted, true),
        "pixcorr": metrics.pixel_correlation(given["img_true"], given["img_pred"]),
        "gray_true": metrics.grey(given["img_true"]),
        "ssim_gray": metrics.ssim(given["img_true"], given["img_pred"]),
        "retrieval_similarity": metrics.similarity(true32, predicted32),
    }
    for name in names:
        if found := re.fullmatch(r"retrieval_top(\d+)_(rows|cols)", name):
            direction = {"rows": "backward", "cols": "forward"}[found[2]]
            got[name] = metrics.top_k(true32, predicted32, int(found[1]), direction=direction).value
        if found := re.fullmatch(r"soft_clip_loss_temp([\d.]+)", name):
            got[name] = metrics.soft_clip(true32, predicted32, temperature=float(found[1]))
    return got


def formulas_of(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """The quantities of `formula_outputs.safetensors`."""
    betas, true, predicted = given["betas"], given["response_true"], given["response_pred"]
    images, repeats, voxels = betas.shape
    ceiling = ceilings.repeats(
        betas.reshape(-1, voxels), [str(i) for i in np.repeat(np.arange(images), repeats)]
    )
    r = metrics.correlation_per_channel(true, predicted)
    normalised = metrics.noise_normalised_r2(r, ceiling.fraction, epsilon=1e-10)
    return {
        "ncsnr": ceiling.ncsnr,
        "noise_ceiling_fraction": ceiling.fraction,
        "pearson_over_images_per_voxel": r,
        "pearson_over_voxels_mean": metrics.correlation_per_stimulus(true, predicted).mean(),
        "explained_variance_per_voxel": metrics.explained_variance(true, predicted),
        "noise_normalised_r2_median": np.median(normalised),
        "two_v_two_accuracy": metrics.two_v_two(true, predicted),
    }


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every recorded quantity but the binomial p value, which is not for inference."""
    files = {
        name: load_file(fixture.folder / f"{name}.safetensors")
        for name in ("inputs", "outputs", "formula_inputs", "formula_outputs")
    }
    files["outputs"].pop("two_way_p_value_upstream", None)
    expected = files["outputs"] | files["formula_outputs"]
    got = outputs_of(files["inputs"], list(expected)) | formulas_of(files["formula_inputs"])
    return (
        {name: torch.from_numpy(np.asarray(value)) for name, value in expected.items()},
        {name: torch.as_tensor(np.asarray(value)) for name, value in got.items()},
    )
