"""What suites do with what cannot be decoded: refused by name, at chance, or left to the rest."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from suite_toys import toy_suite

from neurofm.data.rows import Row, Split
from neurofm.evaluate.records import read_lines
from neurofm.evaluate.suite_cards import read_suite
from neurofm.evaluate.suites import Suite, digest


def rows_of(people: int = 4, trials: int = 30) -> list[Row]:
    return [
        Row(f"{p}", None, "1", f"toy_sub-{p}_run-1", 4.0 * t, 4.0 * t + 2, "ab"[t % 2])
        for p in range(people)
        for t in range(trials)
    ]


def trials_of(rows: list[Row], rng: np.random.Generator, *, n_times: int = 40) -> np.ndarray:
    """Noise of six channels; class b has more power on the second."""
    x = rng.normal(size=(len(rows), 6, n_times))
    x[:, 1] *= np.where([row.label == "b" for row in rows], 2.0, 1.0)[:, None]
    return x


def leave_out(rows: list[Row], person: str) -> Split:
    sides = [
        tuple(i for i, r in enumerate(rows) if (r.subject == person) is t) for t in (False, True)
    ]
    return Split(sides[0], (), sides[1], name=f"subject-{person}", by="subject")


@pytest.mark.parametrize("change", ["the same", "another scale", "stored in 16 bits"])
def test_a_trial_that_comes_again_under_another_name_is_refused(
    change: str, rng: np.random.Generator
) -> None:
    from neurofm.evaluate.fold import copies_in, refuse_copies

    rows = rows_of()
    x = trials_of(rows, rng)
    split = leave_out(rows, "3")
    refuse_copies(rows, split, copies_in(x))
    copy = {
        "the same": x[5],
        "another scale": 3 * x[5] + 1,
        "stored in 16 bits": np.round(x[5] * 4000) / 4000,
    }
    x[100] = copy[change]

    assert copies_in(x) == [(5, 100)]
    with pytest.raises(ValueError, match=r"1 test windows hold the same samples .*toy_sub-0_run-1"):
        refuse_copies(rows, split, copies_in(x))
    refuse_copies(rows, leave_out(rows, "1"), copies_in(x))  # both on the training side


def test_flat_windows_are_no_copies_of_each_other(rng: np.random.Generator) -> None:
    from neurofm.evaluate.fold import copies_in

    x = trials_of(rows_of(), rng)
    x[[3, 50, 100]] = 7.0
    assert copies_in(x) == []


@pytest.mark.parametrize("name", ["csp_lda", "tangent_lr"])
def test_shuffled_labels_are_at_chance(name: str, rng: np.random.Generator) -> None:
    from neurofm import evaluate
    from neurofm.evaluate.fold import predict_fold

    rows = rows_of(people=4, trials=60)
    x = trials_of(rows, rng)

    def score(rows: list[Row]) -> float:
        found = [
            predict_fold(getattr(evaluate, name)(), x, rows, leave_out(rows, person), name=name)
            for person in "0123"
        ]
        return float(np.mean([v for f in found for v in evaluate.per_subject(f).values()]))

    assert score(rows) > 0.9
    found = []
    for _ in range(6):
        labels = rng.permutation([str(row.label) for row in rows])
        found.append(score([replace(r, label=k) for r, k in zip(rows, labels, strict=True)]))
    assert abs(np.mean(found) - 0.5) < 0.06


class Blind:
    """Gives back NaN."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> Blind:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        return np.full((len(x), len(self.classes_)), np.nan)


def test_bad_windows_and_predictions_are_named(rng: np.random.Generator) -> None:
    from neurofm.evaluate import csp_lda
    from neurofm.evaluate.fold import predict_fold

    rows = rows_of()
    x = trials_of(rows, rng)
    split = leave_out(rows, "3")
    with pytest.raises(ValueError, match="30 of 30 predictions for subject-3 are NaN"):
        predict_fold(Blind(), x, rows, split, name="m")
    x[7, 0, 3] = np.nan
    with pytest.raises(ValueError, match=r"1 windows hold NaN .*toy_sub-0_run-1 at 28\.00 s"):
        predict_fold(csp_lda(), x, rows, split, name="m")
    one = [replace(row, label="a") for row in rows]
    with pytest.raises(ValueError, match="training side of subject-3 has only a"):
        predict_fold(csp_lda(), trials_of(rows, rng), one, split, name="m")
    lacking = [replace(r, label="c") if r.subject == "3" and r.label == "b" else r for r in rows]
    with pytest.raises(ValueError, match="no window of class c"):
        predict_fold(csp_lda(), trials_of(rows, rng), lacking, split, name="m")


@pytest.mark.parametrize("fault", ["flat channel", "two samples"])
def test_poor_windows_give_probabilities_or_a_reason(fault: str, rng: np.random.Generator) -> None:
    from neurofm.evaluate import tangent_lr
    from neurofm.evaluate.fold import predict_fold

    rows = rows_of()
    x = trials_of(rows, rng, n_times=2 if fault == "two samples" else 40)
    if fault == "flat channel":
        x[:, 2] = 0.0
    try:
        found = predict_fold(tangent_lr(), x, rows, leave_out(rows, "3"), name="m")
    except ValueError as error:
        assert len(str(error)) > 30
    else:
        assert np.allclose(found.probability.sum(1), 1)


def suite_file(small: Any, folder: Path, **methods: Any) -> Path:
    """Two classical methods on three simulated people, and a data set that is not there."""
    data = {"preprocess": small.data_arguments()["preprocess"], "window_s": 2.0, "offset_s": 0.5}
    known = {"datasets": [str(small.folder / "corpus.yaml")], "store": str(small.folder / "store")}
    labels = {"labels": ["left_hand", "right_hand"]}
    card = {
        "description": "Does it run?",
        "version": 1,
        "metrics": ["balanced_accuracy"],
        "reference": "csp",
        "seeds": [0],
        "shares": [1.0],
        "datasets": {
            "toy": {"data": known | labels, "protocols": ["runs", "people"]},
            "absent": {"data": {"datasets": ["cho2017"]} | labels, "protocols": ["people"]},
        },
        "protocols": {
            "runs": {"folds": "leave_one_run_out"},
            "people": {"folds": "leave_one_subject_out"},
        },
        "methods": {
            name: {"title": name, "data": data, "estimator": estimator, **more}
            for name, (estimator, more) in methods.items()
        },
    }
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    return file


def run(file: Path, out: Path, *more: str) -> int:
    import argparse

    from neurofm.cli import benchmark

    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return benchmark.run(
        parser.parse_args([str(file), "--out", str(out), "--executor", "inprocess", *more])
    )


CSP = {"class_path": "neurofm.evaluate.csp_lda", "init_args": {"n_components": 2}}
CHOOSING = {"choose": {"init_args.n_components": [2, 4]}}


def test_a_cell_that_fails_leaves_the_others_and_is_named(
    small: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "nothing"))
    bad = {"class_path": "neurofm.evaluate.csp_lda", "init_args": {"n_components": 0}}
    file = suite_file(small, tmp_path, csp=(CSP, CHOOSING), bad=(bad, {}))

    assert run(file, tmp_path / "out") == 1
    said = capfd.readouterr().err
    records = read_lines(tmp_path / "out" / "records.jsonl")

    assert "skipped absent: cho2017" in said and "neurofm fetch cho2017" in said
    assert "failed: toy people bad fold 2 seed 0" in said and "9 failed" in said
    assert {r["method"] for r in records} == {"csp"} and len(records) == 3 * 2 + 3
    for record in records:
        assert record["chosen"]["init_args.n_components"] in (2, 4)
        test = record["test"]
        assert len(test["y"]) == len(test["p"]) == len(test["window"]) == record["n_test"]
        assert set(record["people"]) == set(test["subject"]) and record["align"] == "none"
        assert np.allclose(np.sum(test["p"], axis=1), 1, atol=2e-4)
    assert len({r["windows"] for r in records}) == len(records)


@pytest.mark.system
def test_a_part_of_a_suite_keeps_the_records_of_the_rest(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "nothing"))
    tangent = {"class_path": "neurofm.evaluate.tangent_lr"}
    file = suite_file(small, tmp_path, csp=(CSP, {}), tangent=(tangent, {}))
    assert run(file, tmp_path / "out", "--methods", "tangent", "--protocols", "people") == 0
    assert run(file, tmp_path / "out", "--models", "csp", "--datasets", "toy") == 0
    records = read_lines(tmp_path / "out" / "records.jsonl")

    assert len(records) == 3 + 9
    hashes = {
        method: {
            r["windows"] for r in records if (r["method"], r["protocol"]) == (method, "people")
        }
        for method in ("csp", "tangent")
    }
    assert hashes["csp"] == hashes["tangent"] and len(hashes["csp"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_suite_that_is_stopped_leaves_whole_records_and_continues(
    how: signal.Signals, code: int, small: Any, tmp_path: Path
) -> None:
    file = suite_file(small, tmp_path, csp=(CSP, CHOOSING))
    card = yaml.safe_load(file.read_text(encoding="utf-8")) | {"seeds": [0, 1, 2]}
    del card["datasets"]["absent"]
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    program = "import sys; from neurofm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "benchmark", str(file)]
    command += ["--out", str(tmp_path / "out"), "--workers", "2"]
    folder = tmp_path / "out" / "records"

    # A shell's background commands ignore Ctrl-C, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)
    signal.signal(signal.SIGINT, before)
    while process.poll() is None and len(list(folder.glob("*.json"))) < 3:
        time.sleep(0.01)
    os.killpg(process.pid, how)
    assert process.wait() == code
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 3 <= len(kept) < 3 * 9
    for path in kept:
        assert json.loads(path.read_text(encoding="utf-8"))["key"] == path.stem

    assert subprocess.run(command, check=False).returncode == 0
    assert len(list(folder.glob("*.json"))) == 3 * 9
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())


@pytest.mark.system
def test_a_full_disk_loses_the_cells_it_meets_and_no_other(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from neurofm.cli.benchmark import decoding

    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "nothing"))
    file = suite_file(small, tmp_path, csp=(CSP, {}))
    out = tmp_path / "out"
    whole, calls = decoding.write_record, []

    def full(folder: Path, record: dict[str, Any]) -> None:
        calls.append(record["key"])
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        whole(folder, record)

    monkeypatch.setattr(decoding, "write_record", full)
    assert run(file, out) == 1
    kept = {path.stem for path in (out / "records").glob("*.json")}
    assert kept == set(calls) - {calls[1]}
    assert "No space left on device" in capfd.readouterr().err

    monkeypatch.setattr(decoding, "write_record", whole)
    assert run(file, out) == 0
    assert {path.stem for path in (out / "records").glob("*.json")} == set(calls)


def test_a_method_takes_part_in_its_protocols_unless_others_are_asked_for(tmp_path: Path) -> None:
    names = ["leave_one_run_out", "leave_one_subject_out"]
    card = dict(toy_suite(["cheap", "dear"], protocols=names).card)
    whole = Suite("toy", card).cells("toys", names[1], 2)
    card["methods"]["dear"]["protocols"] = names[:1]
    file = tmp_path / "toy.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")

    suite = read_suite(str(file))
    assert {cell.method for cell in suite.cells("toys", names[0], 2)} == {"cheap", "dear"}
    left = suite.cells("toys", names[1], 2)
    assert {cell.method for cell in left} == {"cheap"}
    asked = read_suite(str(file), protocols=names[1:])
    assert asked.cells("toys", names[1], 2) == whole
    dear = next(cell for cell in whole if cell.method == "dear")
    keys = [digest(s.config(dear, "w", pretraining=())) for s in (suite, asked)]
    assert keys[0] == keys[1], "which protocols a method takes part in decides no number"

    card["methods"]["dear"]["protocols"] = ["leave_one_rum_out"]
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    with pytest.raises(ValueError, match=r"dear names the protocols .*leave_one_rum_out"):
        read_suite(str(file))
