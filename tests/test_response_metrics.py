"""Scores of encoding, decoding, images and captions: definitions, ties, chance, faults."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm import metrics


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(30, 12))
    return true, true + 2 * rng.normal(size=(30, 12))


def test_two_way_identification_counts_by_prediction(pair):
    true, predicted = pair
    n = len(true)
    r = np.corrcoef(true, predicted)[:n, n:]
    count = [sum(r[i, j] < r[j, j] for i in range(n)) / (n - 1) for j in range(n)]
    np.testing.assert_allclose(metrics.two_way_by_prediction(true, predicted), count)
    assert metrics.two_way_identification(true, predicted) == pytest.approx(np.mean(count))
    # Along rows it is another number, so the convention matters.
    assert metrics.two_way_identification(predicted, true) != pytest.approx(np.mean(count))


def test_perfect_predictions_score_one_and_constant_ones_are_never_right(pair):
    true, _ = pair
    constant = np.ones_like(true)
    assert metrics.two_way_identification(true, true) == 1
    assert metrics.two_way_identification(true, constant) == 0
    assert metrics.two_v_two(true, true) == 1
    assert metrics.two_v_two(true, constant) == 0
    found = metrics.top_k(true, constant, 5)
    assert found.value == pytest.approx(found.chance)  # the same five items for all
    assert metrics.top_k(true, constant, 5, direction="backward").value == 0  # all tied
    assert metrics.top_k(true, true, 1).value == 1
    assert metrics.relative_median_rank(true, true).value == 0


def test_unrelated_predictions_are_at_chance():
    rng = np.random.default_rng(1)
    true, predicted = rng.normal(size=(2, 400, 20))
    assert metrics.two_way_identification(true, predicted) == pytest.approx(0.5, abs=0.03)
    assert metrics.two_v_two(true, predicted) == pytest.approx(0.5, abs=0.05)
    found = metrics.top_k(true, predicted, 40)
    assert found.value == pytest.approx(found.chance, abs=0.04)
    found = metrics.relative_median_rank(true, predicted)
    assert found.value == pytest.approx(found.chance, abs=0.06)


def test_two_v_two_is_that_of_a_loop_over_pairs(pair):
    true, predicted = pair

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    right = [
        distance(true[i], predicted[i]) + distance(true[j], predicted[j])
        < distance(true[i], predicted[j]) + distance(true[j], predicted[i])
        for i in range(30)
        for j in range(i + 1, 30)
    ]
    assert metrics.two_v_two(true, predicted) == pytest.approx(np.mean(right))


def test_retrieval_says_how_large_the_set_is(pair):
    true, predicted = pair
    found = metrics.top_k(true, predicted, 3)
    assert (found.n_items, found.n_queries, found.k) == (30, 30, 3)
    assert found.chance == pytest.approx(0.1)
    assert "set of 30" in str(found)
    smaller = metrics.top_k(true, predicted, 3, set_size=10, n_draws=50)
    assert smaller.n_items == 10
    assert smaller.value > found.value
    assert smaller == metrics.top_k(true, predicted, 3, set_size=10, n_draws=50)


def test_a_larger_pool_and_several_predictions_of_one_item(pair):
    true, predicted = pair
    rng = np.random.default_rng(2)
    pool = np.concatenate([rng.normal(size=(70, 12)), true])
    twice = np.concatenate([predicted, predicted])
    which = np.tile(np.arange(70, 100), 2)
    found = metrics.top_k(pool, twice, 5, which=which)
    assert (found.n_items, found.n_queries) == (100, 60)
    assert found.value < metrics.top_k(true, predicted, 5).value
    with pytest.raises(ValueError, match="Say with `which`"):
        metrics.top_k(pool, twice, 5)
    with pytest.raises(ValueError, match="exactly one prediction per item"):
        metrics.top_k(pool, twice, 5, which=which, direction="backward")


def test_backward_search_is_along_the_other_axis(pair):
    true, predicted = pair
    forward = metrics.ranks(true, predicted)
    backward = metrics.ranks(true, predicted, direction="backward")
    assert not np.array_equal(forward, backward)
    np.testing.assert_array_equal(backward, metrics.ranks(predicted, true))
    order = np.random.default_rng(3).permutation(30)
    shuffled = metrics.ranks(true, predicted[order], which=order, direction="backward")
    np.testing.assert_array_equal(shuffled, backward[order])


def test_n_way_accuracy_is_the_mean_over_all_draws():
    posterior = np.array([[0.1, 0.5, 0.2, 0.05, 0.15]])
    # Class 2 beats three of its four rivals: 3 of 4 for two ways, 3 of 6 pairs for three.
    assert metrics.n_way_accuracy(np.array([2]), posterior, n=2) == pytest.approx(0.75)
    assert metrics.n_way_accuracy(np.array([2]), posterior, n=3) == pytest.approx(0.5)
    assert metrics.n_way_accuracy(np.array([2]), posterior, n=5) == 0
    assert metrics.n_way_accuracy(np.array([1]), posterior, n=5) == pytest.approx(1)


def test_explained_variance_forgives_a_constant_error_and_r2_does_not(pair):
    true, _ = pair
    np.testing.assert_allclose(metrics.explained_variance(true, true + 3), 1)
    assert (metrics.r2_score(true, true + 3) < -3).all()
    np.testing.assert_allclose(metrics.r2_score(true, 0 * true + true.mean(0)), 0, atol=1e-12)


def test_channels_that_never_change_have_no_score(pair):
    true, predicted = (values.copy() for values in pair)
    true[:, 4] = 0.1
    for score in (
        metrics.explained_variance,
        metrics.r2_score,
        metrics.correlation_per_channel,
    ):
        assert np.flatnonzero(np.isnan(score(true, predicted))).tolist() == [4]


def test_noise_normalised_r2_leaves_out_what_has_no_signal():
    r, ceiling = np.array([0.5, -0.5, 0.5]), np.array([0.5, 0.5, 0.0])
    values = metrics.noise_normalised_r2(r, ceiling)
    np.testing.assert_allclose(values[:2], [0.5, 0])
    assert np.isnan(values[2])
    assert metrics.noise_normalised_r2(r, ceiling, epsilon=1e-10)[2] > 1e9
    with pytest.raises(ValueError, match="share of variance"):
        metrics.noise_normalised_r2(r, 100 * ceiling)


def test_moments_of_predictions_become_those_of_the_targets(pair):
    true, predicted = pair
    made = metrics.moment_match(0.1 * predicted, true, ddof=1)
    np.testing.assert_allclose(made.mean(0), true.mean(0))
    np.testing.assert_allclose(made.std(0, ddof=1), true.std(0, ddof=1))
    one = metrics.moment_match(0.1 * predicted[:1], true, source=0.1 * predicted, ddof=1)
    np.testing.assert_allclose(one, made[:1])


def test_structural_similarity_and_pixels_of_an_image_and_its_negative():
    rng = np.random.default_rng(4)
    image = rng.random((2, 20, 24, 3))
    np.testing.assert_allclose(metrics.ssim(image, image), 1)
    np.testing.assert_allclose(metrics.pixel_correlation(image, 1 - image), -1)
    assert (metrics.ssim(image, 1 - image) < 0).all()
    scaled = metrics.ssim(255 * image, 255 * (image + 0.1), data_range=255)
    np.testing.assert_allclose(scaled, metrics.ssim(image, image + 0.1))
    with pytest.raises(ValueError, match="10 x 30 pixels"):
        metrics.ssim(np.zeros((1, 10, 30)), np.zeros((1, 10, 30)))
    with pytest.raises(ValueError, match="3 in the last axis"):
        metrics.ssim(np.zeros((1, 20, 30, 4)), np.zeros((1, 20, 30, 4)))


def test_bleu_of_a_known_sentence():
    said, meant = "the the the cat sat", ["the cat sat down", "a cat sat on the mat"]
    # Words: "the" at most once in a reference, cat, sat: 3 of 5. Pairs: cat sat, the cat: 2 of 4.
    assert metrics.bleu([said], [meant], order=1) == pytest.approx(0.6)
    assert metrics.bleu([said], [meant], order=2) == pytest.approx(np.sqrt(0.6 * 0.5))
    assert metrics.bleu([said], [meant], order=4) == 0
    # One word too short: exp(1 - 4 / 3).
    assert metrics.bleu(["the cat sat"], ["the cat sat down"], order=3) == pytest.approx(
        np.exp(-1 / 3)
    )


def test_bleu_of_a_corpus_is_no_mean_over_sentences():
    said, meant = ["a b c d", "x"], ["a b c d", "y"]
    assert metrics.bleu(said, meant, order=1) == pytest.approx(4 / 5)
    assert metrics.bleu(said, meant, order=4) == pytest.approx((0.8) ** 0.25)


def test_meteor_like_of_known_sentences():
    one = metrics.meteor_like(["the cat sat"], ["the cat sat"])
    assert one[0] == pytest.approx(1 - 0.5 / 27)
    # Two of three words in one piece: P = 2/3, R = 1/2.
    value = metrics.meteor_like(["a cat sits"], ["on a cat down"])[0]
    mean = (2 / 3) * (1 / 2) / (0.9 * 2 / 3 + 0.1 / 2)
    assert value == pytest.approx(mean * (1 - 0.5 * (1 / 2) ** 3))
    assert metrics.meteor_like(["dog"], ["cat"])[0] == 0
    stemmed = metrics.meteor_like(["cats sat"], ["cat sat"], stem=lambda w: w.rstrip("s"))
    assert stemmed[0] > metrics.meteor_like(["cats sat"], ["cat sat"])[0]


def test_cosine_of_sentence_embeddings_takes_any_encoder():
    def embed(sentences: list[str]) -> np.ndarray:
        return np.array([[s.count("a"), s.count("b")] for s in sentences])

    values = metrics.embedding_cosine(["aab", "b"], ["aab", "a"], embed)
    np.testing.assert_allclose(values, [1, 0])


@pytest.mark.parametrize("score", ["two_way_identification", "two_v_two", "r2_score", "soft_clip"])
def test_lengths_that_differ_and_nan_are_refused(pair, score):
    true, predicted = pair
    with pytest.raises(ValueError, match=r"\(30, 12\) and predicted \(29, 12\)"):
        getattr(metrics, score)(true, predicted[1:])
    broken = predicted.copy()
    broken[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 of 360 predicted values are NaN"):
        getattr(metrics, score)(true, broken)


def test_captions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="1 candidates and 2 references"):
        metrics.bleu(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="list of sentences"):
        metrics.bleu("abc", ["a", "b", "c"])
    with pytest.raises(ValueError, match="no reference"):
        metrics.meteor_like(["a"], [[]])
    with pytest.raises(ValueError, match="one row each"):
        metrics.embedding_cosine(["a", "b"], ["a", "b"], lambda s: np.ones((1, 3)))
