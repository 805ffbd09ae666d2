"""Weights of classes and of hard windows in the training loss of `Decode`."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neurofm.models import BraindecodeModel
from neurofm.tasks import Decode


def task(**changes: object) -> Decode:
    model = BraindecodeModel("EEGNet", n_channels=2, n_times=128, sfreq=64.0)
    return Decode(model, **{"n_outputs": 2, "label_smoothing": 0.0} | changes)


@pytest.fixture
def scores() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(20, 2, generator=generator), (torch.arange(20) % 4 == 0).long()


def test_without_weights_it_is_the_cross_entropy(scores):
    plain = task(label_smoothing=0.1)._training_loss(*scores)
    torch.testing.assert_close(plain, F.cross_entropy(*scores, label_smoothing=0.1))


def test_the_published_focal_loss(scores):
    logits, y = scores
    probability = logits.softmax(1)[:, 1]
    p = torch.where(y == 1, probability, 1 - probability)
    alpha = torch.where(y == 1, 0.8, 0.2)
    expected = (-alpha * (1 - p) ** 0.7 * p.log()).mean()
    found = task(class_weights=[0.2, 0.8], focusing=0.7)._training_loss(logits, y)
    torch.testing.assert_close(found, expected)


def test_windows_decoded_already_stop_pulling(scores):
    logits = torch.tensor([[6.0, -6.0], [0.0, 0.0]], requires_grad=True)
    y = torch.zeros(2, dtype=torch.long)
    share = {}
    for focusing in (0.0, 2.0):
        (gradient,) = torch.autograd.grad(task(focusing=focusing)._training_loss(logits, y), logits)
        share[focusing] = float(gradient[0].norm() / gradient[1].norm())
    assert share[2.0] < 1e-3 * share[0.0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"focusing": -1.0}, "focusing is -1"),
        ({"class_weights": [1.0]}, "expected 2 numbers"),
        ({"class_weights": [0.0, 0.0]}, "not all 0"),
        ({"class_weights": [-1.0, 1.0]}, "0 or more"),
    ],
)
def test_weights_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        task(**changes)
