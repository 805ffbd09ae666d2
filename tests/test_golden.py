"""Our numbers against tensors of original implementations, and the checker against itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurofm.models import BrainOmni
from neurofm.tokenizers import BrainTokenizer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN.parent / "check_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def test_every_tensor_of_brainomni_agrees(checker: ModuleType) -> None:
    lines = checker.check(GOLDEN / "brainomni")
    assert len(lines) == 48
    assert [line.name for line in lines if not line.passed] == []


def test_same_numbers_with_gradients_enabled(checker: ModuleType) -> None:
    # Without gradients other code runs: blocks of rows, ELU in place.
    fixture = checker.Fixture(GOLDEN / "brainomni")
    ours = checker.module("brainomni")
    tokenizer = ours.model_of(fixture).tokenizer
    inputs, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    with torch.enable_grad():
        got = ours.tokenizer_outputs(tokenizer, inputs)
    for key, value in got.items():
        assert checker.compare(key, expected[key], value.detach()).passed, key


def test_nan_and_infinity_agree_with_themselves_alone(checker: ModuleType) -> None:
    nan, inf = float("nan"), float("inf")
    expected = torch.tensor([nan, inf, 1.0])
    assert checker.compare("x", expected, torch.tensor([nan, inf, 1.0])).passed
    for wrong in ([0.0, inf, 1.0], [nan, 1.0, 1.0], [nan, -inf, 1.0], [nan, inf, nan]):
        assert not checker.compare("x", expected, torch.tensor(wrong)).passed


def test_a_changed_value_is_a_miss_and_exits_with_one(
    checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "brainomni"
    shutil.copytree(GOLDEN / "brainomni", folder)
    outputs = load_file(folder / "outputs.safetensors")
    outputs["lm.encode"][0, 0, 0, 0] += 0.01
    outputs["tok.indices"][0, 0, 0, 0, 0] += 1
    save_file(outputs, folder / "outputs.safetensors")
    assert checker.main([str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "MISS lm.encode " in printed
    assert "MISS tok.indices " in printed
    assert "46 of 48 tensors agree" in printed


def test_an_unknown_folder_name_is_refused(checker: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="known are"):
        checker.main([str(tmp_path)])


@pytest.mark.parametrize(
    "change",
    [
        {"codebook_dim": 8},
        {"kernel_size": 7, "last_kernel_size": 3},
        {"lm_dim": 16, "lm_head": 4},
        {"ratios": [2, 4], "window_length": 48, "n_neuro": 3},
        {"num_quantizers_used": 2, "rotation_trick": False},
        {"window_length": 32, "last_kernel_size": 7, "kernel_size": 4},
    ],
    ids=lambda change: ",".join(change),
)
def test_other_configurations_agree_with_a_layer_by_layer_forward(
    checker: ModuleType, change: dict[str, object]
) -> None:
    config = json.loads((GOLDEN / "brainomni" / "fixture.json").read_text())["config"] | change
    tokenizer_arguments, language = checker.module("brainomni").split_config(config)
    torch.manual_seed(0)
    model = BrainOmni(BrainTokenizer(**tokenizer_arguments), **language).eval()
    tokenizer = model.tokenizer
    x, pos, kind = torch.randn(2, 5, 150), torch.randn(2, 5, 6), torch.randint(0, 3, (2, 5))
    with torch.no_grad():
        found = tokenizer.tokenize(x, pos, kind, overlap=0.25)
        assert found.codes.shape[-1] == config["num_quantizers"]
        torch.testing.assert_close(tokenizer.quantizer.lookup(found.codes), found.values)
        windows = tokenizer.windows(x).flatten(0, 2)
        plain = _plain_seanet(tokenizer.encoder, windows)
        torch.testing.assert_close(tokenizer.encoder(windows), plain, atol=1e-5, rtol=1e-4)
        assert model.logits(found.values).shape[-2] == config["num_quantizers_used"]


def _plain_seanet(encoder: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """The published layer order with `F.conv1d` on `row feature time`."""
    functional = torch.nn.functional

    def conv(layer: torch.nn.Module, x: torch.Tensor, *, elu: bool = True) -> torch.Tensor:
        weight, stride = layer.conv.weight, layer.stride
        x = functional.elu(x) if elu else x
        total = weight.shape[-1] - stride
        right = total // 2
        extra = -x.shape[-1] % stride
        pad = (total - right, right + extra)
        short = max(max(pad) - x.shape[-1] + 1, 0)
        x = functional.pad(functional.pad(x, (0, short)), pad, mode="reflect")
        x = x[..., : x.shape[-1] - short]
        return functional.conv1d(x, weight, layer.conv.bias, stride=stride)

    y = conv(encoder.first, windows.unsqueeze(1), elu=False)
    for block, down in zip(encoder.blocks, encoder.downsample, strict=True):
        y = conv(block.shortcut, y, elu=False) + conv(block.widen, conv(block.narrow, y))
        y = conv(down, y)
    y = y.permute(2, 0, 1)
    y = (encoder.lstm.lstm(y)[0] + y).permute(1, 2, 0)
    return conv(encoder.last, y).transpose(1, 2)
