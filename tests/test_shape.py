"""Shape metrics, with and without noise of single trials."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import procrustes as peer_procrustes
from scipy.stats import ortho_group

from neurofm.interpret import similarity as s


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_angle_agrees_with_scipy(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 20, 4))
    _, _, disparity = peer_procrustes(x, y)  # 1 - cos² of the angle
    assert np.sin(s.shape_distance(x, y)) ** 2 == pytest.approx(disparity, abs=1e-12)


@pytest.mark.parametrize("distance", ["angular", "euclidean"])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_distances_are_metrics(distance: str, alpha: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b, c = rng.normal(size=(3, 15, 4)) * rng.gamma(1.0, size=(3, 1, 4))
        ab, bc, ac = (
            s.shape_distance(*pair, distance=distance, alpha=alpha)
            for pair in ((a, b), (b, c), (a, c))
        )
        assert ac <= ab + bc + 1e-12
        assert ab == pytest.approx(s.shape_distance(b, a, distance=distance, alpha=alpha))
        # An angle of zero is known to the root of the rounding error only.
        assert s.shape_distance(a, a, distance=distance, alpha=alpha) < 1e-6


def test_rotation_shift_and_for_angles_scale_do_not_count(rng: np.random.Generator) -> None:
    x = rng.normal(size=(12, 5))
    turned = x @ ortho_group.rvs(5, random_state=1) + 3
    assert s.shape_distance(x, turned, distance="euclidean") < 1e-6
    assert s.shape_distance(x, 9 * turned) < 1e-6
    back = turned @ s.align(x, turned)
    np.testing.assert_allclose(back - back.mean(0), x - x.mean(0), atol=1e-12)


def test_whitened_angle_ignores_any_invertible_map(rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 4))
    mapped = x @ rng.normal(size=(4, 4))
    assert s.shape_distance(x, mapped, alpha=0) < 1e-6
    assert s.shape_distance(x, mapped) > 0.1
    # alpha 0 is the angle whose cosine is the mean canonical correlation.
    y = x + rng.normal(size=x.shape)
    assert np.cos(s.shape_distance(x, y, alpha=0)) == pytest.approx(s.cca(x, y).mean, abs=1e-6)


def test_more_columns_than_samples_and_other_widths(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(8, 50)), rng.normal(size=(8, 3))
    padded = np.hstack([y, np.zeros((8, 47))])
    for alpha in (0.3, 1.0):
        wide = s.shape_distance(x, y, alpha=alpha)
        assert wide == pytest.approx(s.shape_distance(x, padded, alpha=alpha), abs=1e-9)
    a, b = x - x.mean(0), y - y.mean(0)
    cosine = np.linalg.norm(a.T @ b, "nuc") / np.linalg.norm(a) / np.linalg.norm(b)
    assert s.shape_distance(x, y) == pytest.approx(np.arccos(cosine))
    assert s.permutation_distance(x, y) >= s.shape_distance(x, y)


def test_a_planted_order_of_units_is_found(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 7))
    order = rng.permutation(7)
    np.testing.assert_array_equal(s.match_units(x, x[:, order]), np.argsort(order))
    assert s.permutation_distance(x, x[:, order]) < 1e-6
    turned = x @ ortho_group.rvs(7, random_state=2)
    assert s.permutation_distance(x, turned) > 0.3 > s.shape_distance(x, turned)


def test_held_out_distance_is_not_fooled_by_the_fit(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 40, 20))
    assert s.shape_distance(x, y) < 1.2
    assert s.held_out_shape_distance(x, y) == pytest.approx(np.pi / 2, abs=0.15)
    turned = x @ ortho_group.rvs(20, random_state=0)
    assert s.held_out_shape_distance(x, turned, generator=rng) < 1e-6
    with pytest.raises(ValueError, match="whitening 20 columns with 22 samples"):
        s.held_out_shape_distance(x[:22], y[:22], alpha=0.5)


def test_bad_settings_are_refused(rng: np.random.Generator) -> None:
    x = rng.normal(size=(9, 3))
    with pytest.raises(ValueError, match="'manhattan'; known are"):
        s.shape_distance(x, x, distance="manhattan")
    with pytest.raises(ValueError, match="alpha 2"):
        s.shape_distance(x, x, alpha=2)
    assert np.isnan(s.shape_distance(x, np.ones((9, 2))))


Moments = tuple[np.ndarray, np.ndarray]


def moments(rng: np.random.Generator, n: int = 5, p: int = 3) -> Moments:
    root = rng.normal(size=(n, p, p))
    return rng.normal(size=(n, p)), root @ root.swapaxes(1, 2) + 0.1 * np.eye(p)


def turned(of: Moments, rotation: np.ndarray) -> Moments:
    return of[0] @ rotation, rotation.T @ of[1] @ rotation


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 2.0])
def test_a_rotated_network_is_at_no_distance(alpha: float) -> None:
    rng = np.random.default_rng(1)
    x = moments(rng)
    y = turned(x, ortho_group.rvs(3, random_state=4))
    found = s.stochastic_distance(*x, *y, alpha=alpha)
    # Of a root of a difference near zero no more than half of the digits are known.
    assert found.distance < 2e-5 * (1 if alpha == 2 else 50)
    again = s.stochastic_score(*x, *y, rotation=found.rotation, alpha=alpha)
    assert again == pytest.approx(found.distance, abs=1e-6)


def test_alpha_two_is_the_distance_of_means() -> None:
    rng = np.random.default_rng(2)
    x, y = moments(rng), moments(rng)
    x, y = ((m - m.mean(0), c) for m, c in (x, y))
    found = s.stochastic_distance(*x, *y, alpha=2)
    means = s.shape_distance(x[0], y[0], distance="euclidean")
    assert found.distance == pytest.approx(np.sqrt(2 / 5) * means, rel=1e-12)
    assert found.noise == pytest.approx(0)


def test_distance_of_scaled_noise_in_closed_form() -> None:
    covariance = np.tile(np.eye(4), (6, 1, 1))
    means = np.random.default_rng(0).normal(size=(6, 4))
    found = s.stochastic_distance(means, covariance, means, 9 * covariance, alpha=1)
    # Isotropic: B² = p (3 - 1)², and the means stay where they are.
    assert found.distance == pytest.approx(4.0, abs=1e-6)
    assert "alpha 1" in found.plot().axes[0].get_title(loc="left")


def test_no_start_beats_the_distance_and_triangles_hold() -> None:
    rng = np.random.default_rng(5)
    a, b, c = (moments(rng, n=4, p=2) for _ in range(3))
    d = {
        name: s.stochastic_distance(*x, *y, alpha=1.3, n_starts=20)
        for name, x, y in (("ab", a, b), ("bc", b, c), ("ac", a, c), ("ba", b, a))
    }
    assert d["ac"].distance <= d["ab"].distance + d["bc"].distance + 1e-6
    assert d["ab"].distance == pytest.approx(d["ba"].distance, abs=1e-6)
    # A circle of rotations and one of reflections is all there is in two dimensions.
    angles = np.linspace(0, 2 * np.pi, 400)
    circle = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in angles]
    every = [*circle, *(t @ np.diag([1.0, -1.0]) for t in circle)]
    least = min(s.stochastic_score(*a, *b, rotation=t, alpha=1.3) for t in every)
    assert d["ab"].distance <= least + 1e-9
    assert d["ab"].distance == pytest.approx(least, abs=1e-3)


def test_energy_distance_finds_a_rotation(rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 30, 3)) + 3 * rng.normal(size=(6, 1, 3))
    rotation = ortho_group.rvs(3, random_state=7)
    distance, found = s.energy_distance(x, x @ rotation, n_starts=3)
    np.testing.assert_allclose(found, rotation.T, atol=0.02)
    assert distance < 0.3
    assert s.energy_score(x, x @ rotation) > 1


def test_moments_need_more_trials_than_units(rng: np.random.Generator) -> None:
    mean, covariance = s.response_moments(torch.from_numpy(rng.normal(size=(4, 500, 2))))
    assert isinstance(covariance, torch.Tensor)
    np.testing.assert_allclose(covariance, np.tile(np.eye(2), (4, 1, 1)), atol=0.25)
    few = rng.normal(size=(4, 9, 12))
    with pytest.raises(ValueError, match=r"9 trials.*for 12 units.*Use dims=3"):
        s.response_moments(few)
    reduced = s.response_moments(few, dims=3)
    assert reduced[0].shape == (4, 3)
    shifted = s.response_moments(few @ ortho_group.rvs(12, random_state=0) + 5, dims=3)
    assert s.stochastic_distance(*reduced, *shifted).distance < 1e-3
    with pytest.raises(ValueError, match="alpha 3"):
        s.stochastic_score(mean.numpy(), covariance.numpy(), *moments(rng, 4, 2), alpha=3)
    with pytest.raises(ValueError, match="alike on both sides"):
        s.stochastic_distance(*moments(rng, 4, 2), *moments(rng, 4, 3))
