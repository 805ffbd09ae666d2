"""Decoding of patterns: equal to scikit-learn where it has the method, honest where it has not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from planted_patterns import planted
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from neurofm.evaluate.patterns import (
    DECODERS,
    ChosenByRuns,
    Ensemble,
    NoiseWhitened,
    OverVolumes,
    Rotated,
    RotatedLinear,
    ShrinkageLDA,
    centre_runs,
    decode_patterns,
    decode_volumes,
    haufe_patterns,
    make_decoder,
    permuted_patterns,
    run_folds,
    volumes_decoder,
    weight_map,
)
from neurofm.evaluate.patterns.discriminants import ledoit_wolf_share
from neurofm.interpret.spatial import patterns as interpreted


def trials(n: int = 40, p: int = 60, classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    mixed = rng.standard_normal((p, p)) / np.sqrt(p) + np.eye(p)
    return rng.standard_normal((n, p)) @ mixed + rng.standard_normal((classes, p))[y], y


@pytest.mark.parametrize("p", [12, 60])
def test_lda_by_class_is_scikit_learn_s(p: int):
    x, y = trials(p=p)
    ours = ShrinkageLDA("by_class", priors="empirical").fit(x, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)

    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-8)


def test_pooled_lda_is_that_of_the_shrunk_covariance():
    x, y = trials(p=30)
    made = ShrinkageLDA().fit(x, y)
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    residual = x - means[y]
    scale = np.sqrt(np.square(residual).sum(0) / (len(x) - 4))
    share = ledoit_wolf(residual / scale, assume_centered=True)[1]
    pooled = residual.T @ residual / (len(x) - 4)
    covariance = (1 - share) * pooled + share * np.diag(np.diag(pooled))

    assert made.shrinkage_ == pytest.approx(share)
    np.testing.assert_allclose(made.coef_, np.linalg.solve(covariance, means.T).T, rtol=1e-8)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
def test_the_share_of_shrinkage_is_scikit_learn_s(shape: tuple[int, int]):
    x = np.random.default_rng(1).standard_normal(shape) * np.linspace(1, 3, shape[1])

    assert ledoit_wolf_share(x) == pytest.approx(ledoit_wolf(x, assume_centered=True)[1])


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(C=0.1, tol=1e-6, max_iter=999), RidgeClassifier(alpha=3.0)]
)
def test_rotated_estimators_are_those_of_all_voxels(estimator, classes: int):
    x, y = trials(n=24, p=60, classes=classes)
    ours = RotatedLinear(estimator).fit(x, y)
    theirs = clone(estimator).fit(x, y)
    expected = np.atleast_2d(theirs.coef_)

    found = ours.coef_ if classes > 2 else (ours.coef_[1:] - ours.coef_[:1])
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert (ours.predict(x) == theirs.predict(x)).all()


def test_whitening_gives_residuals_of_unit_covariance_and_uses_training_trials_alone():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4
    x = rng.standard_normal((200, 8)) * np.linspace(1, 3, 8) + rng.standard_normal((200, 1))
    made = NoiseWhitened(ShrinkageLDA(), shrinkage=0.0).fit(x[:160], y[:160])
    white = made.transform(x[:160])
    means = np.stack([white[y[:160] == c].mean(0) for c in range(4)])
    residual = white - means[y[:160]]

    np.testing.assert_allclose(residual.T @ residual / 156, np.eye(8), atol=2e-3)
    assert len(made.gain_) == 8


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "logistic" else [])
        for name in DECODERS
        if name != "network"
    ],
)
def test_every_decoder_finds_what_is_planted_and_nothing_in_shuffled_labels(name: str):
    data = planted(80, n_runs=4, repeats=4, effect=1.5)
    rng = np.random.default_rng(3)
    shuffled = np.concatenate([rng.permutation(data.y[data.run == r]) for r in np.unique(data.run)])

    about = {"decoder": name, "n_permutations": 200}
    found = decode_patterns(data.x, data.y, data.run, **about).result
    luck = decode_patterns(data.x, shuffled, data.run, **about).result

    assert found.value > 0.7 and found.detail["p"] < 0.02
    assert found.low is not None and found.low <= found.value <= found.high
    assert found.chance == 0.5 and found.n == 4
    assert abs(luck.value - 0.5) < 0.3 and luck.detail["p"] > 0.02


@pytest.mark.slow
def test_the_network_finds_what_no_line_divides():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((240, 6))
    y = np.where(x[:, 0] * x[:, 1] > 0, "same", "other")
    run = np.repeat(np.arange(4), 60)

    accuracy = {
        name: decode_patterns(x, y, run, decoder=name).result.value
        for name in ("lda", "rbf", "network")
    }
    assert accuracy["lda"] < 0.62 < 0.75 < min(accuracy["rbf"], accuracy["network"])


def test_choosing_sees_training_runs_alone():
    seen: list[set[str]] = []

    class Spy(ShrinkageLDA):
        def fit(self, x, y):
            seen.append({f"{value:.6f}" for value in np.asarray(x)[:, 0]})
            return super().fit(x, y)

    data = planted(40, n_runs=4)
    decode_patterns(
        data.x, data.y, data.run, decoder=ChosenByRuns({"a": Spy(), "b": Spy()}), test_runs=["2"]
    )
    held = {f"{value:.6f}" for value in data.x[data.run == "2", 0]}
    assert len(seen) == 2 * 3 + 1
    assert all(not held & values for values in seen)


def test_choosing_finds_the_volumes_that_carry_the_category():
    data = planted(60, n_runs=5, effect=0.7)
    noise = np.random.default_rng(1).standard_normal((*data.x.shape, 6))
    noise[..., 2:5] += data.activity[np.unique(data.y, return_inverse=True)[1]][..., None]

    decoder = volumes_decoder(6, n_trial=3)
    found = decode_patterns(noise, data.y, data.run, decoder=decoder)

    assert all(choice.startswith("2") for choice in found.result.detail["chosen"])
    assert found.result.value > 0.85


def test_knowing_that_each_category_comes_once_helps_and_is_no_leak():
    data = planted(80, n_runs=6, classes=5, repeats=1, effect=0.9, seed=2)
    rng = np.random.default_rng(0)
    shuffled = np.concatenate([rng.permutation(data.y[data.run == r]) for r in np.unique(data.run)])

    alone = decode_patterns(data.x, data.y, data.run).result
    known = decode_patterns(data.x, data.y, data.run, one_of_each=True)
    luck = decode_patterns(data.x, shuffled, data.run, one_of_each=True).result

    assert known.result.value >= alone.value and known.result.detail["one_of_each"]
    assert (known.confusion.sum(0) == 6).all()
    assert luck.value < 0.5


def test_refitted_shuffles_are_at_chance():
    data = planted(60, n_runs=5, repeats=3, effect=1.5)
    found = permuted_patterns(data.x, data.y, data.run, n_permutations=60)

    assert abs(found.null.mean() - 0.5) < 0.06
    assert found.p == pytest.approx(1 / 61)


def test_haufe_patterns_are_where_the_signal_is_and_weights_are_not():
    data = planted(300, n_runs=8, repeats=10, effect=0.8, share=0.1)
    found = weight_map(data.x, data.y, data.run)
    truth = data.activity[0]

    def corr(a: np.ndarray) -> float:
        return float(np.corrcoef(a, truth)[0, 1])

    assert corr(found.patterns[0]) > 0.8 > 0.6 > corr(found.weights[0])
    inside = np.abs(found.z[0])
    assert inside[data.region].mean() > 2 * inside[data.partner].mean()


def test_haufe_patterns_are_those_of_interpret():
    x, y = trials()
    weights = ShrinkageLDA().fit(x, y).coef_
    theirs = interpreted(weights, x.T[None])

    np.testing.assert_allclose(
        haufe_patterns(weights, x)[list(theirs.order)], theirs.values, atol=1e-8
    )


def test_decoding_of_volumes_finds_when_and_how_long():
    data = planted(50, n_runs=6, repeats=3, effect=1.5)
    code = np.unique(data.y, return_inverse=True)[1]
    x = np.random.default_rng(0).standard_normal((*data.x.shape, 6))
    x[..., 2:4] += data.activity[code][..., None]

    found = decode_volumes(x, data.y, data.run, sfreq=0.5, start_s=-2, generalize=True)

    assert found.times.tolist() == [-2, 0, 2, 4, 6, 8]
    assert found.diagonal.mean(0)[2:4].min() > 0.85
    assert abs(found.mean[:2].mean() - 0.5) < 0.12 and found.mean[2, 3] > 0.85
    assert found.clusters[0].p < 0.05 and found.clusters[0].inside[2:4, 2:4].all()


def test_an_ensemble_is_not_led_by_the_member_that_is_surest():
    x, y = trials(n=60, p=6)

    class Loud(ShrinkageLDA):
        def scores(self, x):
            return 1e4 * super().scores(x)

    both = Ensemble([Loud(), ShrinkageLDA()]).fit(x, y)
    assert both.sizes_[0] > 100 * both.sizes_[1]
    assert (both.predict(x) == ShrinkageLDA().fit(x, y).predict(x)).all()


def test_centring_of_runs_takes_away_what_sets_runs_apart():
    data = planted(30, n_runs=4)
    moved = data.x + 5.0 * np.arange(4)[np.unique(data.run, return_inverse=True)[1]][:, None]

    np.testing.assert_allclose(centre_runs(moved, data.run), centre_runs(data.x, data.run))


def test_folds_leave_whole_runs_out():
    runs = np.repeat(["a", "b", "c", "d", "e"], 3)
    held = run_folds(runs, folds=2)

    assert np.sum(held, axis=0).tolist() == [1] * 15
    assert all(len(set(runs[out]) & set(runs[~out])) == 0 for out in held)


# Bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": ["a"] * 24}, "two or more categories"),
        ({"run": ["1"] * 24}, "2 to 1 folds"),
        ({"folds": 9}, "9 folds of 6 runs"),
        ({"y": ["a", "b"] * 11}, "24 patterns, 22 labels"),
        ({"test_runs": ["9"]}, "test_runs"),
        ({"decoder": "forest"}, "not one of lda"),
    ],
)
def test_what_cannot_be_decoded_is_refused(change: dict, words: str):
    data = planted(20, n_runs=6)
    given = {"y": data.y, "run": data.run} | {k: v for k, v in change.items() if k in ("y", "run")}
    extra = {k: v for k, v in change.items() if k not in ("y", "run")}

    with pytest.raises(ValueError, match=words):
        decode_patterns(data.x, given["y"], given["run"], **extra)


def test_nan_is_refused_with_the_number_of_voxels():
    data = planted(20)
    data.x[0, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 20 voxels"):
        decode_patterns(data.x, data.y, data.run)


def test_constant_voxels_get_no_weight_and_all_constant_is_refused():
    data = planted(20)
    data.x[:, 4] = 7.0
    assert ShrinkageLDA().fit(data.x, data.y).coef_[:, 4].tolist() == [0, 0]
    with pytest.raises(ValueError, match="no voxel varies"):
        ShrinkageLDA().fit(np.ones((4, 3)), [0, 0, 1, 1])


def test_a_category_missing_from_a_run_is_told_and_from_training_is_refused():
    data = planted(20, n_runs=3)
    gone = (data.run == "1") & (data.y == "c1")
    with pytest.warns(UserWarning, match="1 of 6 cells"):
        decode_patterns(data.x[~gone], data.y[~gone], data.run[~gone])
    only = (data.run != "1") & (data.y == "c1")
    with warnings.catch_warnings(), pytest.raises(ValueError, match="hold no trial of c1"):
        warnings.simplefilter("ignore")
        decode_patterns(data.x[~only], data.y[~only], data.run[~only])


def test_volumes_beyond_the_pattern_are_refused():
    with pytest.raises(ValueError, match="volumes 4 to 9"):
        OverVolumes(ShrinkageLDA(), 4, 9).fit(np.zeros((4, 3, 2)), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="windows of 5"):
        volumes_decoder(3, n_trial=5)


def test_decoders_without_weights_have_no_map():
    data = planted(20)
    with pytest.raises(ValueError, match="has no weights"):
        weight_map(data.x, data.y, data.run, decoder=make_decoder("correlation"))


def test_one_of_each_needs_equal_numbers():
    data = planted(20, n_runs=3)
    with pytest.raises(ValueError, match="equally many"):
        decode_patterns(data.x[1:], data.y[1:], data.run[1:], one_of_each=True)


def test_rotated_scale_does_not_matter():
    x, y = trials(n=30, p=50)
    nonlinear = make_decoder("rbf").options["C=1"]
    assert isinstance(nonlinear, Rotated)
    a, b = clone(nonlinear).fit(x, y), clone(nonlinear).fit(1000 * x, y)
    np.testing.assert_allclose(a.scores(x), b.scores(1000 * x), atol=1e-6)
