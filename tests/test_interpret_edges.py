"""Edge cases of the interpretability layer that no topic's own test holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurofm.interpret import attribution, causal, rsa


def test_smooth_masks_are_exact_for_any_width() -> None:
    """Widths whose inverse is not a binary fraction were rounded to single precision."""
    n, step, sigma = 26, 5, 3.0
    cells = torch.rand(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((2, n))
    for row in range(2):
        for t in range(n):
            around = range(t // step - 2, t // step + 3)
            value = np.array(
                [
                    float(cells[row, q]) * np.exp(-2 * max(0, abs(t - step * q) / sigma - 0.5) ** 2)
                    if 0 <= q < 6
                    else 0.0
                    for q in around
                ]
            )
            expected[row, t] = (value * np.exp(20 * value)).sum() / np.exp(20 * value).sum()
    got = attribution.smooth_mask(cells, n, step=step, sigma=sigma)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_what_does_not_fit_a_window_is_named() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, 3))
    with pytest.raises(ValueError, match="targets from 9 to 9; expected 0 to 2"):
        attribution.saliency(model, x, 9)
    with pytest.raises(ValueError, match=r"baseline of shape \(1, 2, 8\)"):
        attribution.integrated_gradients(model, x, 0, baseline=x[:1, :2])
    with pytest.raises(ValueError, match="ablation: no site"):
        causal.ablation(model, x, [])
    with pytest.raises(ValueError, match="activation_patching: no site"):
        causal.activation_patching(model, x, x, [])


def test_a_model_of_zeros_has_no_weight() -> None:
    rng = np.random.default_rng(0)
    models = np.stack([np.zeros(10), rng.random(10)])
    weights = rsa.fit_weights(models, rng.random((3, 10)))
    assert weights[0] == 0.0 < weights[1]
