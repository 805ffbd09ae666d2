"""EphysTokenizer and MegGPT against tests/golden/meg_gpt."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from neurofm.models import MegGPT
from neurofm.objectives import next_code_losses
from neurofm.tokenizers import EphysTokenizer
from neurofm.tokenizers.ephys_tokenizer import standardize_channels
from neurofm.tokenizers.ephys_vocabulary import vocabulary_of

Tensors = dict[str, Tensor]
# Settings of training, and of the loss, which are no arguments of the network.
_TOKENIZER = {"name", "n_channels", "training"}


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the fixture recommends for a tensor."""
    rule = fixture.description["tolerance"]["recommended"]
    return rule["atol"].get(name, rule["atol_default"]), rule["rtol"]


def tokenizer_of(fixture: Any, **options: Any) -> EphysTokenizer:
    config = fixture.description["config_tokenizer"]
    arguments = {key: value for key, value in config.items() if key not in _TOKENIZER}
    return EphysTokenizer(**arguments, **options)


def model_of(fixture: Any) -> MegGPT:
    config = fixture.description["config_gpt"]
    embedding = dict(config["input_embedding"])
    n_codes = embedding.pop("n_tokens")
    model = MegGPT(
        tokenizer_of(fixture, n_used=n_codes - 1),
        sequence_length=config["sequence_length"],
        n_channels=config["n_channels"],
        loss_sequence_length=config["loss"]["loss_sequence_length"],
        **embedding,
        **config["transformer_decoder"],
    )
    state = fixture.tensors("state_dict_gpt")
    inner = {f"tokenizer.{k}": v for k, v in fixture.tensors("state_dict_tokenizer").items()}
    model.load_state_dict(model.rename_keys(state | inner))
    return model.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    inputs, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    tokenizer = tokenizer_of(fixture)
    tokenizer.load_state_dict(tokenizer.rename_keys(fixture.tensors("state_dict_tokenizer")))
    with torch.no_grad():
        got = tokenizer_outputs(fixture, tokenizer.eval(), inputs)
        got |= language_model(fixture, model_of(fixture), inputs, list(expected))
    if (fixture.folder / "generation.safetensors").exists():
        generation = fixture.tensors("generation")
        labels = generation.pop("decode_labels")
        expected |= generation
        tokenizer.label_map.copy_(got["tok.vocab_label_map"])
        with torch.no_grad():
            signal = tokenizer.decode_labels(labels.T.unsqueeze(0))
            got["decoded_signal"] = signal[0].T
            got |= generated(fixture, model_of(fixture), inputs)
    return expected, got


def tokenizer_outputs(fixture: Any, tokenizer: EphysTokenizer, inputs: Tensors) -> Tensors:
    x = standardize_channels(inputs["recording"].T)  # channel time
    windows = tokenizer.windows(x).transpose(0, 1)  # window channel sample
    rows = windows.flatten(0, 1)
    states = tokenizer.states(rows)
    logits = tokenizer.logits(states)
    indices = logits.argmax(-1).unflatten(0, windows.shape[:2])
    order, label_map = vocabulary_of(
        torch.bincount(indices.flatten(), minlength=tokenizer.n_tokens)
    )
    got = {
        "windows": windows.transpose(1, 2),
        "rnn_out": states,
        "logits": logits,
        "indices": indices.transpose(1, 2),
        "vocab_token_order": order,
        "vocab_label_map": label_map.int(),
    }
    for mode in ("eval", "train_temperature"):
        tokenizer.train(mode != "eval")
        tokenizer.temperature.fill_(fixture.description["tokenizer_temperature"])
        rebuilt = tokenizer.rebuild(tokenizer.weights(logits))
        got[f"reconstruction_{mode}"] = rebuilt.unflatten(0, windows.shape[:2]).transpose(1, 2)
        got[f"loss_{mode}"] = tokenizer.losses(rows)["loss"]
    tokenizer.eval()
    for margin in _margins(fixture):
        found = label_map[tokenizer.tokens_of(x.unsqueeze(0), margin=margin)[0]]
        got[f"session_tokens_margin{margin}"] = found.T.int()
    return {f"tok.{key}": value for key, value in got.items()}


def _margins(fixture: Any) -> list[int]:
    found = (re.search(r"margin(\d+)$", name) for name in fixture.tensors("outputs"))
    return [int(match[1]) for match in found if match]


def _labels(fixture: Any, inputs: Tensors) -> list[Tensor]:
    return [inputs[key] for key in sorted(inputs) if key.startswith("labels.")]


def language_model(
    fixture: Any, model: MegGPT, inputs: Tensors, names: list[str]
) -> dict[str, Tensor]:
    codes, length = inputs["tokens"].transpose(1, 2), model.sequence_length
    labels = _labels(fixture, inputs)
    outputs: Tensors = {}
    for i, layer in enumerate(model.layers):
        layer.register_forward_hook(
            lambda module, args, out, i=i: outputs.update({f"gpt.layer{i}": out.transpose(1, 2)})
        )
    x = model.hidden(codes[..., :length], labels)
    got = {
        "gpt.embeddings": model.embedding(codes[..., :length], labels).transpose(1, 2),
        "gpt.logits": model.head(x).transpose(1, 2),
        **outputs,
    }
    parts = {"time": "time_attention", "chan": "channels.attention", "cross": "cross_attention"}
    for name in names:
        if match := re.fullmatch(r"gpt\.layer(\d+)\.gasp_(\w+)_attention\.mask", name):
            attention: Any = model.layers[int(match[1])].get_submodule(parts[match[2]])
            got[name] = ~(attention.visible & attention.alive)
    config, last = fixture.description["config_gpt"]["loss"], model.loss_length
    scores = next_code_losses(
        model.head(x[:, :, -last:]).flatten(1, 2),
        codes[..., -last:].flatten(1),
        torch.ones(len(codes), codes.shape[1] * last, dtype=torch.bool),
        top_k=config["top_k"] or (),
        label_smoothing=config["label_smoothing"],
    )
    got["gpt.loss"] = scores["loss"].unsqueeze(0)
    return got | {f"gpt.top_{k}_acc": scores[f"top_{k}"] for k in config["top_k"] or ()}


def generated(fixture: Any, model: MegGPT, inputs: Tensors) -> Tensors:
    prompt = inputs["tokens"][:, : model.sequence_length].transpose(1, 2)
    labels = _labels(fixture, inputs)
    n = fixture.description["generation"]["n_samples"]
    made = model.generate_codes(prompt, n, labels=labels)
    last = model.head(model.hidden(prompt, labels)[:, :, -1])
    return {"generated_tokens": made.transpose(1, 2), "generated_last_logits_step0": last}
