"""A diffusion whose noise is known by formula: data are Gaussian with a mean and variances."""

from __future__ import annotations

from torch import Tensor

from neurofm.reconstruct import NoiseSchedule


class GaussianDiffusion:
    """Noise of independent Gaussians; every axis but the batch has its own mean and variance."""

    def __init__(self, mean: Tensor, variance: Tensor, *, n_steps: int = 1000) -> None:
        self.mean, self.variance = mean, variance
        self.schedule = NoiseSchedule(n_steps)

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        signal, spread = self.schedule.scales(t, z)
        return spread * (z - signal * self.mean) / (signal**2 * self.variance + spread**2)
