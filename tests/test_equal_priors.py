"""Rare classes are decided as if they were as frequent as the others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from neurofm import metrics
from neurofm.cards import build
from neurofm.evaluate import EqualPriors


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def decoder() -> BaseEstimator:
    return make_pipeline(FunctionTransformer(flat), LinearDiscriminantAnalysis())


def windows(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes, one window in ten of the second."""
    generator = np.random.default_rng(seed)
    y = (np.arange(2000) % 10 == 0).astype(int)
    x = generator.normal(size=(2000, 2, 1))
    x[y == 1, 0] += 1.5
    return x, y


def test_threshold_moves_and_order_stays() -> None:
    x, y = windows()
    judged, truth = windows(1)
    plain, equal = decoder().fit(x, y), EqualPriors(decoder()).fit(x, y)
    before, after = plain.predict_proba(judged), equal.predict_proba(judged)
    assert metrics.auroc(truth, after) == pytest.approx(metrics.auroc(truth, before))
    assert metrics.balanced_accuracy(truth, plain.predict(judged)) < 0.65
    # The best possible threshold lies half way between two classes 1.5 deviations apart.
    assert metrics.balanced_accuracy(truth, equal.predict(judged)) == pytest.approx(0.773, abs=0.02)
    np.testing.assert_allclose(after.sum(1), 1)


def test_equally_frequent_classes_change_nothing() -> None:
    x, _ = windows()
    y = np.arange(2000) % 2
    x[y == 1, 0] += 1
    expected = decoder().fit(x, y).predict_proba(x)
    np.testing.assert_allclose(EqualPriors(decoder()).fit(x, y).predict_proba(x), expected)


class Told(BaseEstimator):
    """Remembers what it was told."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, x: np.ndarray, y: np.ndarray, *, sfreq: float | None = None) -> Told:
        self.sfreq_ = sfreq
        return self


def test_rate_and_seed_reach_the_estimator() -> None:
    x, y = windows()
    made = clone(EqualPriors(Told(), seed=7)).fit(x, y, sfreq=128.0, names=["a", "b"])
    assert (made.estimator_.seed, made.estimator_.sfreq_) == (7, 128.0)
    assert made.estimator.seed == 0


def test_card_may_nest_an_estimator() -> None:
    inner = {"class_path": "neurofm.evaluate.samples_lda", "init_args": {"every": 1}}
    spec = {"class_path": "neurofm.evaluate.EqualPriors", "init_args": {"estimator": inner}}
    x = np.random.default_rng(0).normal(size=(60, 2, 16))
    y = np.arange(60) % 3
    assert build(spec).fit(x, y).predict_proba(x).shape == (60, 3)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="3 windows of the class"):
        EqualPriors(decoder()).fit(np.zeros((3, 1, 1)), np.zeros(3))
