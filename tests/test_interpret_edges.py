"""Edge cases of the interpretability layer that no topic's own test holds."""

from __future__ import annotations

import numpy as np
import torch

from neurofm.interpret import attribution


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
