"""TFMTokenizer, its quantizer, its loader and TFMEncoder against tests/golden/tfm_tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurofm.models import TFMEncoder
from neurofm.nn.ema_quantizer import EMAQuantizer
from neurofm.nn.quantize import straight_through
from neurofm.tokenizers import TFMTokenizer
from neurofm.tokenizers.tfm_input import SFREQ, fourier_resample, percentile_scale

Tensors = dict[str, Tensor]
ATOL, RTOL = 2e-5, 1e-5  # as the fixture's README recommends


def tokenizer_of(fixture: Any) -> TFMTokenizer:
    config = fixture.config or fixture.description["config_tokenizer"]
    names = {
        "emb_size": "dim",
        "code_book_size": "n_codes",
        "n_freq": "n_bins",
        "n_freq_patch": "patch",
        "trans_freq_encoder_depth": "frequency_depth",
        "trans_temporal_encoder_depth": "temporal_depth",
        "trans_decoder_depth": "decoder_depth",
        "beta": "beta",
        "num_heads": "heads",
    }
    made = TFMTokenizer(**{ours: config[key] for key, ours in names.items() if key in config})
    made.load_state_dict(TFMTokenizer.rename_keys(fixture.tensors("state_dict_tokenizer")))
    return made.eval()


def encoder_of(fixture: Any) -> TFMEncoder:
    config = fixture.description["config_classifier"]
    state = TFMEncoder.rename_keys(fixture.tensors("state_dict_classifier"))
    made = TFMEncoder(
        dim=config["emb_size"],
        n_codes=config["code_book_size"],
        n_channels=len(state["channel.weight"]),
        max_frames=state["position"].shape[1],
        heads=config["num_heads"],
        depth=config["depth"],
        n_outputs=config["n_classes"],
    )
    made.load_state_dict(state)
    return made.eval()


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    inputs, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    got: Tensors = {}
    keep = {key: expected.pop(key) for key in ("mask.keep", "mtp.keep_mask")}  # recorded draws
    with torch.no_grad():
        got |= _tokenizer(tokenizer_of(fixture), inputs["x"], keep["mask.keep"][0])
        got |= _encoder(encoder_of(fixture), got["cls.tokens"], keep["mtp.keep_mask"])
        for name, run in (("train_step", 1), ("first_step", 2)):
            if (fixture.folder / f"quantizer_{name}.safetensors").exists():
                tensors = fixture.tensors(f"quantizer_{name}")
                wanted = ("quantized", "indices", "after")
                expected |= {
                    f"{name}.{key}": value
                    for key, value in tensors.items()
                    if key.startswith(wanted)
                }
                steps = _steps(fixture, tensors, run)
                got |= {f"{name}.{key}": value for key, value in steps.items()}
        if (fixture.folder / "preprocessing.safetensors").exists():
            tensors = fixture.tensors("preprocessing")
            expected["preprocessing.loaded"] = tensors["loaded"]
            rate = fixture.description.get("preprocessing", {}).get("input_rate_hz", 256)
            n = round(tensors["x"].shape[-1] / rate * SFREQ)
            loaded = percentile_scale(fourier_resample(tensors["x"], n))
            got["preprocessing.loaded"] = loaded.float()
    return expected, got


def _tokenizer(tokenizer: TFMTokenizer, signal: Tensor, keep: Tensor) -> Tensors:
    batch, channels = signal.shape[:2]
    x = signal.flatten(0, 1)
    hooked: list[Tensor] = []
    layers = (tokenizer.frequency_blocks, tokenizer.temporal_blocks)
    hooks = [
        layer.register_forward_hook(lambda module, args, out: hooked.append(out))
        for layer in layers
    ]
    latent = tokenizer.encode_rows(x)
    for hook in hooks:
        hook.remove()
    code, codes = tokenizer.quantizer(latent)
    passed = straight_through(latent, code)
    losses = tokenizer.losses(x, keep=keep)
    return {
        "stft": tokenizer.spectrum(x).unflatten(0, (batch, channels)),
        "tok.freq_encoded": hooked[0],
        "tok.temporal_encoded": hooked[1],
        "tok.quant_in": latent,
        "tok.quantized": code,
        "tok.indices": codes,
        "tok.quant_out_ste": passed,
        "tok.reconstruction": tokenizer.rebuild(passed),
        "mask.reconstruction": losses["views"][0],
        "mask.reconstruction_sym": losses["views"][1],
        "loss.recon": losses["reconstruction"],
        "loss.quant": losses["commitment"],
        "cls.tokens": codes.unflatten(0, (batch, channels)),
    }


def _encoder(encoder: TFMEncoder, tokens: Tensor, keep: Tensor) -> Tensors:
    channel = torch.arange(tokens.shape[1])[:, None].expand_as(tokens).flatten(1)
    frame = torch.arange(tokens.shape[2]).expand_as(tokens).flatten(1)
    seen = torch.where(keep.bool(), tokens, encoder.n_codes)
    return {
        "cls.logits": encoder.head(encoder.relate(tokens.flatten(1), channel, frame)[:, 0]),
        "mtp.logits": encoder.head(encoder.relate(seen.flatten(1), channel, frame)[:, 1:]),
    }


def _steps(fixture: Any, tensors: Tensors, n: int) -> Tensors:
    """Calls in training mode, one after the other: values, codes, and the state each leaves."""
    quantizer = EMAQuantizer(tensors["input"].shape[-1], n_codes=len(tensors["before.ema_w"]))
    quantizer.load_state_dict(_ours(tensors, "before."))
    quantizer.train()
    got: Tensors = {}
    for step in range(1, n + 1):
        suffix = "" if step == 1 else f"_{step}"
        got[f"quantized{suffix}"], got[f"indices{suffix}"] = quantizer(tensors[f"input{suffix}"])
        state = {key: value.clone() for key, value in quantizer.state_dict().items()}
        prefix = f"after{suffix}."
        for key in tensors:
            if key.startswith(prefix):
                (ours,) = _ours({key: tensors[key]}, prefix)
                got[key] = state[ours]
    return got


def _ours(tensors: Tensors, prefix: str) -> Tensors:
    """Of one of the quantizer's recorded states, by our names."""
    state = {
        f"quantizer.{key.removeprefix(prefix)}": value
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    renamed = TFMTokenizer.rename_keys(state)
    return {key.removeprefix("quantizer."): value for key, value in renamed.items()}
