"""Probes find what was planted, and nothing where nothing is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from neurofm.interpret.activations import Activations
from neurofm.interpret.probing import (
    concept_depth,
    control_labels,
    depth_under,
    f_statistic,
    fit_sparse,
    linear_probe,
    mean_difference,
    noisy,
    plot_depths,
    probe_layers,
    quantised,
    rank_units,
    ridge_predictions,
    ridge_weights,
    signal_baselines,
    sparse_probe,
)

GROUPS = np.repeat(np.arange(6), 20)
FEW = (0.1, 1.0, 10.0)


def said(words: str) -> str:
    """A wrong shape is a TypeCheckError where types are checked at run time."""
    return f"{words}|Type-check error"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def y(rng: np.random.Generator) -> np.ndarray:
    return rng.permuted(np.tile(np.repeat([0, 1], 10), (6, 1)), axis=1).ravel()


def planted(y: np.ndarray, rng: np.random.Generator, *, size: float = 2.0) -> np.ndarray:
    x = rng.normal(size=(len(y), 12))
    x[:, 3] += size * y
    return x


# Ridge


@pytest.mark.parametrize("shape", [(30, 8), (10, 25)], ids=["primal", "dual"])
def test_ridge_is_that_of_scikit_learn(shape, rng: np.random.Generator) -> None:
    x, y, new = (
        rng.normal(size=shape),
        rng.normal(size=(shape[0], 3)),
        rng.normal(size=(5, shape[1])),
    )
    peer = Ridge(alpha=2.5).fit(x, y)
    np.testing.assert_allclose(ridge_weights(x, y, penalty=2.5), peer.coef_.T, atol=1e-10)
    made = ridge_predictions(x, y, new, penalties=[0.5, 2.5])
    np.testing.assert_allclose(made[1], peer.predict(new), atol=1e-9)
    tensors = ridge_predictions(*(torch.from_numpy(v) for v in (x, y, new)), penalties=[2.5])
    np.testing.assert_allclose(tensors[0].numpy(), made[1])


# Linear probes


def test_a_planted_concept_is_read_and_selective(y, rng: np.random.Generator) -> None:
    probe = linear_probe(
        planted(y, rng),
        y,
        groups=GROUPS,
        penalties=(1.0,),
        controls=2,
        baselines={"noise": rng.normal(size=(len(y), 5))},
    )
    assert probe.score > 0.75
    assert probe.low < probe.score < probe.high
    assert abs(probe.control - 0.5) < 0.12
    assert probe.selectivity > 0.15
    assert abs(probe.baselines["noise"] - 0.5) < 0.15
    assert len(probe.folds) == 6
    assert "chance 0.500" in probe.summary()


def test_penalties_are_chosen_inside_the_training_groups(y, rng) -> None:
    x = np.column_stack([planted(y, rng, size=3.0), 30 * rng.normal(size=(len(y), 60))])
    chosen = {"metric": "auroc", "folds": 3, "controls": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an edge of the grid is best
        probe = linear_probe(x, y, groups=GROUPS, penalties=(1e-6, 1e-2, 0.1, 1e6), **chosen)
    each = [
        linear_probe(x, y, groups=GROUPS, penalties=(c,), **chosen).folds
        for c in (1e-6, 1e-2, 0.1, 1e6)
    ]
    for fold, (score, c) in enumerate(zip(probe.folds, probe.penalties, strict=True)):
        assert score == each[(1e-6, 1e-2, 0.1, 1e6).index(c)][fold]
    assert not np.isin(probe.penalties, [1e6]).all()


def test_identity_of_a_group_is_no_concept(rng: np.random.Generator) -> None:
    # Each group has its own offset and one label: a split over windows would score 1.
    groups = np.repeat(np.arange(12), 6)
    x = 5 * rng.normal(size=(12, 8))[groups] + 0.1 * rng.normal(size=(72, 8))
    labels = rng.permutation(np.repeat([0, 1], 6))[groups]
    with pytest.raises(ValueError, match="every group has one label"):
        linear_probe(x, labels, groups=groups, penalties=(1.0,))
    assert linear_probe(x, labels, groups=groups, penalties=(1.0,), folds=2).score < 0.85
    windows = np.arange(72) % 6  # a fold of every sixth window: everybody on both sides
    assert linear_probe(x, labels, groups=windows, penalties=(1.0,)).score > 0.95


def test_regression_is_scored_by_target(rng: np.random.Generator) -> None:
    x = rng.normal(size=(120, 200))
    target = np.column_stack([4 * x[:, :2].sum(1) + x[:, 2], rng.normal(size=120)])
    target[:, 0] += 40 * x[:, 0]
    probe = linear_probe(x, target, groups=GROUPS, metric="r2", penalties=(0.1, 1.0, 10.0))
    assert probe.per_target is not None
    assert probe.per_target[0] > probe.per_target[1] + 0.1
    assert probe.chance == 0


def test_many_features_are_rotated_without_changing_the_probe(y, rng) -> None:
    x = planted(y, rng, size=1.0)
    wide = np.tile(x, 20)  # the same after scaling by the root of the number
    a = linear_probe(x, y, groups=GROUPS, penalties=(1.0,), controls=0, metric="auroc")
    b = linear_probe(wide, y, groups=GROUPS, penalties=(1.0,), controls=0, metric="auroc")
    np.testing.assert_allclose(a.folds, b.folds, atol=1e-6)
    assert np.isnan(a.control)


def test_control_labels_stay_in_their_group_or_move_with_it(y, rng) -> None:
    shuffled = control_labels(y, GROUPS, rng=rng)
    assert (shuffled != y).any()
    for g in range(6):
        assert sorted(shuffled[g == GROUPS]) == sorted(y[g == GROUPS])
    dealt = control_labels(GROUPS % 2, GROUPS, rng=np.random.default_rng(1))
    assert all(len(set(dealt[g == GROUPS])) == 1 for g in range(6))
    assert sorted(dealt) == sorted(GROUPS % 2)


def test_a_penalty_at_the_edge_of_its_grid_is_said(y, rng) -> None:
    with pytest.warns(UserWarning, match="widen the grid"):
        linear_probe(planted(y, rng), y, groups=GROUPS, penalties=(1e-9, 2e-9, 3e-9), folds=3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.zeros(120)}, "two classes"),
        ({"groups": np.zeros(120)}, "1 group"),
        ({"x": np.full((120, 3), np.nan)}, "features.: 120 of 120 windows hold NaN"),
        ({"x": np.zeros((10, 3))}, "window feature"),
        ({"metric": "accuracy"}, "balanced_accuracy"),
    ],
)
def test_bad_input_of_a_probe_says_what_is_wrong(change, words, y, rng) -> None:
    given = {"x": planted(y, rng), "y": y, "groups": GROUPS, "penalties": FEW} | change
    with pytest.raises(Exception, match=said(words)):
        linear_probe(given.pop("x"), given.pop("y"), **given)
    with pytest.raises(ValueError, match="positive"):
        ridge_weights(np.eye(3), np.eye(3), penalty=0)


# Sparse probes


@pytest.mark.parametrize("by", ["mean_difference", "f", "mutual_information", "l1"])
def test_every_ranking_puts_the_planted_unit_first(by, y, rng) -> None:
    x = planted(y, rng)
    x[:, 5] -= 1.2 * y
    assert rank_units(x, y, by=by)[:2].tolist() == [3, 5]


def test_a_concept_in_one_unit_beats_its_rotation_and_a_spread_one_does_not(y, rng) -> None:
    x = planted(y, rng, size=2.5)
    alone = sparse_probe(x, y, groups=GROUPS, ks=(1, 4, 12), rotations=2, rng=rng)
    assert alone.score[0].mean() > 0.8
    assert alone.advantage[0] > 0.15
    assert abs(alone.advantage[-1]) < 0.1
    assert alone.units[1][0] == 3
    spread = rng.normal(size=x.shape) + 0.8 * np.outer(y - 0.5, rng.choice([-1, 1], 12))
    assert sparse_probe(spread, y, groups=GROUPS, ks=(1,), rng=rng).advantage[0] < 0.12


def test_ranking_and_fitting_on_the_same_windows_flatters() -> None:
    # On noise, held-out scores are at chance either way; what was chosen looks good on its own.
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 400)), np.tile([0, 1], 30)
    best = rank_units(x, y)[:1]
    fit = fit_sparse(x, y, best)
    assert (fit.predict(x) == y).mean() > 0.65
    groups = np.repeat(np.arange(6), 10)
    found = sparse_probe(x, y, groups=groups, ks=(1, 8), rotations=0)
    assert abs(found.score.mean() - 0.5) < 0.12
    assert np.isnan(found.rotated).all()


def test_several_classes_are_probed_one_against_the_rest(rng: np.random.Generator) -> None:
    y = np.tile(["a", "b", "c"], 40)
    x = rng.normal(size=(120, 6))
    for k, name in enumerate("abc"):
        x[:, k] += 3 * (y == name)
    found = sparse_probe(x, y, groups=GROUPS, ks=(1,), rotations=0)
    assert found.score.mean() > 0.85
    assert [int(found.units[name][0]) for name in "abc"] == [0, 1, 2]


def test_f_and_means_of_a_constant_unit_are_left_out(y, rng) -> None:
    x = planted(y, rng)
    x[:, 0] = 7.0
    f, p = f_statistic(x, y)
    assert np.isnan([f[0], p[0]]).all()
    assert f.size - np.isnan(f).sum() == 11
    assert mean_difference(x, y)[0] == 0
    assert rank_units(x, y, by="f")[-1] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": np.zeros(120)}, "two classes"),
        ({"ks": (0, 1)}, "from 1"),
        ({"ks": (64,)}, "all exceed 12"),
        ({"by": "depth"}, "expected mean_difference"),
        ({"x": np.full((120, 12), np.inf)}, "120 of 120 windows hold NaN"),
    ],
)
def test_bad_input_of_a_sparse_probe_says_what_is_wrong(change, words, y, rng) -> None:
    given = {"x": planted(y, rng), "y": y, "groups": GROUPS} | change
    with pytest.raises(Exception, match=said(words)):
        sparse_probe(given.pop("x"), given.pop("y"), **given)
    with pytest.raises(ValueError, match="3 classes; expected two"):
        mean_difference(np.eye(3), np.arange(3))


# Depth


def test_depth_is_where_the_score_first_reaches_its_share() -> None:
    found = concept_depth([0.5, 0.6, 0.9, 1.0, 0.96], chance=0.5, share=0.8)
    assert (found.reached, found.converged, found.best) == (2, 2, 3)
    assert found.depth == pytest.approx((1 + (0.4 - 0.1) / 0.3) / 4)
    assert found.at([0.125, 1.0]) == pytest.approx([0.55, 0.96])
    dip = concept_depth([0.9, 0.5, 1.0])
    assert (dip.reached, dip.converged) == (2, 2)
    assert concept_depth([1.0, 1.0]).depth == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: concept_depth([0.4, 0.45], chance=0.5), "the concept is nowhere"),
        (lambda: concept_depth([0.4]), "two layers"),
        (lambda: concept_depth([0.4, np.nan]), "all known"),
        (lambda: concept_depth([0.4, 0.5], share=0), "above 0"),
        (lambda: quantised(np.ones((2, 2)), bits=0), "at least one"),
    ],
)
def test_bad_input_of_depth_says_what_is_wrong(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_noise_moves_depth_and_fine_rounding_does_not(y, rng) -> None:
    layers = {f"blocks.{i}": planted(y, rng, size=1.0 * i) for i in range(4)}

    def score(x: np.ndarray) -> float:
        return linear_probe(x, y, groups=GROUPS, penalties=(1.0,), folds=3, controls=0).score

    found = depth_under(
        layers,
        score,
        {"8 bits": lambda x: quantised(x, bits=8), "noise": lambda x: noisy(x, share=3, rng=rng)},
        chance=0.5,
    )
    np.testing.assert_allclose(found["8 bits"].scores, found["intact"].scores, atol=0.05)
    assert found["noise"].scores[-1] < found["intact"].scores[-1] - 0.1
    assert len(np.unique(quantised(layers["blocks.0"], bits=2))) == 4
    assert plot_depths(found).axes[0].get_xlabel()


# Layers


def test_layers_are_probed_beside_an_untrained_network_and_the_signal(y, rng) -> None:
    layers = {"a": rng.normal(size=(120, 3, 4)), "b": planted(y, rng)[:, None].repeat(3, 1)}
    untrained = Activations({"a": rng.normal(size=(120, 3, 4)), "b": rng.normal(size=(120, 3, 4))})
    own = Activations(layers, subject=GROUPS.tolist())
    signal = rng.normal(size=(120, 2, 64)) * np.where(y, 1.5, 1.0)[:, None, None]
    found = probe_layers(
        own,
        y,
        untrained=untrained,
        signal=signal_baselines(signal, 128.0, bands={"beta": (13.0, 30.0)}),
        penalties=(1.0,),
    )
    assert found.layers["b"].score > 0.75 > found.layers["a"].score
    assert abs(found.layers["b"].baselines["untrained network"] - 0.5) < 0.15
    assert found.signal["covariance"].score > 0.7
    assert found.depth().reached == 1
    assert found.summary().count("\n") == 3
    with pytest.raises(ValueError, match="no subjects"):
        probe_layers(Activations(layers), y)
    with pytest.raises(ValueError, match="has no 'b'"):
        probe_layers(own, y, untrained=Activations({"a": layers["a"]}))


def test_probes_draw_themselves(y, rng) -> None:
    probe = linear_probe(planted(y, rng), y, groups=GROUPS, penalties=(1.0,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparse = sparse_probe(planted(y, rng), y, groups=GROUPS, ks=(1, 4))
        assert probe.plot().axes[0].get_ylabel() == "balanced accuracy"
        assert sparse.plot().axes[0].get_xlabel() == "units used (k)"
        assert concept_depth([0.1, 0.5, 0.6]).plot().axes[0].get_xlabel()
