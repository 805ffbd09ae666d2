"""Dimensions, alignment, dichotomies, arrangement, trajectories and information of layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from torch import nn

from neurofm.interpret import similarity as s


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_participation_ratio_counts_equal_directions(rng: np.random.Generator) -> None:
    x = rng.normal(size=(20000, 4)) @ np.eye(4, 9)
    assert s.participation_ratio(x) == pytest.approx(4, rel=0.01)
    assert s.participation_ratio(x[:6]) <= 4
    few = x[:5]  # fewer samples than columns: the other product
    values = np.linalg.eigvalsh(np.cov(few.T))
    assert s.participation_ratio(few) == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert np.isnan(s.participation_ratio(np.ones((5, 3))))


@pytest.mark.parametrize("dim", [1, 3])
def test_two_neighbours_find_the_dimension_of_a_curved_surface(dim: int) -> None:
    rng = np.random.default_rng(1)
    z = rng.uniform(size=(600, dim))
    x = np.hstack([np.sin(2 * z), np.cos(2 * z), z**2]) @ rng.normal(size=(3 * dim, 20))
    assert s.intrinsic_dimension(x) == pytest.approx(dim, rel=0.2)


def test_copies_are_left_out_with_a_warning(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 2))
    with pytest.warns(UserWarning, match="3 of 53 samples are copies"):
        again = s.intrinsic_dimension(np.vstack([x, x[:3]]))
    assert again == pytest.approx(s.intrinsic_dimension(x))
    with pytest.raises(ValueError, match="1 distinct samples"), pytest.warns(UserWarning):
        s.intrinsic_dimension(np.ones((9, 2)))


def test_layers_that_follow_labels_are_told_from_those_that_follow_inputs() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(["a", "b", "c"], 40)
    inputs = rng.normal(size=(120, 10))
    lazy = inputs @ rng.normal(size=(10, 30))
    rich = np.eye(3)[np.unique(labels, return_inverse=True)[1]] @ rng.normal(size=(3, 30))
    early, late = (
        s.describe_geometry(x, labels=labels, inputs=inputs) for x in (lazy, rich + 0.01 * lazy)
    )
    assert early.follows_labels < 0.3 < 3 < late.follows_labels
    assert early.spectrum.sum() == pytest.approx(1)
    assert "n = 120" in early.plot().axes[0].get_title(loc="left")
    assert s.target_alignment(np.eye(3)[[0, 0, 1, 1, 2, 2]], [0, 0, 1, 1, 2, 2]) == pytest.approx(1)
    with pytest.raises(ValueError, match="one class"):
        s.target_alignment(lazy, ["a"] * 120)


def factors(rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
    code = np.tile(np.arange(8), 12)
    bits = (code[:, None] >> np.arange(3)) & 1
    x = (2.0 * bits - 1) @ rng.normal(size=(3, 15))
    return x + noise * rng.normal(size=x.shape), code


def test_factors_generalise_and_their_mixtures_do_not(rng: np.random.Generator) -> None:
    x, code = factors(rng, 0.3)
    found = s.dichotomies(x, code)
    assert found.sides.shape == (35, 8)
    along = [
        i
        for i, side in enumerate(found.sides)
        if any((side == (((np.arange(8) >> k) & 1) == 0)).all() for k in range(3))
    ]
    assert len(along) == 3
    assert (found.generalisation[along] > 0.95).all()
    assert (found.decoding[along] > 0.95).all()
    assert np.delete(found.generalisation, along).max() < 0.9
    assert found.names()[along[0]].split()[0] == "0"
    assert found.plot().axes[0].get_xlabel() == "decoding (accuracy)"


def test_random_patterns_shatter_but_do_not_generalise(rng: np.random.Generator) -> None:
    code = np.tile(np.arange(8), 12)
    x = rng.normal(size=(8, 60))[code] + 0.2 * rng.normal(size=(96, 60))
    found = s.dichotomies(x, code)
    assert found.shattering > 0.98
    assert found.ccgp == pytest.approx(0.5, abs=0.15)
    noise = s.dichotomies(rng.normal(size=(96, 10)), code)
    assert noise.shattering == pytest.approx(0.5, abs=0.1)
    drawn = s.dichotomies(rng.normal(size=(90, 5)), np.tile(np.arange(18), 5), n_drawn=9)
    assert len(drawn.sides) == 9
    assert (drawn.sides.sum(1) == 9).all()


def test_conditions_that_cannot_be_split_are_refused(rng: np.random.Generator) -> None:
    x, code = factors(rng, 0.3)
    with pytest.raises(ValueError, match="7 conditions; balanced"):
        s.dichotomies(x[code < 7], code[code < 7])
    with pytest.raises(ValueError, match="condition '3' has 2 samples for 5 folds"):
        keep = (code != 3) | (np.arange(96) < 16)
        s.dichotomies(x[keep], code[keep])


def test_points_of_a_plane_are_put_back(rng: np.random.Generator) -> None:
    points = rng.normal(size=(9, 2))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    found = s.arrange(distances, groups=["x"] * 9)
    again = np.linalg.norm(found.position[:, None] - found.position, axis=-1)
    np.testing.assert_allclose(again, distances, atol=1e-9)
    assert found.stress < 1e-9
    assert found.negative < 1e-9
    distances[0, 1] = distances[1, 0] = np.nan
    with pytest.raises(ValueError, match="symmetric"):
        s.arrange(distances + np.triu(np.ones((9, 9))))


def test_a_straight_path_does_not_turn_and_a_walk_turns_by_a_right_angle() -> None:
    rng = np.random.default_rng(0)
    step = rng.normal(size=(1, 12, 50))
    line = np.cumsum(np.repeat(step, 5, 0), 0)
    straight = s.describe_trajectory(line)
    assert straight.cosine == pytest.approx(1)
    assert straight.turning_angle == pytest.approx(0, abs=1e-6)
    assert straight.velocity == pytest.approx(np.linalg.norm(step, axis=-1).repeat(4, 0))
    assert straight.unit_correlation == pytest.approx(1)
    walk = s.describe_trajectory(np.cumsum(rng.normal(size=(6, 40, 300)), 0), names=list("abcdef"))
    assert walk.means()["turning_angle"] == pytest.approx(np.pi / 2, abs=0.05)
    assert walk.explained.shape == (2,)
    assert len(walk.plot().axes) == 5


def test_standing_still_is_nan_and_left_out_of_means() -> None:
    h = np.random.default_rng(0).normal(size=(3, 4, 5))
    h[1, 0] = h[0, 0]
    found = s.describe_trajectory(torch.from_numpy(h))
    assert np.isnan(found.turning_angle[0, 0])
    assert np.isfinite(found.means()["turning_angle"]).all()
    with pytest.raises(ValueError, match="two layers or more"):
        s.describe_trajectory(h[:1])
    with pytest.raises(ValueError, match="2 names for 3 layers"):
        s.describe_trajectory(h, names=["a", "b"])
    h[0, 1, 0] = np.inf
    with pytest.raises(ValueError, match="1 of 4 samples hold NaN"):
        s.describe_trajectory(h)


def test_a_push_comes_back_in_a_contracting_network_and_grows_in_another() -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    for gain in (0.5, 1.0, 1.5):
        network = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(4)))
        for layer in network:
            turn = torch.from_numpy(ortho_group.rvs(8, random_state=1)).float()
            layer.weight.data = gain * turn
        found = s.push(network, ["0", "1", "3"], run=lambda n=network: n(x))
        expected = np.array([1, gain, gain**3])[:, None] * np.ones(6)
        np.testing.assert_allclose(found.distance, expected, rtol=1e-3)
        assert not network[0]._forward_hooks
    assert "push at 0" in found.plot().axes[0].get_title(loc="left")
    path = np.random.default_rng(0).normal(size=(3, 4, 2))
    assert s.distance_from_path(path + 1, path) == pytest.approx(1)
    with pytest.raises(ValueError, match="no push"):
        s.distance_from_path(path, path)


def test_information_of_a_known_code_in_bits(rng: np.random.Generator) -> None:
    y = np.tile(np.arange(4), 64)
    code = np.stack([y % 2, y // 2], 1) + 0.01 * rng.uniform(size=(256, 2))
    found = s.binned_information(code, y, bins=2)
    assert found.input_bits == pytest.approx(2)
    assert found.label_bits == pytest.approx(2)
    assert found.entropy_of_labels == 2
    assert found.chance_bits < 0.1
    half = s.binned_information(code[:, :1], y, bins=2)
    assert half.label_bits == pytest.approx(1)
    kernels = s.kde_information(np.round(code), y)
    assert kernels.input_bits == pytest.approx(2)
    assert kernels.label_bits == pytest.approx(2)
    many = s.binned_information(rng.normal(size=(256, 20)), y)
    assert many.saturated
    assert many.label_bits == pytest.approx(many.chance_bits)
    plane = s.information_plane({"a": code, "b": code[:, :1]}, y, bins=2)
    assert plane.layers["b"] == half
    assert plane.plot().axes[0].get_xlabel() == "I(X;T) (bits)"


def test_kernel_information_equals_its_definition_and_ignores_scale() -> None:
    rng = np.random.default_rng(4)
    t, y = rng.normal(size=(40, 3)), np.repeat([0, 1], 20)

    def bound(t: np.ndarray) -> float:
        squared = ((t[:, None] - t) ** 2).sum(-1)
        return -np.log2(np.exp(-squared / (2 * sigma**2)).mean(1)).mean()

    sigma = 0.2 * np.abs(t).max()
    found = s.kde_information(t, y, noise_ratio=0.2)
    assert found.input_bits == pytest.approx(bound(t))
    assert found.label_bits == pytest.approx(bound(t) - (bound(t[:20]) + bound(t[20:])) / 2)
    scaled = s.kde_information(7 * t, y, noise_ratio=0.2)
    assert scaled.label_bits == pytest.approx(found.label_bits)
    with pytest.raises(ValueError, match="noise of 0"):
        s.kde_information(np.zeros((5, 2)), [0, 0, 1, 1, 1])


@pytest.mark.parametrize("at_once", [1, 7 * 40, 40 * 40])
def test_blocks_do_not_change_numbers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    t, y = rng.normal(size=(40, 3)), rng.integers(3, size=40)
    whole, dimension = s.kde_information(t, y), s.intrinsic_dimension(t)
    for module in ("information", "geometry"):
        monkeypatch.setattr(f"neurofm.interpret.similarity.{module}._AT_ONCE", at_once)
    again = s.kde_information(t, y)
    assert again.input_bits == pytest.approx(whole.input_bits, rel=1e-12)
    assert again.label_bits == pytest.approx(whole.label_bits, rel=1e-12)
    assert s.intrinsic_dimension(t) == pytest.approx(dimension, rel=1e-12)


def test_saturated_values_share_a_bin() -> None:
    t = np.concatenate([np.zeros(60), np.linspace(1, 2, 40)])[:, None]
    code = s.discretise(t, s.quantile_edges(t, 10))
    assert len(np.unique(code[:60])) == 1
    assert len(np.unique(code[60:])) == 4
    with pytest.raises(ValueError, match="1 bins"):
        s.uniform_edges(t, 1)
    with pytest.raises(ValueError, match="'equal'"):
        s.binned_information(t, np.zeros(100), rule="equal")
    with pytest.raises(ValueError, match="3 labels for 100"):
        s.kde_information(t, [1, 2, 3])
    with pytest.raises(ValueError, match="NaN"):
        s.uniform_edges(np.full((3, 1), np.nan), 4)
