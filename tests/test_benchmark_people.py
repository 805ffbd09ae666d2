"""Suites on other people than the card's: who they are, who is missing, and what is not mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from suite_toys import toy_suite

from neurofm.cli.benchmark.people import (
    folder_of,
    on_people,
    refuse_missing,
    refuse_other_results,
    spans,
)
from neurofm.evaluate.records import LINES, read_lines
from neurofm.evaluate.suites import Suite, digest

OWN = ["1", "2", "3", "4"]


@pytest.fixture()
def suite(tmp_path: Path) -> Suite:
    """Of people 1 to 4, and recordings of people 1 to 3 and 11 to 16, three runs each."""
    for person in (1, 2, 3, *range(11, 17)):
        for run in (4, 8, 12):
            file = tmp_path / "recordings" / f"S{person:03d}" / f"S{person:03d}R{run:02d}.edf"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    reader = {"class_path": "neurofm.io.FolderReader"}
    reader |= {"init_args": {"pattern": "S{subject}/S{subject}R{run}.edf"}}  # type: ignore[dict-item]
    card = {"description": "Toys.", "license": "none", "citation": "none", "modality": "eeg"}
    card |= {"reader": reader, "fetch": "eegbci"}  # type: ignore[dict-item]
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(card))
    data = {"datasets": [str(tmp_path / "toys.yaml")], "root": str(tmp_path / "recordings")}
    data |= {"labels": ["a", "b"], "subjects": OWN, "runs": ["4", "8"]}  # type: ignore[dict-item]
    toys = {"title": "Toys", "data": data, "groups": [["1", "2"], ["3", "4"]]}
    away = {"data": {"datasets": ["cho2017"], "labels": ["a", "b"]}}
    datasets = {"toys": toys, "away": away}
    for about in datasets.values():
        about["protocols"] = ["leave_one_run_out"]
    return toy_suite(["csp"], datasets=datasets, notes="Four people.")


def choose(suite: Suite, *names: str) -> Suite:
    return on_people(suite, names, chosen=["toys"])


def test_a_person_may_be_spelled_in_several_ways(suite: Suite) -> None:
    found = choose(suite, "16", "S013", "014", "sub-15")

    assert found == choose(suite, "13", "14", "15", "16")
    about = found.datasets["toys"]
    assert about["data"]["subjects"] == ["13", "14", "15", "16"]
    assert about["title"] == "Toys, people 13-16"
    assert found.datasets["away"]["data"]["subjects"] == ["13", "14", "15", "16"]
    assert found.card["notes"] == "Written for the people of the card: Four people."
    assert suite.datasets["toys"]["data"]["subjects"] == OWN


def test_the_people_of_the_card_are_the_card(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "recordings" / "S004").mkdir()
    (tmp_path / "recordings" / "S004" / "S004R04.edf").touch()
    card = Suite("toy", {**suite.card, "datasets": {"toys": suite.datasets["toys"]}})
    found = choose(card, "S004", "3", "2", "1")

    assert folder_of(found, ["4", "3", "2", "1"], own=card) == "toy"
    assert digest(found.as_run()) == digest(card.as_run())


@pytest.mark.parametrize(
    ("people", "groups"),
    [
        ("1 2 3", [["1", "2"], ["3"]]),  # those of the card, cut
        ("1 2", [["1"], ["2"]]),  # nobody would be left to pretrain on
        ("1 2 3 11", [["1", "2"], ["3", "11"]]),
        ("11 12 13 14 15", [["11", "12", "13"], ["14", "15"]]),
        ("11", [["11"]]),
    ],
)
def test_groups_hold_everybody_once(suite: Suite, people: str, groups: list[list[str]]) -> None:
    assert choose(suite, *people.split()).datasets["toys"]["groups"] == groups


def test_nobody_to_pretrain_on_is_said() -> None:
    from neurofm.cli.benchmark.training import stage_recipes

    with pytest.raises(ValueError, match="people who are not decoded, and none are left"):
        stage_recipes({"stages": []}, dataset="toys", people=[], seed=0)


@pytest.mark.parametrize(
    ("people", "words"),
    [
        ("13 S013", "names a person twice: 13 and S013"),
        ("13 99 A7", r"toys has no 99, A7 in .*there are 1-3, 11-16.*neurofm fetch toys"),
    ],
)
def test_who_is_unknown_or_named_twice_is_said(suite: Suite, people: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        choose(suite, *people.split())


def test_missing_people_and_recordings_are_named(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"about people 1-4, of whom 4 are not in .*there are 1-3, 11-16\. `neurofm fetch "
        r"toys --subjects 4 --runs 4 8` fetches them\. --subjects runs",
    ):
        refuse_missing(suite.datasets["toys"])
    others = choose(suite, "11", "12", "13", "14")
    refuse_missing(others.datasets["toys"])
    with pytest.raises(FileNotFoundError, match="cho2017"):
        refuse_missing(others.datasets["away"])

    for person in (12, 13):
        (tmp_path / "recordings" / f"S0{person}" / f"S0{person}R08.edf").unlink()
    with pytest.raises(ValueError, match=r"run 8 of 12-13\. `neurofm fetch .* 12 13 --runs 8`"):
        refuse_missing(others.datasets["toys"])


def test_other_people_and_validation_have_folders_of_their_own(suite: Suite) -> None:
    def name(*people: str) -> str:
        return folder_of(choose(suite, *people), people, own=suite)

    assert folder_of(suite, None, own=suite) == "toy"
    assert name("13", "14", "15") == name("S015", "014", "13") == "toy-subjects-13-15"
    assert name("11", "13", "15", "16") == "toy-subjects-11_13_15-16"
    validation = Suite(suite.name, suite.card, validation=True)
    assert folder_of(validation, None, own=validation) == "toy-validation"
    many = [str(100 + 2 * i) for i in range(30)]
    long = folder_of(on_people(suite, many, chosen=[]), many, own=suite)
    assert long.startswith("toy-subjects-30-") and len(long) < 40


def test_results_of_other_people_are_not_mixed(suite: Suite, tmp_path: Path) -> None:
    records = [{"dataset": "toys", "protocol": "leave_one_run_out"}]
    others = choose(suite, "11", "12", "13")
    refuse_other_results(tmp_path, others, records)  # nothing says what they are of
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(suite.as_run()))
    refuse_other_results(tmp_path, suite, records)
    refuse_other_results(tmp_path, others, [])
    with pytest.raises(ValueError, match="another dataset toys: subjects 1-4 there, 11-13 now"):
        refuse_other_results(tmp_path, others, records)
    folds = {"leave_one_run_out": {"folds": "within_session", "k": 3}}
    other = Suite("toy", {**suite.card, "protocols": folds})
    with pytest.raises(ValueError, match="another protocol leave_one_run_out: folds leave_one"):
        refuse_other_results(tmp_path, other, records)


def test_names_are_listed_in_short() -> None:
    assert spans(["010", "2", "1", "3", "12", "b"]) == "1-3, 10, 12, b"


@pytest.mark.system
def test_other_people_are_decoded_beside_the_table_of_the_card(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurofm.cli import main

    data = {"preprocess": small.data_arguments()["preprocess"], "window_s": 2.0, "offset_s": 0.5}
    known = {"datasets": [str(small.folder / "corpus.yaml")], "store": str(small.folder / "store")}
    known |= {"labels": ["left_hand", "right_hand"], "subjects": ["1", "2"]}
    estimator = {"class_path": "neurofm.evaluate.csp_lda", "init_args": {"n_components": 2}}
    card = toy_suite(
        ["csp"],
        datasets={"toys": {"title": "Toys", "data": known, "protocols": ["leave_one_run_out"]}},
    ).as_run() | {"methods": {"csp": {"title": "CSP", "data": data, "estimator": estimator}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs" / "benchmarks"
    words = ["benchmark", "mine.yaml", "--executor", "inprocess", "--seeds", "1"]

    assert main(words) == 0
    table = (runs / "mine" / "table.md").read_bytes()
    assert main([*words, "--subjects", "2", "S003"]) == 0
    assert main([*words, "--subjects", "002", "1"]) == 0

    others = runs / "mine-subjects-2-3"
    assert sorted(folder.name for folder in runs.iterdir()) == ["mine", others.name]
    assert "Toys, people 2-3 (2 people)" in (others / "table.md").read_text(encoding="utf-8")
    assert (runs / "mine" / "table.md").read_bytes() == table
    first, second = (read_lines(folder / LINES) for folder in (runs / "mine", others))
    assert {name for record in first for name in record["people"]} == {"001", "002"}
    assert {name for record in second for name in record["people"]} == {"002", "003"}
    assert not {record["key"] for record in first} & {record["key"] for record in second}
    assert main([*words, "--subjects", "2", "3", "--out", str(runs / "mine")]) == 2
    assert (runs / "mine" / "table.md").read_bytes() == table
