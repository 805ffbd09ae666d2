"""WAVE's encoder against tests/golden/wave_fmri."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import WAVE

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the recording says."""
    said = fixture.description["tolerance"]
    return said["atol"], said["rtol"]


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the recording."""
    config, state = fixture.config, fixture.tensors("state_dict")
    layers = sum(k.startswith("embedder.embed_model") and v.ndim == 2 for k, v in state.items())
    model = WAVE(
        n_parcels=config["in_dim"],
        width=config["embed_dim"],
        depth=config["layers"],
        heads=config["heads"],
        n_positions=config["n_positions"],
        embed_layers=layers,
        time_step_s=config["t_r_precision"],
        time_max_s=config["t_r_max"],
        time_index="truncate",
        n_estimates=None,
    ).eval()
    model.load_state_dict(model.rename_keys(state))
    given = fixture.tensors("inputs")
    with torch.no_grad():
        tokens, mask = model.embedded(
            given["inputs"], given["t_rs"], given["attention_mask"].bool()
        )
        hidden = model.attended(tokens, mask)
        got = {
            "embedded": tokens,
            "last_hidden_state": hidden,
            "pooled": model.pooled(hidden, mask),
        }
    return fixture.tensors("outputs"), got
