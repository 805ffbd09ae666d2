"""Banded and kernel ridge through himalaya, and ridge in context."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from neurofm.linear import BandedRidge, KernelRidge, VoxelwiseRidge, in_context_ridge

himalaya = pytest.importorskip("himalaya")
RUNS = np.repeat(np.arange(4), 30)


@pytest.fixture(scope="module")
def problem() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A small space of small numbers, and a large one of large numbers."""
    rng = np.random.default_rng(0)
    spaces = {
        "small": 0.1 * rng.normal(size=(120, 6)) + 3,
        "large": 50 * rng.normal(size=(120, 60)),
    }
    signal = [spaces["small"][:, 0] * 10, spaces["large"][:, 0] / 50, np.zeros(120)]
    y = np.stack(signal, 1) + 0.3 * rng.normal(size=(120, 3)) + 7
    return spaces, np.c_[y, np.full(120, 2.0)]


@pytest.mark.parametrize("solver", ["primal", "kernel"])
def test_each_space_gets_the_voxels_that_it_explains(problem, solver):
    spaces, y = problem
    model = BandedRidge(n_iter=15, solver=solver).fit(spaces, y, RUNS)
    parts = model.contributions(spaces, y)
    assert parts["small"][0] > 0.8 > 10 * abs(parts["large"][0])
    assert parts["large"][1] > 0.8 > 10 * abs(parts["small"][1])
    made = model.predict(spaces)
    r2 = 1 - ((y - made) ** 2).sum(0)[:3] / ((y - y.mean(0)) ** 2).sum(0)[:3]
    np.testing.assert_allclose((parts["small"] + parts["large"])[:3], r2, atol=1e-8)
    assert np.isnan(model.cv_score[3])
    np.testing.assert_allclose(made[:, 3], 2.0)
    # One penalty for both does worse: the small space drowns.
    plain = VoxelwiseRidge().fit(np.concatenate(list(spaces.values()), 1), y, RUNS)
    assert model.cv_score[0] > plain.cv_score[0]


def test_both_solvers_agree(problem):
    spaces, y = problem
    primal, kernel = (
        BandedRidge(n_iter=4, solver=solver).fit(spaces, y[:, :3], RUNS)
        for solver in ("primal", "kernel")
    )
    np.testing.assert_allclose(primal.predict(spaces), kernel.predict(spaces), atol=1e-5)


def test_the_backend_of_the_user_is_put_back(problem):
    from himalaya.backend import get_backend

    before = get_backend()
    KernelRidge("linear").fit(problem[0]["small"], problem[1], RUNS)
    assert get_backend() is before


def test_a_linear_kernel_is_ridge_and_another_kernel_learns_what_is_not_linear(problem):
    spaces, y = problem
    x = spaces["small"]
    linear = KernelRidge("linear").fit(x, y[:, :1], RUNS)
    ours = VoxelwiseRidge(linear.penalty[:1]).fit(x, y[:, :1], RUNS)
    np.testing.assert_allclose(linear.predict(x), ours.predict(x), atol=1e-6)
    rng = np.random.default_rng(1)
    z = rng.normal(size=(120, 2))
    bent = (z[:, :1] * z[:, 1:]) + 0.1 * rng.normal(size=(120, 1))
    assert KernelRidge("linear").fit(z, bent, RUNS).cv_score[0] < 0.1
    assert KernelRidge("rbf").fit(z, bent, RUNS).cv_score[0] > 0.5


def test_a_missing_library_is_named_with_its_extra(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "himalaya", None)
    with pytest.raises(ImportError, match=r"neurofm\[encoding\]"):
        BandedRidge().fit(*problem)


def test_faults_of_spaces_are_named(problem):
    spaces, y = problem
    broken = {**spaces, "small": spaces["small"].copy()}
    broken["small"][4, 2] = np.nan
    with pytest.raises(ValueError, match=r"space 'small': NaN.*feature 2"):
        BandedRidge().fit(broken, y)
    with pytest.raises(ValueError, match="use VoxelwiseRidge"):
        BandedRidge().fit({"small": spaces["small"]}, y)
    model = BandedRidge(n_iter=1, penalties=[1.0]).fit(spaces, y[:, :3])
    with pytest.raises(ValueError, match="fitted on"):
        model.predict({"small": spaces["small"]})
    with pytest.raises(ValueError, match="'svd' is not"):
        BandedRidge(solver="svd")
    with pytest.raises(ValueError, match=r"of 4 voxels \(first: voxel 1\)"):
        BandedRidge().fit(spaces, np.where(np.arange(4) == 1, np.nan, y))


def test_ridge_in_context_is_the_mean_of_folds_with_a_penalised_bias():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(23, 5)), rng.normal(size=(23, 3)) + 4
    found = in_context_ridge(x, y, penalties=[0.5], folds=5)
    ones = np.c_[x, np.ones(23)]
    solutions = []
    for fold in range(5):
        train = np.delete(np.arange(23), range(4 * fold, 4 * fold + 4))
        inner = ones[train].T @ ones[train] + 0.5 * np.eye(6)
        solutions.append(np.linalg.solve(inner, ones[train].T @ y[train]))
    np.testing.assert_allclose(found.weights, np.mean(solutions, 0).T)
    np.testing.assert_allclose(found.predict(x), ones @ np.mean(solutions, 0))


def test_ridge_in_context_refuses_what_it_cannot_fit():
    x, y = np.ones((9, 3)), np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(ValueError, match="9 stimuli in 5 folds"):
        in_context_ridge(x, y)
    with pytest.raises(ValueError, match="the same stimuli"):
        in_context_ridge(x[1:], y)
    with pytest.raises(ValueError, match="positive numbers"):
        in_context_ridge(x, y, penalties=[0.0], folds=3)
    with pytest.raises(ValueError, match="y holds NaN"):
        in_context_ridge(x, np.where(y == y[0, 0], np.nan, y), folds=3)
    constant = in_context_ridge(x, np.c_[y, np.ones(9)], folds=3)
    assert np.isnan(constant.score).tolist() == [False, False, True]
