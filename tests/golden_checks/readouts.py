"""Readouts of feature maps and their losses against tests/golden/readouts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurofm.models.feature_map_readouts import (
    FactorisedReadout,
    GaussianReadout,
    GlobalLinearReadout,
)
from neurofm.models.semantic_readout import SemanticReadout
from neurofm.nn.response_losses import masked_concordance, masked_huber, masked_mse

Tensors = dict[str, Tensor]
MISSING = -900.0  # lower targets were not measured


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says."""
    said = fixture.description["tolerance"]
    return said["atol"], said["rtol"]


def part(tensors: Tensors, name: str) -> Tensors:
    """Those of one readout, without its name."""
    return {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}


def built(name: str, fixture: Any, guide: Tensor) -> nn.Module:
    """A readout of the fixture's size."""
    size: tuple[Any, ...] = (fixture.config["in_shape"], fixture.config["n_voxels"])
    if name == "sst":
        return SemanticReadout(*size, guide_shape=guide.shape[1:], chunk=3)
    if name == "global_linear":
        return GlobalLinearReadout(*size)
    if name == "factorised":
        return FactorisedReadout(*size)
    spread = "uncorrelated" if name == "gaussian2d" else name.removeprefix("full_gaussian2d_")
    return GaussianReadout(*size, spread=spread)


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the outputs."""
    state, given = fixture.tensors("state_dict"), fixture.tensors("inputs")
    got: Tensors = {}
    guide = given["localisation"]
    for name in sorted({key.partition("/")[0] for key in state}):
        readout = built(name, fixture, guide)
        renamed = part(state, name)
        if hasattr(readout, "rename_keys"):
            renamed = readout.rename_keys(renamed)
        readout.load_state_dict(renamed)
        readout.eval()
        with torch.no_grad():
            if isinstance(readout, SemanticReadout):
                got["sst/affine/pred"] = readout(given["features"], guide)
                got["sst/affine/masks"] = readout.warped_masks(guide)[0]
                continue
            got[f"{name}/pred"] = readout(given["features"])
            if isinstance(readout, FactorisedReadout):
                got["factorised/normalized_spatial"] = readout.masks()
    prediction, y = given["loss/pred"], given["loss/target"]
    mask = y > MISSING
    got["loss/masked_mse"] = masked_mse(prediction, y, mask)
    got["loss/masked_ccc"] = masked_concordance(prediction, y, mask)
    got["loss/masked_huber"] = masked_huber(prediction, y, mask)
    return fixture.tensors("outputs"), got
