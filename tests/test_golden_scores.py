"""Scores against values of original implementations, in the folders `check_golden.py` reads."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"
pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN.parent / "check_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "n"), [("decoding_metrics", 21), ("neural_predictivity", 25)])
def test_every_recorded_score_agrees(checker: ModuleType, name: str, n: int):
    lines = checker.check(GOLDEN / name)
    assert len(lines) == n
    assert [line.name for line in lines if not line.passed] == []


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("decoding_metrics", "ssim_gray"),
        ("neural_predictivity", "model_pls/test/r_xy_n_sb"),  # holds a NaN
    ],
)
def test_a_changed_value_is_a_miss(checker: ModuleType, tmp_path: Path, name: str, tensor: str):
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    outputs = load_file(folder / "outputs.safetensors")
    outputs[tensor].view(-1)[0] += 1e-4
    save_file(outputs, folder / "outputs.safetensors")
    assert [line.name for line in checker.check(folder) if not line.passed] == [tensor]
