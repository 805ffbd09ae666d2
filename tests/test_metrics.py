"""Metrics against scikit-learn and against values known by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference

from neurofm import metrics


@pytest.fixture
def labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 80)
    return y, np.where(rng.random(80) < 0.6, y, rng.integers(0, 3, 80))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("accuracy", reference.accuracy_score),
        ("balanced_accuracy", reference.balanced_accuracy_score),
        ("cohen_kappa", reference.cohen_kappa_score),
        ("macro_f1", lambda y, p: reference.f1_score(y, p, average="macro", zero_division=0)),
    ],
)
def test_label_metrics_agree_with_scikit_learn(name, other, labels):
    assert getattr(metrics, name)(*labels) == pytest.approx(other(*labels), abs=1e-12)


def test_confusion_counts_true_classes_by_row(labels):
    np.testing.assert_array_equal(metrics.confusion(*labels), reference.confusion_matrix(*labels))
    counts = metrics.confusion(["a", "a"], ["b", "a"], labels=["b", "a", "c"])
    np.testing.assert_array_equal(counts, [[0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_a_class_missing_from_the_given_order_is_an_error():
    with pytest.raises(ValueError, match=r"'feet'.*not in labels"):
        metrics.confusion(["hand", "feet"], ["hand", "hand"], labels=["hand"])


def test_always_guessing_one_class_has_balanced_accuracy_at_chance():
    y = np.array([0] * 30 + [1] * 3)
    assert metrics.balanced_accuracy(y, np.zeros(33, int)) == 0.5
    assert metrics.cohen_kappa(y, np.zeros(33, int)) == 0.0


def test_kappa_of_one_constant_is_not_a_number():
    assert np.isnan(metrics.cohen_kappa([1, 1], [1, 1]))


def test_binary_auroc_agrees_with_scikit_learn_with_ties():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 60)
    score = np.round(rng.normal(size=60) + y, 1)
    expected = reference.roc_auc_score(y, score)
    assert metrics.auroc(y, score) == pytest.approx(expected, abs=1e-12)
    assert metrics.auroc(y, np.stack([-score, score], 1)) == pytest.approx(expected, abs=1e-12)


def test_one_versus_rest_auroc_agrees_with_scikit_learn(labels):
    p = np.random.default_rng(2).dirichlet(np.ones(3), 80)
    expected = reference.roc_auc_score(labels[0], p, multi_class="ovr")
    assert metrics.auroc(labels[0], p) == pytest.approx(expected, abs=1e-12)


def test_auroc_of_a_constant_score_is_a_half_and_of_one_class_undefined():
    assert metrics.auroc([0, 1, 1], np.zeros(3)) == 0.5
    assert np.isnan(metrics.auroc([1, 1], np.array([0.1, 0.2])))


def test_auroc_refuses_scores_that_are_not_numbers():
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        metrics.auroc([0, 1], np.array([0.1, np.nan]))


def test_log_loss_agrees_with_scikit_learn(labels):
    p = np.random.default_rng(3).dirichlet(np.ones(3), 80)
    expected = reference.log_loss(labels[0], p)
    assert metrics.log_loss(labels[0], p) == pytest.approx(expected, abs=1e-9)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="softmax"):
        metrics.log_loss([0, 1], np.array([[2.0, 1.0], [0.0, 3.0]]))


def test_calibration_error_is_small_for_honest_and_large_for_overconfident_scores():
    rng = np.random.default_rng(4)
    p = rng.uniform(0, 1, 20_000)
    y = (rng.random(20_000) < p).astype(int)
    assert metrics.expected_calibration_error(y, np.stack([1 - p, p], 1)) < 0.02
    # Sure every time and right every second time: the gap is a half.
    sure = np.tile([0.0, 1.0], (1000, 1))
    assert metrics.expected_calibration_error(np.arange(1000) % 2, sure) == pytest.approx(0.5)


def test_pearson_r_agrees_with_numpy_and_is_undefined_for_a_constant():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 3, 50))
    y[2] = 7.0
    r = metrics.pearson_r(x, y)
    assert r[0] == pytest.approx(np.corrcoef(x[0], y[0])[0, 1])
    assert np.isnan(r[2])


def test_band_error_finds_the_band_that_a_reconstruction_lost():
    time = np.arange(0, 8, 1 / 256)
    alpha, beta = np.sin(2 * np.pi * 10 * time), 0.5 * np.sin(2 * np.pi * 20 * time)
    x = (alpha + beta)[None]
    result = metrics.band_error(x, alpha[None], 256.0)
    assert result["alpha"]["explained"] == pytest.approx(1.0, abs=1e-3)
    assert result["beta"]["explained"] == pytest.approx(0.0, abs=1e-3)
    assert result["beta"]["power_ratio"] == pytest.approx(0.0, abs=1e-3)


def test_band_error_tells_a_shifted_phase_from_a_lost_band():
    time = np.arange(0, 8, 1 / 256)
    x, shifted = np.sin(2 * np.pi * 10 * time)[None], np.cos(2 * np.pi * 10 * time)[None]
    alpha = metrics.band_error(x, shifted, 256.0)["alpha"]
    assert alpha["power_ratio"] == pytest.approx(1.0, abs=1e-2)
    assert alpha["explained"] == pytest.approx(-1.0, abs=2e-2)


def test_band_error_is_undefined_above_half_the_rate():
    x = np.random.default_rng(6).normal(size=(2, 400))
    assert np.isnan(metrics.band_error(x, x, 64.0)["gamma"]["explained"])


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "cohen_kappa", "confusion"])
@pytest.mark.parametrize(
    ("y", "p", "message"), [([0, 1], [0], "shape"), ([], [], "empty"), ([0], [[0.1, 0.9]], "shape")]
)
def test_vectors_that_do_not_fit_are_refused(name, y, p, message):
    with pytest.raises(ValueError, match=message):
        getattr(metrics, name)(y, p)


def test_macro_f1_counts_classes_that_are_only_predicted_or_only_true():
    y, p = [0, 0, 1, 3], [0, 2, 1, 1]
    other = reference.f1_score(y, p, average="macro", zero_division=0)
    assert metrics.macro_f1(y, p) == pytest.approx(other)


@pytest.mark.parametrize("decimals", [1, 8])  # with ties and without
def test_average_precision_agrees_with_scikit_learn(decimals):
    rng = np.random.default_rng(3)
    y, score = rng.integers(0, 2, 60), rng.random(60).round(decimals)
    other = reference.average_precision_score(y, score)
    assert metrics.average_precision(y, score) == pytest.approx(other, abs=1e-12)
    assert metrics.average_precision(y, np.c_[1 - score, score]) == pytest.approx(other, abs=1e-12)


def test_average_precision_over_classes_is_the_mean_against_the_rest():
    rng = np.random.default_rng(4)
    y, score = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    other = reference.average_precision_score(np.eye(3)[y], score, average="macro")
    assert metrics.average_precision(y, score) == pytest.approx(other, abs=1e-12)
    assert np.isnan(metrics.average_precision([1, 1], score[:2]))
    with pytest.raises(ValueError, match="expected window"):
        metrics.average_precision([1, 1], score)


def test_average_precision_of_a_guess_is_the_share_of_the_class():
    assert metrics.average_precision([0, 0, 0, 1], np.full(4, 0.3)) == 0.25


def test_brier_score_is_twice_that_of_one_class_of_two():
    rng = np.random.default_rng(5)
    y, p = rng.integers(0, 2, 50), rng.random(50)
    other = reference.brier_score_loss(y, p)
    assert metrics.brier_score(y, np.c_[1 - p, p]) == pytest.approx(2 * other)


@pytest.mark.parametrize("n_classes", [2, 3, 4, 5])
def test_brier_score_of_a_guess_and_of_a_sure_error(n_classes):
    guess = np.full((1, n_classes), 1 / n_classes)
    assert metrics.brier_score([0], guess) == pytest.approx(1 - 1 / n_classes)
    assert metrics.brier_score([0], np.eye(n_classes)[[1]]) == 2.0


@pytest.mark.parametrize(
    ("accuracy", "n_classes", "trial_s", "expected"),
    [
        (1.0, 2, 1.0, 60.0),
        (1.0, 4, 4.0, 30.0),
        (0.5, 2, 1.0, 0.0),
        (0.1, 2, 1.0, 0.0),  # below chance
        (0.9, 2, 3.0, 20 * (1 + 0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))),
        (0.25, 4, 1.0, 0.0),
        (0.7, 4, 2.0, 30 * (2 + 0.7 * np.log2(0.7) + 0.3 * np.log2(0.1))),
    ],
)
def test_information_transfer_rate_in_closed_form(accuracy, n_classes, trial_s, expected):
    rate = metrics.information_transfer_rate(accuracy, n_classes=n_classes, trial_s=trial_s)
    assert rate == pytest.approx(expected, abs=1e-9)


def test_information_transfer_rate_of_a_confusion_is_its_mutual_information():
    # Wolpaw's formula is the capacity of a channel whose errors fall evenly on the wrong classes.
    n, p = 4, 0.64
    joint = np.full((n, n), (1 - p) / (n - 1) / n)
    np.fill_diagonal(joint, p / n)
    bits = (joint * np.log2(joint * n * n)).sum()
    rate = metrics.information_transfer_rate(p, n_classes=n, trial_s=60.0)
    assert rate == pytest.approx(bits)


@pytest.mark.parametrize(
    ("p", "n", "s"), [(1.1, 2, 1.0), (0.5, 1, 1.0), (0.5, 2, 0.0), (-0.1, 2, 1.0)]
)
def test_impossible_rates_are_refused(p, n, s):
    with pytest.raises(ValueError, match="information_transfer_rate"):
        metrics.information_transfer_rate(p, n_classes=n, trial_s=s)
    undefined = metrics.information_transfer_rate(np.nan, n_classes=2, trial_s=1.0)
    assert np.isnan(undefined)
