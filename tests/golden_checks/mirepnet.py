"""MIRepNet and its preparation of the data against tests/golden/mirepnet."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.data import EuclideanAlignment, template_matrix
from neurofm.models import MIRepNet
from neurofm.objectives import MaskedTokensAndClasses
from neurofm.tokenizers import MIRepNetTokenizer

Tensors = dict[str, Tensor]
ATOL = RTOL = 1e-5  # as the fixture's README recommends


def model_of(config: dict[str, Any], state: Tensors) -> MIRepNet:
    """The recorded model; recorded outside of pretraining it has no decoder."""
    decoder = {key.split(".")[2] for key in state if key.startswith("decoder.")}
    if not decoder:
        state = {key: value for key, value in state.items() if key != "mask_token"}
    made = MIRepNet(
        MIRepNetTokenizer(config["emb_size"], n_channels=config.get("n_channels", 45)),
        depth=config["depth"],
        n_classes=config["n_classes"],
        mask_ratio=config.get("mask_ratio", 0.5),
        decoder_depth=len(decoder),
        decoder=bool(decoder),
    )
    made.load_state_dict(MIRepNet.rename_keys(state))
    return made.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the folder, by name; the recorded noise is an input."""
    expected = dict(fixture.tensors("outputs"))
    noise = expected.pop("mask.noise", None)
    model = model_of(fixture.config, fixture.tensors("state_dict"))
    with torch.no_grad():
        got = _network(model, fixture.tensors("inputs")["x"])
        if noise is not None:
            got |= _pretraining(model, got["tokens"], noise)
    if (fixture.folder / "preprocessing.safetensors").is_file():
        prepared = fixture.tensors("preprocessing")
        raw = prepared.pop("x").numpy()
        expected |= {f"preprocessing.{key}": value for key, value in prepared.items()}
        got |= _preparation(raw, fixture.description)
    return expected, got


def _network(model: MIRepNet, x: Tensor) -> Tensors:
    tokens = model.tokenizer.embed(x)
    encoded = model.blocks(tokens)
    return {
        "tokens": tokens,
        "block0_out": model.blocks[0](tokens),
        "encoder_out": encoded,
        "pooled": encoded.mean(1),
        "logits": model.classify(encoded),
    }


def _pretraining(model: MIRepNet, tokens: Tensor, noise: Tensor) -> Tensors:
    hidden = model.hide(noise)
    found = model.reconstruct(tokens, hidden)
    classes = torch.zeros(len(tokens), dtype=torch.long)
    losses = MaskedTokensAndClasses().losses(found, classes)
    entropy = F.cross_entropy(found.logits, classes)
    torch.testing.assert_close(losses["loss"], losses["reconstruction"] + entropy)
    return {
        "mask.keep": (~hidden).to(tokens.dtype),
        "mask.tokens_masked": torch.where(hidden.unsqueeze(-1), model.mask_token, tokens),
        "pretrain.logits": found.logits,
        "pretrain.original_tokens": found.target,
        "pretrain.reconstruction": found.reconstruction,
        "pretrain.mse_on_masked": losses["reconstruction"],
    }


def _preparation(raw: np.ndarray, description: dict[str, Any]) -> Tensors:
    aligned = EuclideanAlignment().fit_transform(raw)
    template = description["template_channels"]
    matrix = template_matrix(description["source_channels"], template=template)
    return {
        "preprocessing.ea": torch.from_numpy(aligned),
        "preprocessing.interpolation_matrix": torch.from_numpy(matrix),
        "preprocessing.interpolated": torch.from_numpy(matrix @ aligned),
    }
