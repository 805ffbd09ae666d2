"""Coverage, distances and detection; massive activations; drift."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from neurofm.interpret.monitoring import (
    Drift,
    Influence,
    attention_entropy,
    attention_mass,
    choose_coverage,
    coverage,
    dead_units,
    detection,
    effective_rank,
    mahalanobis_familiarity,
    massive_activations,
    neighbour_familiarity,
    neuron_states,
    not_finite,
    uniform_divergence,
)
from neurofm.interpret.monitoring.detection import Detections

HERE = Path(__file__).parent


def said(words: str) -> str:
    """A wrong shape is a TypeCheckError where types are checked at run time."""
    return f"{words}|Type-check error"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_every_golden_tensor_agrees() -> None:
    spec = importlib.util.spec_from_file_location("check_golden", HERE / "check_golden.py")
    checker = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = checker
    spec.loader.exec_module(checker)
    ours, fixture = checker.module("interpret"), checker.Fixture(HERE / "golden" / "interpret")
    topic = ours.topic("monitoring_probing")
    tensors = load_file(HERE / "golden" / "interpret" / "monitoring_probing.safetensors")
    got = topic.check(tensors)
    expected = set(tensors) - set(topic.INPUTS)
    assert set(got) == expected
    assert len(expected) == 27
    for key in expected:
        atol, rtol = ours.tolerance(fixture, f"monitoring_probing/{key}")
        line = checker.compare(key, tensors[key], got[key], atol, rtol)
        assert line.passed, line


# Coverage


def test_a_state_never_seen_scores_zero_and_a_common_one_scores_one() -> None:
    seen = coverage(np.full((20, 3), 0.05), n_edges=11, saturation=20)
    assert seen.score(np.array([[0.05] * 3, [0.95] * 3, [0.05, 0.05, 0.95]])) == pytest.approx(
        [1.0, 0.0, 2 / 3]
    )


def test_bins_are_half_open_and_the_last_one_contains_one() -> None:
    counts = coverage(np.array([[0.0], [0.25], [0.5], [0.6], [1.0]]), n_edges=5).counts
    assert counts[:, 0].tolist() == [1, 1, 2, 1]


def test_counting_in_pieces_is_counting_at_once(rng: np.random.Generator) -> None:
    states = rng.random((50, 4))
    whole = coverage(states, n_edges=30)
    pieces = coverage(states[:7], n_edges=30).extended(states[7:31]).extended(states[31:])
    assert (whole.counts == pieces.counts).all()
    assert whole.counts.sum(0).tolist() == [50] * 4


def test_the_gradient_of_the_divergence_is_softmax_minus_uniform() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(uniform_divergence(logits).sum(), logits)
    torch.testing.assert_close(gradient, logits.detach().softmax(1) - 0.2)
    assert float(uniform_divergence(torch.zeros(1, 5))) == pytest.approx(0, abs=1e-6)


def test_states_are_of_the_kind_that_came_in(rng: np.random.Generator) -> None:
    a, g = rng.normal(size=(2, 5, 3))
    states = neuron_states(torch.from_numpy(a), torch.from_numpy(g), alpha=2)
    assert isinstance(states, torch.Tensor)
    np.testing.assert_allclose(states.numpy(), 1 / (1 + np.exp(-2 * a * g)))


def test_settings_are_those_that_separate_the_validation_samples(
    rng: np.random.Generator,
) -> None:
    def layer(n: int, scale: float) -> dict[str, Influence]:
        return {"a": Influence(scale * rng.normal(size=(n, 8)), np.ones((n, 8)))}

    found = choose_coverage(layer(200, 1), layer(80, 1), layer(80, 4))
    fresh_in, fresh_out = found.score(layer(80, 1)), found.score(layer(80, 4))
    assert detection(fresh_in, fresh_out).auroc > 0.9
    assert found.validation is not None
    assert found.validation["a"] > 0.9
    with pytest.raises(KeyError, match="Did you mean 'blocks'"):
        found_other = choose_coverage(*({"block": layer(20, 1)["a"]} for _ in range(3)))
        found_other.score({"blocks": layer(5, 1)["a"]})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coverage(np.array([[1.2]])), "expected 0 to 1"),
        (lambda: coverage(np.array([[np.nan], [0.5]])), "1 of 2 samples hold NaN"),
        (lambda: coverage(np.zeros((3, 2)), n_edges=1), "two or more"),
        (lambda: coverage(np.zeros((3, 2)), saturation=0), "positive"),
        (lambda: coverage(np.zeros(3)), "sample unit"),
        (lambda: coverage(np.zeros((3, 2))).score(np.zeros((3, 4))), "counted on 2"),
        (lambda: neuron_states(np.zeros((2, 2)), np.zeros((2, 2)), alpha=0), "positive"),
        (lambda: neuron_states(np.zeros((2, 2)), np.zeros((3, 2))), "same samples"),
        (lambda: choose_coverage({}, {}, {}), "at least one"),
        (
            lambda: choose_coverage(*[{"a": Influence(np.ones((4, 2)), np.zeros((4, 2)))}] * 3),
            "no influence on any familiar sample",
        ),
        (lambda: Influence(np.zeros((2, 2)), np.zeros((2, 3))), "gradient"),
        (lambda: mahalanobis_familiarity(np.ones((4, 2)), np.ones((1, 2))), "no unit varies"),
        (lambda: mahalanobis_familiarity(np.ones((4, 2)), np.ones((1, 3))), "same units"),
        (lambda: mahalanobis_familiarity(np.eye(4), np.eye(4), labels=[1]), "1 labels for 4"),
        (lambda: neighbour_familiarity(np.eye(4), np.eye(4), k=5), "expected 1 to 4"),
        (lambda: neighbour_familiarity(np.eye(4) * np.inf, np.eye(4)), "4 of 4 familiar"),
        (lambda: neighbour_familiarity(np.ones((1, 2)), np.ones((1, 2)), k=1), "at least two"),
        (lambda: detection([1.0], [np.nan]), "no outside sample with a score"),
        (lambda: detection([1.0], [0.0], inside_groups=[1]), "one side only"),
        (lambda: detection([1.0], [0.0], inside_groups=[1, 2], outside_groups=[1]), "2 groups"),
    ],
)
def test_bad_input_of_scores_says_what_is_wrong(call, words: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(Exception, match=said(words)):
        call()


# Distances and detection


def test_distances_find_what_lies_off_and_leave_nan_alone(rng: np.random.Generator) -> None:
    mix = rng.normal(size=(6, 6))
    train = rng.normal(size=(300, 6)) @ mix
    inside, outside = rng.normal(size=(100, 6)) @ mix, 2.5 * rng.normal(size=(100, 6)) @ mix
    bad = np.full((1, 6), np.nan)
    for score in (mahalanobis_familiarity, neighbour_familiarity):
        settings = {} if score is mahalanobis_familiarity else {"normalise": False}
        a = score(train, inside, **settings)
        b = score(train, np.concatenate([outside, bad]), **settings)
        assert np.isnan(b[-1])
        found = detection(a, b)
        assert found.auroc > 0.9
        assert found.n_dropped == 1


def test_mahalanobis_is_the_distance_of_its_definition(rng: np.random.Generator) -> None:
    mix = np.array([[30.0, 0, 0], [3, 2, 0], [0, -1, 0.3]])
    train = rng.normal(size=(4000, 3)) @ mix + np.repeat([0, 90], 2000)[:, None]
    test = rng.normal(size=(5, 3)) @ mix + 90
    got = mahalanobis_familiarity(train, test, labels=[0] * 2000 + [1] * 2000)
    means = np.stack([train[:2000].mean(0), train[2000:].mean(0)])
    rest = train - np.repeat(means, 2000, axis=0)
    away = test - means[1]
    expected = -np.einsum("ij,jk,ik->i", away, np.linalg.inv(rest.T @ rest / 4000), away)
    np.testing.assert_allclose(got, expected, rtol=0.02)  # it shrinks a little


def test_auroc_and_fpr95_are_those_of_the_definition(rng: np.random.Generator) -> None:
    a, b = np.round(rng.normal(0.7, 1, 200), 1), np.round(rng.normal(0, 1, 150), 1)
    found = detection(a, b)
    truth = [1] * 200 + [0] * 150
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.concatenate([a, b])))
    thresholds = [t for t in np.unique(a) if (a >= t).mean() >= 0.95]
    assert found.fpr95 == pytest.approx((b >= max(thresholds)).mean())
    assert np.isnan(found.low)


def test_the_interval_draws_groups_not_windows(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(6), 40)
    own = rng.normal(0, 1, 6)[groups]
    a, b = own + 0.1 * rng.normal(size=240), own + 0.1 * rng.normal(size=240)
    wide = detection(a, b, inside_groups=groups, outside_groups=groups, n_resamples=500)
    windows = np.arange(240)
    narrow = detection(a, b, inside_groups=windows, outside_groups=windows, n_resamples=500)
    assert wide.low < wide.auroc < wide.high
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.n_groups == (6, 6)
    few = np.repeat([0, 1], 120)
    assert np.isnan(detection(a, b, inside_groups=few, outside_groups=groups).low)


# Massive activations


def test_a_planted_massive_activation_is_found_and_constant(rng: np.random.Generator) -> None:
    hidden = rng.normal(size=(3, 5, 4, 16))  # layer sample token channel
    hidden[1, :, 0, 7] = 2000 + rng.normal(size=5)
    hidden[2, 3, 2, 5] = 90  # large beside its medians, but not absolutely
    found = massive_activations(hidden)
    assert {tuple(place) for place in found.places()} == {(1, s, 0, 7) for s in range(5)}
    assert found.outlier.sum() == 6
    assert found.top_ratio.shape == (3, 5, 3)
    constancy = found.constancy()
    assert constancy[0, :3].tolist() == [1, 0, 7]
    assert constancy[0, 3] < 0.01
    assert constancy[1, 3] > 1


def test_padded_tokens_do_not_count(rng: np.random.Generator) -> None:
    hidden = rng.normal(size=(2, 6, 8))
    mask = np.arange(6) < np.array([[6], [3]])
    padded = hidden.copy()
    padded[1, 3:] = 1e6
    found = massive_activations(padded, mask=mask)
    assert not found.outlier.any()
    alone = massive_activations(hidden[1:, :3])
    assert found.median[1] == alone.median[0]
    np.testing.assert_array_equal(found.top_ratio[1], alone.top_ratio[0])


def test_attention_on_tokens_is_their_share() -> None:
    attention = torch.tensor([[[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]])
    torch.testing.assert_close(attention_mass(attention, [0]), torch.tensor([0.6]).double())


# Drift


def test_effective_rank_counts_directions(rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 8))
    q = np.linalg.qr(x - x.mean(0))[0]
    assert effective_rank(q) == pytest.approx(8)
    assert effective_rank(q[:, :1] @ np.ones((1, 5))) == pytest.approx(1)
    assert effective_rank(rng.normal(size=(4, 50))) < 4
    assert np.isnan(effective_rank(np.full((5, 3), 0.1)))


def test_units_that_never_change_are_dead() -> None:
    assert dead_units(np.array([[0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 3.0, 1.0]])) == 0.5


def test_entropy_of_attention_runs_from_one_key_to_all() -> None:
    attention = np.stack([np.eye(4), np.full((4, 4), 0.25)])
    np.testing.assert_allclose(attention_entropy(attention), [0, np.log(4)])
    np.testing.assert_allclose(
        attention_entropy(attention[1:], mask=np.array([[True, False, False, False]])), [np.log(4)]
    )


def test_drift_compares_with_the_layer_some_epochs_earlier(rng: np.random.Generator) -> None:
    drift, x = Drift(back=2), rng.normal(size=(30, 6))
    turned = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert "a/cka" not in drift.add({"a": x})
    assert "a/cka" not in drift.add({"a": rng.normal(size=(30, 6))})
    assert drift.add({"a": turned})["a/cka"] == pytest.approx(1)
    assert drift.add({"a": x})["a/cka"] < 0.5
    with pytest.raises(ValueError, match="the same samples"):
        drift.add({"a": x[:20]})


def test_nan_and_infinity_are_counted_apart() -> None:
    assert not_finite(torch.tensor([1.0, float("nan"), float("inf"), -float("inf")])) == (1, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: massive_activations(np.zeros(4)), "token channel"),
        (lambda: massive_activations(np.full((2, 2), np.nan)), "4 of 4 activations are NaN"),
        (
            lambda: massive_activations(np.ones((2, 2)), mask=np.array([False, False])),
            "real token",
        ),
        (lambda: massive_activations(np.ones((2, 2))).constancy(axis=0), "axis 0 of 0"),
        (lambda: attention_mass(np.ones((2, 2)), [0]), "after the softmax"),
        (lambda: attention_entropy(-np.eye(2)), "negative"),
        (lambda: effective_rank(np.ones(3)), "sample unit"),
        (lambda: Drift(back=0), "one epoch"),
    ],
)
def test_bad_input_of_health_says_what_is_wrong(call, words: str) -> None:
    with pytest.raises(Exception, match=said(words)):
        call()


def test_results_draw_themselves(rng: np.random.Generator) -> None:
    seen = coverage(rng.random((40, 6)), n_edges=20)
    groups = np.repeat(np.arange(4), 10)
    found = detection(
        rng.normal(1, 1, 40), rng.normal(0, 1, 40), inside_groups=groups, outside_groups=groups
    )
    drift = Drift()
    for _ in range(3):
        drift.add({"a": rng.normal(size=(9, 4)), "b": rng.normal(size=(9, 4))})
    figures = [
        seen.plot(),
        found.plot(),
        Detections({"coverage": found, "Mahalanobis": found}).plot(),
        massive_activations(rng.normal(size=(3, 4, 5, 6))).plot(),
        drift.plot(),
    ]
    for figure in figures:
        axes = figure.axes[0]
        assert axes.get_xlabel()
        assert axes.get_title(loc="left")
