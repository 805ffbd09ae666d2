"""BrainModule and its loss against tests/golden/brainmodule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models.brain_module import BrainModule, present_in
from neurofm.nn.retrieval import ClipLoss
from neurofm.nn.spatial_attention import fourier_code

Tensors = dict[str, Tensor]


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the recording says."""
    said = fixture.description["tolerance"]
    return said["atol"], said["rtol"]


def model_of(config: dict[str, Any]) -> BrainModule:
    """The switches that vary; others are those of every configuration."""
    return BrainModule(
        n_subjects=config["n_subjects"] if config.get("subject_layers", True) else None,
        outputs=config["out_channels"],
        merged=config["merger_channels"],
        code=config["merger_pos_dim"],
        mixed=config["initial_linear"],
        hidden=config["hidden"],
        depth=config["depth"],
        kernel=config.get("kernel_size", 3),
        period=config["dilation_period"] or config["depth"],
        gate_every=config.get("glu", 2),
        dropout_radius=0.0,
    )


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor of the recording."""
    given, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    model = model_of(fixture.config)
    model.load_state_dict(model.rename_keys(fixture.tensors("state_dict")))
    x, place, subject = given["meg"], given["positions"], given["subject_index"]
    features, loss = model.features, ClipLoss()
    got: Tensors = {}
    with torch.no_grad():
        model.eval()
        got["fourier_embedding"] = fourier_code(place, features.attention.code)
        got["merger"] = features.attention(x, place, present_in(place))
        got["initial_linear"] = features.mix(got["merger"])
        if features.person is not None:
            got["subject_layer"] = features.person(got["initial_linear"], subject)
        got["encoder"] = features.blocks(got.get("subject_layer", got["initial_linear"]))
        got["output"] = model.sequence(x, place, subject)
        got["clip_scores"] = loss.scores(got["output"], given["candidates"])
        got["clip_probabilities"] = got["clip_scores"].softmax(1)
        got["clip_loss"] = loss(got["output"], given["candidates"])
    model.train()
    output = model.sequence(x, place, subject)
    trained = loss(output, given["candidates"])
    trained.backward()
    got |= {"train.output": output, "train.clip_loss": trained}
    own = dict(model.named_parameters())
    for key in expected:
        if key.startswith("train.grad."):
            (name,) = model.rename_keys({key.removeprefix("train.grad."): torch.zeros(())})
            got[key] = own[name].grad
    return expected, {key: value.detach() for key, value in got.items()}
