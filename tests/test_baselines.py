"""Baselines find what is there, find nothing where nothing is, and never see the test windows."""

from __future__ import annotations

import functools
from dataclasses import replace

import mne
import numpy as np
import pytest

from neurofm.data import Row, Split, leave_one_out
from neurofm.evaluate import (
    BraindecodeClassifier,
    FoldScores,
    compare,
    cross_validate,
    csp_lda,
    per_subject,
    summarize,
    tangent_lr,
    within_subject,
)
from neurofm.io.simulated.synthetic import CHANNELS, SyntheticReader

LABELS = ("left_hand", "right_hand")
MOTOR = ("FC3", "C5", "C3", "C1", "CP3", "FC4", "C6", "C4", "C2", "CP4", "Cz", "Fz", "Pz", "Oz")


def _windows(signals, *, stop: float = 3.5) -> tuple[np.ndarray, list[Row]]:
    """Band-passed windows from half a second after each cue."""
    x, rows = [], []
    for signal in signals:
        with mne.use_log_level("error"):
            data = mne.filter.filter_data(signal.data.astype(float), signal.sfreq, 8, 30)
        n = round((stop - 0.5) * signal.sfreq)
        for event in signal.events:
            if event.label in LABELS:
                first = round((event.onset + 0.5) * signal.sfreq)
                x.append(data[:, first : first + n])
                where = signal.recording
                span = event.onset + 0.5, event.onset + stop
                rows.append(Row(where.subject, None, where.run, where.id, *span, event.label))
    return np.stack(x), rows


@functools.cache
def _simulated(erd: float, subjects: int = 3) -> tuple[np.ndarray, list[Row]]:
    reader = SyntheticReader(dataset="sim", subjects=subjects, runs=3, sfreq=80.0, erd=erd, weak=())
    x, rows = _windows([reader.load(recording) for recording in reader.recordings()])
    return x[:, [CHANNELS.index(name) for name in MOTOR]], rows


def _scores(probability: list[float], y: list[int], subject: list[str], name="m") -> FoldScores:
    p, n = np.array(probability), len(y)
    return FoldScores(
        name=name,
        y_true=np.array(y),
        probability=np.stack([1 - p, p], 1),
        subject=tuple(subject),
        fold=np.arange(n) % 2,
        window=np.arange(n),
    )


@pytest.mark.parametrize("make", [csp_lda, tangent_lr])
def test_a_strong_effect_is_decoded(make):
    x, rows = _simulated(0.9)
    scores = cross_validate(make, x, rows, within_subject(rows), name="strong")
    result = summarize(scores, "auroc")
    assert result.value > 0.85
    assert result.n == 3


@pytest.mark.parametrize("make", [csp_lda, tangent_lr])
def test_without_an_effect_the_score_is_chance(make):
    x, rows = _simulated(0.0, 4)
    scores = cross_validate(make, x, rows, within_subject(rows), name="nothing")
    result = summarize(scores, "accuracy", n_permutations=100)
    assert abs(result.value - 0.5) < 0.1  # 180 windows: standard error 0.037
    assert result.detail["p"] > 0.02


def test_csp_patterns_peak_over_the_planted_hemispheres():
    reader = SyntheticReader(dataset="sim", subjects=1, runs=3, sfreq=80.0, erd=0.95, weak=())
    x, rows = _windows([reader.load(recording) for recording in reader.recordings()])
    pipeline = csp_lda().fit(x, np.array([row.label for row in rows]))
    patterns = np.abs(pipeline.pipeline_["csp"].patterns_[:2])
    near = {"left": {"FC3", "C5", "C3", "C1", "CP3"}, "right": {"FC4", "C6", "C4", "C2", "CP4"}}
    peaks = {CHANNELS[i] for i in patterns.argmax(1)}
    assert peaks <= near["left"] | near["right"]
    assert peaks & set(MOTOR)


def test_subject_alignment_helps_when_subjects_mix_their_channels_differently():
    x, rows = _simulated(0.9)
    rng = np.random.default_rng(0)
    mixing = {row.subject: np.eye(14) + 0.5 * rng.normal(size=(14, 14)) for row in rows}
    mixed = np.stack([mixing[row.subject] @ window for row, window in zip(rows, x, strict=True)])
    folds = leave_one_out(rows, "subject")
    raw = cross_validate(csp_lda, mixed, rows, folds, name="raw")
    aligned = cross_validate(csp_lda, mixed, rows, folds, name="aligned", align="offline")
    assert aligned.align == "offline"
    assert summarize(aligned, "auroc").value >= summarize(raw, "auroc").value


def test_training_alignment_never_looks_at_test_windows():
    x, rows = _simulated(0.9)
    folds = within_subject(rows)[:1]
    spoiled = x.copy()
    spoiled[list(folds[0].test)[1:]] *= 100.0
    scores = [
        cross_validate(tangent_lr, data, rows, folds, name="one", align="train")
        for data in (x, spoiled)
    ]
    np.testing.assert_allclose(scores[0].probability[0], scores[1].probability[0])


def test_small_network_learns_a_strong_effect_and_repeats_itself():
    x, rows = _simulated(0.9)
    folds = leave_one_out(rows, "run")[:1]
    make = functools.partial(
        BraindecodeClassifier, sfreq=80.0, max_epochs=25, arguments={"kernel_length": 32}
    )
    scores = cross_validate(make, x, rows, folds, name="EEGNet")
    assert summarize(scores, "auroc").value > 0.75
    few = slice(0, 20)
    y = np.array([row.label for row in rows])
    once, again = (make(max_epochs=2).fit(x[few], y[few]).predict_proba(x[few]) for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_small_network_refuses_one_class():
    x, _ = _simulated(0.9)
    with pytest.raises(ValueError, match=r"labels \{'left_hand': 10\}"):
        BraindecodeClassifier().fit(x[:10], np.repeat("left_hand", 10))


def test_folds_within_subjects_train_on_the_same_subject_only():
    _, rows = _simulated(0.9)
    folds = within_subject(rows)
    assert len(folds) == 9
    for fold in folds:
        assert len({rows[i].subject for i in (*fold.train, *fold.test)}) == 1
        assert not {rows[i].run for i in fold.train} & {rows[i].run for i in fold.test}


def test_a_subject_with_one_run_cannot_be_held_out_from_itself():
    with pytest.raises(ValueError, match=r"subject a has the runs \['1'\]"):
        within_subject([Row("a", None, "1", "a_1", 0.0, 3.0, "left_hand")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (0, 1, 2), "test": (2, 3)}, "tests windows it trains on"),
        ({"train": (0,), "test": (1,)}, "one class only"),
    ],
)
def test_folds_that_cannot_be_scored_are_refused(change, message):
    x, rows = _simulated(0.9)
    fold = Split(validate=(), name="bad", **change)
    with pytest.raises(ValueError, match=message):
        cross_validate(tangent_lr, x, rows, [fold], name="bad")


def test_windows_without_labels_are_refused():
    x, rows = _simulated(0.9)
    rows = [replace(rows[0], label=None), *rows[1:]]
    with pytest.raises(ValueError, match="1 of 135 windows have no label"):
        cross_validate(tangent_lr, x, rows, leave_one_out(rows[1:], "run"), name="gap")


def test_the_interval_is_over_subjects_and_says_so():
    subjects = [s for s in "abcde" for _ in range(8)]
    y = [0, 1] * 20
    scores = _scores([0.8 if label else 0.2 for label in y], y, subjects)
    result = summarize(scores, "balanced_accuracy")
    assert (result.value, result.low, result.high, result.n, result.chance) == (1, 1, 1, 5, 0.5)
    alone = summarize(_scores([0.8, 0.2, 0.9, 0.1], [1, 0, 1, 0], list("aaaa")), "accuracy")
    assert alone.detail["interval"] == "Wilson over windows"
    assert alone.low == pytest.approx(0.51, abs=0.01)
    assert summarize(_scores([0.8, 0.2], [1, 0], list("aa")), "auroc").low is None


def test_folds_without_a_common_scale_score_higher_one_by_one():
    # The second fold's scores are all higher: each fold is perfect, together they are not.
    scores = _scores([0.1, 0.6, 0.2, 0.7], [0, 0, 1, 1], list("aaaa"))
    assert per_subject(scores, "auroc", folds="averaged") == {"a": 1.0}
    assert per_subject(scores, "auroc") == {"a": 0.75}


def test_a_fold_of_one_class_is_left_out_with_a_warning():
    scores = replace(_scores([0.1, 0.6, 0.2, 0.7], [0, 1, 1, 1], list("aaaa")))
    with pytest.warns(UserWarning, match="undefined for 1 of 2 folds"):
        assert per_subject(scores, "auroc", folds="averaged") == {"a": 1.0}


def test_methods_are_compared_subject_by_subject():
    subjects, y = [s for s in "abcdefgh" for _ in range(4)], [0, 1] * 16
    good = _scores([0.9 if label else 0.1 for label in y], y, subjects, "good")
    guess = _scores([0.6] * 32, y, subjects, "guess")
    (result,) = compare([good], guess, "accuracy")
    assert result.name == "good minus guess"
    assert result.value == pytest.approx(0.5)
    assert result.detail["p"] == pytest.approx(2 / 2**8)
    with pytest.raises(ValueError, match="not the same"):
        compare([replace(good, window=good.window + 1)], guess)


def test_unknown_metric_is_named():
    with pytest.raises(ValueError, match="'f1' is not one of accuracy"):
        per_subject(_scores([0.1, 0.9], [0, 1], ["a", "a"]), "f1")
