"""SPDNet on recentred covariances: what recentring removes, mirror images, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_dbconformer import make_batch, pad, rhythms

from neurofm.batch import Batch
from neurofm.evaluate import SPDNetClassifier
from neurofm.evaluate.spdnet_classifier import recentred

HANDS = ["left_hand", "right_hand"]
NAMES = ("C3", "C5", "FC3", "C4", "C6", "FC4")


def small(**changes: Any) -> SPDNetClassifier:
    arguments = {"widths": (4,), "networks": 1, "steps": 20, "lr": 1e-2, "dropout": 0.0}
    return SPDNetClassifier(**arguments | changes)


def people(n: int, seed: int, *, first: int = 0) -> Batch:
    """A rhythm over one hand area or the other, by class; every recording has gains of its own."""
    batch = replace(rhythms(n, seed), names=NAMES)
    recording = first + torch.arange(n) % 3
    gains = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(seed)).exp()
    return replace(batch, x=gains[recording - first] * batch.x, recording=recording)


def test_the_mean_of_every_recording_is_the_identity() -> None:
    batch = people(30, 0)
    matrix = recentred(batch, 0.02)
    for recording in range(3):
        mean = matrix[batch.recording == recording].mean(0)
        torch.testing.assert_close(mean, torch.eye(6), atol=1e-5, rtol=1e-4)


def test_loudness_does_not_matter_and_mixing_only_turns_the_matrices() -> None:
    batch = people(30, 0)
    matrix = recentred(batch, 0.0)
    louder = replace(batch, x=batch.x * (1.0 + batch.recording)[:, None, None])
    torch.testing.assert_close(recentred(louder, 0.0), matrix, atol=1e-5, rtol=1e-4)
    mixed = replace(batch, x=torch.randn(6, 6) @ batch.x)
    values = torch.linalg.eigvalsh(recentred(mixed, 0.0))
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix), atol=1e-3, rtol=1e-3)


def test_new_recordings_are_decoded_without_their_labels() -> None:
    train, test = people(90, 1), people(90, 2, first=3)
    fitted = small(networks=2).fit(train, train.y.numpy())
    probability = fitted.predict_proba(replace(test, y=None))
    np.testing.assert_allclose(probability.sum(1), 1.0)
    assert (probability.argmax(1) == test.y.numpy()).mean() > 0.9
    assert fitted.predict(test).tolist() == probability.argmax(1).tolist()
    assert fitted.parameters == 2 * (6 * 4 + 10 + 1)


def test_with_all_channels_and_no_steps_the_seed_changes_nothing() -> None:
    train, test = people(60, 1), people(60, 2, first=3)
    fitted = [small(widths=None, steps=0, seed=seed).fit(train, train.y.numpy()) for seed in (0, 1)]
    first, second = (each.predict_proba(test) for each in fitted)
    np.testing.assert_allclose(first, second, atol=1e-3)
    assert (first.argmax(1) == test.y.numpy()).mean() > 0.9


def test_shuffled_labels_stay_at_chance() -> None:
    train, test = people(60, 1), people(120, 2, first=3)
    shuffled = [np.random.default_rng(i).permutation(train.y.numpy()) for i in range(8)]
    found = [small(classes=HANDS, steps=5).fit(train, y).predict(test) for y in shuffled]
    assert 0.35 < (np.array(found) == test.y.numpy()).mean() < 0.65


def test_the_seed_decides_and_leaves_other_random_numbers_alone() -> None:
    train = people(30, 1)
    first = small(dropout=0.5).fit(train, train.y.numpy()).predict_proba(train)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again = small(dropout=0.5).fit(train, train.y.numpy()).predict_proba(train)
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(again, first)
    other = small(dropout=0.5, seed=1).fit(train, train.y.numpy()).predict_proba(train)
    assert np.abs(other - first).max() > 1e-4


def test_mirror_images_of_one_class_teach_the_other() -> None:
    train, test = replace(rhythms(60, 1), names=NAMES), replace(rhythms(90, 2), names=NAMES)
    y = train.y.numpy()
    keep = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:1]])
    few = train._map(lambda tensor: tensor[keep])
    fitted = small(classes=HANDS).fit(few, few.y.numpy())
    assert (fitted.predict(test) == test.y.numpy()).mean() > 0.9


def test_a_mirror_image_of_a_class_without_windows_is_left_out() -> None:
    train = replace(rhythms(60, 1), names=NAMES)
    y = train.y.numpy()
    fitted = small(classes=["left_hand", "feet", "right_hand"]).fit(train, y)  # no right hand
    assert (fitted.predict(train) == y).mean() > 0.9


def test_a_window_recentred_by_itself_says_nothing() -> None:
    train = people(30, 1)
    fitted = small().fit(train, train.y.numpy())
    with pytest.raises(ValueError, match=r"one window only of the recordings \[0\]"):
        fitted.predict(train._map(lambda tensor: tensor[:1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(30, 6, 1)}, "windows of 1 samples"),
        ({"x": torch.zeros(30, 6, 101)}, r"recording 0 is singular \(flat channels"),
        ({"names": ("C3", "C5", "FC3", "C4", "C6", "Oz")}, "FC3 of 6 channels have no partner"),
    ],
)
def test_windows_that_cannot_be_used_are_refused(change: dict[str, Any], message: str) -> None:
    batch = people(30, 0)
    with pytest.raises(ValueError, match=message):
        small(classes=HANDS).fit(replace(batch, **change), batch.y.numpy())


def test_padding_and_one_class_are_refused() -> None:
    batch = make_batch(4)
    with pytest.raises(ValueError, match="the same channels in all"):
        small().fit(pad(batch, 0.0), batch.y.numpy())
    with pytest.raises(ValueError, match=r"all 4 windows are of class \[1\]"):
        small().fit(batch, np.ones(4, dtype=int))
