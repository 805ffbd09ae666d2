"""Feature synthesis of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurofm.interpret.synthesis import ImagePrior, Logit, image_variation, jitter, maximise


class Picture(nn.Module):
    """A unit that likes a bright disc on a dark ground, centred anywhere."""

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(9.0) - 4
        disc = (at[:, None] ** 2 + at**2 <= 9).float()
        self.kernel = nn.Parameter((disc - disc.mean())[None, None])

    def forward(self, x: Tensor) -> Tensor:
        grey = x.mean(1, keepdim=True)
        return nn.functional.conv2d(grey, self.kernel).flatten(1).logsumexp(1, keepdim=True)


def test_a_planted_image_comes_back() -> None:
    model = Picture()
    found = maximise(
        model, Logit(0), ImagePrior(16, 16, channels=1), steps=40, restarts=2, lr=0.2,
        transforms=jitter(1), regularisers=[(0.1, image_variation)], control="none",
    )  # fmt: skip
    image = torch.from_numpy(found.signals[0])
    match = nn.functional.conv2d(image[None], model.kernel)[0, 0]
    row, column = divmod(int(match.argmax()), match.shape[1])
    patch = image[0, row : row + 9, column : column + 9].flatten()
    assert np.corrcoef(patch.numpy(), model.kernel.detach().flatten().numpy())[0, 1] > 0.8
    assert found.signals.min() >= 0 and found.signals.max() <= 1
    assert found.plot().axes
    with pytest.raises(ValueError, match="no spectrum"):
        found.spectrum()
