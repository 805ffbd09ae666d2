"""The transformer brain encoder and its baselines against their fixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import TransformerBrainEncoder
from neurofm.nn.response_losses import masked_mse

Tensors = dict[str, Tensor]
STRIDES = {"dinov2": 3, "clip": 2, "resnet": 1}  # of the linear baseline, by backbone


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture says."""
    said = fixture.description["tolerance"]
    return said["atol"], said["rtol"]


def grid_of(case: str, config: dict[str, Any], given: Tensors) -> Tensor:
    """The input of a case: of its own name, of the linear baseline, of 31 x 31, or of all."""
    if config["encoder_arch"] == "linear":
        return given.get("features_linear", given["features"])
    if config["encoder_arch"] == "spatial_feature":
        return given.get("features_31", given["features"])
    return given.get(f"features_{case}", given["features"])


def built(config: dict[str, Any], grid: Tensor) -> TransformerBrainEncoder:
    rois = config["readout_res"] == "rois_all"
    n = config["num_queries"] // 2 if rois else 1
    stride = next(
        (v for k, v in STRIDES.items() if config.get("backbone_arch", "dinov2_q").startswith(k)), 3
    )
    return TransformerBrainEncoder(
        config["lh_vs"],
        config["rh_vs"],
        rois=[f"roi{i}" for i in range(n)],
        queries=config["readout_res"],
        router=config["encoder_arch"],
        n_features=grid.shape[1],
        grid=grid.shape[2:],
        stride=stride,
        dim=config["hidden_dim"],
        heads=config["nheads"],
        feedforward=config["dim_feedforward"],
        encoder_layers=config["enc_layers"],
        decoder_layers=config["dec_layers"],
        memory_layer=config["enc_output_layer"],
        dropout=config["dropout"],
        pre_norm=bool(config["pre_norm"]),
        positions=config["position_embedding"],
        penalty_factor=1.0,
    ).eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of every case."""
    given, outputs = fixture.tensors("inputs"), fixture.tensors("outputs")
    states = fixture.tensors("state_dict")
    got: Tensors = {}
    for case, config in fixture.description["cases"].items():
        grid = grid_of(case, config, given)
        model = built(config, grid)
        own = {k.removeprefix(f"{case}/"): v for k, v in states.items() if k.startswith(f"{case}/")}
        model.load_state_dict(model.rename_keys(own))
        if config["readout_res"] == "rois_all" and config["encoder_arch"] != "linear":
            model.set_regions(given["lh_roi_masks"].bool(), given["rh_roi_masks"].bool())
        with torch.no_grad():
            routed = model.route(grid, maps=True)
            vertices = model.vertices(routed)
        left, right = vertices.split(list(model.loss_parts), 1)
        found = {
            "lh_f_pred": routed.left,
            "rh_f_pred": routed.right,
            "lh_vertex_pred": left,
            "rh_vertex_pred": right,
            "l2_reg": model.penalty().detach(),
            **({} if routed.tokens is None else {"output_tokens": routed.tokens}),
            **{f"dec{i}.attn": map_.flatten(2) for i, map_ in enumerate(routed.attention)},
        }
        if f"{case}/loss" in outputs:
            sides = ((left, given["target_lh"]), (right, given["target_rh"]))
            parts = [masked_mse(p, y, torch.ones_like(y, dtype=torch.bool)) for p, y in sides]
            found["loss"] = parts[0] + parts[1]
        got |= {f"{case}/{name}": value for name, value in found.items()}
    return outputs, got
