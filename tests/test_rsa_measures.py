"""RDMs, covariances of the noise, crossnobis."""

from __future__ import annotations

import importlib
import warnings
from itertools import combinations, permutations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from neurofm.interpret import rsa

METRICS = ("correlation", "euclidean", "cosine", "poisson")


def close(got: object, expected: object, **options: float) -> None:
    options = {"rtol": 1e-9, "atol": 1e-10} | options
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), **options)


def spd(p: int, seed: int = 0) -> np.ndarray:
    return np.cov(np.random.default_rng(seed).normal(size=(4 * p, p)).T)


@pytest.fixture(scope="module")
def topics() -> ModuleType:
    file = Path(__file__).parent / "golden_checks" / "interpret.py"
    spec = importlib.util.spec_from_file_location("golden_interpret", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.golden
@pytest.mark.parametrize(("name", "n"), [("rdm", 23), ("compare", 25)])
def test_every_tensor_of_a_topic_agrees(topics: ModuleType, name: str, n: int) -> None:
    from safetensors.torch import load_file

    topic = topics.topic(name)
    tensors = load_file(Path(__file__).parent / "golden" / "interpret" / f"{name}.safetensors")
    got = topic.check(tensors)
    assert len(got) == n
    for key, value in got.items():
        atol = 1e-6 if key.startswith("sim_bures") else 1e-10
        torch.testing.assert_close(
            value, tensors[key], rtol=1e-9, atol=atol, equal_nan=True, msg=lambda m, k=key: k + m
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block", [1, 7, 4096])
def test_tensors_and_many_sets_at_once_give_the_numbers_of_one_array(
    metric: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).gamma(2.0, size=(3, 6, 20))
    expected = np.stack([rsa.rdm(one, metric).values for one in x])
    monkeypatch.setattr("neurofm.interpret.rsa.products.BLOCK", block)
    found = rsa.dissimilarities(torch.tensor(x, requires_grad=True), metric)
    assert isinstance(found, torch.Tensor) and not found.requires_grad
    assert isinstance(rsa.dissimilarities(x, metric), np.ndarray)
    close(found, expected, rtol=1e-12, atol=1e-14)
    close(rsa.dissimilarities(x, metric), expected, rtol=1e-12, atol=1e-14)
    close(rsa.rdm(torch.tensor(x[0]), metric).values, expected[0], rtol=1e-12, atol=1e-14)


def test_distances_do_not_change_with_what_they_ignore() -> None:
    rng = np.random.default_rng(0)
    x, turn = rng.normal(size=(7, 12)), np.linalg.qr(rng.normal(size=(12, 12)))[0]
    close(
        rsa.rdm(x @ turn + rng.normal(size=12), "euclidean").values, rsa.rdm(x, "euclidean").values
    )
    scale, shift = rng.uniform(1, 5, size=(7, 1)), rng.normal(size=(7, 1))
    close(rsa.rdm(x * scale + shift).values, rsa.rdm(x).values)
    close(rsa.rdm(x * scale, "cosine").values, rsa.rdm(x, "cosine").values)
    close(
        rsa.rdm(x + shift, "euclidean", remove_mean=True).values,
        rsa.rdm(x - x.mean(1, keepdims=True), "euclidean").values,
    )
    close(rsa.rdm(x, "cosine", remove_mean=True).values, rsa.rdm(x).values)


def test_identical_patterns_have_no_distance() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=(3, 30))
    x[2] = x[0]
    for metric in METRICS:
        assert 0 <= rsa.rdm(x, metric).square()[0, 2] < 1e-15


def test_float32_products_keep_six_digits_and_inputs_stay_as_they_are() -> None:
    x = np.random.default_rng(0).normal(3, 1, size=(40, 600)).astype(np.float32)
    before = x.copy()
    for metric in ("correlation", "euclidean"):
        full, half = (rsa.rdm(x, metric, dtype=d).values for d in ("float64", "float32"))
        assert 0 < np.abs(full - half).max() < 1e-5
    np.testing.assert_array_equal(x, before)
    with pytest.raises(ValueError, match="dtype 'half'"):
        rsa.rdm(x, dtype="half")


def test_a_planted_geometry_is_recovered_through_noise_that_channels_share() -> None:
    rng = np.random.default_rng(0)
    place = np.repeat([0.0, 1.0, 3.0], 200)
    noise = spd(10)
    x = place[:, None] * np.ones(10) + rng.multivariate_normal(np.zeros(10), noise, size=600)
    estimate = rsa.noise_covariance(x, "full", conditions=place.tolist())
    close(estimate, noise, atol=0.25 * noise.max(), rtol=0)
    means, _ = rsa.condition_means(x, place.tolist())
    found = rsa.rdm(means, "mahalanobis", noise=estimate).values
    precision = np.ones(10) @ np.linalg.inv(noise) @ np.ones(10) / 10
    close(found, precision * np.array([1.0, 9.0, 4.0]), rtol=0.15)


def test_nan_in_one_set_leaves_the_others_alone() -> None:
    x = np.random.default_rng(0).gamma(2.0, size=(2, 5, 9))
    x[1, 3, 4] = np.nan
    for metric in METRICS:
        found = rsa.dissimilarities(x, metric)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).sum() == 4
        rest = [0, 1, 2, 4]
        close(
            rsa.rdm(x[1], metric).square()[np.ix_(rest, rest)], rsa.rdm(x[1, rest], metric).square()
        )
    found = rsa.rdm(x[1], "mahalanobis", noise=spd(9)).square()
    close(found[:3, :3], rsa.rdm(x[1, :3], "mahalanobis", noise=spd(9)).square())


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        ("manhattan", {}, "not one of"),
        ("poisson", {}, "rates are negative"),
        ("poisson", {"remove_mean": True}, "rates have no mean"),
        ("euclidean", {"noise": np.eye(4)}, "needs `noise`"),
        ("mahalanobis", {"noise": np.eye(3)}, r"shape \(3, 3\) for patterns of 4"),
        ("mahalanobis", {"noise": np.full((4, 4), np.nan)}, "holds NaN"),
        ("euclidean", {"labels": "ab"}, "2 labels for 3 patterns"),
    ],
)
def test_bad_calls_say_what_to_do(metric: str, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rsa.rdm(np.random.default_rng(0).normal(size=(3, 4)), metric, **options)


def test_one_column_has_no_correlation() -> None:
    with pytest.warns(UserWarning, match="3 of 3 patterns are constant"):
        assert np.isnan(rsa.rdm(np.arange(3.0)[:, None]).values).all()


# noise


@pytest.mark.parametrize("kind", ["full", "diag", "shrinkage_eye", "shrinkage_diag"])
def test_covariances_equal_rsatoolbox(kind: str) -> None:
    from rsatoolbox.data.noise import cov_from_residuals

    x = np.random.default_rng(0).normal(size=(30, 8)) @ spd(8)
    for dof in (None, 21):
        close(rsa.noise_covariance(x, kind, dof=dof), cov_from_residuals(x, dof=dof, method=kind))
    found = rsa.noise_covariance(torch.tensor(x), kind)
    assert isinstance(found, torch.Tensor)
    close(found, rsa.noise_covariance(x, kind))


def test_shrinkage_can_be_inverted_with_fewer_rows_than_channels_and_full_is_refused() -> None:
    rng = np.random.default_rng(0)
    residuals, x = rng.normal(size=(9, 20)), rng.normal(size=(4, 20))
    for kind in ("shrinkage_eye", "shrinkage_diag"):
        noise = rsa.noise_covariance(residuals, kind)
        assert np.linalg.eigvalsh(noise)[0] > 1e-3
        close(rsa.whiten(x, noise), np.linalg.solve(np.linalg.cholesky(noise), x.T).T)
    with pytest.raises(ValueError, match="singular"):
        rsa.rdm(x, "mahalanobis", noise=rsa.noise_covariance(residuals, "full"))


def test_channels_of_very_different_units_are_whitened_alike() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(5, 6)), spd(6)
    unit = np.array([1e-6, 1e-6, 1e-6, 1e-13, 1e-13, 1e3])
    scaled = rsa.rdm(x * unit, "mahalanobis", noise=noise * np.outer(unit, unit)).values
    close(scaled, rsa.rdm(x, "mahalanobis", noise=noise).values)


def test_channels_without_variance_get_no_weight() -> None:
    rng = np.random.default_rng(0)
    residuals, x = rng.normal(size=(40, 5)), rng.normal(size=(4, 5))
    residuals[:, 2] = 0.3
    rest = [0, 1, 3, 4]
    for kind in ("full", "diag", "shrinkage_diag", "shrinkage_eye"):
        with pytest.warns(UserWarning, match="1 of 5 channels have no variance"):
            noise = rsa.noise_covariance(residuals, kind)
        white = rsa.whiten(x, noise)
        assert (white[:, 2] == 0).all()
        close(
            white[:, rest], rsa.whiten(x[:, rest], rsa.noise_covariance(residuals[:, rest], kind))
        )


def test_an_average_reference_is_whitened_in_the_space_it_leaves() -> None:
    rng = np.random.default_rng(0)
    centre = np.eye(6) - 1 / 6
    baseline = np.einsum("cd,tds->tcs", centre, rng.normal(size=(5, 6, 30)))
    noise = rsa.baseline_covariance(baseline, "full")
    x = rng.normal(size=(4, 6)) @ centre
    with pytest.raises(ValueError, match="eigenspace=True"):
        rsa.whiten(x, noise)
    white = rsa.whiten(x, noise, eigenspace=True)
    assert white.shape == (4, 5)
    close(pdist(white, "sqeuclidean"), pdist(x, "mahalanobis", VI=np.linalg.pinv(noise)) ** 2)


@pytest.mark.parametrize(
    ("residuals", "options", "words"),
    [
        (np.ones((1, 3)), {}, "two rows"),
        (np.full((4, 3), np.nan), {}, "finite"),
        (np.eye(3), {"kind": "oas"}, "not one of"),
        (np.eye(3), {"conditions": "abc"}, "0 degrees of freedom"),
        (np.eye(3), {"conditions": "ab"}, "2 conditions for 3 rows"),
    ],
)
def test_noise_that_cannot_be_estimated_is_refused(
    residuals: np.ndarray, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rsa.noise_covariance(residuals, **options)


# crossnobis


def between_runs(by_run: np.ndarray, noise: np.ndarray | None, present: np.ndarray) -> np.ndarray:
    """The definition: mean over ordered pairs of runs that have both conditions."""
    n_runs, n, p = by_run.shape
    out = []
    for i, j in combinations(range(n), 2):
        both = [f for f in range(n_runs) if present[f, i] and present[f, j]]
        products = []
        for f, g in permutations(both, 2):
            shared = np.eye(p) if noise is None else (noise[f] + noise[g]) / 2
            a, b = by_run[f, i] - by_run[f, j], by_run[g, i] - by_run[g, j]
            products.append(a @ np.linalg.solve(shared, b) / p)
        out.append(np.mean(products) if products else np.nan)
    return np.array(out)


def test_sums_over_runs_equal_leaving_each_run_out() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(4, 5, 9)) + 1e4 * rng.normal(size=(4, 1, 9)), spd(9)
    precision, total = np.linalg.inv(noise), np.zeros(10)
    for f in range(4):
        other = np.delete(x, f, 0).mean(0)
        for q, (i, j) in enumerate(combinations(range(5), 2)):
            total[q] += (other[i] - other[j]) @ precision @ (x[f, i] - x[f, j]) / 9 / 4
    close(rsa.crossnobis_distances(x, noise=noise), total, rtol=1e-7)
    many = rsa.crossnobis_distances(torch.tensor(np.stack([x, 2 * x])), noise=torch.tensor(noise))
    close(many, np.stack([total, 4 * total]), rtol=1e-7)


def test_each_pair_of_runs_is_whitened_by_the_mean_of_its_covariances() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    noise = np.stack([spd(6, seed) for seed in range(3)])
    expected = between_runs(x, noise, np.ones((3, 4), dtype=bool))
    close(rsa.crossnobis_distances(x, noise=noise), expected)
    rows, runs = x.reshape(12, 6), np.repeat(["r1", "r2", "r3"], 4).tolist()
    by_name = {"r3": noise[2], "r1": noise[0], "r2": noise[1]}
    found = rsa.crossnobis(rows, list("abcd") * 3, runs, noise=by_name)
    close(found.values, expected)
    with pytest.raises(ValueError, match="no noise covariance of run 'r1'"):
        rsa.crossnobis(rows, list("abcd") * 3, runs, noise={"r2": noise[0]})


@pytest.mark.parametrize("per_run", [False, True])
def test_missing_cells_use_the_runs_that_two_conditions_share(per_run: bool) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(4, 5, 6)), np.stack([spd(6, seed) for seed in range(4)])
    noise = noise if per_run else np.repeat(noise[:1], 4, 0)
    present = np.ones((4, 5), dtype=bool)
    present[0, 1] = present[2, [1, 3]] = present[1:, 4] = False  # the last is in one run alone
    cells = [(c, f) for c in range(5) for f in range(4) if present[f, c]]
    rows = np.stack([x[f, c] for c, f in cells])
    conditions, runs = [c for c, _ in cells], [f for _, f in cells]
    given = dict(enumerate(noise)) if per_run else noise[0]
    with pytest.warns(UserWarning, match="4 windows of 0 and 1 of 4"):
        found = rsa.crossnobis(rows, conditions, runs, noise=given, unbalanced=True)
    assert np.isnan(found.square()[4, :4]).all()
    close(found.values, between_runs(x, noise, present))
    whole = np.ones_like(present)
    close(
        rsa.crossnobis_distances(x, noise=noise[0], present=whole),
        rsa.crossnobis_distances(x, noise=noise[0]),
    )


@pytest.mark.parametrize("unbalanced", [False, True])
def test_crossnobis_of_noise_is_zero_on_average(unbalanced: bool) -> None:
    rng = np.random.default_rng(0)
    present = np.ones((4, 5), dtype=bool)
    if unbalanced:
        present[0, 1] = present[3, 2] = False
    x = rng.normal(size=(500, 4, 5, 8))
    values = rsa.crossnobis_distances(x, present=present if unbalanced else None).mean(1)
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(500)
    signal = rsa.crossnobis_distances(x + np.arange(5.0)[:, None], present=present)
    close(signal.mean(0)[:4], [1, 4, 9, 16], atol=0.3, rtol=0)


@pytest.mark.parametrize("kind", ["identity", "shrinkage_diag"])
def test_crossnobis_equals_rsatoolbox(kind: str) -> None:
    import rsatoolbox

    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 7))
    conditions, runs = np.tile(np.arange(6), 4), np.repeat(np.arange(4), 6)
    noise = None if kind == "identity" else rsa.noise_covariance(rng.normal(size=(50, 7)), kind)
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": conditions, "r": runs})
    theirs = rsatoolbox.rdm.calc_rdm(
        data,
        method="crossnobis",
        descriptor="c",
        cv_descriptor="r",
        noise=None if noise is None else np.linalg.inv(noise),
    )
    ours = rsa.crossnobis(x, conditions.tolist(), runs.tolist(), noise=noise)
    close(ours.values, theirs.get_vectors()[0])


def test_a_nan_makes_its_condition_missing_and_no_other() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    x[1, 2, 0] = np.nan
    for noise in (None, spd(6), np.stack([spd(6)] * 3)):
        square = np.isnan(rsa.crossnobis_distances(x, noise=noise))
        np.testing.assert_array_equal(square, [False, True, False, True, False, True])


def test_crossnobis_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        rsa.crossnobis(np.eye(3), list("abc"), [1, 1, 1])
    with pytest.raises(ValueError, match="3 conditions and 2 runs of 3 windows"):
        rsa.crossnobis(np.eye(3), list("abc"), [1, 1])
    with pytest.raises(ValueError, match="infinite"):
        rsa.crossnobis_distances(np.full((2, 3, 4), np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a balanced design is nothing to warn of
        rsa.crossnobis(np.random.default_rng(0).normal(size=(4, 3)), list("abab"), [1, 1, 2, 2])


@pytest.mark.gpu
def test_a_gpu_gives_the_numbers_of_the_processor() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.gamma(2.0, size=(4, 30, 50)), spd(50)
    x[0, 3, 4] = np.nan
    here, there = torch.tensor(x), torch.tensor(x, device="cuda")
    cpu, cuda = torch.tensor(noise), torch.tensor(noise, device="cuda")
    for metric in METRICS:
        found = rsa.dissimilarities(there, metric)
        assert found.device.type == "cuda"
        close(found.cpu(), rsa.dissimilarities(here, metric))
    found = rsa.dissimilarities(there, "mahalanobis", noise=cuda).cpu()
    close(found, rsa.dissimilarities(here, "mahalanobis", noise=cpu))
    found = rsa.crossnobis_distances(there, noise=torch.stack([cuda] * 4)).cpu()
    close(found, rsa.crossnobis_distances(here, noise=cpu))
    for kind in ("full", "diag", "shrinkage_eye", "shrinkage_diag"):
        found = rsa.noise_covariance(there[1], kind, conditions=list(range(15)) * 2)
        close(found.cpu(), rsa.noise_covariance(here[1], kind, conditions=list(range(15)) * 2))
