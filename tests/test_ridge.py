"""Ridge over voxels against scikit-learn, and on responses whose answer was planted."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import KFold

from neurofm.linear import LeaveOneOutRidge, VoxelwiseRidge, make_folds
from neurofm.linear.decomposition import basis, decompose
from neurofm.metrics import pearson_r

GRID = np.logspace(-3, 6, 10)
PRIMAL, MIXED, DUAL = (60, 25), (60, 52), (50, 120)  # in MIXED folds have fewer rows than features


@cache
def problem(n: int, p: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Features of various scale and mean; voxels from clean to nearly noise."""
    rng = np.random.default_rng(n + p)
    x = rng.normal(size=(n, p)) * rng.uniform(0.5, 3, p) + 5 * rng.normal(size=p)
    weights = rng.normal(size=(p, 6)) / np.sqrt(p)
    noise = rng.normal(size=(n, 6)) * [0.1, 0.5, 1, 3, 10, 30]
    return x.astype(dtype), (x @ weights + noise + 100).astype(dtype)


def plain_scores(
    x: np.ndarray, y: np.ndarray, folds: list, *, standardize: bool, score: str
) -> np.ndarray:
    total = []
    for train, test in folds:
        mean, scale = x[train].mean(0), x[train].std(0) if standardize else 1.0
        fits = (Ridge(alpha=a, solver="svd").fit((x[train] - mean) / scale, y[train]) for a in GRID)
        made = np.stack([fit.predict((x[test] - mean) / scale) for fit in fits])
        if score == "r":
            total.append(
                pearson_r(made.swapaxes(1, 2), np.broadcast_to(y[test].T, (10, 6, len(test))))
            )
        else:
            total.append(1 - ((made - y[test]) ** 2).mean(1) / y[test].var(0))
    return np.mean(total, 0)


@pytest.mark.parametrize("shape", [PRIMAL, MIXED, DUAL])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("score", ["r2", "r"])
def test_scores_of_all_penalties_are_those_of_fits_one_by_one(shape, standardize, score):
    x, y = problem(*shape)
    model = VoxelwiseRidge(GRID, score=score, standardize=standardize)
    expected = plain_scores(x, y, list(KFold(5).split(x)), standardize=standardize, score=score)
    np.testing.assert_allclose(model.scores(x, y), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_weights_are_those_of_scikit_learn_at_the_chosen_penalties(shape):
    x, y = problem(*shape)
    model = VoxelwiseRidge(GRID, standardize=False).fit(x, y)
    assert len(np.unique(model.penalty)) > 1
    for voxel, penalty in enumerate(model.penalty):
        fit = Ridge(alpha=penalty, solver="svd").fit(x, y[:, voxel])
        np.testing.assert_allclose(model.coef[:, voxel], fit.coef_, atol=1e-9)
        assert model.intercept[voxel] == pytest.approx(fit.intercept_)
    expected = x @ model.coef + model.intercept
    np.testing.assert_allclose(model.predict(x), expected, atol=1e-9)


def test_standardised_weights_are_of_features_as_given():
    x, y = problem(*DUAL)
    model = VoxelwiseRidge(GRID).fit(x, y)
    z = (x - x.mean(0)) / x.std(0)
    fit = Ridge(alpha=model.penalty[2], solver="svd").fit(z, y[:, 2])
    np.testing.assert_allclose(model.predict(x)[:, 2], fit.predict(z), atol=1e-9)


@pytest.mark.parametrize("shape", [PRIMAL, MIXED, DUAL])
def test_float32_chooses_the_same_penalties_to_five_digits(shape):
    x, y = problem(*shape)
    wide = VoxelwiseRidge(GRID).fit(x, y)
    narrow = VoxelwiseRidge(GRID).fit(x.astype(np.float32), y.astype(np.float32))
    assert narrow.coef.dtype == np.float32
    np.testing.assert_array_equal(narrow.penalty, wide.penalty)
    np.testing.assert_allclose(narrow.cv_score, wide.cv_score, atol=2e-5)
    np.testing.assert_allclose(narrow.coef, wide.coef, atol=1e-4 * np.abs(wide.coef).max())


@pytest.mark.parametrize("shape", [PRIMAL, DUAL])
def test_leave_one_out_is_that_of_scikit_learn(shape):
    x, y = problem(*shape)
    ours = LeaveOneOutRidge(GRID, standardize=False).fit(x, y)
    theirs = RidgeCV(alphas=GRID, alpha_per_target=True).fit(x, y)
    np.testing.assert_array_equal(ours.penalty, theirs.alpha_)
    np.testing.assert_allclose(ours.coef.T, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(ours.cv_score, 1 + theirs.best_score_ / y.var(0), atol=1e-9)
    narrow = LeaveOneOutRidge(GRID, standardize=False)
    table = narrow.scores(x.astype(np.float32), y.astype(np.float32))
    wide = LeaveOneOutRidge(GRID, standardize=False).scores(x, y)
    np.testing.assert_allclose(table, wide, atol=1e-4, rtol=1e-4)


def test_leave_one_out_is_misled_by_neighbours_where_runs_are_not():
    # A slow drift that the features share within a run and not between runs.
    rng = np.random.default_rng(0)
    runs = np.repeat(np.arange(6), 40)
    drift = np.cumsum(rng.normal(size=(6, 40, 30)), 1).reshape(240, 30)
    y = np.cumsum(rng.normal(size=(6, 40, 8)), 1).reshape(240, 8)
    held = VoxelwiseRidge(GRID, folds=None).fit(drift, y, runs)
    single = LeaveOneOutRidge(GRID).fit(drift, y)
    assert np.median(held.penalty) > 30 * np.median(single.penalty)
    assert np.median(held.cv_score) < 0.1 < np.median(single.cv_score)
    with pytest.raises(ValueError, match="Use VoxelwiseRidge to hold out runs"):
        single.fit(drift, y, runs)


def test_himalaya_chooses_the_same_penalties_and_weights():
    ridge = pytest.importorskip("himalaya.ridge")
    scoring = pytest.importorskip("himalaya.scoring")
    for shape in (PRIMAL, DUAL):
        x, y = problem(*shape)
        options = {"score_func": scoring.r2_score, "warn": False}
        theirs = ridge.RidgeCV(alphas=GRID, fit_intercept=True, solver_params=options).fit(x, y)
        ours = VoxelwiseRidge(GRID, standardize=False).fit(x, y)
        np.testing.assert_allclose(ours.penalty, theirs.best_alphas_)
        np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-8)


def test_few_penalties_stand_for_many_to_the_bound():
    x, _ = problem(*DUAL)
    import torch

    found = decompose(torch.from_numpy(x), standardize=True)
    grid = torch.logspace(0, 6, 60, dtype=torch.float64)
    reach = found.values
    chosen = basis(found.values, grid, reach, tolerance=1e-6)
    assert len(chosen.members) < 20
    table = (reach / (found.values + grid[:, None])).numpy() / chosen.size[:, None]
    rebuilt = chosen.mix @ table[chosen.members]
    assert np.linalg.norm(rebuilt - table, axis=1).max() < 1.01e-6


def test_planted_weights_are_found_and_noise_gets_the_strongest_penalty():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 20))
    weights = rng.normal(size=(20, 3))
    y = np.c_[x @ weights + 0.1 * rng.normal(size=(400, 3)), rng.normal(size=400)]
    model = VoxelwiseRidge().fit(x, y)
    np.testing.assert_allclose(model.coef[:, :3], weights, atol=0.03)
    assert model.cv_score[:3].min() > 0.99
    assert model.penalty[3] >= 1e3
    assert abs(model.cv_score[3]) < 0.05


def test_runs_are_never_divided_and_folds_are_balanced():
    runs = np.repeat(list("abcdef"), [10, 30, 10, 10, 20, 20])
    folds = make_folds(100, 3, groups=runs)
    assert len(folds) == 3
    for train, test in folds:
        assert not set(runs[train]) & set(runs[test])
        assert 20 <= len(test) <= 50
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(100))
    assert len(make_folds(100, None, groups=runs)) == 6


def test_folds_without_groups_are_those_of_scikit_learn():
    for (a, b), (c, d) in zip(make_folds(23, 5), KFold(5).split(np.zeros(23)), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
