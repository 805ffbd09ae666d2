"""BrainTokenizer and BrainOmni against tests/golden/brainomni."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import BrainOmni
from neurofm.objectives import masked_code_losses
from neurofm.tokenizers import BrainTokenizer
from neurofm.tokenizers.reconstruction import reconstruction_losses, standardize

Tensors = dict[str, Tensor]


def split_config(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the tokenizer and of the language model."""
    language = ("overlap_ratio", "mask_ratio", "num_quantizers_used")
    chosen = {k for k in config if k.startswith("lm_") or k in language}
    return {k: v for k, v in config.items() if k not in chosen}, {k: config[k] for k in chosen}


def model_of(fixture: Any, rotary: str = "rotate") -> BrainOmni:
    tokenizer, language = split_config(fixture.config)
    model = BrainOmni(BrainTokenizer(**tokenizer), rotary=rotary, **language)
    model.load_state_dict(BrainOmni.rename_keys(fixture.tensors("state_dict")))
    return model.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    model, inputs = model_of(fixture), fixture.tensors("inputs")
    expected, got = fixture.tensors("outputs"), {}
    with torch.no_grad():
        got |= tokenizer_outputs(model.tokenizer, inputs)
        got |= _stage_one(model.tokenizer, inputs, expected)
        got |= _language_model(model, inputs, expected)
        released = model_of(fixture, rotary="cosine")
        features = got["tok.tokenize_features"]
        got["lm.encode_cosine_only_rope"] = _encode(released, features)
    for draw in (
        "fwd.channel_perm",
        "fwd.noise",
        "lm.mask_rand",
        "lm.replace_rand",
        "lm.token_perm",
    ):
        expected.pop(draw)  # recorded random numbers: inputs of the checks above
    if (fixture.folder / "quantizer_train_step.safetensors").exists():
        step = fixture.tensors("quantizer_train_step")
        keys = ("quantized", "indices", "loss", "grad_input")
        expected |= {f"step.{k}": v for k, v in step.items() if k in keys or k.startswith("after.")}
        got |= _quantizer_step(fixture, step)
    return expected, got


def tokenizer_outputs(tokenizer: BrainTokenizer, inputs: Tensors) -> Tensors:
    x, pos, kind = inputs["x"], inputs["pos"], inputs["sensor_type"]
    windows = tokenizer.windows(x)
    sensors = tokenizer.sensors(pos, kind)
    latent = tokenizer.encode_windows(windows, sensors)
    found = tokenizer.quantize(latent)
    output = tokenizer.decode_sources(found.values, sensors)
    target = standardize(windows)
    losses = reconstruction_losses(target, output)
    got = {
        "unfold": windows,
        "sensor_embedding": sensors,
        "seanet_encoder_out": tokenizer.encoder(windows.flatten(0, 2)).transpose(1, 2),
        "encoder_latent": latent,
        "quantized": found.values,
        "indices": found.codes,
        "commitment_loss": found.loss,
        "reconstruction": output,
        "target": target,
        "time_loss": losses["time"],
        "pcc": losses["pcc"],
        "amp_loss": losses["amplitude"],
        "phase_loss": losses["phase"],
    }
    return {f"tok.{key}": value for key, value in got.items()}


def _stage_one(tokenizer: BrainTokenizer, inputs: Tensors, expected: Tensors) -> Tensors:
    """The stochastic training forward, with the recorded draws."""
    order, drawn = expected["fwd.channel_perm"], expected["fwd.noise"]
    x, pos, kind = (inputs[key][:, order] for key in ("x", "pos", "sensor_type"))
    hidden = len(order) - drawn.shape[1]
    keep = torch.arange(len(order)).expand(len(x), -1) >= hidden
    noise = torch.zeros(tokenizer.windows(x).shape)
    noise[:, hidden:] = drawn
    losses = tokenizer.losses(x, pos, kind, keep=keep, noise=noise)
    names = {
        "loss": "loss",
        "judge_loss": "loss",
        "time_loss": "time",
        "pcc": "pcc",
        "amp_loss": "amplitude",
        "phase_loss": "phase",
        "commitment_loss": "commitment",
        "indices": "codes",
    }
    return {f"fwd.{theirs}": losses[ours] for theirs, ours in names.items()}


def _encode(model: BrainOmni, features: Tensor) -> Tensor:
    x = model.embed(features, skip_last_block=True)
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-6)


def _language_model(model: BrainOmni, inputs: Tensors, expected: Tensors) -> Tensors:
    found = model.tokenizer.tokenize(
        inputs["x"], inputs["pos"], inputs["sensor_type"], overlap=model.overlap_ratio
    )
    first: list[Tensor] = []
    hook = model.blocks[0].register_forward_hook(lambda module, args, out: first.append(out))
    encoded = _encode(model, found.values)
    hook.remove()
    draws = [expected[f"lm.{name}"] for name in ("mask_rand", "replace_rand", "token_perm")]
    features, hidden = model.hide(found.values, *draws)
    logits = model.logits(features)
    codes = found.codes[..., : model.n_levels]
    losses = masked_code_losses(logits.flatten(1, 2), codes.flatten(1, 2), hidden.flatten(1))
    got = {
        "encode": encoded,
        "block0_out": first[0],
        "logits": logits.flatten(-2),
        "loss": losses["loss"],
        "acc_all": losses["accuracy"],
    }
    got |= {f"acc_{level}": losses[f"accuracy_{level}"] for level in range(model.n_levels)}
    got = {f"lm.{key}": value for key, value in got.items()}
    return got | {"tok.tokenize_features": found.values, "tok.tokenize_indices": found.codes}


def _quantizer_step(fixture: Any, step: Tensors) -> Tensors:
    """One call in training mode: values, codes, loss, gradient, and the state it leaves."""
    quantizer_of = BrainTokenizer(**split_config(fixture.config)[0])
    before = {f"quantizer.{k[7:]}": v for k, v in step.items() if k.startswith("before.")}
    missing, unexpected = quantizer_of.load_state_dict(
        BrainTokenizer.rename_keys(before), strict=False
    )
    assert not unexpected, unexpected
    assert not [key for key in missing if key.startswith("quantizer.")], missing
    x = step["input"].clone().requires_grad_(True)
    found = quantizer_of.train().quantize(x)
    ((found.values * step["cotangent"]).sum() + found.loss).backward()
    got = {
        "step.quantized": found.values.detach(),
        "step.indices": found.codes,
        "step.loss": found.loss.detach(),
        "step.grad_input": x.grad,
    }
    after = quantizer_of.state_dict()
    for key in step:
        if key.startswith("after."):
            (ours,) = BrainTokenizer.rename_keys({f"quantizer.{key[6:]}": step[key]})
            got[f"step.{key}"] = after[ours]
    return got
