from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurofm.interpret import hsic, linear_cka
from neurofm.interpret.similarity import (
    batched_cka,
    kernel_cka,
    linear_kernel,
    median_distance,
    prepared_cka,
    rbf_cka,
)

GOLDEN = Path(__file__).parent / "golden" / "interpret" / "similarity.safetensors"


def explicit(x: np.ndarray, y: np.ndarray, *, debiased: bool) -> float:
    """The definition, with kernels and centring matrices."""

    def one(k: np.ndarray, l: np.ndarray) -> float:
        n = len(k)
        if not debiased:
            h = np.eye(n) - 1 / n
            return np.trace(k @ h @ l @ h) / (n - 1) ** 2
        k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))
        total = np.trace(k @ l) + k.sum() * l.sum() / ((n - 1) * (n - 2))
        return (total - 2 / (n - 2) * (k @ l).sum()) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T
    return one(k, l) / np.sqrt(one(k, k) * one(l, l))


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("shape", [(30, 5, 8), (12, 40, 3), (10, 60, 70)])
def test_cka_equals_its_definition_in_either_form(
    debiased: bool, shape: tuple[int, int, int]
) -> None:
    generator = np.random.default_rng(0)
    n, p, q = shape
    x = generator.normal(size=(n, p)) + 3
    y = np.concatenate([x, generator.normal(size=(n, q))], axis=1)[:, -q:] + x[:, :1]
    assert linear_cka(x, y, debiased=debiased) == pytest.approx(
        explicit(x, y, debiased=debiased), abs=1e-12
    )


@pytest.mark.golden
def test_cka_equals_the_reference_values() -> None:
    g = load_file(GOLDEN)
    x, y = g["X"], g["Y"]
    np.testing.assert_allclose(linear_cka(x, y, debiased=False), g["cka_linear_biased"][0], 1e-9)
    np.testing.assert_allclose(linear_cka(x, y), g["cka_linear_debiased"][0], 1e-9)
    np.testing.assert_allclose(hsic(x, y, debiased=False), g["hsic_linear_biased"][0], 1e-9)
    np.testing.assert_allclose(hsic(x, y), g["hsic_linear_unbiased"][0], 1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_ignores_rotation_scale_and_offset(debiased: bool) -> None:
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(40, 6)), generator.normal(size=(40, 9))
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    changed = linear_cka(-7 * x @ rotation + 100, y, debiased=debiased)
    assert changed == pytest.approx(linear_cka(x, y, debiased=debiased), abs=1e-10)
    assert linear_cka(x, 2 * x @ rotation, debiased=debiased) == pytest.approx(1.0)


def test_debiased_cka_of_wide_random_data_is_near_zero_and_biased_is_not() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.normal(size=(2, 30, 2000))
    assert linear_cka(x, y, debiased=False) > 0.9
    assert abs(linear_cka(x, y)) < 0.05


def test_debiased_cka_of_independent_data_is_zero_on_average() -> None:
    generator = np.random.default_rng(3)
    found = [linear_cka(*generator.normal(size=(2, 12, 20))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)


def test_kernels_prepared_once_give_the_same_as_layers() -> None:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(12, 5)), generator.normal(size=(12, 30))
    for debiased in (False, True):
        own = [linear_kernel(side, debiased=debiased) for side in (x, y)]
        expected = linear_cka(x, y, debiased=debiased)
        assert prepared_cka(*own) == pytest.approx(expected, abs=1e-12)
        offset = kernel_cka(x @ x.T, y @ y.T, debiased=debiased)
        assert offset == pytest.approx(explicit(x, y, debiased=debiased), abs=1e-12)
    with pytest.raises(ValueError, match="same samples and form"):
        prepared_cka(own[0], linear_kernel(y, debiased=False))


def test_gaussian_kernels_see_what_lines_do_not() -> None:
    generator = np.random.default_rng(5)
    angle = generator.uniform(0, 2 * np.pi, 150)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    radius = generator.uniform(1, 3, 150)[:, None]
    x, y = ring * radius, radius + 0.01 * generator.normal(size=(150, 1))
    assert rbf_cka(x, y) > 0.1 > 3 * abs(linear_cka(x, y))
    assert rbf_cka(x, x * 5 + 2) == pytest.approx(1)
    assert np.isnan(rbf_cka(x, np.ones((150, 3))))
    squared = ((x[:, None] - x) ** 2).sum(-1)[np.triu_indices(150, 1)]
    assert median_distance(x) == pytest.approx(np.sqrt(np.median(squared)))


def test_batches_average_before_they_divide() -> None:
    generator = np.random.default_rng(6)
    x = generator.normal(size=(400, 6))
    y = np.hstack([x[:, :3], generator.normal(size=(400, 3))])
    batches = [(x[i : i + 20], y[i : i + 20]) for i in range(0, 400, 20)]
    assert batched_cka(iter(batches)) == pytest.approx(linear_cka(x, y), abs=0.05)
    assert batched_cka([(x, y)]) == pytest.approx(linear_cka(x, y), abs=1e-12)
    with pytest.raises(ValueError, match="no batch"):
        batched_cka([])
    with pytest.raises(ValueError, match="at least 4"):
        batched_cka([(x[:3], y[:3])])


def test_a_side_without_variance_has_no_alignment() -> None:
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert np.isnan(linear_cka(x, np.full((10, 2), 0.1)))
    assert np.isnan(linear_cka(np.full((10, 200), 0.1), x, debiased=False))


def test_too_few_or_different_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="10 and 9 windows"):
        linear_cka(np.ones((10, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka(np.ones((3, 2)), np.ones((3, 2)))
