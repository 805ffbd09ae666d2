"""Bootstraps and tests of RSA: against explicit resampling, rsatoolbox, and planted RDMs."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.inference import boot_noise_ceiling
from safetensors.torch import load_file

from neurofm.interpret import rsa
from neurofm.interpret.rsa import resampled
from neurofm.interpret.rsa.bootstrap import METHODS
from neurofm.interpret.rsa.weighted import default_folds
from neurofm.types import RDM

HERE = Path(__file__).parent
N, S, K = 8, 4, 3


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def stacks(rng: np.random.Generator, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    true = rng.normal(size=(n, 5))
    people = [rsa.rdm(true + 0.5 * rng.normal(size=true.shape), "euclidean") for _ in range(S)]
    models = [true, true[:, :2], rng.normal(size=(n, 3))]
    return (
        np.stack([rsa.rdm(m, "euclidean").values for m in models]),
        np.stack([p.values for p in people]),
    )


def named(x: np.ndarray, word: str = "m") -> dict[str, RDM]:
    n = round((1 + np.sqrt(1 + 8 * x.shape[1])) / 2)
    labels = tuple(map(str, range(n)))
    return {f"{word}{i}": RDM(one, labels, "euclidean") for i, one in enumerate(x)}


@pytest.mark.parametrize("topic", ["inference", "searchlight_movie"])
def test_every_stored_number_agrees(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fnmatch
    import importlib.util

    path = HERE / "golden_checks" / "interpretation" / f"{topic}.py"
    spec = importlib.util.spec_from_file_location(f"check_{topic}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[f"check_{topic}"] = module
    spec.loader.exec_module(module)
    tensors = load_file(HERE / "golden" / "interpret" / f"{topic}.safetensors")
    got = module.check(tensors)
    for name, value in tensors.items():
        if not any(fnmatch.fnmatch(name, pattern) for pattern in module.INPUTS):
            assert got[name].shape == value.shape, name
            np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("method", ["cosine", "corr", "spearman", "rho-a", "tau-a", "tau-b"])
def test_weights_of_drawn_conditions_give_what_drawing_gives(
    method: str, rng: np.random.Generator
) -> None:
    models, people = stacks(rng)
    draws = rng.integers(N, size=(6, N))
    found = rsa.resample(models, people, method, conditions=draws)
    rows, columns = np.triu_indices(N, 1)
    for draw, got in zip(draws, found.by_subject, strict=True):
        left, right = draw[rows], draw[columns]
        real = left != right
        some = [resampled.squares_of(x, N)[:, left[real], right[real]] for x in (models, people)]
        np.testing.assert_allclose(got, rsa.compare(some[0], some[1], method), atol=1e-12)


@pytest.mark.parametrize("method", ["cosine_cov", "corr_cov"])
def test_whitened_bootstrap_agrees_with_solving(method: str, rng: np.random.Generator) -> None:
    models, people = stacks(rng)
    counts = np.array([[1.0] * N, [2, 0, 3, 1, 0, 1, 1, 0], [0, 5, 1, 1, 1, 0, 0, 0]])
    both, nothing = np.concatenate([models, people]), np.zeros(models.shape[1], dtype=bool)
    gram, _ = resampled.inner_products(both, counts, nothing, method, n_first=0)
    weights = resampled.pair_weights(counts)
    for count, weight, got in zip(counts, weights, gram, strict=True):
        mean = both @ weight / weight.sum() if method == "corr_cov" else np.zeros(len(both))
        expected = resampled._white_dense(both, mean, count, nothing)
        np.testing.assert_allclose(got, expected, atol=1e-12)
    # The third draws one condition 1 + n / 2 times, where the closed form divides by zero.
    assert (1 + counts[2].sum() / 2 - counts[2] == 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_missing_pairs_are_left_out(method: str, rng: np.random.Generator) -> None:
    models, people = stacks(rng)
    people[1, [2, 9]] = np.nan
    whole = rsa.resample(models, people, method)
    kept = ~np.isnan(people).any(0)
    assert np.isfinite(whole.ceiling).all()
    if not method.endswith("_cov"):
        expected = rsa.compare(models[:, kept], people[:, kept], method)
        np.testing.assert_allclose(whole.by_subject[0], expected, atol=1e-12)


@pytest.mark.parametrize("method", ["cosine", "corr", "rho-a", "corr_cov"])
def test_ceilings_are_those_of_rsatoolbox(method: str, rng: np.random.Generator) -> None:
    _, people = stacks(rng)
    drawn = np.array([[0, 0, 1, 3]])
    found = rsa.resample(people[:1], people, method, subjects=drawn).ceiling[0]
    theirs = rsatoolbox.rdm.RDMs(people[drawn[0]], rdm_descriptors={"who": drawn[0].tolist()})
    np.testing.assert_allclose(found, boot_noise_ceiling(theirs, method, "who"), atol=1e-8)


def test_samples_of_two_conditions_are_skipped_and_counted(rng: np.random.Generator) -> None:
    models, people = stacks(rng)
    draws = np.array([[0, 1] * 4, list(range(N))])
    found = rsa.resample(models, people, "corr", conditions=draws)
    assert found.skipped == 1
    assert np.isnan(found.scores[0]).all() and np.isfinite(found.scores[1]).all()
    assert np.isnan(found.ceiling[0]).all()


def test_dual_variance_stays_between_its_parts() -> None:
    about = {"n_subjects": 5, "n_conditions": 10}
    people, stimuli, both = np.eye(2), 2 * np.eye(2), 3.2 * np.eye(2)
    found = rsa.dual_variance(both, people, stimuli, **about)
    assert (found >= 10 / 9 * 2 - 1e-12).all() and (found <= 3.2).all()
    with pytest.raises(ValueError, match="single_variance"):
        rsa.dual_variance(both, people, stimuli, n_subjects=1, n_conditions=10)


def test_the_planted_model_wins_and_chance_stays_chance(rng: np.random.Generator) -> None:
    models, people = stacks(rng, 24)
    with pytest.warns(UserWarning, match="4 people"):
        found = rsa.compare_models(
            named(models),
            named(people, "s"),
            generator=rng,
            method="corr",
            n_bootstrap=60,
            n_permutations=200,
        )
    assert found.mean.argmax() == 0
    assert found.p_permutation[0] < 0.01 < found.p_permutation[2]
    line = found.results()[0]
    assert line.low < line.value < line.high and line.ceiling is not None
    assert found.ceiling[0] <= found.ceiling[1]
    assert found.difference("m0", "m2").detail["q"] <= 1
    assert found.plot().axes
    with pytest.raises(ValueError, match="no model 'x'"):
        found.difference("m0", "x")


def test_one_person_has_no_ceiling_and_it_is_said(rng: np.random.Generator) -> None:
    models, people = stacks(rng, 20)
    with pytest.warns(UserWarning, match="one person"):
        found = rsa.compare_models(
            named(models),
            named(people[:1]),
            generator=rng,
            method="corr",
            n_bootstrap=40,
            n_permutations=40,
        )
    assert np.isnan(found.ceiling).all() and np.isnan(found.p_ceiling).all()
    assert np.isfinite(found.p).all()
    assert found.results()[0].ceiling is None


def test_weights_of_a_planted_mixture_come_back(rng: np.random.Generator) -> None:
    models, _ = stacks(rng, 12)
    people = np.stack([2 * models[0] + models[2]] * 2)
    for method in resampled.SUMS:
        weights = rsa.fit_weights(models, people, method)
        assert weights[1] < 1e-8 * weights[0]
        np.testing.assert_allclose(weights[0] / weights[2], 2, rtol=1e-6)
    with pytest.raises(ValueError, match="order of distances"):
        rsa.fit_weights(models, people, "rho-a")


def test_a_weighted_model_is_judged_on_what_it_has_not_seen(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(2, 30, 4))
    parts = named(np.stack([rsa.rdm(x, "euclidean").values for x in (a, b)]))
    mixed = [np.hstack([a, b]) + 0.3 * rng.normal(size=(30, 8)) for _ in range(3)]
    people = named(np.stack([rsa.rdm(x, "euclidean").values for x in mixed]), "s")
    found = rsa.cross_validate_weights(parts, people, generator=rng, method="corr")
    assert found.n_folds == (4, 3)
    assert found.scores.mean() > found.alone.mean(1).max()
    assert found.results()[0].name == "weighted sum"
    assert found.plot().axes
    noise = named(np.stack([rsa.rdm(rng.normal(size=(30, 9)), "euclidean").values] * 2), "s")
    random = rsa.cross_validate_weights(parts, noise, generator=rng, method="corr")
    assert abs(random.scores.mean()) < 0.3
    with pytest.raises(ValueError, match="at least 3 stimuli"):
        rsa.cross_validate_weights(parts, people, generator=rng, n_stimulus_folds=11)


def test_folds_over_stimuli_grow_with_their_number() -> None:
    assert [default_folds(n) for n in (6, 12, 24, 40, 92)] == [2, 3, 4, 5, 5]


def test_what_a_control_explains_is_gone(rng: np.random.Generator) -> None:
    low, high = (rsa.rdm(rng.normal(size=(20, 6)), "euclidean").values for _ in range(2))
    person = low + high + 0.2 * rng.normal(size=low.shape)
    models = named(np.stack([low + 0.1 * rng.random(low.shape), high]))
    found = rsa.compare_beyond(
        models,
        named(person[None], "s"),
        named(low[None], "control"),
        generator=rng,
        n_permutations=99,
    )
    assert found.plain[0, 0] > 0.3
    assert abs(found.partial[0, 0]) < 0.15 < found.partial[1, 0]
    assert found.p[1] == 0.01
    assert found.plot().axes and found.results()[1].detail["controls"] == ("control0",)
    x = rsa.partial_similarity(low[None], person[None], low[None], "corr")
    assert np.isnan(x).all()


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    models, people = stacks(rng)
    with pytest.raises(ValueError, match="pearson"):
        rsa.resample(models, people, "pearson")
    with pytest.raises(ValueError, match="same conditions"):
        rsa.resample(models[:, :-1], people)
    with pytest.raises(ValueError, match="triangle of a square"):
        rsa.resample(models[:, :-1], people[:, :-1])
    with pytest.raises(ValueError, match="indices from 0 to 7"):
        rsa.resample(models, people, conditions=np.full((2, N), N))
    with pytest.raises(ValueError, match="0 models"):
        rsa.compare_models({}, named(people), generator=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(rsa.resample(models, people[:1]).ceiling).all()


def test_patterns_of_an_rdm_have_its_distances(rng: np.random.Generator) -> None:
    true = rng.normal(size=(9, 3))
    one = rsa.rdm(true, "euclidean")
    found = rsa.patterns_of(one, 3)
    np.testing.assert_allclose(3 * rsa.rdm(found, "euclidean").values, one.values)
    other = rsa.rdm(true + 0.1 * rng.normal(size=true.shape), "euclidean")
    same = rsa.patterns_of(other, 3, like=one)
    assert np.corrcoef(same.ravel(), found.ravel())[0, 1] > 0.95
    with pytest.raises(ValueError, match="4 axes of an RDM that spans 3"):
        rsa.patterns_of(one, 4)
