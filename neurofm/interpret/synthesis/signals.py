"""How a synthesised signal is written: priors that keep it like a recording.

A prior turns free parameters into signals. `TimePrior`: samples. `SpectralPrior`: Fourier
coefficients scaled by 1/f or by the amplitude spectrum of recordings; outside the band they are
zero, so that no line noise appears. `SpatialPrior`: sources mixed into channels by a root of the
channels' covariance, by a lead field, by maps of components or by smooth volumes. All are made from
real windows with `of`, which sets amplitudes, rate and band.

Amplitude is bounded: no channel's root mean square exceeds that of real windows ("channel"), or the
mean over channels of its square does not ("total", which leaves the topography free). The bound is
part of the signal, so gradients run along it, and parameters are projected onto it after each step.

Axes: signal channel time; frequency from 0 to half the rate; component.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.arrays import require_finite
from neurofm.shapes import Float

Bound = Literal["channel", "total", "none"]
START = 0.1  # of the amplitude of real windows
MOST_VOXELS = 6000  # whose covariance is taken apart


class Prior(ABC):
    """Parameters to signals and back. The first axis of parameters is signal."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Random parameters of `n` signals."""

    @abstractmethod
    def signals(self, parameters: Tensor) -> Tensor:
        """`signal channel time`, or images."""

    @abstractmethod
    def encode(self, signals: Tensor) -> Tensor:
        """Parameters of given signals, as well as the prior can."""

    def settle(self, parameters: Tensor) -> None:
        """Project parameters, in place, after a step."""
        return None

    def stepper(self, parameters: Tensor, steps: int, lr: float) -> Callable[[int], None]:
        """What moves the parameters by their gradient at step k; Adam if not told otherwise."""
        adam = torch.optim.Adam([parameters], lr=lr)

        def step(_: int) -> None:
            adam.step()
            adam.zero_grad()

        return step


class TimePrior(Prior):
    """Samples in units of each channel's root mean square.

    Args:
        rms: Of real windows, in their unit.
        n_times: Samples.
        bound: See the module's first lines.
        start: Root mean square of what optimisation starts from, as a part of `rms`.
    """

    def __init__(
        self,
        rms: Float[Tensor, " channel"],
        n_times: int,
        *,
        bound: Bound = "channel",
        start: float | int = START,
    ) -> None:
        _check_bound(bound)
        self.rms, self.n_times, self.bound, self.start = rms, n_times, bound, start

    @classmethod
    def of(cls, windows: Any, *, bound: Bound = "channel", start: float | int = START) -> TimePrior:
        """From real windows, a Batch or `window channel time`."""
        x = windows_of(windows)
        return cls(rms_of(x), x.shape[-1], bound=bound, start=start)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """White noise."""
        noise = torch.randn(n, len(self.rms), self.n_times, generator=generator)
        return self.start * noise.to(self.rms)

    def signals(self, parameters: Tensor) -> Tensor:
        """Scaled to the unit, bounded."""
        return self.rms[:, None] * (parameters * _factor(parameters, self.bound))

    def encode(self, signals: Tensor) -> Tensor:
        """Divided by the unit; silent channels stay silent."""
        return signals.to(self.rms) * _inverse(self.rms)[:, None]

    @torch.no_grad()
    def settle(self, parameters: Tensor) -> None:
        """Onto the bound."""
        parameters.mul_(_factor(parameters, self.bound))


class SpectralPrior(Prior):
    """Fourier coefficients, scaled so that unit parameters have a given spectrum.

    Args:
        amplitude: Of each channel's coefficients, any scale; zero where nothing may be.
        rms: Of real windows, in their unit.
        n_times: Samples; the signal is periodic in them.
        most_db: No coefficient exceeds its amplitude by more; None for no such limit, with which a
            selective unit gets a pure tone.
    """

    def __init__(
        self,
        amplitude: Float[Tensor, "channel frequency"],
        rms: Float[Tensor, " channel"],
        n_times: int,
        *,
        bound: Bound = "channel",
        start: float | int = START,
        most_db: float | int | None = None,
    ) -> None:
        _check_bound(bound)
        if amplitude.shape[-1] != n_times // 2 + 1:
            raise ValueError(
                f"SpectralPrior: {amplitude.shape[-1]} amplitudes, expected {n_times // 2 + 1} "
                f"frequencies of {n_times} samples."
            )
        amplitude = amplitude.clone()
        amplitude[..., 0] = 0  # a mean is no signal
        if n_times % 2 == 0:
            amplitude[..., -1] = 0
        norm = amplitude.square().sum(-1, keepdim=True).sqrt()
        # Real and imaginary part of unit variance then give a root mean square of 1.
        self.amplitude = amplitude * _inverse(norm) * n_times / 2
        self.rms, self.n_times, self.bound, self.start = rms, n_times, bound, start
        self.most = None if most_db is None else (2 * 10 ** (most_db / 10)) ** 0.5

    @classmethod
    def of(
        cls,
        windows: Any,
        *,
        sfreq: float | int | None = None,
        band: tuple[float, float] | None = None,
        beta: float | int | None = None,
        bound: Bound = "channel",
        start: float | int = START,
        most_db: float | int | None = None,
    ) -> SpectralPrior:
        """From real windows, a Batch or `window channel time`.

        Args:
            sfreq: Hz; that of the Batch if not given.
            band: Hz, what the model is used with; coefficients outside are exactly zero. That of
                the Batch if not given, else everything.
            beta: 1/f to this power instead of the measured amplitude spectrum of each channel.
        """
        x, sfreq = windows_of(windows), rate_of(windows, sfreq)
        band = band or (windows.band if isinstance(windows, Batch) else None)
        n = x.shape[-1]
        frequency = torch.fft.rfftfreq(n, 1 / sfreq).to(x)
        if beta is None:
            centred = x - x.mean(-1, keepdim=True)
            amplitude = torch.fft.rfft(centred).abs().square().mean(0).sqrt()
        else:
            amplitude = frequency.clamp(min=sfreq / n).pow(-beta).expand(x.shape[1], -1)
        if band is not None:
            inside = (frequency >= band[0]) & (frequency <= band[1])
            if not inside.any():
                raise ValueError(
                    f"SpectralPrior: no frequency of {n} samples at {sfreq:g} Hz (every "
                    f"{sfreq / n:.3g} Hz up to {sfreq / 2:g}) is in {band[0]:g} to {band[1]:g} Hz."
                )
            amplitude = amplitude * inside
        return cls(amplitude, rms_of(x), n, bound=bound, start=start, most_db=most_db)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Random phases and amplitudes."""
        noise = torch.randn(n, *self.amplitude.shape, 2, generator=generator)
        return self.start * noise.to(self.rms)

    def signals(self, parameters: Tensor) -> Tensor:
        """Inverse transform, bounded."""
        if self.most is not None:
            size = (parameters.square().sum(-1, keepdim=True) + 1e-20).sqrt()
            parameters = parameters * (self.most / size).clamp(max=1)
        x = self._free(parameters)
        return self.rms[:, None] * (x * _factor(x, self.bound))

    def _free(self, parameters: Tensor) -> Tensor:
        coefficients = torch.view_as_complex(parameters.contiguous()) * self.amplitude
        return torch.fft.irfft(coefficients, n=self.n_times)

    def encode(self, signals: Tensor) -> Tensor:
        """Forward transform; what is outside the band is lost."""
        x = signals.to(self.rms) * _inverse(self.rms)[:, None]
        coefficients = torch.fft.rfft(x) * _inverse(self.amplitude)
        return torch.view_as_real(coefficients).clone()

    @torch.no_grad()
    def settle(self, parameters: Tensor) -> None:
        """Onto the bounds."""
        if self.most is not None:
            size = (parameters.square().sum(-1, keepdim=True) + 1e-20).sqrt()
            parameters.mul_((self.most / size).clamp(max=1))
        parameters.mul_(_factor(self._free(parameters), self.bound)[..., None])


class SpatialPrior(Prior):
    """Sources with a prior of their own, mixed into channels: only topographies of the mixing.

    Args:
        mixing: In the unit of the channels per unit of a source.
        sources: Prior of the sources, `signal component time`.
    """

    def __init__(self, mixing: Float[Tensor, "channel component"], sources: Prior) -> None:
        self.mixing, self.sources = mixing, sources
        self._unmixing = torch.linalg.pinv(mixing.double()).to(mixing)

    @classmethod
    def of(
        cls,
        windows: Any,
        *,
        mixing: Float[Tensor, "channel component"] | None = None,
        n_components: int | None = None,
        sfreq: float | int | None = None,
        band: tuple[float, float] | None = None,
        spectral: bool = True,
        start: float | int = START,
        most_db: float | int | None = None,
    ) -> SpatialPrior:
        """From real windows, a Batch or `window channel time`.

        The sources together have at most the variance they have in the windows (bound "total").

        Args:
            mixing: Lead field, maps of components, or `gaussian_volume`; a root of the windows'
                covariance if not given, whose sources are uncorrelated with unit variance.
            n_components: Of the root: the largest so many.
            spectral: Sources have the measured spectrum, in `band`; otherwise free samples.
        """
        x = windows_of(windows)
        if mixing is None:
            mixing = _root(x, n_components)
        elif len(mixing) != x.shape[1]:
            raise ValueError(f"SpatialPrior: mixing of {len(mixing)} for {x.shape[1]} channels.")
        sources = torch.linalg.pinv(mixing.double()).to(x) @ x
        prior: Prior
        if spectral:
            sfreq = rate_of(windows, sfreq)
            band = band or (windows.band if isinstance(windows, Batch) else None)
            prior = SpectralPrior.of(
                sources, sfreq=sfreq, band=band, bound="total", start=start, most_db=most_db
            )
        else:
            prior = TimePrior.of(sources, bound="total", start=start)
        return cls(mixing.to(x), prior)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Of the sources."""
        return self.sources.draw(n, generator)

    def signals(self, parameters: Tensor) -> Tensor:
        """Mixed sources."""
        return self.mixing @ self.sources.signals(parameters)

    def encode(self, signals: Tensor) -> Tensor:
        """Of the sources that fit best."""
        return self.sources.encode(self._unmixing @ signals.to(self._unmixing))

    def settle(self, parameters: Tensor) -> None:
        """Of the sources."""
        self.sources.settle(parameters)


def gaussian_volume(
    position: Float[Tensor, "channel 3"] | Float[np.ndarray, "channel 3"],
    *,
    fwhm_mm: float | int,
    n_components: int | None = None,
) -> Float[Tensor, "channel component"]:
    """Mixing for a `SpatialPrior` of fMRI: what a Gaussian leaves of noise in the voxels.

    A root of the covariance of white noise after smoothing; components below a thousandth of the
    largest variance are left out. The prior gives each the amplitude it has in the windows.

    Args:
        position: Metres, of every voxel.
        fwhm_mm: Of the Gaussian.
        n_components: The largest so many.
    """
    place = torch.as_tensor(position, dtype=torch.float64)
    require_finite("gaussian_volume", place, "voxels")
    if not fwhm_mm > 0 or not len(place) or len(place) > MOST_VOXELS:
        raise ValueError(
            f"gaussian_volume: {len(place)} voxels, {fwhm_mm} mm; expected 1 to {MOST_VOXELS} "
            "(take a region or parcels) and more than 0 mm."
        )
    sigma = fwhm_mm / 1000 / (8 * math.log(2)) ** 0.5
    covariance = torch.exp(-torch.cdist(place, place).square() / (4 * sigma**2))
    return _largest(covariance, 1e-3, n_components).float()


def windows_of(windows: Any) -> Float[Tensor, "window channel time"]:
    """Signals of a Batch or of a tensor, checked."""
    x = windows.x if isinstance(windows, Batch) else torch.as_tensor(windows)
    if isinstance(windows, Batch) and not windows.has_signal:
        raise ValueError("synthesis: the batch has tokens only; signals of windows are needed.")
    if x.ndim != 3 or not len(x):
        raise ValueError(f"synthesis: windows of {tuple(x.shape)}; window channel time is needed.")
    require_finite("synthesis", x)
    return x.detach()


def rate_of(windows: Any, sfreq: float | int | None) -> float:
    """Hz of windows, given or theirs."""
    if sfreq is not None:
        return float(sfreq)
    if isinstance(windows, Batch):
        return float(windows.sfreq)
    raise ValueError("synthesis: windows are a plain tensor; give sfreq in Hz.")


def rms_of(x: Float[Tensor, "window channel time"]) -> Float[Tensor, " channel"]:
    """Root mean square of each channel around the mean of its windows."""
    return (x - x.mean(-1, keepdim=True)).double().square().mean((0, 2)).sqrt().to(x)


def _root(x: Tensor, n_components: int | None) -> Float[Tensor, "channel component"]:
    """Root of the covariance; directions without variance (average reference) are left out."""
    centred = (x - x.mean(-1, keepdim=True)).double()
    covariance = torch.einsum("wct,wdt->cd", centred, centred) / (len(x) * x.shape[-1])
    return _largest(covariance, 1e-9, n_components).to(x)


def _largest(
    covariance: Float[Tensor, "channel channel"], least: float, n_components: int | None
) -> Float[Tensor, "channel component"]:
    """Root, of the components above a share of the largest."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    keep = int((values > least * values[0]).sum())
    keep = min(keep, n_components or keep)
    return vectors[:, :keep] * values[:keep].sqrt()


def _factor(x: Tensor, bound: Bound) -> Tensor:
    """What brings signals in units of their root mean square inside the bound."""
    if bound == "none":
        return torch.ones((len(x), 1, 1)).to(x)
    over = -1 if bound == "channel" else (-2, -1)
    size = (x.square().mean(over, keepdim=True) + torch.finfo(torch.float32).tiny).sqrt()
    return (1 / size).clamp(max=1)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where it is 0."""
    return torch.where(x > 0, 1 / x.where(x > 0, torch.ones_like(x)), torch.zeros_like(x))


def _check_bound(bound: str) -> None:
    if bound not in ("channel", "total", "none"):
        raise ValueError(f"synthesis: bound={bound!r} is not 'channel', 'total' or 'none'.")
