"""Du-IN against its original: every tensor of the fixture, and a file in the original's names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from neurofm.cards import spec_of
from neurofm.io import convert_checkpoint, load_tokenizer

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN.parent / "check_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def test_every_tensor_of_the_fixture_agrees(checker: ModuleType) -> None:
    lines = checker.check(GOLDEN / "du_in")
    assert len(lines) == 40
    assert {(line.atol, line.rtol) for line in lines if line.atol != checker.ATOL} == {(1e-5, 1e-5)}
    assert [line.name for line in lines if not line.passed] == []


def test_a_published_file_is_converted(checker: ModuleType, tmp_path: Path) -> None:
    fixture = checker.Fixture(GOLDEN / "du_in")
    expected = checker.module("du_in").tokenizer_of(fixture)
    card = {"description": "test", "license": "MIT", "weights": None, **spec_of(expected)}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    state = {f"module.{k}": v for k, v in fixture.tensors("state_dict_vqvae").items()}
    torch.save(state, tmp_path / "checkpoint-399.pth")
    done = convert_checkpoint(
        tmp_path / "checkpoint-399.pth", str(tmp_path / "card.yaml"), tmp_path / "du.safetensors"
    )
    assert {key.split(".", 1)[1].split(".")[0] for key in done.unused} >= {"emb_time", "encoder"}
    loaded = load_tokenizer(done.path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.state_dict().items())
