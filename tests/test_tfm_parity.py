"""TFM-Tokenizer against tensors of the original, its loader, and published files."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from scipy.signal import resample

from neurofm.batch import Batch
from neurofm.io import convert_checkpoint, load_model
from neurofm.io.checkpoint import sha256
from neurofm.nn.linear_attention import LinearAttention
from neurofm.tokenizers import TFMTokenizer
from neurofm.tokenizers.tfm_input import fourier_resample, percentile_scale, spectrum
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(x: torch.Tensor, sfreq: float = 200.0) -> Batch:
    n, channels, _ = x.shape
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN.parent / "check_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def test_every_tensor_of_tfm_tokenizer_agrees(checker: ModuleType) -> None:
    lines = checker.check(GOLDEN / "tfm_tokenizer")
    assert len(lines) == 31
    assert [line.name for line in lines if not line.passed] == []


@pytest.mark.parametrize(("before", "after"), [(256, 200), (160, 200), (255, 200), (160, 201)])
def test_fourier_resampling_is_that_of_scipy(before: int, after: int) -> None:
    x = torch.randn(2, before, generator=generator(), dtype=torch.float64)
    expected = resample(x.numpy(), after, axis=-1)
    np.testing.assert_allclose(fourier_resample(x, after).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("n", [200, 201, 219, 1000])
def test_percentile_scaling_is_that_of_numpy(n: int) -> None:
    x = torch.randn(3, n, generator=generator(), dtype=torch.float64)
    scale = np.quantile(np.abs(x.numpy()), 0.95, axis=-1, keepdims=True) + 1e-8
    np.testing.assert_allclose(percentile_scale(x).numpy(), x.numpy() / scale, rtol=1e-12)


def test_spectrum_is_that_of_torch() -> None:
    x = torch.randn(2, 730, generator=generator())
    window = torch.hann_window(200)
    expected = torch.stft(x, 200, 100, window=window, center=False, return_complex=True).abs()
    torch.testing.assert_close(spectrum(x, 100), expected[:, :100], **CLOSE)


def test_linear_attention_is_a_weighted_mean_of_values_over_the_sequence() -> None:
    torch.manual_seed(0)
    layer, x = LinearAttention(8, 2).eval(), torch.randn(2, 5, 8)
    query = layer.query(x).unflatten(-1, (2, 4)).softmax(-1) / 2
    key = layer.key(x).unflatten(-1, (2, 4)).softmax(1)
    value = layer.value(x).unflatten(-1, (2, 4))
    weight = torch.einsum("bqhf,bthf->bqth", query, key)
    expected = layer.out(torch.einsum("bqth,bthf->bqhf", weight, value).flatten(2))
    torch.testing.assert_close(layer(x), expected, **CLOSE)


def test_published_files_convert_and_meet_again(tmp_path: Path) -> None:
    folder = GOLDEN / "tfm_tokenizer"
    config = json.loads((folder / "fixture.json").read_text())
    widths = {"dim": config["config_tokenizer"]["emb_size"]}
    sizes = widths | {"n_codes": config["config_tokenizer"]["code_book_size"]}
    made = {
        "tokenizer": (
            "neurofm.tokenizers.TFMTokenizer",
            sizes
            | {
                "frequency_depth": config["config_tokenizer"]["trans_freq_encoder_depth"],
                "temporal_depth": config["config_tokenizer"]["trans_temporal_encoder_depth"],
                "decoder_depth": config["config_tokenizer"]["trans_decoder_depth"],
            },
        ),
        "classifier": (
            "neurofm.models.TFMEncoder",
            sizes | {"depth": config["config_classifier"]["depth"], "n_outputs": 6},
        ),
    }
    for name, (path, arguments) in made.items():
        card = {"description": "x", "license": "MIT", "class_path": path, "init_args": arguments}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(card))
        torch.save(load_file(folder / f"state_dict_{name}.safetensors"), tmp_path / f"{name}.pth")
        found = convert_checkpoint(
            tmp_path / f"{name}.pth",
            str(tmp_path / f"{name}.yaml"),
            tmp_path / f"{name}.safetensors",
        )
        assert found.unused == (() if name == "tokenizer" else ("index",))
    together: Any = load_model(
        tmp_path / "classifier.yaml",
        weights=tmp_path / "classifier.safetensors",
        tokenizer=tmp_path / "tokenizer.safetensors",
    )
    expected = load_file(folder / "outputs.safetensors")
    x = load_file(folder / "inputs.safetensors")["x"]
    scale = percentile_scale(x)
    batch = batch_of(x)
    with torch.no_grad():
        assert torch.isfinite(together(batch)).all()
        codes = together.tokenizer.quantizer(together.tokenizer.encode_rows(x.flatten(0, 1)))[1]
        assert torch.equal(codes, expected["tok.indices"])
        tokens = together.tokenizer(batch)
        theirs = replace(tokens, codes=expected["cls.tokens"].flatten(1).unsqueeze(-1))
        logits = together(replace(batch, tokens=theirs))
    torch.testing.assert_close(logits, expected["cls.logits"], **CLOSE)
    assert scale.shape == x.shape


@pytest.mark.corpus
def test_released_classifier_gives_its_recorded_logits(tmp_path: Path) -> None:
    check = json.loads((GOLDEN / "tfm_tokenizer/released_tuev_encoder_check.json").read_text())
    file = (
        Path(os.environ.get("NEUROFM_DATA", "."))
        / "tfm_tokenizer"
        / Path(check["file"].split()[0]).name
    )
    if not file.is_file():
        pytest.skip(f"the released file is not at {file}")
    assert sha256(file) == check["sha256"]
    out = convert_checkpoint(file, "tfm_encoder_tuev", tmp_path / "tuev.safetensors").path
    recorded = load_file(GOLDEN / "tfm_tokenizer/released_tuev_encoder_check.safetensors")
    torch.testing.assert_close(logits_of(load_model(out), recorded["tokens"]), recorded["logits"])


def logits_of(model: Any, codes: torch.Tensor) -> torch.Tensor:
    """Scores of codes, batch channel frame."""
    channel = torch.arange(codes.shape[1])[:, None].expand_as(codes).flatten(1)
    frame = torch.arange(codes.shape[2]).expand_as(codes).flatten(1)
    with torch.no_grad():
        return model.head(model.relate(codes.flatten(1), channel, frame)[:, 0])


def test_released_size_takes_the_recorded_tokens() -> None:
    recorded = load_file(GOLDEN / "tfm_tokenizer/released_tuev_encoder_check.safetensors")
    logits = logits_of(load_model("tfm_encoder_tuev"), recorded["tokens"])
    assert logits.shape == recorded["logits"].shape


def test_other_rates_are_resampled_if_asked() -> None:
    torch.manual_seed(0)
    made = TFMTokenizer(dim=16, n_codes=12, n_bins=50, resample=True).eval()
    slow = torch.sin(2 * torch.pi * 10 * torch.arange(1024) / 256).expand(1, 1, -1)
    fast = torch.sin(2 * torch.pi * 10 * torch.arange(800) / 200).expand(1, 1, -1)
    at_256, at_200 = made.prepare(batch_of(slow, 256.0)), made.prepare(batch_of(fast))
    torch.testing.assert_close(at_256, at_200, atol=1e-3, rtol=0)


def test_a_quarter_of_the_spectrum_is_kept_in_whole_patches() -> None:
    made = TFMTokenizer(dim=16, n_codes=12, n_bins=50)
    keep = made.keep_mask(9, generator=generator(), device=torch.device("cpu"))
    assert keep.shape == (50, 9)
    assert keep.sum() == 25 * 5  # of nine frames four are hidden
    patches = keep.unflatten(0, (10, 5))
    assert torch.equal(patches.any(1), patches.all(1))
