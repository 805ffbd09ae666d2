"""Ridge over voxels: memory, faults, responses with more axes."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.linear import LeaveOneOutRidge, TokenwiseRidge, VoxelwiseRidge, cross_validated


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 12)).astype(np.float32)
    y = x @ rng.normal(size=(12, 70)) + rng.normal(size=(40, 70))
    return x, y.astype(np.float32)


def test_blocks_of_any_size_give_the_same(problem):
    whole, parts = VoxelwiseRidge(), VoxelwiseRidge(max_bytes=1)
    np.testing.assert_array_equal(whole.fit(*problem).penalty, parts.fit(*problem).penalty)
    np.testing.assert_allclose(whole.coef, parts.coef, atol=1e-6)
    np.testing.assert_allclose(whole.predict(problem[0]), parts.predict(problem[0]), atol=1e-5)


@pytest.mark.parametrize("estimator", [VoxelwiseRidge, LeaveOneOutRidge])
def test_responses_and_weights_may_be_memory_maps(problem, tmp_path, estimator):
    x, y = problem
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "y.npy", mmap_mode="r")
    coef = np.lib.format.open_memmap(tmp_path / "coef.npy", "w+", np.float32, (12, 70))
    model = estimator(max_bytes=1).fit(x, mapped, coef=coef)
    coef.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "coef.npy"), estimator().fit(x, y).coef)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, (40, 70))
    assert model.predict(x, out=out) is out
    np.testing.assert_array_equal(out, model.predict(x))


class OnlyBlocks:
    """Like a data set on disk: sliced by voxel, and never read whole."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.widest = 0

    def __getitem__(self, key: tuple) -> np.ndarray:
        part = self.values[key]
        self.widest = max(self.widest, part.shape[1])
        return part


def test_responses_are_read_some_voxels_at_a_time(problem):
    x, y = problem
    stored = OnlyBlocks(y)
    model = VoxelwiseRidge(max_bytes=1).fit(x, stored)
    assert stored.widest == 16
    np.testing.assert_array_equal(model.penalty, VoxelwiseRidge().fit(x, y).penalty)


def test_constant_voxels_and_features_have_no_score_and_do_no_harm(problem):
    x, y = (values.copy() for values in problem)
    plain = VoxelwiseRidge().fit(x[:, 1:], y)
    x[:, 0], y[:, 3] = 7, 1000.1
    for model in (VoxelwiseRidge(), VoxelwiseRidge(score="r"), LeaveOneOutRidge()):
        model.fit(x, y)
        assert np.isnan(model.cv_score[3])
        assert np.isnan(model.penalty[3])
        assert np.isfinite(np.delete(model.cv_score, 3)).all()
        assert not model.coef[0].any()
        assert not model.coef[:, 3].any()
        np.testing.assert_allclose(model.predict(x)[:, 3], 1000.1, rtol=1e-6)
    others = np.delete(np.arange(70), 3)
    again = VoxelwiseRidge().fit(x, y)
    np.testing.assert_allclose(again.coef[1:, others], plain.coef[:, others], atol=1e-5)


def test_a_voxel_that_is_constant_in_one_fold_is_judged_by_the_others(problem):
    x, y = (values.copy() for values in problem)
    y[:8, 0] = 5
    model = VoxelwiseRidge().fit(x, y)
    assert np.isfinite(model.cv_score[0])


def test_channels_and_times_share_a_fit(problem):
    x, y = problem
    shaped = y.reshape(40, 7, 10)
    model, flat = VoxelwiseRidge().fit(x, shaped), VoxelwiseRidge().fit(x, y)
    assert model.coef.shape == (12, 7, 10)
    assert model.penalty.shape == model.cv_score.shape == model.intercept.shape == (7, 10)
    np.testing.assert_allclose(model.predict(x).reshape(40, -1), flat.predict(x), atol=1e-5)
    found = cross_validated(VoxelwiseRidge(), x, shaped, folds=4)
    assert found.predicted.shape == (40, 7, 10)
    assert found.r.shape == (7, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": (3, 65)}, r"in 1 of voxels 0 to 69 \(first: voxel 65\)"),
        ({"x": (3, 5)}, r"x: NaN.*1 of 12 features \(first: feature 5\)"),
    ],
)
def test_nan_is_refused_by_name(problem, change, message):
    x, y = (values.copy() for values in problem)
    for name, place in change.items():
        {"x": x, "y": y}[name][place] = np.nan
    for fit in (VoxelwiseRidge().fit, LeaveOneOutRidge().fit, TokenwiseRidge().fit):
        with pytest.raises(ValueError, match=message):
            fit(x, y)


def test_stimuli_and_volumes_of_different_length_are_refused(problem):
    x, y = problem
    for fit in (VoxelwiseRidge().fit, LeaveOneOutRidge().fit, TokenwiseRidge().fit):
        with pytest.raises(ValueError, match=r"\(39, 12\) for 40 rows.*of one length"):
            fit(x[:-1], y)


def test_too_few_samples_for_the_folds_are_refused(problem):
    x, y = problem
    with pytest.raises(ValueError, match=r"9 rows are too few for 5 folds.*at most 4"):
        VoxelwiseRidge().fit(x[:9], y[:9])
    with pytest.raises(ValueError, match=r"1 group; at least two.*Record more runs"):
        VoxelwiseRidge().fit(x, y, np.zeros(40))
    with pytest.raises(ValueError, match="2 rows; expected 3 or more"):
        LeaveOneOutRidge().fit(x[:2], y[:2])
    with pytest.raises(ValueError, match="39 groups for 40 rows"):
        VoxelwiseRidge().fit(x, y, np.zeros(39))


@pytest.mark.parametrize("penalties", [[], [0.0, 1.0], [-1.0], [np.nan], np.ones((1, 1))])
def test_penalties_that_are_not_positive_are_refused(penalties):
    with pytest.raises(ValueError, match="positive"):
        VoxelwiseRidge(penalties)


def test_words_that_mean_nothing_are_refused(problem, monkeypatch):
    with pytest.raises(ValueError, match="'mse' is not 'r2' or 'r'"):
        VoxelwiseRidge(score="mse")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no GPU. Use 'cpu'"):
        VoxelwiseRidge(device="cuda")
    model = VoxelwiseRidge().fit(*problem)
    with pytest.raises(ValueError, match="11 features, but the model was fitted on 12"):
        model.predict(problem[0][:, 1:])
    with pytest.raises(ValueError, match=r"expected \(12, 70\)"):
        model.fit(*problem, coef=np.empty((70, 12)))
    with pytest.raises(ValueError, match=r"y\[:, None\]"):
        model.fit(problem[0], problem[1][:, 0])


@pytest.mark.slow
def test_planted_tuning_of_twenty_thousand_voxels_is_found_block_by_block(tmp_path):
    rng = np.random.default_rng(0)
    n, p, voxels = 900, 300, 20_000
    x = rng.normal(size=(n, p)).astype(np.float32)
    tuned = np.arange(voxels) % 2 == 0
    weights = np.zeros((p, voxels), np.float32)
    favourite = rng.integers(0, p, voxels)
    weights[favourite, np.arange(voxels)] = tuned
    y = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (n, voxels))
    y[:] = x @ weights + rng.normal(size=(n, voxels)).astype(np.float32)
    runs = np.repeat(np.arange(6), n // 6)
    shape = (voxels, p)
    coef = np.lib.format.open_memmap(tmp_path / "coef.npy", "w+", np.float32, shape)
    model = VoxelwiseRidge(max_bytes=50_000_000).fit(x, y, runs, coef=coef.T)
    assert (np.abs(coef).argmax(1)[tuned] == favourite[tuned]).mean() > 0.99
    assert model.cv_score[tuned].min() > 0.1
    assert np.percentile(model.cv_score[~tuned], 95) < 0.02
    assert (model.penalty[~tuned] > model.penalty[tuned].max()).mean() > 0.9
