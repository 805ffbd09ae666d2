"""Measures of two representations of the same samples, and tables of layers by layers."""

from __future__ import annotations

import fnmatch
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA as PeerCCA

from neurofm.interpret import Activations
from neurofm.interpret import similarity as s

TESTS = Path(__file__).parent


def module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize(("topic", "count"), [("similarity", 35), ("stochastic_shape", 21)])
def test_every_tensor_of_the_reference_agrees(topic: str, count: int) -> None:
    checker = module("check_golden", TESTS / "check_golden.py")
    interpret = module("golden_interpret", TESTS / "golden_checks" / "interpret.py")
    fixture = checker.Fixture(TESTS / "golden" / "interpret")
    tensors, ours = fixture.tensors(topic), interpret.topic(topic)
    got = ours.check(tensors)
    wanted = [k for k in tensors if not any(fnmatch.fnmatch(k, p) for p in ours.INPUTS)]
    lines = [
        checker.compare(k, tensors[k], got.get(k), *interpret.tolerance(fixture, f"{topic}/{k}"))
        for k in wanted
    ]
    assert len(lines) == count
    assert [line.name for line in lines if not line.passed] == []


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def layers(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three steps away from the input, each farther than the last."""
    h, found = rng.normal(size=(80, 6)), {}
    for i in range(3):
        h = h + (0.3 + 0.4 * i) * rng.normal(size=h.shape)
        found[f"block{i}"] = h
    return found


def test_cca_equals_scikit_learn(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 4))
    y = np.hstack([x[:, :2] + 0.5 * rng.normal(size=(60, 2)), rng.normal(size=(60, 1))])
    a, b = PeerCCA(n_components=3, max_iter=5000, tol=1e-12).fit_transform(x, y)
    peer = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(s.cca(x, y).correlations, peer, atol=1e-6)


def test_cca_ignores_invertible_maps_and_finds_shared_directions(
    rng: np.random.Generator,
) -> None:
    shared = rng.normal(size=(300, 2))
    x, y = (np.hstack([shared, rng.normal(size=(300, 3))]) for _ in range(2))
    found = s.cca(x @ rng.normal(size=(5, 5)) + 7, y @ rng.normal(size=(5, 5)))
    assert found.correlations[:2] == pytest.approx(1.0)
    assert found.correlations[2] < 0.3
    assert found.forced == 0
    np.testing.assert_allclose(found.correlations, s.cca(x, y).correlations, atol=1e-9)


def test_cca_with_as_many_directions_as_samples_is_refused(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 20, 30))
    with pytest.raises(ValueError, match=r"correlated by 1 whatever the data.*variance=0\.99"):
        s.cca(x, y)
    assert s.cca(x, y, variance=0.3).mean < 1
    assert s.cca(x[:, :12], y[:, :12]).forced == 5


def test_chance_of_cca_is_what_independent_data_have(rng: np.random.Generator) -> None:
    found = [s.cca(*rng.normal(size=(2, 40, 6))) for _ in range(40)]
    assert np.mean([f.mean_squared for f in found]) == pytest.approx(found[0].chance, abs=0.02)


def test_distance_correlation_sees_what_is_not_linear(rng: np.random.Generator) -> None:
    x = rng.normal(size=(200, 1))
    assert s.distance_correlation(x, x**2) > 0.4
    assert s.distance_correlation(x, rng.normal(size=(200, 1))) < 0.25
    assert s.distance_correlation(x, 3 * x + 1) == pytest.approx(1.0)
    assert np.isnan(s.distance_correlation(x, np.ones((200, 1))))


def test_neighbours_overlap_by_hand() -> None:
    angles = np.array([0.0, 0.1, 0.3, 2.0, 2.1, 2.3])
    x = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert s.neighbour_overlap(x, 5 * x, k=2) == 1.0
    # One neighbour each: only samples 3 and 4 keep theirs.
    assert s.neighbour_overlap(x, x[[2, 5, 0, 3, 4, 1]], k=1) == pytest.approx(2 / 6)
    with pytest.raises(ValueError, match="5 neighbours of 6 samples"):
        s.neighbour_overlap(x, x, k=5)
    with pytest.raises(ValueError, match="1 samples are zero"):
        s.neighbour_overlap(np.vstack([x, np.zeros(2)]), np.vstack([x, np.ones(2)]), k=2)


def test_regression_is_not_symmetric_and_exact_for_linear_maps(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 6))
    y = x[:, :2] @ rng.normal(size=(2, 3))
    assert s.regression_r2(x, y) == pytest.approx(1.0)
    assert s.regression_r2(y, x) < 0.6
    with pytest.raises(ValueError, match="no variance"):
        s.regression_r2(x, np.ones((50, 2)))


def test_noise_correction_recovers_a_perfect_model_of_noisy_units() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 4))
    signal = x @ rng.normal(size=(4, 6))
    trials = signal / signal.std(0) + 2 * rng.normal(size=(6, 100, 6))
    found = s.noise_corrected_regression(x, trials, n_bootstraps=10)
    assert np.median(found.raw) < 0.85
    assert found.score == pytest.approx(1.0, abs=0.12)
    assert np.abs(np.median(found.chance)) < 0.3
    assert (found.raw < 1.2 * found.ceiling).all()


def test_every_measure_is_best_for_a_layer_with_itself(layers: dict[str, np.ndarray]) -> None:
    for name, known in s.MEASURES.items():
        found = s.compare_layers(layers, measure=name, shuffles=0)
        values = -found.values if known.distance else found.values
        assert (values.argmax(1) == np.arange(3)).all(), name
        if known.symmetric:
            np.testing.assert_allclose(found.values, found.values.T, atol=1e-12, err_msg=name)


def test_no_measure_changes_its_input_or_depends_on_the_kind(
    layers: dict[str, np.ndarray],
) -> None:
    x, y = layers["block0"], layers["block1"]
    for side in (x, y):
        side.flags.writeable = False
    tensors = [torch.from_numpy(side.copy()).requires_grad_() for side in (x, y)]
    for name in s.MEASURES:
        one, other = (
            s.compare_layers({"x": a}, {"y": b}, measure=name, shuffles=0).values
            for a, b in ((x, y), tensors)
        )
        np.testing.assert_allclose(one, other, atol=1e-12, err_msg=name)
    for function in (s.describe_geometry, s.compare_units, s.hsic):
        function(x) if function is s.describe_geometry else function(x, y)
    single = s.linear_cka(x.astype(np.float32), y, dtype=torch.float32)
    assert single == pytest.approx(s.linear_cka(x, y), abs=1e-5)


def test_shuffled_samples_are_the_chance_level(layers: dict[str, np.ndarray]) -> None:
    found = s.compare_layers(layers, shuffles=5)
    assert abs(found.chance) < 0.1
    assert found.values.min() > 0.3
    biased = s.compare_layers(layers, measure="cka_biased", shuffles=5)
    assert biased.chance > 0.03


@pytest.mark.parametrize("width", [4, 90])
def test_errors_from_halves_are_those_of_new_samples(width: int) -> None:
    rng = np.random.default_rng(4)
    maps = rng.normal(size=(2, 4, width))

    def draw() -> dict[str, np.ndarray]:
        z = rng.normal(size=(60, 4))
        return {str(i): z @ m + 2 * rng.normal(size=(60, width)) for i, m in enumerate(maps)}

    found = [s.compare_layers(draw(), shuffles=0).values[0, 1] for _ in range(150)]
    errors = [s.compare_layers(draw(), shuffles=0, halves=30).error for _ in range(8)]
    assert np.mean([e[0, 1] for e in errors]) == pytest.approx(np.std(found), rel=0.3)
    assert "errors up to" in s.compare_layers(draw(), halves=2).plot().axes[0].get_title("left")
    with pytest.raises(ValueError, match="grows with n"):
        s.compare_layers(draw(), measure="euclidean", halves=2)


@pytest.mark.parametrize("width", [5, 200])
def test_prepared_kernels_give_the_same_table(width: int, rng: np.random.Generator) -> None:
    layers = {str(i): rng.normal(size=(30, width)) for i in range(3)}
    found = s.compare_layers(layers, shuffles=2, seed=3)
    pairs = [[s.linear_cka(x, y) for y in layers.values()] for x in layers.values()]
    np.testing.assert_allclose(found.values, pairs, atol=1e-12)
    tensors = {name: torch.from_numpy(x) for name, x in layers.items()}
    again = s.compare_layers(tensors, shuffles=2, seed=3)
    np.testing.assert_allclose(again.values, found.values, atol=1e-12)
    assert again.chance == pytest.approx(found.chance, abs=1e-12)


def test_a_brain_area_finds_the_layer_it_was_made_of(layers: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(2)
    area = layers["block1"] @ ortho_group.rvs(6, random_state=rng)
    brain = Activations({"V4": area + 0.2 * rng.normal(size=area.shape)})
    for measure in ("cka", "angular", "cca"):
        found = s.compare_layers(Activations(layers), brain, measure=measure)
        assert found.best() == {"V4": "block1"}
        assert found.values.shape == (3, 1)


def test_networks_of_two_families_are_grouped_and_predicted(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(2, 40, 5))
    networks = {
        f"net{i}": centres[i % 2] @ ortho_group.rvs(5, random_state=i)
        + 0.3 * rng.normal(size=(40, 5))
        for i in range(6)
    }
    found = s.compare_layers(networks, measure="angular")
    groups = found.groups(2)
    assert {name for name, g in groups.items() if g == groups["net0"]} == {"net0", "net2", "net4"}
    np.testing.assert_array_equal(found.predict(np.arange(6) % 2, k=2), np.arange(6) % 2)
    points = found.arrange().position
    near = np.linalg.norm(points[0] - points[2])
    assert near < np.linalg.norm(points[0] - points[1])
    with pytest.raises(ValueError, match="no table of distances"):
        s.compare_layers(networks).arrange()


def test_bad_tables_say_what_is_wrong(layers: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"no measure 'ckaa'.*Did you mean 'cka'"):
        s.compare_layers(layers, measure="ckaa")
    with pytest.raises(ValueError, match="no layers"):
        s.compare_layers({})
    with pytest.raises(ValueError, match="every layer needs the same samples"):
        s.compare_layers(layers, {"short": np.ones((3, 2))})
    broken = layers["block0"].copy()
    broken[4, 2] = np.nan
    for function in (s.cca, s.regression_r2, s.distance_correlation, s.shape_distance):
        with pytest.raises(ValueError, match="1 of 80 samples hold NaN"):
            function(broken, layers["block1"])
        with pytest.raises(ValueError, match="one row per sample"):
            function(broken[:5], layers["block1"])


def test_tables_draw_themselves(layers: dict[str, np.ndarray]) -> None:
    figure = s.compare_layers(layers).plot()
    assert "n = 80" in figure.axes[0].get_title(loc="left")
    assert len(s.compare_layers(layers, measure="angular").arrange().plot().axes) == 1
    assert "PWCCA" in s.cca(layers["block0"], layers["block1"]).plot().axes[0].get_title(loc="left")
    trials = layers["block0"] + np.random.default_rng(0).normal(size=(4, 80, 6))
    found = s.noise_corrected_regression(layers["block0"], trials, n_bootstraps=3)
    assert found.plot().axes[0].get_xlabel() == "unit, by ceiling"
