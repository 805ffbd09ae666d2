from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats
from scipy.spatial.distance import pdist

from neurofm.interpret import (
    bootstrap_conditions,
    class_rdm,
    compare,
    compare_rdms,
    condition_means,
    crossnobis,
    draw_permutations,
    layer_rsa,
    permutation_test,
    rdm,
    within,
)
from neurofm.types import RDM

GOLDEN = Path(__file__).parent / "golden" / "interpret"


def golden(name: str) -> dict[str, np.ndarray]:
    return load_file(GOLDEN / f"{name}.safetensors")


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [("correlation", "correlation"), ("cosine", "cosine"), ("euclidean", "sqeuclidean")],
)
def test_rdm_equals_pairwise_distances(
    metric: str, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # several blocks, the last one short
    monkeypatch.setattr("neurofm.interpret.rsa.products.BLOCK", 7)
    x = np.random.default_rng(0).normal(3.0, 1.0, size=(12, 40))
    scale = 40 if metric == "euclidean" else 1
    close(rdm(x, metric).values, pdist(x, reference) / scale)


def test_large_offset_does_not_cost_digits() -> None:
    x = np.random.default_rng(0).normal(size=(6, 50))
    close(rdm(x + 1e5, "euclidean").values, rdm(x, "euclidean").values)


@pytest.mark.golden
def test_rdms_equal_the_reference_values() -> None:
    g = golden("rdm")
    means, names = condition_means(g["measurements"], g["labels"].tolist())
    order = np.argsort(np.array(names))
    close(means[order], g["patterns"])
    close(rdm(g["patterns"], "euclidean").values, g["rdm_euclidean"])
    close(rdm(g["patterns"], "correlation").values, g["rdm_correlation"])
    for kind in ("full", "diag", "shrinkage_eye", "shrinkage_diag"):
        noise = g[f"cov_{kind}"]
        got = rdm(g["patterns"], "mahalanobis", noise=noise).values
        close(got, g[f"rdm_mahalanobis_{kind}"])


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["identity", "full", "diag", "shrinkage_eye", "shrinkage_diag"])
def test_crossnobis_equals_the_reference_values(kind: str) -> None:
    g = golden("rdm")
    order = np.argsort(g["labels"], kind="stable")
    noise = None if kind == "identity" else g[f"cov_{kind}"]
    got = crossnobis(
        g["measurements"][order],
        g["labels"][order].tolist(),
        g["runs"][order].tolist(),
        noise=noise,
    )
    close(got.values, g[f"rdm_crossnobis_{kind}"])


@pytest.mark.golden
def test_constant_patterns_are_nan_as_in_the_reference() -> None:
    g = golden("rdm")
    close(rdm(g["edge_patterns"], "euclidean").values, g["edge_rdm_euclidean"])
    with pytest.warns(UserWarning, match="1 of 9 patterns are constant"):
        got = rdm(g["edge_patterns"], "correlation").values
    close(got, g["edge_rdm_correlation"])


def test_a_constant_pattern_with_rounding_errors_is_still_constant() -> None:
    x = np.random.default_rng(0).normal(size=(4, 1001))
    x[1] = 0.1
    with pytest.warns(UserWarning, match="constant"):
        square = rdm(x).square()
    assert np.isnan(square[1, [0, 2, 3]]).all()
    assert np.isfinite(square[np.ix_([0, 2, 3], [0, 2, 3])]).all()


def test_nan_touches_only_its_own_condition() -> None:
    x = np.random.default_rng(0).normal(size=(5, 9))
    x[2, 3] = np.nan
    for metric in ("correlation", "euclidean", "cosine"):
        square = rdm(x, metric).square()
        rest = [0, 1, 3, 4]
        assert np.isnan(square[2, rest]).all()
        close(square[np.ix_(rest, rest)], rdm(x[rest], metric).square())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((1, 4)), "condition >= 2"),
        (np.array([[np.inf, 0.0], [0.0, 1.0]]), "1 patterns hold infinite"),
    ],
)
def test_bad_patterns_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rdm(x, "euclidean")


def test_a_singular_noise_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="singular"):
        rdm(np.eye(3), "mahalanobis", noise=np.ones((3, 3)))


def test_crossnobis_of_pure_noise_is_zero_on_average_and_euclidean_is_not() -> None:
    generator = np.random.default_rng(1)
    runs, conditions = np.repeat(range(4), 10).tolist(), np.tile(range(10), 4).tolist()
    crossed, plain = [], []
    for _ in range(30):
        x = generator.normal(size=(40, 20))
        crossed.append(crossnobis(x, conditions, runs).values)
        plain.append(rdm(condition_means(x, conditions)[0], "euclidean").values)
    values = np.array(crossed)
    assert abs(values.mean()) < 0.02
    assert np.mean(plain) > 0.4
    assert (values < 0).any()


def test_crossnobis_names_a_missing_cell() -> None:
    with pytest.raises(ValueError, match="condition 'b' does not occur in run 2"):
        crossnobis(np.ones((3, 2)), ["a", "b", "a"], [1, 1, 2])


@pytest.mark.golden
@pytest.mark.parametrize("method", ["cosine", "corr", "spearman", "rho-a", "tau-a", "tau-b"])
def test_comparisons_equal_the_reference_values(method: str) -> None:
    g = golden("compare")
    close(compare(g["rdms_a"], g["rdms_b"], method), g[f"sim_{method}"])
    if f"sim_ties_{method}" in g:
        close(compare(g["rdms_ties_a"], g["rdms_ties_b"], method), g[f"sim_ties_{method}"])
    if f"sim_nan_{method}" in g:
        a = g["rdms_a"].copy()
        a[0, g["nan_positions"]] = np.nan
        close(compare(a, g["rdms_b"], method), g[f"sim_nan_{method}"])
        with pytest.raises(ValueError, match="3 of 28 pairs are NaN"):
            compare(a, g["rdms_b"], method, strict=True)


def test_fewer_than_three_pairs_have_no_similarity() -> None:
    assert np.isnan(compare(np.array([[1.0, 2.0, np.nan]]), np.array([[1.0, 2.0, 3.0]])))


def test_rdms_of_different_conditions_are_refused() -> None:
    a = RDM(np.arange(3.0), ("a", "b", "c"), "x")
    b = RDM(np.arange(3.0), ("a", "c", "b"), "x")
    with pytest.raises(ValueError, match="condition 1 is 'b' in one and 'c'"):
        compare_rdms(a, b)


def test_class_rdm_is_recovered_from_planted_classes_at_chance_when_shuffled() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(["left", "right"], 12).tolist()
    centres = {"left": generator.normal(size=30), "right": generator.normal(size=30)}
    x = np.stack([centres[label] for label in labels]) + generator.normal(size=(24, 30))
    found, shuffled = rdm(x), rdm(generator.permutation(x))
    model = class_rdm(labels, names=range(24))
    orders = draw_permutations(24, 500, generator=generator)
    assert permutation_test(found, model, orders=orders).p < 0.01
    test = permutation_test(shuffled, model, orders=orders)
    low, high = test.band
    assert low <= test.value <= high


@pytest.mark.parametrize("method", ["rho-a", "corr"])
def test_permutation_p_is_uniform_under_the_null(method: str) -> None:
    generator = np.random.default_rng(3)
    model = class_rdm(np.repeat(["a", "b"], 6).tolist(), names=range(12))
    p = []
    for _ in range(200):
        orders = draw_permutations(12, 99, generator=generator)
        a = rdm(generator.normal(size=(12, 5)))
        p.append(permutation_test(a, model, orders=orders, method=method).p)
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.10
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.golden
def test_permutation_null_equals_the_reference_values() -> None:
    g = golden("inference")
    names = tuple(map(str, range(9)))
    for m, model in enumerate(g["model_rdms"]):
        nulls = [
            permutation_test(
                RDM(model, names, "model"),
                RDM(subject, names, "subject"),
                orders=g["perm_idx"],
                method="spearman",
            ).null
            for subject in g["subject_rdms"]
        ]
        close(np.mean(nulls, axis=0), g["perm_null_spearman"][:, m])


@pytest.mark.golden
@pytest.mark.parametrize("method", ["cosine", "corr", "rho-a"])
def test_bootstrap_equals_the_reference_values(method: str) -> None:
    g = golden("inference")
    names = tuple(map(str, range(9)))
    for m, model in enumerate(g["model_rdms"]):
        drawn = [
            bootstrap_conditions(
                RDM(model, names, "model"),
                RDM(subject, names, "subject"),
                samples=g["boot_pattern_idx"],
                method=method,
            ).values
            for subject in g["subject_rdms"]
        ]
        close(np.mean(drawn, axis=0), g[f"boot_pattern_{method}"][:, m])


def test_bootstrap_skips_and_counts_samples_of_too_few_conditions() -> None:
    a = rdm(np.random.default_rng(0).normal(size=(4, 8)))
    samples = np.array([[0, 0, 1, 1], [0, 1, 2, 3]])
    drawn = bootstrap_conditions(a, a, samples=samples, method="corr")
    assert drawn.skipped == 1
    assert drawn.values[1] == pytest.approx(1.0)


def test_permutations_within_groups_stay_within_groups() -> None:
    groups = ["s1"] * 4 + ["s2"] * 3
    orders = draw_permutations(7, 50, generator=np.random.default_rng(0), groups=groups)
    assert set(orders[:, :4].ravel()) == {0, 1, 2, 3}
    assert len(np.unique(orders, axis=0)) > 10


def test_pairs_across_subjects_can_be_left_out() -> None:
    generator = np.random.default_rng(0)
    subject = np.repeat(["s1", "s2"], 8).tolist()
    labels = ["a", "b"] * 8
    # Persons differ greatly, classes a little.
    x = generator.normal(size=(16, 40)) + np.repeat([0.0, 1.0], 8)[:, None] * 10 * np.arange(40)
    x += np.array([0.0, 1.0] * 8)[:, None] * generator.normal(size=40) * 1.5
    model = class_rdm(labels, names=range(16))
    orders = draw_permutations(16, 300, generator=generator, groups=subject)
    inside = within(rdm(x, "euclidean"), subject)
    assert np.isnan(inside.values).sum() == 64
    assert permutation_test(inside, model, orders=orders).p < 0.02


def test_missing_pairs_that_move_with_the_permutation_are_left_out() -> None:
    generator = np.random.default_rng(0)
    a = rdm(generator.normal(size=(8, 5)))
    values = a.values.copy()
    values[[0, 5]] = np.nan
    holes = RDM(values, a.labels, a.metric)
    orders = draw_permutations(8, 20, generator=generator)
    null = permutation_test(holes, a, orders=orders, method="corr").null
    rows, columns = np.triu_indices(8, 1)
    for order, value in zip(orders, null, strict=True):
        moved = holes.square()[order[rows], order[columns]]
        ok = np.isfinite(moved)
        assert value == pytest.approx(np.corrcoef(moved[ok], a.values[ok])[0, 1])


def test_layer_rsa_finds_the_layer_that_holds_the_class() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(["left", "right"], 10).tolist()
    code = np.repeat([-1.0, 1.0], 10)[:, None]
    brain = generator.normal(size=(20, 12))
    layers = {
        "early": brain + 0.3 * generator.normal(size=(20, 12)),
        "late": code * generator.normal(size=(1, 16)) + 0.5 * generator.normal(size=(20, 16)),
    }
    names = [f"trial {i}" for i in range(20)]
    references = {"class": class_rdm(labels, names=names), "EEG": rdm(brain, labels=names)}
    found = layer_rsa(layers, references, generator=generator, n_permutations=200, n_bootstrap=100)
    by_name = {result.name: result for result in found}
    assert list(by_name) == ["early ~ class", "early ~ EEG", "late ~ class", "late ~ EEG"]
    assert by_name["late ~ class"].value > 0.5
    assert by_name["late ~ class"].detail["p_family"] < 0.02
    assert by_name["early ~ EEG"].value > 0.5
    assert by_name["late ~ EEG"].detail["p"] > 0.02
    for result in found:
        assert result.low is not None and result.high is not None
        assert result.low <= result.value + 0.2 and result.high >= result.value - 0.2
        assert result.chance == pytest.approx(0, abs=0.05)
        assert result.detail["p_family"] >= result.detail["p"]


def test_condition_means_average_pseudo_trials() -> None:
    x = np.arange(8.0).reshape(4, 2)
    means, names = condition_means(x, [("a", 1), ("b", 1), ("a", 1), ("b", 2)])
    assert names == (("a", 1), ("b", 1), ("b", 2))
    np.testing.assert_array_equal(means[0], [2.0, 3.0])
    with pytest.raises(ValueError, match="3 conditions for 4 windows"):
        condition_means(x, ["a", "b", "c"])


def test_results_do_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(20, 300)).astype(np.float32)
    whole = rdm(x).values
    monkeypatch.setattr("neurofm.interpret.rsa.products.BLOCK", 11)
    np.testing.assert_allclose(rdm(x).values, whole, rtol=1e-12)
