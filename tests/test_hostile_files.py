"""Files that were changed, by accident or on purpose, load as they were or not at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from neurofm import cards, from_pretrained, load_model, save_pretrained
from neurofm.io import convert_checkpoint, read_card, save_model
from neurofm.io.hub import push_to_hub
from neurofm.io.model_card import digest
from neurofm.models import PatchTransformer
from neurofm.tasks import Pretrain
from neurofm.tokenizers import PatchTokenizer


def small() -> PatchTransformer:
    torch.manual_seed(0)
    model = PatchTransformer(
        PatchTokenizer(dim=8, patch_s=0.5, sfreq=32.0), dim=8, depth=1, heads=2
    )
    model.card = {"expects": {"sfreq": 32.0, "unit": "physical", "kinds": ["eeg"]}}
    return model


def training_checkpoint(path: Path, **changes: object) -> Path:
    model = small()
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    about = {"task": "neurofm.tasks.Pretrain", "card": {"expects": {"sfreq": 32.0}}}
    content = {**about, "hyper_parameters": {"model": cards.spec_of(model)}, "state_dict": state}
    torch.save({**content, **changes}, path)
    return path


def changed(path: Path, **fields: object) -> Path:
    """A file whose description was edited, and whose digest was made to agree."""
    card, tensors = {**read_card(path), **fields}, load_file(path)
    card["digest"] = digest(card, tensors)
    save_file(tensors, path, metadata={"neurofm": json.dumps(card)})
    return path


def damage(raw: bytes, random: random.Random, last: int) -> bytes:
    found = bytearray(raw)
    if random.random() < 0.8:
        found[random.randrange(last)] ^= 1 << random.randrange(8)
    else:
        del found[random.randrange(last) :]
    return bytes(found)


@pytest.mark.parametrize("write", [lambda p: save_model(small(), p), training_checkpoint])
def test_a_changed_byte_never_loads_as_something_else(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    suffix = ".safetensors" if write is not training_checkpoint else ".ckpt"
    raw = write(tmp_path / f"a{suffix}").read_bytes()
    # The end of a torch file is its table of contents, which says everything a second time.
    last = raw.index(b"PK\x01\x02") if suffix == ".ckpt" else len(raw)
    own, draw = small(), random.Random(0)
    refused = 0
    for _ in range(40):
        (tmp_path / f"b{suffix}").write_bytes(damage(raw, draw, last))
        try:
            found = load_model(tmp_path / f"b{suffix}")
        except ValueError:
            refused += 1
            continue
        assert cards.spec_of(found) == cards.spec_of(own)
        for key, value in own.state_dict().items():
            assert torch.equal(found.state_dict()[key], value)
    assert refused > 10


@pytest.mark.parametrize("name", ["neurofm.cards.load_class", "neurofm.io.hub.asdict"])
def test_a_card_may_not_call_any_function_of_the_package(name: str) -> None:
    with pytest.raises(ValueError, match="is no class of neurofm"):
        cards.build({"class_path": name, "init_args": {}})


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", ["neurofm.load_model", "neurofm.io.Store"])
def test_a_file_names_nothing_but_classes_that_record_their_arguments(
    name: str, nested: bool, tmp_path: Path
) -> None:
    spec: dict = {"class_path": name, "init_args": {"path": "elsewhere"}}
    if nested:
        whole = cards.spec_of(small())
        spec = {**whole, "init_args": {**whole["init_args"], "tokenizer": spec}}
    with pytest.raises(ValueError, match="may name"):
        load_model(changed(save_model(small(), tmp_path / "m.safetensors"), **spec))
    path = training_checkpoint(tmp_path / "last.ckpt", hyper_parameters={"model": spec})
    with pytest.raises(ValueError, match="may name"):
        load_model(path)
    with pytest.raises(ValueError, match="may name"):
        Pretrain.load_from_checkpoint(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"init_args": {**cards.spec_of(small())["init_args"], "tokenizer": 3}},
            "PatchTransformer: ",
        ),
        ({"init_args": [1]}, "a mapping"),
        ({"class_path": 5}, "a name"),
        ({"trained_on": 5}, "trained_on is 5"),
    ],
)
def test_a_field_of_another_type_is_an_error_of_the_file(
    fields: dict, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        load_model(changed(save_model(small(), tmp_path / "m.safetensors"), **fields))


@pytest.mark.parametrize("expects", [3, {"kinds": [5]}, {"channels": [5]}, {"channels": "abc"}])
def test_expectations_of_another_type_are_an_error_of_the_file(
    expects: object, tmp_path: Path
) -> None:
    path = training_checkpoint(tmp_path / "last.ckpt", card={"expects": expects})
    with pytest.raises(ValueError, match=r"last\.ckpt: expects"):
        load_model(path)


@pytest.mark.parametrize(
    "content",
    [
        {"hyper_parameters": [1]},
        {"state_dict": [1]},
        {"state_dict": {1: torch.zeros(1)}},
        {"state_dict": {"model.norm.weight": 3}},
        {"card": {"statistics": 3}},
    ],
)
def test_a_checkpoint_of_other_content_is_refused(content: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt: "):
        load_model(training_checkpoint(tmp_path / "last.ckpt", **content))


def test_a_published_file_without_names_is_refused(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="flat dict of tensors, found other values under 1"):
        convert_checkpoint(tmp_path / "a.pt", "tfm_tokenizer", tmp_path / "o.safetensors")


@pytest.mark.parametrize("text", ["[1]", "5", '"a"', "[" * 100_000])
def test_a_folder_whose_description_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    save_pretrained(small(), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json: not JSON"):
        from_pretrained(tmp_path / "m")
    nested = {"neurofm": "[" * 100_000}
    save_file(load_file(tmp_path / "m" / "model.safetensors"), tmp_path / "n.safetensors", nested)
    with pytest.raises(ValueError, match="description cannot be read"):
        load_model(tmp_path / "n.safetensors")


@pytest.mark.parametrize("name", ["owner/..", "owner/.", "owner/na me", "C:\\x/y"])
def test_a_repository_is_not_a_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurofm.io.hub.optional", lambda _: None)
    with pytest.raises(FileNotFoundError, match="not the name of a repository"):
        push_to_hub(small(), name)
    with pytest.raises(FileNotFoundError, match="not the name of a repository"):
        from_pretrained(name)
