"""Similarity of RDMs, ranks, pooled RDMs and ceilings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from neurofm.interpret import rsa
from neurofm.interpret.rsa.ranks import inversions, kendall, mid_ranks

ALL = ("cosine", "corr", "cosine_cov", "corr_cov", "spearman", "rho-a", "tau-a", "tau-b", "bures")


def close(got: object, expected: object, **options: float) -> None:
    options = {"rtol": 1e-9, "atol": 1e-10} | options
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), **options)


def rdms(n: int, k: int = 3, seed: int = 0, p: int = 12) -> np.ndarray:
    return rsa.dissimilarities(np.random.default_rng(seed).normal(size=(k, n, p)), "euclidean")


def spd(p: int) -> np.ndarray:
    return np.cov(np.random.default_rng(5).normal(size=(4 * p, p)).T)


def dense(
    a: np.ndarray, b: np.ndarray, n: int, sigma: np.ndarray | None, keep: np.ndarray, centred: bool
) -> np.ndarray:
    """The definition: the covariance of the kept pairs, inverted."""
    inverse = np.linalg.inv(rsa.rdm_covariance(n, sigma)[np.ix_(keep, keep)])
    a, b = (x[:, keep] - (x[:, keep].mean(1, keepdims=True) if centred else 0) for x in (a, b))
    norms = [np.sqrt(np.einsum("kp,pq,kq->k", x, inverse, x)) for x in (a, b)]
    return a @ inverse @ b.T / norms[0][:, None] / norms[1]


@pytest.mark.parametrize("method", ["cosine_cov", "corr_cov"])
@pytest.mark.parametrize("kind", ["identity", "variances", "full"])
@pytest.mark.parametrize("missing", [0, 3, 25])
def test_whitened_similarity_equals_the_inverted_covariance(
    method: str, kind: str, missing: int
) -> None:
    n, a, b = 9, rdms(9), rdms(9, 2, 1)
    sigma = {"identity": None, "variances": np.diag(spd(n)), "full": spd(n)}[kind]
    keep = np.ones(36, dtype=bool)
    keep[np.random.default_rng(1).permutation(36)[:missing]] = False
    holes = np.where(keep, a, np.nan)
    found = rsa.compare(holes, b, method, sigma_k=sigma)
    close(found, dense(a, b, n, sigma, keep, method == "corr_cov"), atol=1e-9)


def test_a_condition_that_is_missing_altogether_leaves_the_similarity_of_the_others() -> None:
    square = np.array(
        [rsa.rdm(x).square() for x in np.random.default_rng(0).normal(size=(2, 7, 9))]
    )
    rows, columns = np.triu_indices(7, 1)
    few = square[:, :6, :6][:, *np.triu_indices(6, 1)]
    square[0, 6] = square[0, :, 6] = np.nan
    a, b = square[:1, rows, columns], square[1:, rows, columns]
    for method in ALL:
        close(rsa.compare(a, b, method), rsa.compare(few[:1], few[1:], method), atol=1e-9)
    found = rsa.compare(a, b, "neg_riem_dist", sigma_k=spd(7))
    close(found, rsa.compare(few[:1], few[1:], "neg_riem_dist", sigma_k=spd(7)[:6, :6]), atol=1e-6)


def test_whitened_cosine_of_squared_distances_is_centred_cka() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 8, 20))
    a, b = (rsa.rdm(one, "euclidean").values[None] for one in (x, y))
    gram = [c @ c.T for c in (one - one.mean(0) for one in (x, y))]
    cka = np.vdot(*gram) / np.linalg.norm(gram[0]) / np.linalg.norm(gram[1])
    close(rsa.compare(a, b, "cosine_cov")[0, 0], cka)


@pytest.mark.parametrize("method", ALL)
def test_similarity_is_one_with_itself_whatever_the_scale(method: str) -> None:
    a = rdms(8)
    found = rsa.compare(a, 3 * a, method)
    close(np.diag(found), 1, atol=1e-7)
    assert (found < 1 + 1e-12).all() and found[0, 1] < 0.99
    tensors = rsa.compare(torch.tensor(a), torch.tensor(a), method)
    assert isinstance(tensors, torch.Tensor)
    close(tensors, found, atol=1e-7)


def test_bures_metric_is_zero_for_equal_rdms_and_grows_with_scale() -> None:
    a = rdms(8, 1)
    close(rsa.compare(a, a, "bures_metric"), 0, atol=1e-6)
    trace = a.sum() / 8
    close(rsa.compare(a, 4 * a, "bures_metric"), trace, rtol=1e-6)


def test_riemannian_distance_equals_rsatoolbox() -> None:
    import rsatoolbox

    a, b = rdms(6, 2, 0, 30), rdms(6, 2, 1, 30)
    theirs = rsatoolbox.rdm.compare(
        rsatoolbox.rdm.RDMs(a), rsatoolbox.rdm.RDMs(b), method="neg_riem_dist"
    )
    close(rsa.compare(a, b, "neg_riem_dist"), theirs, atol=1e-3)
    close(rsa.compare(a, a, "neg_riem_dist").diagonal(), 0, atol=1e-4)
    assert np.isnan(rsa.compare(a, 0 * b, "neg_riem_dist")).all()


def test_rdms_without_any_distance() -> None:
    a, zero = rdms(6, 1), np.zeros((1, 15))
    for method in ("cosine", "cosine_cov"):
        assert rsa.compare(a, zero, method)[0, 0] == 0
    for method in ("spearman", "tau-b", "bures"):
        assert np.isnan(rsa.compare(a, zero, method)[0, 0])
    assert rsa.compare(a, zero, "tau-a")[0, 0] == 0


@pytest.mark.parametrize(
    ("a", "method", "options", "words"),
    [
        (rdms(6, 1), "pearson", {}, "not one of"),
        (rdms(6, 1), "corr", {"sigma_k": np.eye(6)}, "takes no sigma_k"),
        (rdms(6, 1), "corr_cov", {"sigma_k": np.eye(5)}, "shape .5, 5. for RDMs of 6"),
        (rdms(6, 1), "corr_cov", {"sigma_k": np.ones((6, 6))}, "not positive definite"),
        (rdms(6, 1), "cosine_cov", {"sigma_k": np.zeros(6)}, "not positive"),
        (np.ones((1, 14)), "cosine_cov", {}, "14 pairs are not all pairs"),
        (np.full((1, 15), np.inf), "corr", {}, "infinite"),
        (np.where(np.arange(15) == 4, np.nan, rdms(6, 1)), "bures", {}, "1 single pairs"),
    ],
)
def test_bad_comparisons_say_what_to_do(
    a: np.ndarray, method: str, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        rsa.compare(a, a, method, **options)


def test_a_category_model_is_favoured_by_plain_spearman_and_not_by_rho_a() -> None:
    # The truth is graded; the category model knows only half of it.
    rng = np.random.default_rng(0)
    place = np.concatenate([rng.normal(0, 1, 6), rng.normal(4, 1, 6)])
    truth = rsa.rdm(np.stack([place, 0 * place], 1), "euclidean").values
    graded = np.abs(truth + rng.normal(0, 8, size=(300, 66)))
    model = rsa.class_rdm([0] * 6 + [1] * 6).values[None]
    noisy = truth + rng.normal(0, 8, size=(300, 66))
    gain = {
        method: (rsa.compare(noisy, model, method) - rsa.compare(noisy, graded[:1], method)).mean()
        for method in ("spearman", "rho-a")
    }
    assert gain["spearman"] > gain["rho-a"] + 0.05


def test_whitening_finds_the_better_model_more_often_than_plain_cosine() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 10, 30))
    second = 0.55 * first + 0.85 * other
    models = rsa.dissimilarities(np.stack([first, second]), "euclidean")
    runs = first[None] + rng.normal(0, 3.5, size=(300, 2, 10, 30))
    found = rsa.crossnobis_distances(runs)
    right = {
        method: np.mean(np.diff(rsa.compare(found, models, method))[:, 0] < 0)
        for method in ("cosine", "cosine_cov")
    }
    assert right["cosine_cov"] > right["cosine"] + 0.02 and right["cosine_cov"] > 0.6


# ranks


@pytest.mark.parametrize("levels", [2, 5, 40, 10**6])
@pytest.mark.parametrize("n", [3, 16, 17, 300])
def test_tau_and_ranks_equal_scipy(levels: int, n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.integers(levels, size=(2, n)).astype(float), rng.normal(size=(2, n)).round(1)
    a[:, 0], b[:, 0] = -1, -9  # never constant
    close(mid_ranks(a), stats.rankdata(a, axis=1), rtol=0, atol=0)
    comparisons = np.triu_indices(n, 1)
    signs = [np.sign(x[:, comparisons[0]] - x[:, comparisons[1]]) for x in (a, b)]
    close(kendall(a, b, "tau-a"), signs[0] @ signs[1].T / len(comparisons[0]))
    expected = [[stats.kendalltau(x, y).statistic for y in b] for x in a]
    close(kendall(a, b, "tau-b"), expected)


def test_inversions_are_counted_exactly() -> None:
    x = np.random.default_rng(0).integers(70, size=100)
    assert inversions(x) == int(np.triu(x[:, None] > x, 1).sum())
    assert inversions(np.arange(33)[::-1]) == 33 * 32 // 2


def test_missing_entries_take_no_rank() -> None:
    close(mid_ranks(np.array([[3.0, np.nan, 1.0, 1.0]])), [[3, np.nan, 1.5, 1.5]])


# pooled RDMs and ceilings


def test_pooled_rdms_are_means_of_their_forms() -> None:
    x = rdms(6)
    close(rsa.pool(x, "cosine"), (x / np.sqrt((x**2).mean(1, keepdims=True))).mean(0))
    pooled = rsa.pool(x, "corr")
    z = stats.zscore(x, axis=1).mean(0)
    close(pooled, z - z.min())
    close(rsa.pool(x, "rho-a"), stats.rankdata(x, axis=1).mean(0))
    x[0, 3] = np.nan
    rest = x[1:] / np.sqrt((x[1:] ** 2).mean(1, keepdims=True))
    assert rsa.pool(x, "cosine_cov")[3] == pytest.approx(rest[:, 3].mean())


@pytest.mark.parametrize("method", ALL)
def test_ceilings_hold_the_truth_between_them(method: str) -> None:
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(8, 20))
    people = rsa.dissimilarities(signal + rng.normal(size=(12, 8, 20)), "euclidean")
    ceiling = rsa.noise_ceiling(people, method)
    truth = rsa.compare(people, rsa.rdm(signal, "euclidean").values[None], method).mean()
    assert ceiling.lower - 0.03 < truth < ceiling.upper
    others = [rsa.pool(np.delete(people, i, 0), method) for i in range(12)]
    close(
        ceiling.lower_by,
        [rsa.compare(o[None], x[None], method)[0, 0] for o, x in zip(others, people, strict=True)],
        atol=1e-7,
    )


def test_sessions_of_a_subject_are_left_out_together() -> None:
    x = np.repeat(rdms(8, 3), 2, 0)  # each subject twice
    twice = rsa.noise_ceiling(x, "corr", subjects=["a", "a", "b", "b", "c", "c"])
    once = rsa.noise_ceiling(x[::2], "corr")
    close([twice.lower, twice.upper], [once.lower, once.upper])
    assert rsa.noise_ceiling(x, "corr").lower > once.lower + 0.1
    assert twice.subjects == ("a", "b", "c")


def test_a_ceiling_needs_two_and_says_what_it_is_not() -> None:
    one = rsa.noise_ceiling(rdms(8, 2), subjects=["a", "a"])
    assert np.isnan([one.lower, one.upper]).all() and "one subject has no ceiling" in str(one)
    runs = rsa.noise_ceiling(rdms(8), "tau-a", unit="run")
    assert np.isfinite(runs.lower) and np.isnan(runs.upper)
    assert "no upper bound" in str(runs) and "tau" in runs.caveats[-1]
    with pytest.raises(ValueError, match="2 subjects for 3"):
        rsa.noise_ceiling(rdms(8), subjects=["a", "b"])


def test_a_score_above_its_ceiling_is_not_clipped() -> None:
    rng = np.random.default_rng(0)
    people = rdms(8, 1) + rng.normal(size=(5, 28))
    ceiling = rsa.noise_ceiling(people, "corr")
    low, high = ceiling.ratios(2 * ceiling.upper)
    assert low > high and high == pytest.approx(2)
    assert isinstance(ceiling.plot(), Figure)
