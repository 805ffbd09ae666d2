"""SPDNet: matrix functions and their gradients, invariances, learning, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_dbconformer import make_batch, pad, rhythms
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch, BrainModel, Readout
from neurofm.cards import spec_of
from neurofm.data import Flip, ReflectChannels
from neurofm.models import SPDNet
from neurofm.nn.spd import BiMap, LogEig, ReEig, half, shrunk_covariance
from neurofm.readouts import PooledLinear
from neurofm.tasks import Decode, DecodeViews

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
MIRROR = [[0, 3], [1, 4], [2, 5]]


def small(**changes: Any) -> SPDNet:
    torch.manual_seed(0)
    return SPDNet(**{"n_channels": 6, "widths": (4,), **changes}).eval()


def pooled(model: SPDNet, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch).pooled()


def definite(*sizes: int) -> torch.Tensor:
    root = torch.randn(*sizes, sizes[-1], dtype=torch.float64)
    return root @ root.transpose(-1, -2) + 0.1 * torch.eye(sizes[-1], dtype=torch.float64)


# Layers


def test_the_exponential_undoes_the_logarithm() -> None:
    matrix = definite(3, 5)
    torch.testing.assert_close(torch.linalg.matrix_exp(LogEig()(matrix)), matrix)


@pytest.mark.parametrize("layer", [LogEig(), ReEig(0.5)])
def test_gradients_are_those_of_finite_differences(layer: LogEig | ReEig) -> None:
    matrix = definite(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: layer((m + m.mT) / 2), matrix, atol=1e-4)


def test_equal_eigenvalues_have_a_finite_gradient() -> None:
    matrix = (2 * torch.eye(4)).requires_grad_()
    LogEig()(matrix).diagonal().sum().backward()
    torch.testing.assert_close(matrix.grad, torch.eye(4) / 2)  # of the logarithm at 2


def test_eigenvalues_below_the_floor_are_raised_to_it() -> None:
    matrix = torch.diag(torch.tensor([1e-6, 0.3, 2.0]))
    torch.testing.assert_close(ReEig(0.1)(matrix), torch.diag(torch.tensor([0.1, 0.3, 2.0])))


def test_distances_of_features_are_those_of_matrices() -> None:
    first, second = definite(4), definite(4)
    torch.testing.assert_close(torch.dist(half(first), half(second)), torch.dist(first, second))


def test_mixtures_stay_orthonormal_whatever_is_learned() -> None:
    layer = BiMap(6, 3)
    with torch.no_grad():
        layer.weight.mul_(7.0).add_(torch.rand(6, 3))
    torch.testing.assert_close(layer.mixtures().T @ layer.mixtures(), torch.eye(3))


def test_shrinking_keeps_the_power_and_makes_a_short_window_definite() -> None:
    x = torch.randn(6, 4)
    plain, shrunk = shrunk_covariance(x, 0.0), shrunk_covariance(x, 0.1)
    torch.testing.assert_close(plain, torch.cov(x))
    torch.testing.assert_close(shrunk.trace(), plain.trace())
    assert torch.linalg.eigvalsh(plain)[0] < 1e-5 < torch.linalg.eigvalsh(shrunk)[0]


# Model


def test_all_mixtures_of_white_windows_are_the_logarithm_of_their_covariance() -> None:
    model, batch = small(widths=(6,), shrinkage=0.0), make_batch()
    mixtures = model.layers[0].mixtures()
    rotated = mixtures.T @ LogEig()(torch.stack([torch.cov(x) for x in batch.x])) @ mixtures
    torch.testing.assert_close(pooled(model, batch), half(rotated).detach(), **CLOSE)


def test_mixtures_of_mixtures_make_small_matrices() -> None:
    model = small(widths=(5, 3))
    assert isinstance(model, BrainModel) and isinstance(PooledLinear(model.dim, 2), Readout)
    assert pooled(model, make_batch()).shape == (3, 6) and model.dim == 6


def test_sign_order_of_time_padding_and_batch_size_change_nothing() -> None:
    model, batch = small(), make_batch()
    whole = pooled(model, batch)
    torch.testing.assert_close(pooled(model, Flip()(batch)), whole, **CLOSE)
    backwards = replace(batch, x=batch.x.flip(-1) + 3.0)
    torch.testing.assert_close(pooled(model, backwards), whole, **CLOSE)
    torch.testing.assert_close(pooled(model, pad(batch, float("nan"))), whole, **CLOSE)
    single = [pooled(model, batch._map(lambda t, i=i: t[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(torch.cat(single), whole, **CLOSE)


def test_training_and_decoding_see_the_same_features() -> None:
    model, batch = small(widths=(5, 3)), make_batch()
    torch.testing.assert_close(model.train().encode(batch).pooled().detach(), pooled(model, batch))


class Features(torch.nn.Module):
    def __init__(self, model: SPDNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.features(x)


@pytest.mark.filterwarnings("ignore:.*trace:DeprecationWarning")
def test_a_traced_model_gives_the_same() -> None:
    model, new = small(widths=(5, 3)), torch.randn(2, 6, 101)
    with torch.no_grad():
        traced = torch.jit.trace(Features(model), (make_batch().x,))
        torch.testing.assert_close(traced(new), model.features(new))


def test_save_and_load(tmp_path: Path) -> None:
    model, batch = small(), make_batch()
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(pooled(loaded, batch), pooled(model, batch))
    assert spec_of(loaded) == spec_of(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.randn(3, 6, 1)}, "1 sample has no covariance"),
        ({"x": torch.full((3, 6, 101), torch.nan)}, "NaN"),
    ],
)
def test_windows_without_a_covariance_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().encode(replace(make_batch(), **change))


def test_a_dead_recording_gives_finite_features() -> None:
    batch = make_batch()
    assert pooled(small(), replace(batch, x=torch.zeros_like(batch.x))).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (7,)}, "7 mixtures of 6 rows"),
        ({"widths": ()}, "widths is empty"),
        ({"shrinkage": 1.0}, r"shrinkage 1\.0"),
        ({"n_channels": 5}, "6 channels"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments).encode(make_batch())


# Training


@pytest.mark.parametrize("widths", [(4,), (5, 3)])
def test_a_planted_rhythm_is_learned_and_carries_over_to_new_windows(
    widths: tuple[int, ...],
) -> None:
    model = small(widths=widths)
    before = model.layers[0].mixtures().detach()
    task = Decode(model, n_outputs=2, readout=PooledLinear(model.dim, 2, zero=True)).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    for step in range(30):
        batch = rhythms(24, step)
        loss = F.cross_entropy(task(batch), batch.y)
        if step == 0:
            assert float(loss.detach()) == pytest.approx(0.6931, abs=1e-4)  # knows nothing
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = rhythms(128, 1000)
    with torch.no_grad():
        assert (task.eval()(new).argmax(1) == new.y).float().mean() > 0.9
    assert not torch.allclose(model.layers[0].mixtures(), before, atol=1e-2)


def test_one_hand_teaches_the_other_through_mirror_images() -> None:
    model, views = small(), [ReflectChannels(["left_hand", "right_hand"], pairs=MIRROR)]
    task = DecodeViews(
        model, n_outputs=2, views=views, between_views=0.0, between_networks=0.0
    ).train()
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    for step in range(30):
        batch = rhythms(48, step)
        left = torch.nonzero(batch.y == 0).flatten()
        found = task.losses(batch._map(lambda t, left=left: t[left]))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    assert set(found) == {"loss", "entropy", "accuracy"}  # no contrast
    new = rhythms(128, 1000)
    with torch.no_grad():
        assert (task.eval()(new).argmax(1) == new.y).float().mean() > 0.9
