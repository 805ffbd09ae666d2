"""The same suite again: the same numbers, nothing computed twice, nothing lost that is not here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurofm.cli import main
from neurofm.evaluate.records import LINES, claimed, read_lines
from neurofm.evaluate.suite_cards import read_suite


@pytest.fixture(scope="module")
def card(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classical pipeline and a small network on simulated people."""
    corpus = {"datasets": [str(small.folder / "corpus.yaml")], "store": str(small.folder / "store")}
    labels = {"labels": ["left_hand", "right_hand"]}
    data = {"preprocess": small.data_arguments()["preprocess"], "window_s": 2.0, "offset_s": 0.5}
    model = {"class_path": "neurofm.load_model"}
    model |= {"init_args": {"name": str(small.folder / "model.yaml")}}  # type: ignore[dict-item]
    readout = {"class_path": "neurofm.readouts.LatentStatistics"}
    readout |= {"init_args": {"dim": 16, "n_outputs": 2, "n_sources": 4}}  # type: ignore[dict-item]
    finetune = {"steps": 3, "batch_size": 8, "task": {"lr": 1e-3}}
    csp = {"class_path": "neurofm.evaluate.csp_lda", "init_args": {"n_components": 2}}
    content = {
        "description": "Is it the same?",
        "version": 1,
        "metrics": ["balanced_accuracy"],
        "reference": "csp",
        "seeds": [0, 1],
        "shares": [1.0],
        "datasets": {"toy": {"data": corpus | labels, "protocols": ["people"]}},
        "protocols": {"people": {"folds": "leave_one_subject_out"}},
        "methods": {
            "csp": {"data": data, "estimator": csp, "seeds": 1},
            "tiny": {"data": data, "model": model, "readout": readout, "weights": ["none"]}
            | {"finetune": finetune},
        },
    }
    file = tmp_path_factory.mktemp("again") / "again.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def run(card: Path, out: Path, *more: str) -> int:
    words = ["benchmark", str(card), "--out", str(out)]
    return main([*words, *(more or ("--executor", "inprocess"))])


@pytest.mark.system
def test_cells_computed_twice_are_the_same(card: Path, tmp_path: Path) -> None:
    from neurofm.cli.benchmark.windows import forget_windows

    found = []
    for name, how in {"one": "inprocess", "many": "processes"}.items():
        forget_windows()
        assert run(card, tmp_path / name, "--executor", how, "--seeds", "2") == 0
        records = read_lines(tmp_path / name / LINES)
        kept = ("windows", "test", "people", "parameters", "n_train", "chosen", "epochs")
        found.append({record["key"]: [record[key] for key in kept] for record in records})

    assert len(found[0]) == 3 * (1 + 2)
    assert found[0] == found[1]
    by_seed = {record["seed"]: record["test"]["p"] for record in records if record["fold"] == 0}
    assert by_seed[0] != by_seed[1]


@pytest.mark.system
def test_what_is_not_here_is_not_lost(
    card: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(card, out, "--executor", "inprocess", "--methods", "csp") == 0
    before = {name: (out / name).read_bytes() for name in (LINES, "table.md", "results.csv")}
    shutil.rmtree(out / "records")
    content = yaml.safe_load(card.read_text(encoding="utf-8"))
    content["datasets"]["toy"]["data"]["datasets"] = ["cho2017"]
    (tmp_path / "away.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (out / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

    assert run(tmp_path / "away.yaml", out, "--draw") == 0
    assert "skipped toy: cho2017" in capfd.readouterr().err
    assert {name: (out / name).read_bytes() for name in before} == before
    assert run(tmp_path / "away.yaml", out) == 2
    assert "nothing to run" in capfd.readouterr().err


def test_cells_that_another_command_recorded_are_left_alone(tmp_path: Path) -> None:
    from suite_toys import toy_suite

    from neurofm.cli.benchmark.decoding import Group, Runner
    from neurofm.evaluate.suites import Cell

    cell = Cell("toys", "leave_one_run_out", "csp", "none", "trained", 0, 1.0, 0)
    group = Group(((cell, "ab" * 8),))
    runner = Runner(toy_suite(["csp"]), tmp_path)
    with pytest.raises(FileNotFoundError):  # there are no toys to decode
        runner(group)
    (tmp_path / "records" / f"{'ab' * 8}.json").write_text("{}")
    assert runner(group) == []
    with claimed(tmp_path / "records", "cd" * 8):
        assert runner(group) == []


@pytest.mark.parametrize("seeds", [-1, 0, 3])
def test_a_number_of_seeds_that_there_are_not_is_refused(card: Path, seeds: int) -> None:
    assert read_suite(str(card), seeds=1).card["seeds"] == [0]
    with pytest.raises(ValueError, match=f"{seeds} seeds were asked for; expected 1 to 2"):
        read_suite(str(card), seeds=seeds)
