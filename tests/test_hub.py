"""Models as folders, and on a hub that is played by the test."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import neurofm
from neurofm.io import Seen
from neurofm.io import hub as hub_module
from neurofm.models import BrainOmni
from neurofm.tokenizers import BrainTokenizer
from neurofm.types import Result

SMALL = {
    "window_length": 64,
    "n_filters": 4,
    "ratios": [4, 2, 2],
    "n_dim": 16,
    "n_neuro": 4,
    "codebook_dim": 16,
    "codebook_size": 32,
    "num_quantizers": 2,
}


def small() -> BrainOmni:
    torch.manual_seed(0)
    return BrainOmni(BrainTokenizer(**SMALL), lm_dim=16, lm_head=4, lm_depth=1)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in mine.items())


def test_a_folder_gives_the_model_back_and_describes_it(tmp_path: Path) -> None:
    model = small()
    model.seen = Seen(("a_sub-1",), ("",), (((0.0, 1.0),),))
    folder = neurofm.save_pretrained(
        model,
        tmp_path / "mine",
        license="MIT",
        citation="Nobody 2026",
        expects={"kinds": ["eeg"], "band": [1, 40]},
        results=[Result("accuracy", 0.7, low=0.6, high=0.8, n=9, chance=0.5)],
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    loaded = neurofm.from_pretrained(folder)
    assert same(model, loaded)
    assert loaded.contract.band == (1, 40)
    assert loaded.seen.recordings == ("a_sub-1",)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("license: mit", "Nobody 2026", "| band | 1, 40 |", "| accuracy | 0.7 |"):
        assert words in readme
    assert same(neurofm.from_pretrained(folder).tokenizer, model.tokenizer)


def test_what_is_no_folder_of_a_model_says_what_to_use(tmp_path: Path) -> None:
    spectra: Any = neurofm.load_tokenizer("spectral_tokenizer")
    folder = neurofm.save_pretrained(spectra, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"no run.*from_pretrained"):
        neurofm.load_model(folder)
    wrong: Any = [{"name": "x"}]
    # With annotations checked at run time, those stop it first.
    with pytest.raises((ValueError, TypeError), match=r"neurofm\.(types\.)?Result"):
        neurofm.save_pretrained(spectra, folder, results=wrong)
    assert neurofm.from_pretrained(folder).n_codes == 0


def test_a_tokenizer_comes_back_as_one(tmp_path: Path) -> None:
    folder = neurofm.save_pretrained(BrainTokenizer(**SMALL), tmp_path / "t")
    assert isinstance(neurofm.from_pretrained(folder), BrainTokenizer)


@pytest.mark.parametrize("stage", ["save_model", "model_card", "_write"])
def test_an_interrupted_save_leaves_nothing_that_loads(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = neurofm.save_pretrained(small(), tmp_path / "m")

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_module, stage, stop)
    with pytest.raises(KeyboardInterrupt):
        neurofm.save_pretrained(small(), folder)
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*save the model again"):
        neurofm.from_pretrained(folder)


def test_an_edited_description_and_a_mixed_folder_are_refused(tmp_path: Path) -> None:
    folder = neurofm.save_pretrained(small(), tmp_path / "m", expects={"band": [1, 40]})
    config = folder / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"license": "none"}))
    with pytest.raises(ValueError, match="disagree about license"):
        neurofm.from_pretrained(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        neurofm.from_pretrained(folder)
    with pytest.raises(ValueError, match="has no revision v1"):
        neurofm.from_pretrained(folder, revision="v1")
    with pytest.raises(FileNotFoundError, match="owner/name"):
        neurofm.from_pretrained("brainomni_demo")


class PlayedHub:
    """Repositories as folders; remembers how it was called."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def HfApi(self, token: str | None = None) -> PlayedHub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create", repo_id, options))

    def upload_folder(self, *, repo_id: str, folder_path: str, **options: Any) -> Any:
        target = self.root / repo_id
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        self.calls.append(("upload", repo_id, options))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    def snapshot_download(self, repo_id: str, **options: Any) -> str:
        self.calls.append(("download", repo_id, options))
        if not (self.root / repo_id).is_dir():
            raise OSError("404 Not Found")
        return str(self.root / repo_id)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlayedHub:
    hub = PlayedHub(tmp_path / "hub")
    monkeypatch.setattr(hub_module, "optional", lambda name: hub)
    return hub


def test_what_is_pushed_comes_back_from_the_hub(played: PlayedHub) -> None:
    model = small()
    where = neurofm.push_to_hub(model, "lab/small", token="t", license="MIT")
    assert where == "https://hub/lab/small/commit/1"
    assert ("token", "t") in played.calls
    assert played.calls[1][2]["private"] is True
    loaded = neurofm.from_pretrained("lab/small", revision="abc", token="t")
    assert same(model, loaded)
    assert played.calls[-1][2]["revision"] == "abc"
    assert played.calls[-1][2]["token"] == "t"


def test_a_hub_that_refuses_says_what_to_do(played: PlayedHub) -> None:
    with pytest.raises(OSError, match=r"lab/none cannot be fetched \(404.*token"):
        neurofm.from_pretrained("lab/none")
    played.create_repo = lambda *a, **k: (_ for _ in ()).throw(OSError("403"))  # type: ignore
    with pytest.raises(OSError, match=r"push_to_hub: lab/small: 403.*hf auth login"):
        neurofm.push_to_hub(small(), "lab/small")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'neurofm\[hub\]'"):
        neurofm.from_pretrained("lab/small")
    with pytest.raises(ImportError, match=r"pip install 'neurofm\[hub\]'"):
        neurofm.push_to_hub(small(), "lab/small")
