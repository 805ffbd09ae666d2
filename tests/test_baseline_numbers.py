"""Reference numbers of classical pipelines on EEGMMIDB, through our own reading, filters and folds.

They were computed with MNE, scikit-learn and pyriemann alone. An area under the curve is that of
all held-out windows of a person together.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm.data import BrainData, Split, leave_one_out
from neurofm.data.rows import Row
from neurofm.evaluate import (
    cross_validate,
    csp_lda,
    mdm,
    per_subject,
    predict_fold,
    tangent_lr,
    within_subject,
)

pytestmark = pytest.mark.corpus
PEOPLE = tuple(map(str, range(1, 13)))
MAKE: dict[str, Callable[[], Any]] = {
    "CSP": csp_lda,
    "TS": tangent_lr,
    "TS, unweighted": functools.partial(tangent_lr, balanced=False),
    "MDM": mdm,
}
TS_BY_PERSON = (0.804, 0.990, 0.591, 0.680, 0.538, 0.480, 0.960, 0.500, 0.571, 0.651, 0.676, 0.728)


@functools.cache
def windows(
    labels: Sequence[str] = ("left_hand", "right_hand"),
    runs: Sequence[str] = ("4", "8", "12"),
    people: Sequence[str] = PEOPLE,
) -> tuple[np.ndarray, list[Row]]:
    root = os.environ.get("NEUROFM_DATA")
    if root is None or not (Path(root) / "eegmmidb").is_dir():
        pytest.skip("needs the EEGMMIDB recordings under $NEUROFM_DATA")
    data = BrainData(
        ["eegmmidb"],
        preprocess=[
            {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 8.0, "high": 30.0}}
        ],
        subjects=list(people),
        runs=list(runs),
        labels=list(labels),
        window_s=3.00625,  # 481 samples: both ends of 3 s
        offset_s=0.5,
        split_by="run",
        validate=[],
        test=[runs[0]],
    )
    data.setup()
    made: Any = data.windows
    return made.batch(range(len(made))).x.numpy().astype(np.float64), list(data.rows)


def mean(scores: Any, metric: str) -> float:
    return float(np.mean(list(per_subject(scores, metric).values())))


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "auroc", "accuracy"), [("CSP", 0.653, 0.617), ("TS", 0.681, 0.646)]
)
def test_leaving_one_run_out(name: str, auroc: float, accuracy: float):
    x, rows = windows()
    scores = cross_validate(MAKE[name], x, rows, within_subject(rows), name=name)
    assert mean(scores, "auroc") == pytest.approx(auroc, abs=0.01)
    assert mean(scores, "accuracy") == pytest.approx(accuracy, abs=0.01)
    if name == "TS":
        found = list(per_subject(scores, "auroc").values())
        assert found == pytest.approx(TS_BY_PERSON, abs=0.01)


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "accuracy", "kappa"),
    # The reference for these runs was a regression that does not weigh its classes.
    [("CSP", 0.606, 0.221), ("TS, unweighted", 0.622, 0.256), ("MDM", 0.594, 0.219)],
)
def test_two_runs_to_the_third(name: str, accuracy: float, kappa: float):
    x, rows = windows()
    folds = [fold for fold in within_subject(rows) if rows[fold.test[0]].run in ("12", "012")]
    assert len(folds) == 12
    scores = cross_validate(MAKE[name], x, rows, folds, name=name)
    assert mean(scores, "accuracy") == pytest.approx(accuracy, abs=0.01)
    assert mean(scores, "kappa") == pytest.approx(kappa, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "raw", "aligned"),
    [("CSP", 0.517, 0.594), ("TS", 0.606, 0.633), ("MDM", 0.522, 0.600)],
)
def test_leaving_one_person_out(name: str, raw: float, aligned: float):
    x, rows = windows()
    folds = leave_one_out(rows, "subject")
    scores = cross_validate(MAKE[name], x, rows, folds, name=name)
    assert mean(scores, "accuracy") == pytest.approx(raw, abs=0.01)
    scores = cross_validate(MAKE[name], x, rows, folds, name=name, align="offline")
    assert mean(scores, "accuracy") == pytest.approx(aligned, abs=0.01)


@pytest.mark.parametrize(
    ("name", "auroc", "accuracy"), [("CSP", 0.992, 0.956), ("TS", 0.994, 0.956)]
)
def test_hands_against_feet(name: str, auroc: float, accuracy: float):
    x, rows = windows(("both_hands", "feet"), ("6", "10", "14"), ("1",))
    scores = cross_validate(MAKE[name], x, rows, within_subject(rows), name=name)
    assert mean(scores, "auroc") == pytest.approx(auroc, abs=0.01)
    assert mean(scores, "accuracy") == pytest.approx(accuracy, abs=0.01)


def test_the_run_alone_separates_rest_from_rest():
    x, rows = windows(("rest",), ("4", "6", "8", "12"), ("1",))
    own = np.array([int(row.run or 0) == 6 for row in rows]).astype(int)
    p = np.zeros(len(x))
    order = np.concatenate([np.flatnonzero(own == side) for side in (0, 1)])
    for fold in range(5):  # contiguous fifths of either side
        test = np.concatenate(
            [np.array_split(np.flatnonzero(own == side), 5)[fold] for side in (0, 1)]
        )
        train = np.setdiff1d(order, test)
        p[test] = tangent_lr().fit(x[train], own[train]).predict_proba(x[test])[:, 1]
    pairs = p[own == 1][:, None] - p[own == 0]
    assert float((pairs > 0).mean()) == pytest.approx(0.94, abs=0.01)


def test_a_fold_of_the_benchmark_is_that_of_cross_validation():
    x, rows = windows()
    fold: Split = within_subject(rows)[0]
    one = predict_fold(csp_lda(), x, rows, fold, name="CSP")
    other = cross_validate(csp_lda, x, rows, [fold], name="CSP")
    np.testing.assert_allclose(one.probability, other.probability)
