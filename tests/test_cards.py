"""Cards: found, read, built; every dataset card is complete and opens a miniature of its corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from neurofm import cards
from neurofm.io import FolderReader
from neurofm.io.fetch import client_of
from neurofm.units import Kind

DATASETS = cards.names("datasets")
ACCESS = ("open", "agreement")
FIELDS = {
    *cards.REQUIRED["datasets"],
    *("url", "access", "line_freq", "folder", "fetch", "events", "expected", "facts", "notes"),
}
FACTS = {"subjects", "runs", "kinds", "sfreq", "tr_s", "unit", "labels"}


@pytest.mark.parametrize("kind", cards.KINDS)
def test_card_folders_hold_no_code(kind):
    folder = cards.root(kind)
    assert folder.is_dir()
    assert not list(folder.rglob("*.py"))


@pytest.mark.parametrize("name", DATASETS)
def test_dataset_cards_have_only_documented_fields(name):
    card = cards.read("datasets", name)
    readme = (cards.root("datasets") / "README.md").read_text(encoding="utf-8")
    assert set(card) <= FIELDS
    assert all(f"`{field}`" in readme for field in card)
    expected = card.get("expected", {})
    assert set(expected) <= FACTS
    assert all(f"`{fact}`" in readme for fact in expected)
    assert card.get("access", "open") in ACCESS
    assert "fetch" not in card or client_of(card, where=name)
    assert all(Kind[kind.upper()] >= 0 for kind in expected.get("kinds", {}))


def test_the_readme_lists_exactly_the_cards_there_are():
    readme = (cards.root("datasets") / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Fields")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(rows) == DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_labels_of_the_rules_are_those_expected(name):
    card = cards.read("datasets", name)
    named = {
        label
        for rule in card.get("events", [])
        for key, label in rule.items()
        if key not in ("subject", "session", "task", "run") and label is not None
    }
    assert named <= set(card.get("expected", {}).get("labels", named))


def test_a_missing_card_names_near_misses():
    with pytest.raises(
        FileNotFoundError, match=r"no dataset called 'eegmidb'\. Did you mean eegmmidb"
    ):
        cards.read("datasets", "eegmidb")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a list", "expected a mapping"),
        ("description: !!python/object:os.system x", "not plain YAML"),
        ("description: only this", "missing license, citation"),
        ("a: [1, 2", "not plain YAML"),
    ],
)
def test_a_broken_card_says_what_is_wrong_with_it(text, words, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml: .*{words}"):
        cards.read("datasets", str(tmp_path / "mine.yaml"))


def test_a_card_cannot_choose_code_outside_the_package():
    with pytest.raises(ValueError, match=r"'os\.system' is outside neurofm"):
        cards.build({"class_path": "os.system", "init_args": {"command": "true"}})


@pytest.mark.parametrize("path", ["neurofm.io.NoReader", "neurofm.nowhere.Reader"])
def test_a_class_that_does_not_exist_is_named(path):
    with pytest.raises(ValueError, match=rf"class_path '{path}' cannot be imported"):
        cards.build({"class_path": path})


def test_near_names_of_a_class_are_given():
    with pytest.raises(ValueError, match=r"'Lora'\. Did you mean LoRA, DoRA\?"):
        cards.build({"class_path": "neurofm.tasks.Lora"})


def test_an_argument_that_does_not_exist_is_named(tmp_path):
    arguments = {"pattern": "*", "dataset": "x", "root": str(tmp_path), "montag": "standard_1005"}
    spec = {"class_path": "neurofm.io.FolderReader", "init_args": arguments}
    with pytest.raises(ValueError, match=r"FolderReader: .*'montag'"):
        cards.build(spec)


def test_nested_specs_are_built_first(tmp_path):
    spec = {
        "class_path": "neurofm.io.Corpus",
        "init_args": {
            "name": "x",
            "card": {},
            "root": None,
            "reader": {
                "class_path": "neurofm.io.FolderReader",
                "init_args": {"pattern": "*", "dataset": "x", "root": str(tmp_path)},
            },
        },
    }
    assert isinstance(cards.build(spec).reader, FolderReader)


@cards.configured
class Example:
    def __init__(self, size: int, *, names: tuple[str, ...] = ("a",), inner: object = None) -> None:
        self.size = size


def test_a_configured_class_remembers_how_to_build_an_equal_one():
    spec = cards.spec_of(Example(3, inner=Example(2)))
    assert spec["init_args"]["size"] == 3
    assert spec["init_args"]["names"] == ["a"]
    assert spec["init_args"]["inner"]["init_args"]["size"] == 2
    assert yaml.safe_load(yaml.safe_dump(spec)) == spec
    with pytest.raises(TypeError, match="decorate it with `configured`"):
        cards.spec_of(object())


def test_a_card_can_be_given_by_its_path(tmp_path):
    file = cards.path("datasets", "eegmmidb")
    copy = Path(tmp_path / "copy.yaml")
    copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    assert cards.read("datasets", str(copy)) == cards.read("datasets", "eegmmidb")
    with pytest.raises(FileNotFoundError, match="no such file"):
        cards.read("datasets", str(tmp_path / "gone.yaml"))


def test_a_class_without_a_constructor_is_built_again_from_its_spec() -> None:
    from neurofm.objectives import MaskedCodes

    spec = cards.spec_of(MaskedCodes())
    assert spec == {"class_path": "neurofm.objectives.MaskedCodes", "init_args": {}}
    assert isinstance(cards.build(spec), MaskedCodes)


def test_a_misspelled_argument_meets_its_near_misses() -> None:
    spec = {"class_path": "neurofm.tasks.LoRA", "init_args": {"rnak": 4}}

    with pytest.raises(ValueError, match=r"LoRA: .*'rnak'.* Did you mean rank\?"):
        cards.build(spec)
