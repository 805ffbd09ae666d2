"""Diffusion: how noise is added, how it is taken away again, and images from a latent diffusion.

Everything here works on any function `denoise(z, t)` that predicts the noise in `z`: a network of
ours, one of diffusers, or a formula.

Source: Ho et al. 2020 (the process); Song et al. 2021 (DDIM; eta 1 is ancestral); Nichol & Dhariwal
2021 (cosine schedule); Ho & Salimans 2021 (guidance without a classifier); Lu et al. 2022
(DPM-Solver++, multistep of second order); Meng et al. 2022 (start from an image).
Axes: batch, then whatever a latent has (channel height width); t = step of training, 0 is clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from neurofm.nn.draw import draw
from neurofm.shapes import Float, Int

Denoise = Callable[[Tensor, Tensor], Tensor]
SOLVERS = ("ddim", "dpmpp")
SCHEDULES = ("cosine", "scaled_linear")


class NoiseSchedule(nn.Module):
    """How much signal is left at each step of training.

    Args:
        n_steps: Of training.
        kind: "cosine", or "scaled_linear" with the constants of Stable Diffusion.
        alpha_bar: The share of signal power at every step, falling, instead of both others: such as
            `scheduler.alphas_cumprod` of a diffusers pipeline.
    """

    alpha_bar: Tensor

    def __init__(
        self, n_steps: int = 1000, *, kind: str = "cosine", alpha_bar: Tensor | None = None
    ) -> None:
        super().__init__()
        if kind not in SCHEDULES:
            raise ValueError(f"NoiseSchedule: kind {kind!r} is not one of {SCHEDULES}.")
        if alpha_bar is None and kind == "cosine":
            t = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
            share = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - share[1:] / share[:-1]).clamp(max=0.999)
            alpha_bar = (1 - beta).cumprod(0)
        elif alpha_bar is None:
            root = torch.linspace(0.00085**0.5, 0.012**0.5, n_steps, dtype=torch.float64)
            alpha_bar = (1 - root**2).cumprod(0)
        falling = bool((alpha_bar.diff() < 0).all()) and bool((alpha_bar > 0).all())
        if alpha_bar.ndim != 1 or not falling or not float(alpha_bar[0]) <= 1:
            raise ValueError(
                f"NoiseSchedule: alpha_bar of shape {tuple(alpha_bar.shape)} must fall from at most"
                " 1 and stay above 0."
            )
        self.register_buffer("alpha_bar", alpha_bar.detach().clone().float(), persistent=False)

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def scales(self, t: Int[Tensor, " batch"], z: Tensor) -> tuple[Tensor, Tensor]:
        """What signal and noise are multiplied by at `t`, shaped to multiply `z`."""
        share = self.alpha_bar.to(z.device)[t].to(z.dtype).reshape(-1, *[1] * (z.ndim - 1))
        return share.sqrt(), (1 - share).sqrt()

    def noisy(self, clean: Tensor, noise: Tensor, t: Int[Tensor, " batch"]) -> Tensor:
        """`clean` as it is at step `t`."""
        signal, spread = self.scales(t, clean)
        return signal * clean + spread * noise

    def clean(self, z: Tensor, noise: Tensor, t: Int[Tensor, " batch"]) -> Tensor:
        """What is left of `z` without that noise."""
        signal, spread = self.scales(t, z)
        return (z - spread * noise) / signal


def step_times(schedule: NoiseSchedule, steps: int) -> list[int]:
    """Evenly spaced steps of training, from the noisiest to the first."""
    if not 1 <= steps <= len(schedule):
        raise ValueError(
            f"{steps} sampling steps; the schedule has {len(schedule)}, expected 1 up."
        )
    return torch.linspace(len(schedule) - 1, 0, steps).round().long().tolist()


def sample(
    denoise: Denoise,
    schedule: NoiseSchedule,
    noise: Tensor,
    *,
    steps: int = 50,
    eta: float | int = 0.0,
    start: Tensor | None = None,
    strength: float | int = 1.0,
    solver: str = "ddim",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take the noise away in `steps`.

    Args:
        denoise: The noise in `z` at step `t` (one per row of the batch).
        noise: Standard normal, of the shape of what comes out.
        eta: 0 always goes the same way, 1 draws as the process itself does (ancestral).
        start: Begin with this, as noisy as it is after `strength` of the way; else with pure noise.
        strength: With `start`: the last `int(strength * steps)` steps are done (0.75 and 50 steps:
            37); 0 returns `start`.
        solver: "ddim", or "dpmpp" (second order, no `eta`).
        generator: Draws the noise of `eta`.

    Raises:
        ValueError: An impossible number, or a `start` of another shape.
    """
    if solver not in SOLVERS:
        raise ValueError(f"sample: solver {solver!r} is not one of {SOLVERS}.")
    if eta < 0 or (eta and solver != "ddim"):
        raise ValueError(f"sample: eta {eta} with solver {solver!r}; expected 0 up, and only ddim.")
    if not 0 <= strength <= 1:
        raise ValueError(f"sample: strength {strength}, expected 0 (keep the start) to 1 (noise).")
    times = step_times(schedule, steps)
    z = noise
    if start is not None:
        if start.shape != noise.shape:
            raise ValueError(f"sample: start {tuple(start.shape)}, noise {tuple(noise.shape)}.")
        times = times[steps - int(strength * steps) :]
        if not times:
            return start
        z = schedule.noisy(start, noise, _rows(times[0], z))
    alpha = [float(schedule.alpha_bar[t]) for t in times] + [1.0]
    before: Tensor | None = None
    for i, t in enumerate(times):
        e = denoise(z, _rows(t, z))
        clean = schedule.clean(z, e, _rows(t, z))
        if solver == "dpmpp":
            z, before = _dpmpp(z, clean, before, alpha[max(i - 1, 0) : i + 2], first=i == 0), clean
            continue
        share, after = alpha[i], alpha[i + 1]
        spread = eta * math.sqrt((1 - after) / (1 - share) * (1 - share / after)) if eta else 0.0
        z = math.sqrt(after) * clean + math.sqrt(max(1 - after - spread**2, 0.0)) * e
        if spread:
            z = z + spread * draw(torch.randn, z.shape, generator, z.device).to(z.dtype)
    return z


def _rows(t: int, z: Tensor) -> Int[Tensor, " batch"]:
    return torch.full((len(z),), t, dtype=torch.long, device=z.device)


def _dpmpp(
    z: Tensor, clean: Tensor, before: Tensor | None, alpha: list[float], *, first: bool
) -> Tensor:
    """One step of DPM-Solver++(2M); `alpha` at the step before, now and after."""
    now, after = alpha[-2], alpha[-1]
    if after >= 1:  # nothing but signal is left
        return clean

    def half_log_ratio(share: float) -> float:
        return 0.5 * math.log(share / (1 - share))

    step = half_log_ratio(after) - half_log_ratio(now)
    guess = clean
    if before is not None and not first:
        ratio = (half_log_ratio(now) - half_log_ratio(alpha[0])) / step
        guess = clean + (clean - before) / (2 * ratio)
    shrink = math.sqrt((1 - after) / (1 - now))
    return shrink * z - math.sqrt(after) * math.expm1(-step) * guess


@runtime_checkable
class LatentDiffusion(Protocol):
    """What a generator needs of a diffusion model of images, whoever trained it.

    Images are `batch 3 height width`, 0 to 1; tokens `batch token dim`. `decode` does not clamp, so
    that gradients pass.
    """

    schedule: NoiseSchedule

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents."""
        ...

    def denoise(self, z: Tensor, t: Tensor, vision: Tensor | None, text: Tensor | None) -> Tensor:
        """The noise in `z`."""
        ...

    def unconditional(
        self, vision: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of these shapes that say nothing."""
        ...

    def latent_shape(self) -> tuple[int, ...]:
        """channel height width"""
        ...


@runtime_checkable
class ImageGenerator(Protocol):
    """Makes images from what was decoded from a brain."""

    def generate(
        self,
        low_level: Tensor | None,
        vision_tokens: Tensor | None = None,
        text_tokens: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Images, `batch 3 height width`, 0 to 1, from blurred ones and tokens."""
        ...


def guided(
    diffusion: LatentDiffusion,
    vision: Float[Tensor, "batch token dim"] | None,
    text: Float[Tensor, "batch word dim_"] | None,
    *,
    guidance: float | int,
) -> Denoise:
    """Noise predicted with the tokens, moved away from what is predicted without them.

    Args:
        guidance: 1 for the tokens alone, more for more of them, 0 for none.
    """

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        if guidance == 0:
            return diffusion.denoise(z, t, *diffusion.unconditional(vision, text))
        known = diffusion.denoise(z, t, vision, text)
        if guidance == 1:
            return known
        unknown = diffusion.denoise(z, t, *diffusion.unconditional(vision, text))
        return unknown + guidance * (known - unknown)

    return denoise


@torch.no_grad()
def generate_images(
    diffusion: LatentDiffusion,
    low_level: Float[Tensor, "batch 3 height width"] | None,
    vision: Float[Tensor, "row token dim"] | None,
    text: Float[Tensor, "row_ word dim_"] | None,
    *,
    strength: float | int = 0.75,
    guidance: float | int = 7.5,
    steps: int = 50,
    eta: float | int = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch 3 height_ width_"]:
    """Brain-Diffuser's second stage: denoise a noisy low-level image under the decoded tokens.

    Args:
        low_level: What the image looks like roughly, 0 to 1, resized (bicubic) to the model's size
            by its `encode`; None starts from pure noise.
        vision: Tokens of the image network; None if not used.
        text: Tokens of the language network; None if not used.
        strength: Of the noise on `low_level`; the published 0.75 of 50 steps does 37.
        guidance: Without a classifier; published 7.5.
        eta: 0 is DDIM, as published; 1 ancestral.

    Returns:
        Images, 0 to 1.

    Raises:
        ValueError: Nothing to start from, different numbers of rows, or numbers that are not
            finite (such as predictions from voxels that were NaN).
    """
    given = {"low_level": low_level, "vision tokens": vision, "text tokens": text}
    found = {name: value for name, value in given.items() if value is not None}
    if not found:
        raise ValueError("generate: no low-level image and no tokens: there is nothing to show.")
    if len({len(value) for value in found.values()}) > 1:
        counts = ", ".join(f"{len(value)} {name}" for name, value in found.items())
        raise ValueError(f"generate: {counts}; expected a row of each for every image.")
    for name, value in found.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"generate: {name} hold values that are not finite.")
    n = len(next(iter(found.values())))
    start = None if low_level is None else diffusion.encode(low_level.clamp(0, 1))
    shape = (n, *diffusion.latent_shape()) if start is None else tuple(start.shape)
    device = next(iter(found.values())).device
    noise = draw(torch.randn, shape, generator, device)
    denoise = guided(diffusion, vision, text, guidance=guidance)
    options = {"steps": steps, "eta": eta, "strength": strength, "generator": generator}
    latents = sample(denoise, diffusion.schedule, noise, start=start, **options)  # type: ignore[arg-type]
    return diffusion.decode(latents).clamp(0, 1)
