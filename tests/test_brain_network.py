"""The recipe: a network against brains, with planted layers."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.interpret import Activations, rsa
from neurofm.interpret.brain_network import compare_brain_network

N, RUNS, CHANNELS = 24, 4, 12
NAMES = [f"picture {i}" for i in range(N)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def people(rng: np.random.Generator, code: np.ndarray, n: int = 3) -> dict[str, Activations]:
    found = {}
    for person in range(n):
        responses = code @ rng.normal(size=(code.shape[1], CHANNELS))
        x = np.tile(responses, (RUNS, 1)) + rng.normal(size=(RUNS * N, CHANNELS))
        order = rng.permutation(RUNS * N)
        found[f"person {person}"] = Activations(
            {"it": x[order]},
            labels=[(NAMES * RUNS)[i] for i in order],
            run=[int(i // N) for i in order],
        )
    return found


def network(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    low, high = rng.normal(size=(2, N, 5))
    layers = {"early": np.hstack([low, 0.3 * rng.normal(size=(N, 20))]), "late": high}
    return layers, high


def test_every_family_finds_the_planted_layer(rng: np.random.Generator) -> None:
    layers, code = network(rng)
    found = compare_brain_network(
        layers,
        people(rng, code),
        conditions=NAMES,
        baselines={"untrained": rng.normal(size=(N, 9)), "pixels": layers["early"]},
        controls={"pixels": layers["early"]},
        generator=rng,
        n_bootstrap=40,
        n_permutations=99,
        n_halvings=2,
    )
    assert found.models == ("early", "late", "untrained", "pixels") and len(found.families) == 5
    assert set(found.best().values()) == {"late"}
    lines = {one.name: one for one in found.results()}
    assert (
        lines["late"].detail["p_permutation"] == 0.01 < lines["untrained"].detail["p_permutation"]
    )
    assert lines["untrained"].detail["baseline"] and not lines["late"].detail["baseline"]
    assert "partial" in lines["late"].detail and "partial" not in lines["pixels"].detail
    assert found.rsa.ceiling[0] < found.rsa.ceiling[1]
    assert found.beyond is not None and found.beyond.partial[1].mean() > 0.3
    text = found.summary()
    assert "All measures put late first" in text and "noise ceiling" in text
    assert "Caveat: 3 people" in text and "same order share noise" in text
    assert found.plot().axes and found.plot_families().axes
    assert found.agreement.shape == (5, 5)


def test_order_of_windows_does_not_matter(rng: np.random.Generator) -> None:
    layers, code = network(rng)
    brains = people(rng, code, 2)
    about = {"conditions": NAMES, "n_bootstrap": 5, "n_permutations": 5, "n_halvings": 1}
    one = compare_brain_network(layers, brains, generator=rng, **about)
    moved = {name: p.select(rng.permutation(RUNS * N)) for name, p in brains.items()}
    two = compare_brain_network(layers, moved, generator=rng, **about)
    np.testing.assert_allclose(one.rsa.scores, two.rsa.scores, atol=1e-12)


def test_rdms_alone_give_the_measures_of_distances(rng: np.random.Generator) -> None:
    layers, code = network(rng)
    brains = {
        f"p{i}": rsa.rdm(code + 0.5 * rng.normal(size=code.shape), "euclidean", labels=NAMES)
        for i in range(2)
    }
    found = compare_brain_network(layers, brains, generator=rng, n_bootstrap=5, n_permutations=9)
    assert set(found.families) == {"RSA cosine_cov", "RSA rho-a"}
    assert any("only RDMs" in one for one in found.caveats)
    disagreeing = found.summary()
    assert "Measures disagree" in disagreeing or "All measures" in disagreeing


def test_one_run_is_said_to_inflate_distances(rng: np.random.Generator) -> None:
    layers, code = network(rng)
    one_run = {
        name: Activations(p.data, labels=p.labels) for name, p in people(rng, code, 2).items()
    }
    found = compare_brain_network(
        layers, one_run, conditions=NAMES, generator=rng, n_bootstrap=5, n_permutations=9
    )
    assert any("inflated" in one for one in found.caveats)
    assert "prediction" not in found.families


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    layers, code = network(rng)
    brains = people(rng, code, 1)
    with pytest.raises(ValueError, match="'early' has 24 rows for 23"):
        compare_brain_network(layers, brains, conditions=NAMES[1:], generator=rng)
    with pytest.raises(ValueError, match="lacks 1 conditions, such as 'a dog'"):
        compare_brain_network(layers, brains, conditions=[*NAMES, "a dog"], generator=rng)
    with pytest.raises(ValueError, match="at least one layer"):
        compare_brain_network({}, brains, generator=rng)
    two = {"p": Activations({"v1": np.zeros((2, 2)), "it": np.zeros((2, 2))}, labels=["a", "b"])}
    with pytest.raises(ValueError, match="say which"):
        compare_brain_network(layers, two, generator=rng)
