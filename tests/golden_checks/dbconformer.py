"""DBConformer and its Euclidean alignment against tests/golden/dbconformer.

A folder holds one recording per variant: `fixture_NAME.json` with the configuration and
`fixture_NAME.safetensors`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.data import EuclideanAlignment
from neurofm.models import DBConformer

Tensors = dict[str, Tensor]
BRANCHES = {"all": "both", "both": "both", "temporal": "temporal", "spatial": "spatial"}
KEEPS_LAST_SAMPLE = "MI1-7"
HEADS = 10  # of the original, whatever its configuration


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As each recording says."""
    said = fixture.descriptions[name.split("/")[0]]["tolerance"]
    kind = "float32" if "float32_atol" in said else "float64"
    return said[f"{kind}_atol"], said[f"{kind}_rtol"]


def model_of(config: dict[str, Any], state: Tensors, branch: str | None = None) -> DBConformer:
    """The recorded model, or one branch of it without a head."""
    alone = branch is not None
    made = DBConformer(
        n_channels=config["chn"],
        n_times=config["time_sample_num"],
        patch=config["patch_size"],
        dim=config["emb_size"],
        n_filters=config["spa_dim"],
        heads=config.get("num_heads", HEADS),
        temporal_depth=config["transformer_depth_tem"],
        spatial_depth=config["transformer_depth_chn"],
        n_classes=None if alone else config["class_num"],
        branch=branch or BRANCHES[config["branch"]],
        gated=config["gate_flag"] and not alone and BRANCHES[config["branch"]] == "both",
        positions=config["posemb_flag"],
        channel_attention=config["chn_atten_flag"],
        drop_last_sample=config["data_name"] != KEEPS_LAST_SAMPLE,
    )
    made.load_state_dict(made.rename_keys(state))
    return made.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of every recording of the folder, as `recording/name`."""
    expected: Tensors = {}
    got: Tensors = {}
    for name in fixture.descriptions:
        tensors = fixture.tensors(name)
        config = fixture.descriptions[name].get("config")
        found = _aligned(tensors["in.x"]) if config is None else _network(config, tensors)
        wanted = {k: v for k, v in tensors.items() if not k.startswith(("sd.", "in."))}
        expected |= {f"{name}/{key}": value for key, value in wanted.items()}
        got |= {f"{name}/{key}": value for key, value in found.items()}
    return expected, got


def _network(config: dict[str, Any], tensors: Tensors) -> Tensors:
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    x, y = tensors["in.x"].squeeze(1), tensors["in.y"]
    model = model_of(config, state)
    temporal, spatial = (model_of(config, state, branch) for branch in ("temporal", "spatial"))
    assert temporal.temporal is not None and spatial.spatial is not None
    with torch.no_grad():
        first = temporal.temporal.embed(x)
        position = temporal.temporal.encoder.position
        blocks = temporal.temporal.encoder.blocks
        got = {
            "act.temporal_tokens_before_pos": first,
            "act.spatial_tokens_before_pos": spatial.spatial.embed(x),
            "act.temporal_out": temporal.temporal(x),
            "act.spatial_out": spatial.spatial(x),
            "out.features": model.fuse(model.tokens(x)),
            "out.channel_weights": torch.zeros(0),
        }
        if len(blocks):
            got["act.temporal_block0"] = blocks[0](first if position is None else first + position)
        if model.channel_attention is not None:
            got["act.channel_scores"] = model.channel_attention(got["act.spatial_out"])
            got["out.channel_weights"] = model.channel_weights(got["act.spatial_out"])
    got["out.logits"] = model.logits(x)
    got["out.ce_loss"] = F.cross_entropy(got["out.logits"], y)
    got["out.ce_loss"].backward()
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for key in (key for key in tensors if key.startswith("grad.")):
        (own,) = model.rename_keys({key.removeprefix("grad."): torch.zeros(())}) or ("",)
        if own in slopes:
            got[key] = slopes[own]
    return {key: value.detach() for key, value in got.items()}


def _aligned(x: Tensor) -> Tensors:
    offline, online = EuclideanAlignment(), EuclideanAlignment(mode="causal")
    windows = x.numpy()
    return {
        "out.offline": torch.from_numpy(offline.fit_transform(windows)),
        "out.online": torch.from_numpy(online.fit_transform(windows)),
        "out.final_reference": torch.from_numpy(online.references[""]),
    }
