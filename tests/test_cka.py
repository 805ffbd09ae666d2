from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurofm.interpret import hsic, linear_cka

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


def test_a_side_without_variance_has_no_alignment() -> None:
    x = np.random.default_rng(0).normal(size=(10, 3))
    assert np.isnan(linear_cka(x, np.full((10, 2), 0.1)))
    assert np.isnan(linear_cka(np.full((10, 200), 0.1), x, debiased=False))


def test_too_few_or_different_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="10 and 9 windows"):
        linear_cka(np.ones((10, 2)), np.ones((9, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        linear_cka(np.ones((3, 2)), np.ones((3, 2)))
