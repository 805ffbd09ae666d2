"""Images that drive a network or a model of the visual brain: written in Fourier coefficients.

Source: Olah et al. 2017 (Fourier parameterisation and jitter).
Axes: signal channel height width; values 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from neurofm.interpret.synthesis.signals import Prior
from neurofm.shapes import Float


class ImagePrior(Prior):
    """Fourier coefficients scaled by 1/f, then a sigmoid to 0..1.

    Args:
        height: Pixels.
        width: Pixels.
        channels: 3 for colour.
        decay: Power of 1/f.
        start: Standard deviation of what optimisation starts from, before the sigmoid.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        channels: int = 3,
        decay: float | int = 1.0,
        start: float | int = 0.1,
    ) -> None:
        self.height, self.width, self.channels, self.start = height, width, channels, start
        vertical = torch.fft.fftfreq(height)[:, None]
        horizontal = torch.fft.rfftfreq(width)
        frequency = (vertical.square() + horizontal.square()).sqrt()
        scale = frequency.clamp(min=1 / max(height, width)).pow(-decay)
        # Unit parameters then give pixels of unit variance.
        self.scale = scale / scale.square().mean().sqrt() * (height * width / 2) ** 0.5

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Cloudy grey."""
        shape = (n, self.channels, *self.scale.shape, 2)
        return self.start * torch.randn(shape, generator=generator)

    def signals(self, parameters: Tensor) -> Float[Tensor, "signal channel height width"]:
        """Inverse transform and sigmoid."""
        coefficients = torch.view_as_complex(parameters.contiguous())
        coefficients = coefficients * self.scale.to(parameters)
        return torch.fft.irfft2(coefficients, s=(self.height, self.width)).sigmoid()

    def encode(self, signals: Tensor) -> Tensor:
        """Of images 0 to 1."""
        free = signals.clamp(1e-3, 1 - 1e-3).logit()
        return torch.view_as_real(torch.fft.rfft2(free) / self.scale.to(signals)).clone()


def jitter(pixels: int = 2) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Random circular shifts, one for all images of a step."""

    def change(x: Tensor, generator: torch.Generator) -> Tensor:
        down, right = torch.randint(-pixels, pixels + 1, (2,), generator=generator).tolist()
        return x.roll((down, right), (-2, -1))

    return change


def image_variation(x: Float[Tensor, "signal channel height width"]) -> Float[Tensor, " signal"]:
    """Total variation: mean absolute step between neighbouring pixels, a regulariser."""
    down, right = x.diff(dim=-2).abs().mean((1, 2, 3)), x.diff(dim=-1).abs().mean((1, 2, 3))
    return down + right
