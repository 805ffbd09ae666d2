"""Decoding over time: planted moments are found, nothing is found where nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from neurofm.data.rows import Row, Split
from neurofm.evaluate.over_time import (
    at_same_moment,
    clusters_above,
    decode_over_time,
    moments,
)
from neurofm.report.over_time import plot_generalization, plot_over_time
from neurofm.types import OverTime

SFREQ, CHANNELS, TIME = 100.0, 6, 80


def rows_of(people: int, trials: int, classes: int = 2) -> list[Row]:
    return [
        Row(f"s{s}", None, str(run), f"s{s}_run-{run}", 2.0 * t, 2.0 * t + 0.8, f"c{t % classes}")
        for s in range(people)
        for run in (1, 2)
        for t in range(trials)
    ]


def folds_of(rows: list[Row]) -> list[Split]:
    return [
        Split(
            tuple(i for i, row in enumerate(rows) if row.run != run),
            (),
            tuple(i for i, row in enumerate(rows) if row.run == run),
            f"run-{run}",
            "run",
        )
        for run in ("1", "2")
    ]


def noise(rows: list[Row], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(rows), CHANNELS, TIME))


def sign(rows: list[Row]) -> np.ndarray:
    return np.array([1.0 if row.label == "c1" else -1.0 for row in rows])


def test_amplitude_is_found_when_it_is_there() -> None:
    rows = rows_of(8, 24)
    x = noise(rows)
    x[:, 2, 30:50] += 0.7 * sign(rows)[:, None]
    found = decode_over_time(x, rows, folds_of(rows), sfreq=SFREQ, start_s=-0.1)
    assert found.metric == "auroc" and found.chance == 0.5 and len(found.subjects) == 8
    inside = (found.times >= 0.2) & (found.times <= 0.4)
    assert found.mean[inside].min() > 0.75
    assert abs(found.mean[(found.times < 0.1) | (found.times > 0.5)] - 0.5).max() < 0.15
    best = found.clusters[0]
    assert best.p < 0.02 and best.inside[inside].all()
    assert not best.inside[found.times < 0.05].any()


def test_power_is_found_where_amplitude_says_nothing() -> None:
    rows = rows_of(6, 24)
    x = noise(rows)
    x[sign(rows) > 0, 1, 40:] *= 2.5
    power = decode_over_time(
        x, rows, folds_of(rows), sfreq=SFREQ, width_s=0.2, step_s=0.1, features="power"
    )
    amplitude = decode_over_time(x, rows, folds_of(rows), sfreq=SFREQ, width_s=0.2, step_s=0.1)
    late = power.times > 0.5
    assert power.mean[late].min() > 0.9 > 0.65 > amplitude.mean[late].max()


def test_a_pattern_that_stays_generalizes_and_one_that_changes_does_not() -> None:
    rows = rows_of(6, 30)
    stays, changes = noise(rows), noise(rows)
    stays[:, 0, 20:60] += sign(rows)[:, None]
    for channel in range(4):  # each tenth of a second another channel
        changes[:, channel, 20 + 10 * channel : 30 + 10 * channel] += sign(rows)[:, None]
    options = {"sfreq": SFREQ, "width_s": 0.1, "step_s": 0.1, "generalize": True}
    square = decode_over_time(stays, rows, folds_of(rows), **options).mean[2:6, 2:6]
    line = decode_over_time(changes, rows, folds_of(rows), **options).mean[2:6, 2:6]
    off = ~np.eye(4, dtype=bool)
    assert square.min() > 0.9
    assert np.diag(line).min() > 0.9 and abs(line[off] - 0.5).max() < 0.2


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_a_plain_loop(classes: int) -> None:
    rows = rows_of(2, 18, classes)
    x = noise(rows)
    folds = folds_of(rows)
    found = decode_over_time(x, rows, folds, sfreq=SFREQ, width_s=0.2, step_s=0.2, generalize=True)
    y = np.array([int(str(row.label)[1]) for row in rows])
    expected = np.zeros_like(found.scores)
    for fold in folds:
        train, test = np.array(fold.train), np.array(fold.test)
        for i, a in enumerate(moments(TIME, SFREQ, width_s=0.2, step_s=0.2)):
            scale = StandardScaler().fit(x[train][..., a].mean(-1))
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            model.fit(scale.transform(x[train][..., a].mean(-1)), y[train])
            for j, b in enumerate(moments(TIME, SFREQ, width_s=0.2, step_s=0.2)):
                judged = scale.transform(x[test][..., b].mean(-1))
                for s in range(2):
                    own = np.array([rows[k].subject == f"s{s}" for k in test])
                    truth = y[test][own]
                    if classes == 2:
                        score = roc_auc_score(truth, model.decision_function(judged[own]))
                    else:
                        score = balanced_accuracy_score(truth, model.predict(judged[own]))
                    expected[s, i, j] += score / 2
    np.testing.assert_allclose(found.scores, expected, atol=1e-9)


def test_chance_is_seldom_called_a_cluster() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for i in range(60):
        scores = 0.5 + 0.1 * draw.standard_normal((10, 12))
        found = clusters_above(scores, 0.5, n_permutations=200, seed=i)
        hits += bool(found and found[0].p < 0.05)
    assert hits <= 8  # 3 expected; more than 8 has a chance of 0.2 %


def test_few_people_give_no_clusters() -> None:
    assert clusters_above(np.full((4, 5), 0.9), 0.5) == ()
    everybody_alike = clusters_above(np.full((6, 5), 0.9), 0.5, n_permutations=100)
    assert everybody_alike[0].inside.all()


def test_bad_input_is_named() -> None:
    rows = rows_of(2, 6)
    x, folds = noise(rows), folds_of(rows)
    with pytest.raises(ValueError, match="expected one row per window"):
        decode_over_time(x[1:], rows, folds, sfreq=SFREQ)
    with pytest.raises(ValueError, match="expected 1 to 80"):
        decode_over_time(x, rows, folds, sfreq=SFREQ, width_s=2.0)
    broken = x.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        decode_over_time(broken, rows, folds, sfreq=SFREQ)
    flat = x.copy()
    flat[:, 3] = 1.0
    with pytest.raises(ValueError, match=r"channels \[3\] do not change"):
        decode_over_time(flat, rows, folds, sfreq=SFREQ, features="power")
    one = [replace(row, label="c0") if row.run == "1" else row for row in rows]
    with pytest.raises(ValueError, match="lacks a class"):
        decode_over_time(x, one, folds, sfreq=SFREQ)
    leak = Split(folds[0].train, (), (*folds[0].test, folds[0].train[0]), "leak", "run")
    with pytest.raises(ValueError):
        decode_over_time(x, rows, [leak], sfreq=SFREQ)


def test_figures_show_curve_and_square() -> None:
    rows = rows_of(6, 12)
    x = noise(rows)
    x[:, 0, 20:60] += 2 * sign(rows)[:, None]
    line = decode_over_time(x, rows, folds_of(rows), sfreq=SFREQ)
    square = decode_over_time(
        x, rows, folds_of(rows), sfreq=SFREQ, width_s=0.2, step_s=0.1, generalize=True
    )
    curve = plot_over_time({"amplitude": line}, title="When")
    drawn = curve.axes[0].lines[0]
    np.testing.assert_allclose(drawn.get_ydata(), 100 * line.mean)
    assert "s" in curve.axes[0].get_xlabel()
    image = plot_generalization(square, title="From when to when").axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), 100 * square.mean)
    with pytest.raises(ValueError, match="generalize"):
        plot_generalization(line, title="no")


def test_a_score_at_one_moment_is_the_diagonal() -> None:
    rows = rows_of(3, 12)
    options = {"sfreq": SFREQ, "width_s": 0.2, "step_s": 0.2}
    line = decode_over_time(noise(rows), rows, folds_of(rows), **options)
    square = decode_over_time(noise(rows), rows, folds_of(rows), generalize=True, **options)
    assert isinstance(square, OverTime)
    np.testing.assert_allclose(line.scores, square.diagonal)


def test_the_curve_of_a_square_has_bars_of_its_own() -> None:
    rows = rows_of(6, 12)
    x = noise(rows)
    x[:, 0, 20:60] += 2 * sign(rows)[:, None]
    options = {"sfreq": SFREQ, "width_s": 0.2, "step_s": 0.1}
    square = decode_over_time(x, rows, folds_of(rows), generalize=True, **options)
    line = at_same_moment(square)
    np.testing.assert_allclose(line.scores, square.diagonal)
    assert line.clusters[0].inside.shape == line.times.shape and line.clusters[0].p < 0.05
    drawn = [
        len(plot_over_time({"x": each}, title="When").axes[0].lines) for each in (square, line)
    ]
    assert drawn[1] > drawn[0]
