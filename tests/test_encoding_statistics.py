"""Nested cross-validation, partition of variance, significance, decoding over time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from neurofm.linear import (
    LeaveOneOutRidge,
    MLPHead,
    VoxelwiseRidge,
    cross_validated,
    decode_over_time,
    encode_stimuli,
    partition_scores,
    significance,
    variance_partition,
)

RUNS = np.repeat(np.arange(5), 40)


@pytest.fixture(scope="module")
def spaces() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(200, 2))
    return {
        name: np.concatenate([common, rng.normal(size=(200, 6))], 1) for name in ("image", "word")
    }


@pytest.fixture(scope="module")
def voxels(spaces: dict[str, np.ndarray]) -> np.ndarray:
    """Of the image alone, of the word alone, of what they share, of nothing, constant."""
    rng = np.random.default_rng(1)
    signal = [spaces["image"][:, 5], spaces["word"][:, 5], spaces["word"][:, 0], np.zeros(200)]
    y = np.stack(signal, 1) + 0.5 * rng.normal(size=(200, 4))
    return np.c_[y, np.full(200, 3.1)]


def test_every_row_is_predicted_by_a_model_that_saw_no_row_of_its_run(spaces, voxels):
    x = spaces["image"]
    found = cross_validated(VoxelwiseRidge(), x, voxels, RUNS)
    assert found.penalty.shape == (5, 5)
    for fold, (train, test) in enumerate(found.folds):
        assert set(RUNS[test]) == {fold}
        mean, scale = x[train].mean(0), x[train].std(0)
        for voxel in range(4):
            fit = Ridge(alpha=found.penalty[fold, voxel])
            fit.fit((x[train] - mean) / scale, voxels[train, voxel])
            made = fit.predict((x[test] - mean) / scale)
            np.testing.assert_allclose(found.predicted[test, voxel], made, atol=1e-9)
        inner, _ = VoxelwiseRidge().choose(x[train], voxels[train], RUNS[train])
        np.testing.assert_array_equal(found.penalty[fold], inner)
    r = np.corrcoef(found.predicted[RUNS == 2, 0], voxels[RUNS == 2, 0])[0, 1]
    assert found.r_by_fold[2, 0] == pytest.approx(r)
    assert np.isnan(found.r[4])
    assert found.r[0] > 0.8 > abs(found.r[3]) + 0.5


def test_leave_one_out_chooses_inside_and_runs_are_held_out_outside(spaces, voxels):
    found = cross_validated(LeaveOneOutRidge(), spaces["image"], voxels, RUNS)
    assert len(found.folds) == 5
    assert found.r[0] > 0.8


def test_predictions_may_be_written_to_a_memory_map(spaces, voxels, tmp_path):
    out = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.float64, voxels.shape)
    found = cross_validated(VoxelwiseRidge(max_bytes=1), spaces["image"], voxels, RUNS, out=out)
    assert found.predicted is out
    whole = cross_validated(VoxelwiseRidge(), spaces["image"], voxels, RUNS)
    np.testing.assert_allclose(out, whole.predicted, atol=1e-12)
    with pytest.raises(ValueError, match=r"expected \(200, 5\)"):
        cross_validated(VoxelwiseRidge(), spaces["image"], voxels, RUNS, out=out[:, :4])


def test_a_stimulus_in_training_and_test_is_refused(spaces, voxels):
    names = [f"image {i % 150}" for i in range(200)]
    with pytest.raises(ValueError, match=r"40 stimuli are in training.*as `groups`"):
        cross_validated(VoxelwiseRidge(), spaces["image"], voxels, RUNS, stimulus=names)
    found = cross_validated(
        VoxelwiseRidge(), spaces["image"], voxels, names, folds=3, stimulus=names
    )
    assert len(found.folds) == 3


def test_two_runs_leave_nothing_to_choose_by(spaces, voxels):
    with pytest.raises(ValueError, match="1 group; at least two"):
        cross_validated(VoxelwiseRidge(), spaces["image"], voxels, np.repeat([0, 1], 100))


def test_shares_of_variance_are_where_they_were_planted(spaces, voxels):
    found = variance_partition(spaces, voxels, RUNS)
    both = frozenset(spaces)
    assert [np.nanargmax(found.unique[name]) for name in ("image", "word")] == [0, 1]
    assert np.nanargmax(found.shared[both]) == 2
    assert found.unique["image"][0] > 0.6
    assert found.shared[both][2] > 0.6
    assert np.nanmax(np.abs(found.unique["word"][[0, 2, 3]])) < 0.05
    total = sum(found.unique.values()) + found.shared[both]
    np.testing.assert_allclose(total, found.total)
    assert np.isnan(found.total[4])


def test_shares_of_three_spaces_are_the_areas_of_a_diagram():
    # Seven areas, and the score of a combination is what its circles cover.
    area = {"a": 1.0, "b": 2.0, "c": 4.0, "ab": 8.0, "ac": 16.0, "bc": 32.0, "abc": 64.0}
    scores = {
        frozenset(combination): np.array(
            [sum(v for k, v in area.items() if set(k) & set(combination))]
        )
        for combination in area
    }
    found = partition_scores(scores)
    assert {k: v[0] for k, v in found.unique.items()} == {"a": 1, "b": 2, "c": 4}
    assert {"".join(sorted(k)): v[0] for k, v in found.shared.items()} == {
        "ab": 8,
        "ac": 16,
        "bc": 32,
        "abc": 64,
    }
    del scores[frozenset("ab")]
    with pytest.raises(ValueError, match="every combination"):
        partition_scores(scores)


def test_more_than_three_spaces_are_refused(spaces, voxels):
    with pytest.raises(ValueError, match="4 feature spaces"):
        variance_partition({str(i): spaces["image"] for i in range(4)}, voxels)


def test_voxels_that_are_predicted_pass_and_others_do_not():
    rng = np.random.default_rng(2)
    true = rng.normal(size=(300, 220))
    made = rng.normal(size=(300, 220))
    made[:, :20] += 0.6 * true[:, :20]
    true[:, 219] = 1.0
    found = significance(true, made, groups=np.repeat(range(3), 100), n_permutations=400)
    assert found.n_blocks == 30
    assert found.passed[:20].all()
    assert found.passed[20:].sum() <= 3
    assert np.isnan(found.p[219])
    assert not found.passed[219]
    assert found.p[20:219].mean() == pytest.approx(0.5, abs=0.08)


def test_slow_noise_passes_when_blocks_are_single_rows_and_not_when_they_are_long():
    rng = np.random.default_rng(3)
    true, made = np.cumsum(rng.normal(size=(2, 600, 60)), 1)
    true, made = (values - np.roll(values, 25, 0) for values in (true, made))
    single = significance(true[25:], made[25:], block=1, n_permutations=200)
    long = significance(true[25:], made[25:], block=60, n_permutations=200)
    assert single.passed.mean() > 0.2
    assert long.passed.mean() < 0.1


def test_differences_between_runs_are_no_evidence():
    rng = np.random.default_rng(4)
    level = np.repeat(rng.normal(size=(6, 1)) * 5, 50, 0)
    true, made = (level + rng.normal(size=(300, 40)) for _ in range(2))
    runs = np.repeat(range(6), 50)
    assert significance(true, made, n_permutations=100).passed.all()
    inside = significance(true, made, groups=runs, n_permutations=100)
    assert inside.passed.mean() < 0.1


def test_too_few_blocks_for_the_level_are_refused():
    with pytest.raises(ValueError, match="too few permutations"):
        significance(np.ones((30, 2)), np.ones((30, 2)), block=10)
    with pytest.raises(ValueError, match="fewer than two blocks"):
        significance(np.ones((15, 2)), np.ones((15, 2)), block=10)
    with pytest.raises(ValueError, match="the same row by voxel"):
        significance(np.ones((15, 2)), np.ones((14, 2)))


def test_what_is_encoded_at_one_time_is_decoded_there():
    rng = np.random.default_rng(5)
    stimulus = rng.normal(size=(80, 2))
    x = rng.normal(size=(80, 6, 9))
    x[:, :2, 4] += 2 * stimulus
    found = decode_over_time(VoxelwiseRidge(), x, stimulus, folds=4)
    assert found.predicted.shape == (9, 80, 2)
    assert (found.r.argmax(0) == 4).all()
    assert (np.delete(found.r, 4, 0) < 0.5).all()
    wide = decode_over_time(VoxelwiseRidge(), x, stimulus, folds=4, window=3)
    assert (wide.r[3:6] > 0.6).all()
    with pytest.raises(ValueError, match="odd number of times"):
        decode_over_time(VoxelwiseRidge(), x, stimulus, window=2)


def test_stimuli_are_encoded_by_ridge_of_either_kind_and_by_a_network():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(90, 8)) * 3 + 10
    y = x @ rng.normal(size=(8, 12)) + 5 * rng.normal(size=(90, 12)) + 100
    y[:, 7] = 2.0
    one = encode_stimuli(x, y)
    inner = encode_stimuli(x, y, estimator=VoxelwiseRidge(folds=5))
    network = encode_stimuli(x, y, folds=3, estimator=MLPHead(hidden=16, epochs=15, lr=2e-2))
    for found in (one, inner, network):
        assert found.two_v_two > 0.8
        assert 0.4 < found.r_over_voxels < 1
        assert np.flatnonzero(np.isnan(found.r_over_stimuli)).tolist() == [7]
    assert one.by_fold.shape == (10, 2)
    again = encode_stimuli(x, y, folds=3, estimator=MLPHead(hidden=16, epochs=15, lr=2e-2))
    np.testing.assert_array_equal(network.predicted, again.predicted)
    with pytest.raises(ValueError, match="29 stimuli are too few for 10 folds"):
        encode_stimuli(x[:29], y[:29])
