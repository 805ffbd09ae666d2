"""Smooth masks of a given area, and what they leave of a brain signal.

Source: Fong et al. 2019 (smooth masks, ranked area constraint); Perrin et al. 1989 (splines).
Axes: batch channel time; cell = a mask's parameter, `step` samples apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neurofm.interpret.attribution.integrated import surrogates
from neurofm.shapes import Float

Perturb = Callable[[Tensor], Tensor]
TEMPERATURE = 20.0  # of the soft maximum over cells


def smooth_mask(
    cells: Float[Tensor, "*many cell"], n: int, *, step: int, sigma: float | int
) -> Float[Tensor, "*many time"]:
    """A mask over `n` samples from cells that each cover their neighbourhood smoothly.

    Args:
        cells: Between 0 and 1.
        step: Samples between cells.
        sigma: Samples; half as far from its centre a cell counts in full.
    """
    if cells.shape[-1] != -(-n // step):
        raise ValueError(
            f"smooth_mask: {cells.shape[-1]} cells for {n} samples, a cell every {step} samples; "
            f"{-(-n // step)} are needed."
        )
    reach = 1 + math.ceil(sigma / step)
    time = torch.arange(n, device=cells.device)
    cell = time[:, None] // step + torch.arange(-reach, reach + 1, device=cells.device)
    inside = (cell >= 0) & (cell < cells.shape[-1])
    away = (time[:, None] - step * cell).abs().to(cells.dtype) / sigma - 0.5
    weight = torch.exp(-2 * away.clamp(min=0).square()) * inside
    value = cells[..., cell.clamp(0, cells.shape[-1] - 1)] * weight
    return (value * torch.softmax(TEMPERATURE * value, -1)).sum(-1)


def area_penalty(
    mask: Float[Tensor, "mask ..."],
    area: Float[Tensor, " mask"],
    *,
    jitter: Float[Tensor, "mask ..."] | None = None,
) -> Float[Tensor, " mask"]:
    """Mean squared distance of the ranked mask from one that is 1 on `area` of its places.

    Args:
        jitter: Added for ranking alone: among equal values none is preferred.
    """
    flat = mask.flatten(1)
    if jitter is None:
        ranked = flat.sort(dim=1).values
    else:
        ranked = flat.gather(1, (flat.detach() + jitter.flatten(1)).argsort(1))
    n = ranked.shape[1]
    zeros = torch.tensor([int(n * (1 - float(a)) + 1e-9) for a in area], device=mask.device)
    wanted = (torch.arange(n, device=mask.device) >= zeros[:, None]).to(mask.dtype)
    return (ranked - wanted).square().mean(1)


def fade(x: Float[Tensor, "batch channel time"]) -> Perturb:
    """Towards zero where the mask is zero."""
    return lambda mask: x * mask


def fade_bands(
    x: Float[Tensor, "batch channel time"], sfreq: float | int, edges: Sequence[float | int]
) -> Perturb:
    """For masks `batch band time`: a band towards zero where its mask is zero.

    Args:
        sfreq: Hz.
        edges: Hz, ascending, where bands begin and the last ends. What lies outside stays.
    """
    ends = [float(edge) for edge in edges]
    if len(ends) < 2 or ends != sorted(set(ends)) or ends[0] < 0 or ends[-1] > sfreq / 2:
        raise ValueError(
            f"fade_bands: edges {tuple(edges)} Hz; expected at least two, ascending, between 0 and "
            f"half the {sfreq:g} samples a second."
        )
    spectrum = torch.fft.rfft(x)
    frequency = torch.fft.rfftfreq(x.shape[-1], 1 / sfreq).to(x)
    low, high = torch.tensor([ends[:-1], ends[1:]]).to(x)[:, :, None]
    inside = (frequency >= low) & (frequency < high)
    parts = torch.stack([torch.fft.irfft(spectrum * band, n=x.shape[-1]) for band in inside], 1)
    rest = x - parts.sum(1)
    return lambda mask: rest + (mask[:, :, None] * parts).sum(1)


def low_pass(
    x: Float[Tensor, "batch channel time"],
    sfreq: float | int,
    *,
    lowest: float | int = 1.0,
    levels: int = 8,
) -> Perturb:
    """Towards the slow part of the signal: fewer frequencies the lower the mask.

    Args:
        sfreq: Hz.
        lowest: Hz left where the mask is zero.
        levels: Low-pass filters between; values between two levels are interpolated.
    """
    spectrum = torch.fft.rfft(x)
    frequency = torch.fft.rfftfreq(x.shape[-1], 1 / sfreq).to(x)
    edges = torch.logspace(math.log10(lowest), math.log10(sfreq / 2), levels).to(x)
    # Gaussian in frequency: no ringing at the border of the mask.
    gains = torch.exp(-0.5 * (frequency / edges[:, None]).square())
    gains[-1] = 1
    return _pyramid(torch.stack([torch.fft.irfft(spectrum * g, n=x.shape[-1]) for g in gains]))


def phase_randomised(
    x: Float[Tensor, "batch channel time"], *, generator: torch.Generator, levels: int = 8
) -> Perturb:
    """Towards a signal of the same amplitude spectrum with random phases: no events, no power lost.

    The phases of level k are k / levels of the way to the random ones.
    """
    spectrum = torch.fft.rfft(x)
    other = torch.fft.rfft(surrogates(x, 1, generator=generator)[0])
    turn = torch.angle(other * spectrum.conj())
    stack = [
        torch.fft.irfft(spectrum * torch.exp(1j * turn * (1 - share)), n=x.shape[-1])
        for share in torch.linspace(0, 1, levels).tolist()
    ]
    stack[-1] = x
    return _pyramid(torch.stack(stack))


def interpolated(
    x: Float[Tensor, "batch channel time"], position: Float[Tensor, "channel 3"]
) -> Perturb:
    """Towards what the other sensors say of a channel (spherical splines).

    Args:
        position: Metres, around the centre of the head.
    """
    weights = spline_weights(position).to(x)
    guess = torch.einsum("cd,bdt->bct", weights, x)
    return lambda mask: guess + mask * (x - guess)


def spline_weights(
    position: Float[Tensor, "channel 3"], *, smoothing: float | int = 1e-5
) -> Float[Tensor, "channel channel"]:
    """How each channel is guessed from all others; zero on the diagonal.

    Args:
        position: Metres; directions from the centre of the fitted sphere count.
        smoothing: Added to the diagonal.
    """
    place = position.double()
    if len(place) < 4 or not torch.isfinite(place).all():
        raise ValueError(
            f"spline_weights: {int(torch.isfinite(place).all(1).sum())} of {len(place)} channels "
            "have a position; all, and at least 4, are needed. Leave out the others."
        )
    # The centre of the sphere that fits best: |p|² = 2 c·p + (r² - |c|²).
    design = torch.cat([2 * place, torch.ones(len(place), 1, dtype=place.dtype)], 1)
    fitted = torch.linalg.lstsq(design, place.square().sum(1, keepdim=True), driver="gelsd")
    away = place - fitted.solution[:3, 0]
    away = away / away.norm(dim=1, keepdim=True)
    green = _green((away @ away.T).clamp(-1, 1))
    n = len(place)
    weights = torch.zeros(n, n, dtype=torch.float64)
    for channel in range(n):
        others = [i for i in range(n) if i != channel]
        system = torch.zeros(n, n, dtype=torch.float64)
        system[: n - 1, : n - 1] = green[others][:, others]
        system[: n - 1, : n - 1] += smoothing * torch.eye(n - 1)
        system[-1, :-1] = system[:-1, -1] = 1
        right = torch.cat([green[channel][others], torch.ones(1, dtype=torch.float64)])
        weights[channel, others] = torch.linalg.solve(system, right)[: n - 1]
    return weights


def _green(cosine: Tensor, *, order: int = 4, terms: int = 50) -> Tensor:
    """Sum over n of (2n + 1) / (n (n + 1))^order times the Legendre polynomial, over 4 pi."""
    before, now = torch.ones_like(cosine), cosine
    total = torch.zeros_like(cosine)
    for n in range(1, terms + 1):
        total = total + (2 * n + 1) / (n * (n + 1)) ** order * now
        before, now = now, ((2 * n + 1) * cosine * now - n * before) / (n + 1)
    return total / (4 * math.pi)


def _pyramid(levels: Float[Tensor, "level batch channel time"]) -> Perturb:
    """Interpolates between levels, the last where the mask is one."""

    def perturb(mask: Tensor) -> Tensor:
        mask = mask.expand(levels.shape[1:])
        at = mask * (len(levels) - 1)
        low = at.detach().floor().clamp(0, len(levels) - 2).long()
        share = at - low
        first = levels.gather(0, low[None])[0]
        second = levels.gather(0, low[None] + 1)[0]
        return first + share * (second - first)

    return perturb
