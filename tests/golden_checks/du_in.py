"""All three stages of Du-IN against tests/golden/du_in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.batch import Embedding
from neurofm.models import DuIn, DuInClassifier
from neurofm.nn.cosine_quantizer import CosineQuantizer
from neurofm.objectives import masked_code_losses
from neurofm.tokenizers import DuInEncoder, DuInTokenizer

Tensors = dict[str, Tensor]
ATOL = RTOL = 1e-5  # as the fixture's README recommends


def encoder_of(config: dict[str, Any]) -> DuInEncoder:
    return DuInEncoder(
        config["n_subjects"],
        config["n_channels"],
        patch=config["seg_len"],
        n_fused=config["d_neural"],
        filters=config["filters"],
        kernels=config["kernel_sizes"],
        strides=config["n_strides"],
        depth=config["n_enc"],
        heads=config["heads"],
        head_dim=config["d_head"],
    )


def tokenizer_of(fixture: Any) -> DuInTokenizer:
    config = fixture.config
    made = DuInTokenizer(
        encoder_of(config),
        n_codes=config["codex"],
        code_dim=config["d_codex"],
        decoder_depth=config["n_dec"],
        filters=config["rgs"],
        kernels=config["rgs_kernel_sizes"],
        strides=config["rgs_n_strides"],
        beta=config["beta"],
        decay=config["decay"],
    )
    made.load_state_dict(DuInTokenizer.rename_keys(fixture.tensors("state_dict_vqvae")))
    return made.eval()


def model_of(fixture: Any) -> DuIn:
    config = fixture.config
    made = DuIn(
        encoder_of(config), n_codes=config["codex"], mask_ratio=config.get("mask_ratio", 0.5)
    )
    made.load_state_dict(DuIn.rename_keys(fixture.tensors("state_dict_mae")))
    return made.eval()


def classifier_of(fixture: Any) -> DuInClassifier:
    config = fixture.config
    made = DuInClassifier(
        encoder_of(config),
        n_outputs=config["labels"],
        n_tokens=config["seq_len"] // config["seg_len"],
        hidden=config["cls_hidden"],
        contrast_dim=config["n_contra"],
        n_codes=config["codex"],
        code_dim=config["d_codex"],
    )
    made.load_state_dict(DuInClassifier.rename_keys(fixture.tensors("state_dict_cls")))
    return made.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    inputs, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    x, subject = inputs["x"].transpose(1, 2), inputs["subject_one_hot"].argmax(1)
    with torch.no_grad():
        got = _stage_one(tokenizer_of(fixture), x, subject, inputs["channel_mask"])
        noise = expected.pop("mae.noise")  # recorded: an input
        got |= _stage_two(model_of(fixture), x, subject, noise, got["vq.indices"])
        labels = inputs["label_one_hot"].argmax(1)
        got |= _stage_three(classifier_of(fixture), x, subject, labels)
    for name, run in (("train_step", _train_step), ("first_forward", _first_forward)):
        if (fixture.folder / f"quantizer_{name}.safetensors").exists():
            tensors = fixture.tensors(f"quantizer_{name}")
            keys = {k for k in tensors if k.startswith("after.")}
            keys |= {"quantized", "indices", "loss", "grad_input"} & set(tensors)
            expected |= {f"{name}.{key}": tensors[key] for key in sorted(keys)}
            got |= {f"{name}.{key}": value for key, value in run(fixture, tensors).items()}
    return expected, got


def _stage_one(tokenizer: DuInTokenizer, x: Tensor, subject: Tensor, mask: Tensor) -> Tensors:
    encoder, quantizer = tokenizer.encoder, tokenizer.quantizer
    fused = encoder.subject(x, subject)
    tokens = encoder.tokens(fused)
    related = encoder.relate(tokens)
    found = quantizer(related)
    hooked: list[Tensor] = []
    hook = tokenizer.decoder.register_forward_hook(lambda module, args, out: hooked.append(out))
    rebuilt = tokenizer.rebuild(found.values)
    hook.remove()
    losses = tokenizer.losses(x, subject, mask)
    got = {
        "subject_out": fused.transpose(1, 2),
        "tokens": tokens,
        "encoder_out": related,
        "code_query": quantizer.queries(related),
        "indices": losses["codes"].squeeze(-1),
        "quantized": found.values,
        "loss_vq": losses["commitment"],
        "decoder_out": hooked[0],
        "rgs_out": rebuilt.transpose(1, 2),
        "reconstruction": tokenizer.unmix(rebuilt, subject).transpose(1, 2),
        "loss_rgs": losses["reconstruction"],
        "loss_total": losses["loss"],
    }
    return {f"vq.{key}": value for key, value in got.items()}


def _stage_two(model: DuIn, x: Tensor, subject: Tensor, noise: Tensor, codes: Tensor) -> Tensors:
    hidden = model.hide(noise)
    scores = model.logits(model.encoder.tokens(model.encoder.subject(x, subject)), hidden)
    everywhere = torch.ones_like(hidden)
    losses = masked_code_losses(scores.unsqueeze(2), codes.unsqueeze(2), everywhere)
    got = {"mask": hidden, "target_indices": codes, "pred": scores, "loss": losses["loss"]}
    return {f"mae.{key}": value for key, value in got.items()}


def _stage_three(model: DuInClassifier, x: Tensor, subject: Tensor, labels: Tensor) -> Tensors:
    tokens = model.encoder(x, subject)
    everywhere = torch.ones(tokens.shape[:2], dtype=torch.bool)
    scores = model.head(Embedding(tokens, everywhere))
    return {
        "cls.pred_sigmoid": scores,
        "cls.loss_cls": F.cross_entropy(scores, labels),
        "cls.loss_contra": model.contrast(tokens, labels),
    }


def _quantizer(fixture: Any, tensors: Tensors) -> CosineQuantizer:
    config = fixture.config
    quantizer = CosineQuantizer(
        tensors["input"].shape[-1],
        n_codes=config["codex"],
        code_dim=config["d_codex"],
        beta=config["beta"],
        decay=config["decay"],
    )
    state = {k.removeprefix("before."): v for k, v in tensors.items() if k.startswith("before.")}
    quantizer.load_state_dict(_ours(state))
    return quantizer


def _ours(state: Tensors) -> Tensors:
    renamed = DuInTokenizer.rename_keys({f"vq_block.{k}": v for k, v in state.items()})
    return {key.removeprefix("quantizer."): value for key, value in renamed.items()}


def _after(quantizer: CosineQuantizer, tensors: Tensors) -> Tensors:
    state, got = quantizer.state_dict(), {}
    for key, value in tensors.items():
        if key.startswith("after."):
            (ours,) = _ours({key.removeprefix("after."): value})
            got[key] = state[ours]
    return got


def _train_step(fixture: Any, tensors: Tensors) -> Tensors:
    """One call in training mode: values, codes, loss, gradient, and the state it leaves."""
    quantizer = _quantizer(fixture, tensors).train()
    x = tensors["input"].clone().requires_grad_(True)
    found = quantizer(x)
    ((found.values * tensors["cotangent"]).sum() + found.loss).backward()
    return {
        "quantized": found.values.detach(),
        "indices": found.codes.squeeze(-1),
        "loss": found.loss.detach(),
        "grad_input": x.grad,
    } | _after(quantizer, tensors)


def _first_forward(fixture: Any, tensors: Tensors) -> Tensors:
    """One call in evaluation mode of a codebook that has not started, with the recorded rows."""
    quantizer = _quantizer(fixture, tensors).eval()
    with torch.no_grad():
        queries = quantizer.queries(tensors["input"]).flatten(0, -2)
        quantizer.start(queries, tensors["initial_rows"])
        found = quantizer(tensors["input"])
    got = {"quantized": found.values, "indices": found.codes.squeeze(-1), "loss": found.loss}
    return got | _after(quantizer, tensors)
