"""Shipped suites from the publishers' formats to table and report; chance without labels."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import corpus_miniatures as made
import pytest

from neurofm.cli import main

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning"),
]


def imagery(root: Path, shuffled: bool) -> None:
    made.bnci2014_001(root / "bnci2014_001", people=3, trials=32, runs=1, shuffled=shuffled)
    made.bnci2014_004(root / "bnci2014_004", people=3, trials=10, shuffled=shuffled)
    made.cho2017(root / "cho2017", people=3, trials=14, shuffled=shuffled)
    made.openbmi(root / "lee2019", "MI", people=3, trials=6, shuffled=shuffled)
    made.weibo2014(root / "weibo2014", people=3, trials=98, shuffled=shuffled)


def responses(root: Path, shuffled: bool) -> None:
    for name in ("bnci2014_008", "bnci2014_009", "brain_invaders_2014a"):
        getattr(made, name)(root / name, people=5, flashes=180, shuffled=shuffled)
    made.openbmi(root / "lee2019", "ERP", people=5, trials=48, shuffled=shuffled)


def nights(root: Path, shuffled: bool) -> None:
    stages = [*"WWWW1122233344RR" * 2, "M", "?"]
    made.sleep_edf(root / "sleep_edf", people=5, stages=stages, shuffled=shuffled)


@pytest.mark.parametrize("shuffled", [False, True], ids=["true", "shuffled"])
@pytest.mark.parametrize(
    ("suite", "make", "part", "n_tables", "guess"),
    [
        (
            "motor_imagery",
            imagery,
            "--methods csp_lda --protocols leave_one_subject_out --datasets bnci2014_001 "
            "bnci2014_004 cho2017 lee2019_mi weibo2014",
            5,
            0.5,
        ),
        ("erp_people", responses, "--methods xdawn_lda", 4, 0.5),
        ("sleep", nights, "--methods spectrum --protocols monte_carlo", 1, 0.2),
    ],
    ids=["motor_imagery", "erp_people", "sleep"],
)
def test_a_suite_decodes_what_was_planted_and_nothing_else(
    suite: str,
    make: Callable[[Path, bool], None],
    part: str,
    n_tables: int,
    guess: float,
    shuffled: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make(tmp_path / "data", shuffled)
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "store"))
    out = tmp_path / "out"
    words = ["benchmark", suite, "--seeds", "1", *part.split(), "--executor", "inprocess"]
    assert main([*words, "--out", str(out)]) == 0
    for name in ("table.md", "figure.png", "report.html"):
        assert (out / name).stat().st_size > 1000
    rows = list(csv.DictReader((out / "results.csv").open(encoding="utf-8")))
    assert len(rows) == n_tables
    for row in rows:
        score = float(row["balanced_accuracy"])
        assert abs(score - guess) < 0.2 if shuffled else score > guess + 0.2, row["dataset"]
