"""Models on disk: equal after loading, strict about everything else."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurofm import cards
from neurofm.cli import convert
from neurofm.io import convert_checkpoint, load_model, load_tokenizer, read_card, save_model
from neurofm.models import BrainOmni
from neurofm.tokenizers import BrainTokenizer

GOLDEN = Path(__file__).parent / "golden" / "brainomni"


def small_tokenizer(**changes: object) -> BrainTokenizer:
    arguments = {
        "window_length": 64,
        "n_filters": 4,
        "ratios": [4, 2, 2],
        "n_dim": 16,
        "n_neuro": 4,
        "codebook_dim": 16,
        "codebook_size": 32,
        "num_quantizers": 3,
    }
    return BrainTokenizer(**arguments | changes)


def small_model(**changes: object) -> BrainOmni:
    torch.manual_seed(0)
    return BrainOmni(small_tokenizer(), **{"lm_dim": 32, "lm_head": 8, "lm_depth": 3} | changes)


@pytest.fixture
def golden_card(tmp_path: Path) -> Path:
    """A model card of the golden fixture's size."""
    spec = cards.spec_of(small_model())
    card = {"description": "test", "license": "MIT", "expects": {"sfreq": 256}, **spec}
    path = tmp_path / "golden.yaml"
    path.write_text(json.dumps(card))  # JSON is YAML
    return path


def assert_equal(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert cards.spec_of(a) == cards.spec_of(b)
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_saved_model_loads_equal_and_keeps_its_description(tmp_path: Path) -> None:
    model = small_model()
    path = save_model(model, tmp_path / "m.safetensors", license="MIT", expects={"sfreq": 256})
    loaded = load_model(path)
    assert_equal(model, loaded)
    assert not loaded.training
    assert loaded.card["expects"] == {"sfreq": 256}
    again = save_model(loaded, tmp_path / "again.safetensors")
    assert read_card(again)["license"] == "MIT"
    assert list(tmp_path.glob(".*")) == []


def test_a_failed_save_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model()
    path = save_model(model, tmp_path / "m.safetensors")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neurofm.io.tensors.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(small_model(lm_depth=1), path)
    assert_equal(load_model(path), model)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save_model(small_model(), tmp_path / "m.safetensors")
    whole = path.read_bytes()
    for n in (4, 1000, len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=rf"not a complete safetensors file.*{n} bytes"):
            load_model(path)


def test_tensors_without_description_point_to_convert(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"neurofm convert bare\.safetensors"):
        load_model(tmp_path / "bare.safetensors")


def test_weights_of_another_model_name_what_does_not_fit(tmp_path: Path, golden_card: Path) -> None:
    other = save_model(small_model(lm_depth=2), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"does not fit BrainOmni.*Missing 14: blocks\.2\."):
        load_model(golden_card, weights=other)
    wide = save_model(small_model(lm_dim=64), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"Other shape \d+: projection.weight \(64, 16\) instead"):
        load_model(golden_card, weights=wide)


def test_card_weights_are_checked_against_their_digest(tmp_path: Path, golden_card: Path) -> None:
    saved = save_model(small_model(), tmp_path / "w.safetensors")
    card = json.loads(golden_card.read_text())
    golden_card.write_text(json.dumps(card | {"weights": {"file": str(saved), "sha256": "0" * 64}}))
    with pytest.raises(ValueError, match="the model card says 0000"):
        load_model(golden_card)
    golden_card.write_text(json.dumps(card | {"weights": {"file": str(saved), "sha256": None}}))
    assert_equal(load_model(golden_card), small_model())


def test_missing_files_and_names_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="Did you mean"):
        load_model("brainomni_tini")
    with pytest.raises(ValueError, match=r"neurofm convert BrainOmni\.pt"):
        load_model("BrainOmni.pt")


def test_a_training_checkpoint_gives_its_backbone(tmp_path: Path) -> None:
    model = small_model()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state["readout.linear.weight"] = torch.zeros(2, 32)
    content = {"hyper_parameters": {"model": cards.spec_of(model), "lr": 1e-3}, "state_dict": state}
    torch.save(content, tmp_path / "last.ckpt")
    assert_equal(load_model(tmp_path / "last.ckpt"), model)


def test_a_tokenizer_checkpoint_gives_its_tokenizer(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    state = {f"tokenizer.{key}": value for key, value in tokenizer.state_dict().items()}
    content = {"hyper_parameters": {"tokenizer": cards.spec_of(tokenizer)}, "state_dict": state}
    torch.save(content, tmp_path / "last.ckpt")
    assert_equal(load_tokenizer(tmp_path / "last.ckpt"), tokenizer)


def test_a_file_may_not_choose_what_code_runs(tmp_path: Path) -> None:
    spec = {"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}}
    torch.save({"hyper_parameters": {"model": spec}, "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="outside neurofm"):
        load_model(tmp_path / "last.ckpt")
    path = save_model(small_model(), tmp_path / "m.safetensors")
    card = json.dumps(read_card(path) | spec)
    save_file(load_file(path), path, metadata={"neurofm": card})
    with pytest.raises(ValueError, match="outside neurofm"):
        load_model(tmp_path / "m.safetensors")


def test_a_pickle_that_needs_code_is_refused(tmp_path: Path, golden_card: Path) -> None:
    torch.save({"weight": torch.zeros(1), "extra": argparse.Namespace()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="needs more than tensors"):
        convert_checkpoint(tmp_path / "evil.pt", str(golden_card), tmp_path / "o.safetensors")


def test_a_truncated_pickle_is_refused(tmp_path: Path, golden_card: Path) -> None:
    torch.save(load_file(GOLDEN / "state_dict.safetensors"), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a readable torch file"):
        convert_checkpoint(tmp_path / "w.pt", str(golden_card), tmp_path / "o.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_convert_takes_over_every_tensor(
    suffix: str, tmp_path: Path, golden_card: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = load_file(GOLDEN / "state_dict.safetensors")
    source, out = tmp_path / f"upstream{suffix}", tmp_path / "ours.safetensors"
    if suffix == ".pt":
        # The released files also carry rotary tables, which are complex.
        upstream["blocks.0.time_attn.rope_embedding_layer.rotate"] = torch.zeros(
            240, 8, dtype=torch.complex64
        )
        torch.save(upstream, source)
    else:
        save_file(upstream, source)
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    words = [str(source), "--model", str(golden_card), "--out", str(out)]
    assert convert.run(parser.parse_args(words)) == 0
    printed = capsys.readouterr().out
    assert re.search(r"blocks\.2\.time_attn\.rope_embedding_layer\.freqs", printed)
    assert re.search(r"missing\D*0", printed)
    model = load_model(out)
    key = "blocks.1.time_attn.qkv.weight"
    assert torch.equal(model.blocks[1].time_attention.query_key_value.weight, upstream[key])
    assert model.card["converted_from"]["file"] == source.name


def test_convert_refuses_weights_that_are_no_numbers(tmp_path: Path, golden_card: Path) -> None:
    upstream = load_file(GOLDEN / "state_dict.safetensors")
    upstream["mask_token"][0] = torch.nan
    save_file(upstream, tmp_path / "u.safetensors")
    with pytest.raises(ValueError, match="NaN in mask_token"):
        convert_checkpoint(tmp_path / "u.safetensors", str(golden_card), tmp_path / "o.safetensors")


@pytest.mark.system
def test_convert_refuses_another_size_and_lists_what_is_missing(
    tmp_path: Path, golden_card: Path
) -> None:
    upstream = load_file(GOLDEN / "state_dict.safetensors")
    del upstream["mask_token"]
    upstream["surprise"] = torch.zeros(1)
    save_file(upstream, tmp_path / "u.safetensors")
    with pytest.raises(ValueError, match=r"Missing 1: mask_token. Unknown 1: surprise."):
        convert_checkpoint(tmp_path / "u.safetensors", str(golden_card), tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()
    with pytest.raises(ValueError, match="Other shape"):
        convert_checkpoint(tmp_path / "u.safetensors", "brainomni_demo", tmp_path / "o.safetensors")
