"""Table, numbers and report of suites, made of simulated records."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from suite_toys import toy_records, toy_suite

from neurofm.cli.benchmark import figures, tables
from neurofm.cli.benchmark.found import Found, found_in
from neurofm.cli.benchmark.pages import documents, highlights, markdown, write_results
from neurofm.evaluate.scoring import METRICS
from neurofm.evaluate.suites import Suite

STRENGTHS = {"tangent_space": 0.9, "net": 1.4, "guess": 0.0}


def two_protocols() -> Found:
    suite = toy_suite(list(STRENGTHS), protocols=["leave_one_run_out", "few_shot"])
    records = toy_records({"tangent_space": 0.9, "guess": 0.0}, people=6)
    records += toy_records({"net": 1.4}, people=6, seeds=(0, 1))
    records += toy_records(STRENGTHS, people=6, protocol="few_shot", folds=1)
    return found_in(suite, records, n_permutations=100)


@pytest.fixture(scope="module")
def found() -> Found:
    return two_protocols()


def rows_of(found: Found) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tables.comma_separated(found))))


def test_the_numbers_hold_every_metric_with_interval_and_chance(found):
    rows = rows_of(found)
    assert len(rows) == 3 + 1 + 3  # one line for the seeds together
    for row, item in zip(rows, found.scored, strict=True):
        assert (row["method"], row["protocol"]) == (item.line[0], item.protocol)
        for name in (*METRICS, "bits_per_min"):
            assert float(row[name]) == pytest.approx(item.results[name].value, abs=1e-4)
            assert float(row[f"{name}_low"]) <= float(row[name]) <= float(row[f"{name}_high"])
            assert 0 < float(row[f"{name}_p"]) <= 1
        assert float(row["balanced_accuracy_permuted"]) == pytest.approx(0.5, abs=0.03)
        assert float(row["balanced_accuracy_chance"]) == 0.5
        assert row["people"] == "6"
    together = [row for row in rows if row["seeds_together"] == "2"]
    assert [row["method"] for row in together] == ["net"]
    assert together[0]["reading"] == "trained, 2 seeds together"
    assert float(together[0]["decoder_cpu_s"]) == 4.0


def test_the_same_records_make_the_same_files_in_any_order(found):
    records = list(found.records)
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    again = found_in(found.suite, shuffled, n_permutations=100)
    assert documents(again) == documents(found)


def test_the_table_has_every_place_method_and_comparison(found):
    text = markdown(found)
    for words in ("## leave one run out", "## few shot", "## Minus tangent space", "Average ranks"):
        assert words in text
    assert "net, 2 seeds together" in text
    assert "a guess scores 50" in text and "trials of 2.5 s from cue to decision" in text
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = [(line, below) for line, below in pairwise(lines) if below.startswith("| ---")]
    assert len(heads) >= 6
    assert all(line.count("|") == below.count("|") for line, below in heads)
    value = f"{100 * found.scored[0].result.value:.1f}"
    assert f"| tangent space | {value} [" in text


def test_the_best_is_named_with_its_lead_over_the_reference(found):
    first = highlights(found)[0]
    best = max(found.at(found.places[0]), key=lambda item: item.result.value)
    assert found.label(best.line) in first and "over tangent space" in first
    assert re.search(r"better for \d of 6", first)


def test_who_has_no_reference_or_other_windows_is_said():
    suite = toy_suite(["tangent_space", "net"])
    records = toy_records({"tangent_space": 0.9, "net": 1.0}, people=4)
    for record in records:
        if record["method"] == "net":
            record["windows"] = "others"
    found = found_in(suite, records, n_permutations=10)
    assert found.versus == []
    said = "leave one run out: net has other windows and is not compared."
    assert said in highlights(found) and said in markdown(found)
    alone = found_in(suite, [r for r in records if r["method"] == "net"], n_permutations=10)
    assert "tangent space has no result to compare with." in highlights(alone)[-1]


def test_people_with_labels_of_their_own_get_a_table_of_decisions():
    labels = {f"{i + 1:03d}": i % 2 for i in range(8)}
    records = toy_records(STRENGTHS, people=8, folds=1, label_of=labels)
    found = found_in(toy_suite(list(STRENGTHS)), records, n_permutations=50)
    rows = tables.decided_rows(found, found.places[0])
    assert [row["decision"] for row in rows[:2]] == ["majority vote", "mean probability"]
    assert {row["people"] for row in rows} == {8} and "ties" in rows[0]
    text = markdown(found)
    assert "One decision per person" in text
    assert "bits" not in text.splitlines()[4]
    assert "person_majority_vote_ties" in rows_of(found)[0]


def test_old_records_with_scores_of_people_alone_make_a_table():
    suite = toy_suite(list(STRENGTHS), metrics=["balanced_accuracy"])
    records = []
    for record in toy_records(STRENGTHS, people=5, folds=1):
        old = {k: v for k, v in record.items() if k not in ("test", "align", "parameters")}
        names = sorted(set(record["test"]["subject"]))
        old["people"] = {n: {"balanced_accuracy": 0.5 + 0.1 * i} for i, n in enumerate(names)}
        old.pop("dataset"), old.pop("protocol"), old.pop("classes")
        records.append(old)
    found = found_in(suite, records)
    text = markdown(found)
    assert "70.0 [" in text and "a guess scores 50" in text
    assert "shuffled" not in text and "bits" not in text
    assert figures.confusions(found, found.places[0]) is None
    assert figures.reliability(found, found.places[0]) is None


def test_shares_and_people_to_train_on_make_learning_curves():
    protocols = {
        "all": {"folds": "leave_one_subject_out"},
        "two": {"folds": "leave_one_subject_out", "train_people": 2},
        "early": {"folds": "chronological", "per_class": 4},
        "later": {"folds": "chronological", "per_class": 8},
    }
    suite = toy_suite(["a"], protocols=list(protocols), shares=[0.5, 1.0])
    suite = Suite(suite.name, dict(suite.card) | {"protocols": protocols})
    records = []
    for protocol, people, trials in (("all", 5, 80), ("two", 2, 32)):
        for record in toy_records({"a": 1.0}, people=6, folds=1, protocol=protocol):
            records.append(record | {"n_train_people": people, "n_train": trials})
    for protocol, trials in (("early", 8), ("later", 16)):
        for record in toy_records({"a": 1.0}, people=6, folds=1, protocol=protocol):
            records.append(record | {"n_train": trials, "n_train_people": 1})
    found = found_in(suite, records, n_permutations=10)
    captions = [picture.caption for picture in figures.learning_curves(found)]
    assert [caption.partition(";")[0] for caption in captions] == [
        "Mean over people against people to train on",
        "Mean over people against training trials per class",
    ]


@pytest.mark.system
def test_everything_is_written_and_the_page_holds_every_part(found, tmp_path: Path):
    files = write_results(found.suite, found.records, tmp_path)
    assert [file.name for file in files] == ["table.md", "results.csv", "figure.png", "report.html"]
    page = files[-1].read_text(encoding="utf-8")
    for title in (
        "In short",
        "Overview",
        "Scores: leave one run out",
        "Probabilities: few shot",
        "Training: few shot",
        "Against tangent space: few shot",
        "Ranks: leave one run out",
        "Compute",
    ):
        assert title in page
    assert page.count("<img") == len(list((tmp_path / "figures").glob("*.png"))) >= 15
    assert not re.search(r"https?://", page)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
