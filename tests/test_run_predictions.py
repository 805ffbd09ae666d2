"""Predictions of a run on its page: confusions, calibration, people, chance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from neurofm import metrics, stats
from neurofm.report import read_run
from neurofm.report.decoded import over_people, scores_of_people


def said(people: int = 4, trials: int = 30, strength: float = 1.0) -> dict:
    rng = np.random.default_rng(0)
    y = np.arange(people * trials) % 2
    evidence = rng.normal(size=len(y)) + strength * (2 * y - 1)
    p = 1 / (1 + np.exp(-2 * evidence))
    names = [f"{i // trials + 1:03d}" for i in range(len(y))]
    return {
        "stage": "test",
        "classes": ["left_hand", "right_hand"],
        "subject": names,
        "recording": [f"sub-{name}" for name in names],
        "onset": np.arange(len(y), dtype=float).tolist(),
        "y": y.tolist(),
        "p": np.c_[1 - p, p].round(4).tolist(),
    }


def arrays(content: dict) -> dict:
    keys = ("y", "p", "subject")
    return content | {key: np.asarray(content[key]) for key in keys}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.0\n1,0.5\n")
    (tmp_path / "predictions-test.json").write_text(json.dumps(said()))
    return tmp_path


def test_the_page_shows_confusions_calibration_and_every_person(run):
    report = read_run(run)
    (section,) = [s for s in report.sections if s.title == "Predictions, test"]
    assert len(section.figures) == 3
    names = [result.name for result in section.results]
    assert names[0] == "balanced accuracy" and names[-4:] == [f"person 00{i}" for i in (1, 2, 3, 4)]
    assert "p = 0.002" in section.text  # one of 501
    assert "Predictions, test" in report.html()


def test_scores_of_people_have_their_interval_and_guess():
    content = arrays(said())
    found = scores_of_people(content)
    own = content["subject"] == "002"
    right = int((content["p"][own].argmax(1) == content["y"][own]).sum())
    assert found[1].value == pytest.approx(right / 30)
    assert (found[1].low, found[1].high) == stats.wilson_interval(right, 30)
    assert found[1].chance == 0.5 and found[1].n == 30


def test_means_are_over_people_and_chance_is_found_at_chance():
    content = arrays(said(strength=0.0))
    found = {result.name: result for result in over_people(content, n_permutations=99)}
    owners = [content["subject"] == f"00{i}" for i in (1, 2, 3, 4)]
    each = [metrics.auroc(content["y"][o], content["p"][o]) for o in owners]
    assert found["AUROC"].value == pytest.approx(np.mean(each))
    assert (found["AUROC"].low, found["AUROC"].high) == stats.bootstrap_interval(each)
    assert found["balanced accuracy"].detail["p"] > 0.05


def test_one_person_has_no_interval_and_one_class_per_recording_no_p():
    content = arrays(said(people=1))
    assert over_people(content, n_permutations=9)[0].low is None
    content["recording"] = [f"{y}" for y in content["y"]]
    assert "p" not in over_people(content, n_permutations=9)[0].detail


@pytest.mark.parametrize("change", [{"p": [[0.5, 0.5]]}, {"y": []}, {"classes": ["a"]}])
def test_a_broken_file_is_named(run, change):
    (run / "predictions-test.json").write_text(json.dumps(said() | change))
    with pytest.raises(ValueError, match=r"predictions-test\.json is incomplete or was edited"):
        read_run(run)
    (run / "predictions-test.json").write_text('{"stage": "te')
    with pytest.raises(ValueError, match=r"predictions-test\.json is incomplete"):
        read_run(run)
