"""What keeps synthesised signals like recordings, besides the prior; and small random changes that
keep them from driving a network by accident.

A regulariser gives one number per signal that is subtracted from the objective, which is in
standard deviations of its values for real windows, times a weight. All are about 1 for real
windows.
Axes: signal channel time; pair = two neighbouring sensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.synthesis.signals import rate_of, rms_of, windows_of
from neurofm.shapes import Float, Int

Regulariser = Callable[[Tensor], Tensor]
_FLOOR = 1e-6  # of the variance, where logarithms and inverses are taken


@dataclass(frozen=True)
class Amplitude:
    """Mean square around the mean of each channel, in units of real windows."""

    rms: Float[Tensor, " channel"]

    @classmethod
    def of(cls, windows: Any) -> Amplitude:
        """From real windows."""
        return cls(rms_of(windows_of(windows)))

    def __call__(self, x: Float[Tensor, "signal channel time"]) -> Float[Tensor, " signal"]:
        """Of each signal."""
        z = (x - x.mean(-1, keepdim=True)) / _safe(self.rms)[:, None]
        return z.square().mean((1, 2))


@dataclass(frozen=True)
class Variation:
    """Total variation in time, or over neighbouring sensors, relative to that of real windows.

    Args:
        rms: Of real windows, per channel.
        usual: Total variation of real windows in these units.
        pairs: Neighbours; in time if not given.
    """

    rms: Float[Tensor, " channel"]
    usual: float | int
    pairs: Int[Tensor, "2 pair"] | None = None

    @classmethod
    def of(cls, windows: Any, *, neighbours: int | None = None) -> Variation:
        """From real windows; between each sensor and so many nearest ones if given (a Batch)."""
        x = windows_of(windows)
        pairs = None
        if neighbours is not None:
            if not isinstance(windows, Batch) or not bool(windows.has_position[0].all()):
                raise ValueError("Variation: neighbours need a Batch with positions of all sensors")
            pairs = _nearest(windows.position[0], neighbours)
        free = cls(rms_of(x), 1.0, pairs)
        return cls(free.rms, float(free(x).mean()), pairs)

    def __call__(self, x: Float[Tensor, "signal channel time"]) -> Float[Tensor, " signal"]:
        """Of each signal."""
        z = x / _safe(self.rms)[:, None]
        a, b = self.pairs if self.pairs is not None else (None, None)
        steps = z.diff(dim=-1) if a is None else z[:, a] - z[:, b]
        return steps.abs().mean((1, 2)) / self.usual


@dataclass(frozen=True)
class LogSpectrum:
    """Mean squared difference of the log power spectrum from that of real windows, per its variance
    over them.

    Args:
        mean: Log power in bins, over real windows.
        spread: Standard deviation over them.
        bins: Which of the Fourier frequencies belong to each bin, rows summing to 1.
    """

    mean: Float[Tensor, "channel bin"]
    spread: Float[Tensor, "channel bin"]
    bins: Float[Tensor, "bin frequency"]

    @classmethod
    def of(
        cls,
        windows: Any,
        *,
        sfreq: float | int | None = None,
        band: tuple[float, float] | None = None,
        width_hz: float | int = 2.0,
    ) -> LogSpectrum:
        """From real windows; bins of `width_hz` in `band`, Hz (everything but 0 if not given)."""
        x, sfreq = windows_of(windows), rate_of(windows, sfreq)
        n = x.shape[-1]
        frequency = torch.fft.rfftfreq(n, 1 / sfreq).to(x)
        low, high = band or (sfreq / n, sfreq / 2)
        width = max(width_hz, 1.5 * sfreq / n)
        edges = torch.arange(low, high, width).to(x)
        inside = (frequency >= edges[:, None]) & (frequency < edges[:, None] + width)
        inside &= (frequency <= high) & (frequency > 0)
        inside = inside[inside.any(1)]
        if not len(inside):
            raise ValueError(f"LogSpectrum: no frequency of {n} samples in {low:g}-{high:g} Hz.")
        bins = inside / inside.sum(1, keepdim=True)
        power = _power(x, bins)
        floor = _FLOOR * power.mean((0, 2), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        logs = (power + floor).log()
        spread = logs.std(0) if len(x) > 1 else torch.ones_like(logs[0])
        return cls(logs.mean(0), spread.clamp(min=0.1), bins)

    def __call__(self, x: Float[Tensor, "signal channel time"]) -> Float[Tensor, " signal"]:
        """Of each signal."""
        power = _power(x, self.bins)
        floor = _FLOOR * self.mean.exp().mean(-1, keepdim=True)
        return (((power + floor).log() - self.mean) / self.spread).square().mean((1, 2))


@dataclass(frozen=True)
class Covariance:
    """Mahalanobis norm: power in directions in which real channels hardly vary is dear.

    Args:
        precision: Inverse covariance of the channels over time.
    """

    precision: Float[Tensor, "channel channel"]

    @classmethod
    def of(cls, windows: Any, *, shrinkage: float | int = 0.05) -> Covariance:
        """From real windows; `shrinkage` towards the identity bears average references."""
        x = windows_of(windows)
        centred = (x - x.mean(-1, keepdim=True)).double()
        covariance = torch.einsum("wct,wdt->cd", centred, centred) / (len(x) * x.shape[-1])
        eye = torch.eye(len(covariance)).to(covariance)
        usual = covariance.diagonal().mean()
        shrunk = (1 - shrinkage) * covariance + shrinkage * usual * eye
        return cls(torch.linalg.inv(shrunk).to(x))

    def __call__(self, x: Float[Tensor, "signal channel time"]) -> Float[Tensor, " signal"]:
        """Of each signal, mean over channels and samples."""
        x = x - x.mean(-1, keepdim=True)
        return torch.einsum("sct,cd,sdt->s", x, self.precision, x) / (x.shape[1] * x.shape[2])


@dataclass(frozen=True)
class Transforms:
    """Small changes at each step, other ones for each signal.

    Args:
        shift: Circular, up to this part of the window either way.
        dropout: Part of the channels that are silent.
        scale: Amplitude times 1 - scale to 1 + scale.
        noise: White, in root mean squares of the signal's channels.
        flip: Polarity; only where the network does not care.
    """

    shift: float | int = 0.05
    dropout: float | int = 0.05
    scale: float | int = 0.1
    noise: float | int = 0.05
    flip: bool = False

    def __call__(
        self, x: Float[Tensor, "signal channel time"], generator: torch.Generator
    ) -> Float[Tensor, "signal channel time"]:
        """The signals, changed."""
        n, n_channels, n_times = x.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator).to(x)

        most = int(self.shift * n_times)
        if most:
            shift = torch.randint(-most, most + 1, (n,), generator=generator)
            at = (torch.arange(n_times) + shift[:, None]) % n_times
            x = x.gather(2, at.to(x.device)[:, None].expand(-1, n_channels, -1))
        if self.noise:
            size = x.detach().square().mean(-1, keepdim=True).sqrt()
            white = torch.randn(x.shape, generator=generator).to(x)
            x = x + self.noise * size * white
        factor = 1 + self.scale * (2 * uniform(n, 1, 1) - 1)
        if self.flip:
            factor = factor * (2 * (uniform(n, 1, 1) < 0.5) - 1)
        if self.dropout and n_channels > 1:
            factor = factor * (uniform(n, n_channels, 1) >= self.dropout)
        return x * factor


def _power(x: Tensor, bins: Tensor) -> Tensor:
    """Power of each channel in bins of frequencies."""
    return torch.fft.rfft(x - x.mean(-1, keepdim=True)).abs().square() @ bins.T


def _safe(rms: Tensor) -> Tensor:
    """Silent channels count in units of the others."""
    usual = rms[rms > 0].mean() if bool((rms > 0).any()) else torch.ones(()).to(rms)
    return torch.where(rms > 0, rms, usual)


def _nearest(position: Tensor, k: int) -> Int[Tensor, "2 pair"]:
    apart = torch.cdist(position.double(), position.double())
    apart.fill_diagonal_(torch.inf)
    near = apart.argsort(1)[:, : min(k, len(apart) - 1)]
    here = torch.arange(len(apart))[:, None].expand_as(near).to(near.device)
    pairs = torch.stack([here, near]).flatten(1).sort(0).values
    return torch.unique(pairs, dim=1)
