"""Published checkpoints by their lists of keys: every tensor accounted for, whatever happens."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from neurofm import cards, cli
from neurofm.io import ConversionError, convert_checkpoint, read_card

GOLDEN = Path(__file__).parent / "golden"
LISTS = {
    "brainomni_tiny": "brainomni/upstream_keys_tiny.json",
    "braintokenizer": "brainomni/upstream_keys_tokenizer.json",
    "du_in_tokenizer": "du_in/upstream_keys_vqvae.json",
    "du_in": "du_in/upstream_keys_mae.json",
    "tfm_tokenizer": "tfm_tokenizer/upstream_keys_tokenizer_2x2x8.json",
    "tfm_encoder_tuev": "tfm_tokenizer/upstream_keys_classifier_64x4_6class.json",
    "meg_gpt": "meg_gpt/upstream_keys_gpt_released.json",
    "mirepnet": "mirepnet/upstream_keys_base_pretraining.json",
}


def upstream(name: str) -> dict[str, Tensor]:
    """Zeros of the names and shapes of a published file; complex tables as such."""
    listed = json.loads((GOLDEN / LISTS[name]).read_text())["keys"]
    kinds = {"torch.complex64": torch.complex64, "torch.int64": torch.int64}
    return {
        key: torch.zeros(entry["shape"], dtype=kinds.get(entry.get("dtype", ""), torch.float32))
        for key, entry in listed.items()
    }


@pytest.mark.parametrize("name", LISTS)
def test_every_key_of_a_published_file_is_accounted_for(name: str, tmp_path: Path) -> None:
    tensors = upstream(name)
    torch.save(tensors, tmp_path / "up.pt")
    found = convert_checkpoint(tmp_path / "up.pt", name, tmp_path / "ours.safetensors")
    assert found.complete
    assert len(found.used) + len(found.unused) >= len(tensors)
    card = read_card(tmp_path / "ours.safetensors")
    assert card["expects"]["sfreq"] == cards.read("models", name)["expects"]["sfreq"]
    assert card["converted_from"]["file"] == "up.pt"
    assert card["card"] == name


@pytest.mark.parametrize("name", ["tfm_encoder_tuev", "mirepnet"])
def test_a_key_too_few_and_one_too_many_are_listed_in_full(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = upstream(name)
    weights = [key for key, value in tensors.items() if value.ndim == 2][-7:]
    for key in weights[:-1]:
        del tensors[key]
    tensors[weights[-1]] = torch.zeros(3, 1)
    tensors["surprise.weight"] = torch.zeros(2, 5)
    torch.save(tensors, "up.pt")
    assert cli.main(["convert", "up.pt", "--model", name]) != 0
    printed = capsys.readouterr()
    assert printed.out.count("missing: ") == 6
    assert "unknown: surprise.weight (2, 5)" in printed.out
    assert "of another shape: " in printed.out
    assert "(3, 1) instead of" in printed.out
    assert "Nothing was written" in " ".join(printed.err.split())
    assert [p.name for p in tmp_path.iterdir()] == ["up.pt"]


def test_a_checkpoint_of_another_model_names_the_card_it_fits(tmp_path: Path) -> None:
    torch.save(upstream("mirepnet"), tmp_path / "up.pt")
    with pytest.raises(ConversionError, match=r"use `--model mirepnet`") as caught:
        convert_checkpoint(tmp_path / "up.pt", "du_in", tmp_path / "ours.safetensors")
    assert caught.value.account.nearest == ("mirepnet", 1.0)
    assert not (tmp_path / "ours.safetensors").exists()


class Malicious:
    def __init__(self, note: Path) -> None:
        self.note = note

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.note}",)


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    note, out = tmp_path / "ran", tmp_path / "o.safetensors"
    torch.save({"weight": torch.zeros(1), "extra": Malicious(note)}, tmp_path / "zip.pt")
    with (tmp_path / "bare.pt").open("wb") as file:
        pickle.dump({"weight": Malicious(note)}, file)
    for name in ("zip.pt", "bare.pt"):
        with pytest.raises(ValueError, match="needs more than tensors"):
            convert_checkpoint(tmp_path / name, "mirepnet", out)
    assert not note.exists()
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path, out = tmp_path / f"up{suffix}", tmp_path / "o.safetensors"
    tensors = {"a": torch.zeros(1000), "b": torch.ones(1000)}
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    whole = path.read_bytes()
    for n in (0, 5, 200, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="not a "):
            convert_checkpoint(path, "mirepnet", out)
    assert not out.exists()


def test_the_default_name_is_never_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(upstream("tfm_encoder_tuev"), "up.pt")
    command = ["convert", "up.pt", "--model", "tfm_encoder_tuev"]
    assert cli.main(command) == 0
    assert "used: " in capsys.readouterr().out
    assert cli.main(command) != 0
    assert "exists already" in capsys.readouterr().err
