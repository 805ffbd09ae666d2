"""Suites: cells, records, resumption, and what is refused."""

from __future__ import annotations

import argparse
import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from neurofm.data.rows import Row, Split

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")


def rows_of(people: int = 2, runs: int = 2, trials: int = 10) -> list[Row]:
    return [
        Row(f"{p}", None, f"{r}", f"toy_sub-{p}_run-{r}", 4.0 * t, 4.0 * t + 2, "ab"[t % 2])
        for p in range(people)
        for r in range(runs)
        for t in range(trials)
    ]


def card_of(small: Any) -> dict[str, Any]:
    """A suite of two methods on the small simulated people; models of a few hundred weights."""
    corpus = str(small.folder / "corpus.yaml")
    stage = {"data": {"datasets": [corpus], "store": str(small.folder / "store")}}
    stage["data"] |= {"window_s": 4.0, "batch_size": 8}
    tokenizer = {"class_path": "neurofm.load_tokenizer"}
    tokenizer |= {"init_args": {"name": str(small.folder / "tokenizer.yaml")}}
    model = {"class_path": "neurofm.load_model"}
    model |= {"init_args": {"name": str(small.folder / "model.yaml")}}
    trained = model["init_args"] | {"tokenizer": "runs/train_tokenizer_simulated"}  # type: ignore[operator]
    preprocess = small.data_arguments()["preprocess"]
    return {
        "description": "Does it run?",
        "version": 1,
        "metrics": ["balanced_accuracy"],
        "reference": "csp",
        "datasets": {
            "toy": {
                "data": {
                    "datasets": [corpus],
                    "store": str(small.folder / "store"),
                    "labels": ["left_hand", "right_hand"],
                },
                "groups": [["1"], ["2"]],
                "protocols": ["crossed_groups"],
            }
        },
        "protocols": {
            "crossed_groups": {"folds": "crossed_groups", "train": ["1"], "test": ["2"]},
        },
        "shares": [0.5, 1.0],
        "seeds": [0],
        "methods": {
            "csp": {
                "title": "CSP + LDA",
                "data": {"preprocess": preprocess, "window_s": 2.0, "offset_s": 0.5},
                "estimator": {
                    "class_path": "neurofm.evaluate.csp_lda",
                    "init_args": {"n_components": 2},
                },
            },
            "tiny": {
                "title": "Tiny",
                "data": {"preprocess": preprocess, "window_s": 2.0, "offset_s": 0.5},
                "model": model,
                "readout": {
                    "class_path": "neurofm.readouts.LatentStatistics",
                    "init_args": {"dim": 16, "n_outputs": 2, "n_sources": 4},
                },
                "stages": [
                    {
                        "recipe": "train_tokenizer_simulated",
                        "trainer": {"max_epochs": 1, "limit_train_batches": 1},
                        "task": {"tokenizer": tokenizer, "n_channels": 2},
                        **stage,
                    },
                    {
                        "recipe": "pretrain_simulated",
                        "trainer": {"max_epochs": 1, "limit_train_batches": 1},
                        "task": {"model": model | {"init_args": trained}},
                        **stage,
                    },
                ],
                "finetune": {"steps": 2, "batch_size": 8, "task": {"lr": 1e-3}},
            },
        },
    }


def run(card: Path, out: Path, **changes: Any) -> int:
    from neurofm.cli import benchmark

    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    words = [str(card), "--out", str(out), "--executor", "inprocess"]
    args = parser.parse_args(words)
    for key, value in changes.items():
        setattr(args, key, value)
    return benchmark.run(args)


@pytest.fixture(scope="module")
def done(small: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A suite that was run to its end: its card and folder."""
    folder = tmp_path_factory.mktemp("suite")
    card = folder / "toy.yaml"
    card.write_text(yaml.safe_dump(card_of(small), sort_keys=False), encoding="utf-8")
    assert run(card, folder / "out") == 0
    return card, folder / "out"


def records_in(out: Path) -> list[dict[str, Any]]:
    from neurofm.evaluate.records import read_lines

    return read_lines(out / "records.jsonl")


def test_every_cell_leaves_one_record(done: tuple[Path, Path]) -> None:
    records = records_in(done[1])
    names = {(r["method"], r["weights"], r["reading"], r["fold"], r["share"]) for r in records}

    assert len(records) == len(names) == 2 * 2 * (1 + 4)
    for record in records:
        assert set(record["people"]) == ({"001"} if record["fold"] == 0 else {"002"})
        assert all(0 <= v["balanced_accuracy"] <= 1 for v in record["people"].values())
        assert record["cpu_s"] >= 0 and record["versions"]["torch"] and record["windows"]
        assert (record["pretraining_cpu_s"] > 0) == (record["weights"] == "pretrained")


def balanced_accuracy(test: dict[str, Any]) -> float:
    """Of one person; classes of equal probability share a window."""
    p, y = np.array(test["p"]), np.array(test["y"])
    hit = (p[np.arange(len(y)), y] == p.max(1)) / (p == p.max(1, keepdims=True)).sum(1)
    return float(np.mean([hit[y == k].mean() for k in np.unique(y)]))


def test_table_and_csv_agree_with_the_records(done: tuple[Path, Path]) -> None:
    records = records_in(done[1])
    with (done[1] / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = (done[1] / "table.md").read_text(encoding="utf-8")

    assert len(rows) == 2 * (1 + 4)
    for row in rows:
        own = [
            balanced_accuracy(r["test"])
            for r in records
            if all(r[key] == row[key] for key in ("method", "weights", "reading"))
            and r["share"] == float(row["share"])
        ]
        assert float(row["balanced_accuracy"]) == pytest.approx(np.mean(own), abs=1e-4)
        assert f"{100 * np.mean(own):.1f}" in table
    gains = {row["reading"] for row in rows if row["gain_value"]}
    assert gains == {"linear probe", "fine-tuned"}
    assert not any(row["gain_p"] for row in rows)  # of two people, whose p would say nothing


def test_a_killed_run_continues_with_what_has_no_record(
    done: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurofm.cli.benchmark import decoding

    card, out = done
    records = records_in(out)
    lost = [r for r in records if r["method"] == "csp" and r["fold"] == 1]
    kept = [r for r in records if r not in lost]
    (tmp_path / "records").mkdir()
    for record in kept:
        (tmp_path / "records" / f"{record['key']}.json").write_text(json.dumps(record))
    (tmp_path / "records" / ".half.json.1.part").write_text('{"key": "ha')
    computed: list[str] = []
    original = decoding.write_record
    monkeypatch.setattr(
        decoding,
        "write_record",
        lambda folder, record: (computed.append(record["key"]), original(folder, record)),
    )

    assert run(card, tmp_path) == 0

    assert sorted(computed) == sorted(r["key"] for r in lost)
    again = {r["key"]: r["people"] for r in records_in(tmp_path)}
    assert again == {r["key"]: r["people"] for r in records}


def test_a_changed_setting_is_another_cell(done: tuple[Path, Path], tmp_path: Path) -> None:
    from neurofm.cli.benchmark.running import plan_of
    from neurofm.evaluate import read_suite

    card = yaml.safe_load(done[0].read_text(encoding="utf-8"))
    card["methods"]["tiny"]["finetune"]["steps"] = 3
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    before, after = (
        dict(plan_of(read_suite(str(file)), pretraining=False).cells)
        for file in (done[0], tmp_path / "toy.yaml")
    )

    changed = {cell.reading for cell in before if before[cell] != after[cell]}
    assert changed == {"fine-tuned"}
    assert len(set(before.values())) == len(before)


def test_a_model_that_saw_a_person_who_is_decoded_is_refused(
    done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from neurofm.cli.benchmark.decoding import Group, Runner
    from neurofm.cli.benchmark.running import plan_of
    from neurofm.evaluate.suite_cards import read_suite
    from neurofm.evaluate.suites import Suite

    suite = read_suite(str(done[0]))
    cells = [
        item
        for item in plan_of(suite, pretraining=False).cells
        if item[0].weights == "pretrained" and item[0].fold == 0
    ]
    monkeypatch.setattr(Suite, "others", lambda self, dataset, rows, split: ["1", "2"])

    with pytest.raises(ValueError, match=r"1 of the 1 people who are decoded .*sub-001"):
        Runner(suite, tmp_path)(Group(tuple(cells)))
    assert not list((tmp_path / "records").glob("*.json"))


def test_folds_share_what_a_pretrained_model_says_of_windows(
    done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurofm.cli.benchmark.networks import Network
    from neurofm.cli.benchmark.running import plan_of
    from neurofm.cli.benchmark.windows import windows_of
    from neurofm.evaluate import read_suite

    suite = read_suite(str(done[0]))
    cell = next(c for c, _ in plan_of(suite, pretraining=False).cells if c.weights == "pretrained")
    windows, method = windows_of(suite, "toy", "tiny"), suite.method("tiny", "toy") or {}
    first, second = (Network(suite, method, windows, cell, done[1]) for _ in range(2))
    own = first._read(first.batch)
    np.testing.assert_allclose(first.features, own, rtol=1e-5, atol=1e-6)

    monkeypatch.setattr(Network, "_read", None)
    np.testing.assert_array_equal(second.features, first.features)


def test_copies_and_other_runs_of_a_person_count_as_seen() -> None:
    from neurofm.evaluate.fold import refuse_seen_people
    from neurofm.io.seen import Seen

    other_run = Seen(("toy_sub-1_run-9",), ("",), (((0.0, 1.0),),))
    somebody = Seen(("toy_sub-11_run-0",), ("",), (((0.0, 1.0),),))

    with pytest.raises(ValueError, match="such as toy_sub-1"):
        refuse_seen_people(rows_of(), other_run, name="m")
    refuse_seen_people(rows_of(), somebody, name="m")


def test_shares_are_nested_and_even_over_people_and_classes() -> None:
    from neurofm.evaluate.suites import nested_share

    rows = rows_of(people=3, runs=2, trials=20)
    train = [i for i, row in enumerate(rows) if row.run == "0"]
    parts = [nested_share(rows, train, s, seed=1) for s in (0.05, 0.1, 0.2, 0.5, 1.0)]

    for small, large in pairwise(parts):
        assert set(small) <= set(large)
    for part, n in zip(parts, (1, 1, 2, 5, 10), strict=True):
        counts = {(rows[i].subject, rows[i].label): 0 for i in part}
        for i in part:
            counts[rows[i].subject, rows[i].label] += 1
        assert set(counts.values()) == {n} and len(counts) == 6
    assert parts[-1] == tuple(train)
    assert nested_share(rows, train, 0.2, seed=2) != parts[2]


def test_a_person_without_a_class_is_named() -> None:
    from neurofm.evaluate.suites import nested_share

    rows = rows_of()
    train = [i for i, row in enumerate(rows) if row.subject == "0" or row.label == "a"]

    with pytest.raises(ValueError, match="person 1 has 0 training windows of class 'b'"):
        nested_share(rows, train, 0.5, seed=0)


def test_shuffled_labels_are_decoded_at_chance_and_true_ones_are_not() -> None:
    from dataclasses import replace

    from neurofm.evaluate import per_subject
    from neurofm.evaluate.fold import predict_fold
    from neurofm.evaluate.probing import LinearProbe

    rng = np.random.default_rng(0)
    rows = rows_of(people=4, runs=2, trials=60)
    sides = [tuple(i for i, row in enumerate(rows) if row.run == run) for run in "01"]
    split = Split(sides[0], (), sides[1], name="run-1", by="run")
    y = np.array([row.label == "b" for row in rows])
    x = rng.normal(size=(len(rows), 300)) + 0.8 * y[:, None] * (np.arange(300) < 6)

    def score(labels: list[Row]) -> float:
        found = predict_fold(LinearProbe(), x, labels, split, name="probe")
        return float(np.mean(list(per_subject(found).values())))

    shuffled = rng.permutation([row.label for row in rows])
    assert score(rows) > 0.7
    assert (
        abs(score([replace(r, label=str(k)) for r, k in zip(rows, shuffled, strict=True)]) - 0.5)
        < 0.09
    )


def test_a_split_that_leaks_and_a_missing_class_are_refused() -> None:
    from neurofm.evaluate.fold import predict_fold
    from neurofm.evaluate.probing import LinearProbe

    rows = rows_of()
    x = np.zeros((len(rows), 3))
    train = tuple(range(10))

    with pytest.raises(ValueError, match="leaks"):
        split = Split(train, (), tuple(range(5, 20)), name="s", by="run")
        predict_fold(LinearProbe(), x, rows, split, name="m")
    one = tuple(i for i in train if rows[i].label == "a")
    with pytest.raises(ValueError, match="no window of class b"):
        split = Split(one, (), tuple(range(10, 20)), name="s", by="run")
        predict_fold(LinearProbe(), x, rows, split, name="m")
    with pytest.raises(ValueError, match="expected two or more"):
        LinearProbe().fit(x[:3], np.zeros(3))


def test_an_unknown_suite_or_method_is_named_with_near_misses(done: tuple[Path, Path]) -> None:
    from neurofm.evaluate.suite_cards import read_suite

    with pytest.raises(FileNotFoundError, match="Did you mean pretraining"):
        read_suite("pretrainig")
    with pytest.raises(ValueError, match="Did you mean tiny"):
        read_suite(str(done[0]), methods=["tini"])
    with pytest.raises(ValueError, match="no `validation` for crossed_groups"):
        read_suite(str(done[0]), validation=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocols": {"crossed_groups": {"folds": "crossed"}}}, "expected one of leave_one_run"),
        ({"protocols": {"other": {"folds": "chronological"}}}, "dataset toy names the protocols"),
        ({"protocols": {"crossed_groups": {"folds": "crossed_groups", "k": 3}}}, "has k; crossed"),
        ({"shares": [0.5, 0.2]}, "increasing"),
        ({"methods": {"m": {"data": {}}}}, "expected an `estimator`"),
        ({"methods": {"m": {"data": {}, "model": {}, "readout": {}}}}, r"needs \['stages'"),
        ({"seeds": None}, "a suite needs seeds"),
    ],
)
def test_a_suite_card_that_says_nonsense_is_refused(
    done: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    from neurofm.evaluate.suite_cards import read_suite

    card = yaml.safe_load(done[0].read_text(encoding="utf-8")) | change
    card = {key: value for key, value in card.items() if value is not None}
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(card))

    with pytest.raises(ValueError, match=words):
        read_suite(str(tmp_path / "odd.yaml"))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    from neurofm.evaluate.records import read_records

    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "abc.json").write_text('{"key": "abc", "peo')

    with pytest.raises(ValueError, match=r"abc\.json: not a record"):
        read_records(tmp_path)
