"""Brain models as scikit-learn classifiers: its own checks, pipelines, units, MNE's Epochs."""

from __future__ import annotations

import pickle
from typing import Any

import mne
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from neurofm.batch import Batch, Embedding
from neurofm.evaluate import ModelClassifier
from neurofm.evaluate.window_input import WindowInput
from neurofm.models import BraindecodeModel

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
NAMES = ["C3", "Cz", "C4"]
EEGNET = {
    "class_path": "neurofm.models.BraindecodeModel",
    "init_args": {"name": "ShallowFBCSPNet", "arguments": {"n_filters_time": 4}},
}


class Means(nn.Module):
    """The first moments of each channel as one token: takes windows of any length."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.dim = dim
        self.calls: list[int] = []

    def encode(self, batch: Batch) -> Embedding:
        flat = batch.x.flatten(1)[:, : self.dim]
        flat = torch.nn.functional.pad(flat, (0, self.dim - flat.shape[1]))
        mask = torch.ones(len(batch), 1, dtype=torch.bool)
        return Embedding(flat.unsqueeze(1), mask)


def windows(
    n: int = 24, *, seed: int = 0, time: int = 100, scale: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """µV at 100 Hz; in windows of "right" a rhythm of 12 Hz is stronger in the first channel."""
    generator = np.random.default_rng(seed)
    x = 10 * generator.standard_normal((n, 3, time))
    y = np.array(["left", "right"] * (n // 2))
    phase = generator.uniform(0, 2 * np.pi, (n, 1))
    rhythm = 30 * np.sin(2 * np.pi * 12 * np.arange(time) / 100 + phase)
    x[:, 0] += rhythm * (y == "right")[:, None]
    return scale * x, y


def classifier(**changes: Any) -> ModelClassifier:
    arguments: dict[str, Any] = {"model": EEGNET, "sfreq": 100.0, "channels": NAMES}
    return ModelClassifier(**arguments | {"steps": 40, "lr": 3e-3} | changes)


# scikit-learn's checks


class Flat(ModelClassifier):
    """The same estimator on tables, which most of scikit-learn's checks use: one channel."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags

    def _batch(self, X: Any, *, reset: bool) -> Batch:
        from sklearn.utils.validation import validate_data

        X = validate_data(self, X, reset=reset, dtype="numeric")
        about = WindowInput(self.sfreq, None, "eeg", "z", None)
        return about.batch(np.asarray(X)[:, None])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_all_that_scikit_learn_checks_of_estimators_holds() -> None:
    flat = Flat(Means(), sfreq=100.0, unit="z", steps=60, lr=0.1)
    found = check_estimator(flat, on_fail=None, on_skip=None)
    wrong = {i["check_name"]: str(i["exception"]) for i in found if i["status"] == "failed"}
    assert wrong == {}
    assert sum(item["status"] == "passed" for item in found) > 40


@pytest.mark.parametrize(
    "check",
    [
        checks.check_estimators_unfitted,
        checks.check_estimators_overwrite_params,
        checks.check_estimators_pickle,
        checks.check_estimators_nan_inf,
        checks.check_n_features_in_after_fitting,
        checks.check_classifiers_one_label,
        checks.check_methods_subset_invariance,
        checks.check_dict_unchanged,
        checks.check_get_params_invariance,
        checks.check_set_params,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learns_checks_of_conduct_hold(check: Any) -> None:
    check("Flat", Flat(Means(), sfreq=100.0, unit="z", steps=2, lr=0.1))


# As scikit-learn uses it


def test_it_works_in_a_pipeline_under_cross_validation_and_beats_chance() -> None:
    x, y = windows()
    halves = make_pipeline(FunctionTransformer(np.negative), classifier())
    assert cross_val_score(halves, x, y, cv=2).mean() > 0.8
    shuffled = np.random.default_rng(0).permutation(y)
    assert cross_val_score(halves, x, shuffled, cv=2).mean() < 0.75


def test_a_grid_search_takes_its_arguments() -> None:
    x, y = windows(16)
    search = GridSearchCV(classifier(steps=10), {"lr": [0.0, 3e-3]}, cv=2).fit(x, y)
    assert search.best_estimator_.lr == search.best_params_["lr"]


def test_the_seed_decides_every_number_and_nobody_elses() -> None:
    x, y = windows(12)
    before = torch.get_rng_state()
    first = classifier(steps=5).fit(x, y).predict_proba(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert np.array_equal(classifier(steps=5).fit(x, y).predict_proba(x), first)
    assert not np.array_equal(classifier(steps=5, seed=1).fit(x, y).predict_proba(x), first)


def test_a_fitted_one_can_be_pickled_and_a_clone_is_unfitted() -> None:
    x, y = windows(12)
    fitted = classifier(steps=5).fit(x, y)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))
    assert list(again.classes_) == ["left", "right"]
    assert set(again.predict(x)) <= {"left", "right"}
    assert 0 <= again.score(x, y) <= 1
    with pytest.raises(NotFittedError):
        clone(fitted).predict(x)


def test_a_model_in_hand_is_copied() -> None:
    x, y = windows(8)
    own = BraindecodeModel("ShallowFBCSPNet", n_channels=3, n_times=100, sfreq=100.0)
    before = {key: value.clone() for key, value in own.state_dict().items()}
    fitted = classifier(model=own, steps=3).fit(x, y)
    assert all(torch.equal(before[key], value) for key, value in own.state_dict().items())
    trained = fitted.model_.state_dict()
    assert any(not torch.equal(before[key], trained[key]) for key in before)


def test_a_readout_gets_its_sizes_and_the_model_may_rest() -> None:
    x, y = windows(8)
    frozen = {
        "class_path": "neurofm.tasks.adaptations.Partial",
        "init_args": {"train": ["*bnorm*"]},
    }
    readout = {"class_path": "neurofm.readouts.PooledLinear", "init_args": {"dropout": 0.5}}
    fitted = classifier(steps=2, readout=readout, adapt=frozen).fit(x, y)
    assert fitted.readout_.dropout.p == 0.5
    assert fitted.readout_.n_outputs == 2
    learned = {
        name.rsplit(".", 1)[0] for name, p in fitted.model_.named_parameters() if p.grad is not None
    }
    assert learned == {"network.bnorm"}


# Units, channels, MNE


def epochs(x: np.ndarray, y: np.ndarray) -> mne.EpochsArray:
    info = mne.create_info(NAMES, 100.0, "eeg")
    events = np.c_[100 * np.arange(len(x)), np.zeros(len(x), int), (y == "right") + 1]
    return mne.EpochsArray(1e-6 * x, info, events, verbose="ERROR")


def test_volts_microvolts_and_epochs_are_the_same_windows() -> None:
    x, y = windows(12)
    plain = classifier(steps=5).fit(x, y).predict_proba(x)
    volts = classifier(steps=5, unit="V").fit(1e-6 * x, y).predict_proba(1e-6 * x)
    np.testing.assert_allclose(volts, plain, atol=1e-4)
    made = epochs(x, y)
    for rate in (None, 100.0):
        by_mne = ModelClassifier(EEGNET, sfreq=rate, steps=5, lr=3e-3).fit(made, y)
        np.testing.assert_allclose(by_mne.predict_proba(made), plain, atol=1e-4)


def test_cross_validation_draws_from_epochs() -> None:
    x, y = windows(12)
    scores = cross_val_score(ModelClassifier(EEGNET, steps=20, lr=3e-3), epochs(x, y), y, cv=2)
    assert scores.mean() > 0.5


def test_a_batch_says_names_places_kinds_and_unit() -> None:
    x, _ = windows(4)
    batch = WindowInput(100.0, NAMES).batch(x)
    assert batch.names == tuple(NAMES)
    assert bool(batch.has_position.all())
    assert batch.unit == "physical"
    unnamed = WindowInput(100.0, unit="z").batch(0.1 * x)
    assert unnamed.names is None and not bool(unnamed.has_position.any())
    assert unnamed.unit == "z"
    mixed = WindowInput(100.0, NAMES, kinds=["eeg", "eog", "eeg"]).batch(x)
    assert mixed.kind[0].tolist() == [0, 7, 0]
    assert WindowInput(100.0, kinds="mag", unit="fT").batch(100 * x).x.shape == (4, 3, 100)


@pytest.mark.parametrize(
    ("about", "change", "message"),
    [
        ({}, lambda x: 1e-6 * x, "typical amplitude.*argument `unit`, now 'uV': 'V' for arrays"),
        ({"unit": "V"}, lambda x: x, "argument `unit`, now 'V'"),
        ({"unit": "furlong"}, lambda x: x, "unit 'furlong' is not one of"),
        ({}, lambda x: x[0], r"shape \(3, 100\); expected \(window, channel, time\)"),
        ({"sfreq": None}, lambda x: x, "need their rate in Hz"),
        ({"channels": ["C3"]}, lambda x: x, "windows of 3 channels, 1 names"),
        ({"kinds": "brain"}, lambda x: x, r"unknown: \['brain'\]"),
        ({}, lambda x: np.where(x > 20, np.nan, x), "window 0 holds NaN or infinity in channel C"),
        ({"adapt": "LoRA"}, lambda x: x, "adapt is 'LoRA'; expected a mapping such as"),
        ({}, lambda x: x[:, :, :20], "does not work for 3 channels and 20 samples"),
    ],
)
def test_windows_that_are_not_what_was_said_are_refused(about, change, message) -> None:
    x, y = windows(8)
    with pytest.raises(ValueError, match=message):
        classifier(**{"steps": 1} | about).fit(change(x), y)


def test_windows_to_predict_are_compared_with_those_of_training() -> None:
    x, y = windows(8)
    fitted = classifier(steps=1).fit(x, y)
    with pytest.raises(ValueError, match="2 channels, 3 names"):
        fitted.predict(x[:, :2])
    with pytest.raises(ValueError, match="argument `unit`"):
        fitted.predict(1e-6 * x)
    with pytest.raises(ValueError, match="200 samples, expected 100"):
        fitted.predict(np.concatenate([x, x], 2))
    scaled = classifier(steps=1, unit="z").fit(x, y)
    with pytest.raises(ValueError, match="EEG channels of the windows have an amplitude of"):
        scaled.predict(1e-6 * x)
    with pytest.raises(ValueError, match=r"Epochs of 100 Hz, sfreq is 128 Hz"):
        ModelClassifier(EEGNET, sfreq=128.0).fit(epochs(x, y), y)
    with pytest.raises(ValueError, match="give standardized windows as an array"):
        ModelClassifier(EEGNET, unit="z").fit(epochs(x, y), y)
