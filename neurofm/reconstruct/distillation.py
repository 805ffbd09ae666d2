"""Score distillation: what can be rendered is moved towards what a diffusion model expects.

Source: Poole et al. 2023 (DreamFusion); Brain3D (arXiv 2405.15239) for two stages, looks first and
meaning second.
Axes: batch, then those of a latent; depth height width of a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neurofm.nn.draw import draw
from neurofm.reconstruct.diffusion import Denoise, LatentDiffusion, NoiseSchedule, guided
from neurofm.reconstruct.solids import Solids, render
from neurofm.shapes import Float, Int


def score_distillation(
    denoise: Denoise,
    schedule: NoiseSchedule,
    latents: Tensor,
    *,
    t: Int[Tensor, " batch"] | None = None,
    lowest: float | int = 0.02,
    highest: float | int = 0.98,
    weight: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """A number whose gradient in `latents` is w(t) (predicted - added noise), mean over the batch.

    Its value says nothing; the denoiser itself gets no gradient.

    Args:
        denoise: The noise in `z` at `t`, under whatever condition and guidance.
        latents: Encoded renderings; gradients flow on to what was rendered.
        t: Steps to add noise of; drawn evenly if not given.
        lowest: First step that is drawn, as a share of all.
        highest: Last.
        weight: Of the noise's variance (1 - alpha_bar), which by itself is the usual weight.

    Raises:
        ValueError: A range that is empty, or predicted noise that is not finite.
    """
    if not 0 <= lowest <= highest <= 1:
        raise ValueError(
            f"score_distillation: steps from {lowest} to {highest}, expected 0 <= lowest <= "
            "highest <= 1."
        )
    n = len(schedule)
    if t is None:
        where = draw(torch.rand, (len(latents),), generator, latents.device)
        t = ((lowest + where * (highest - lowest)) * (n - 1)).round().long()
    noise = draw(torch.randn, latents.shape, generator, latents.device).to(latents.dtype)
    with torch.no_grad():
        error = denoise(schedule.noisy(latents.detach(), noise, t), t) - noise
        variance = schedule.scales(t, latents)[1] ** 2
        force = (variance if weight is None else weight(variance)) * error
    if not torch.isfinite(force).all():
        raise ValueError("score_distillation: the predicted noise is not finite.")
    return (force * latents).sum() / len(latents)


class DistilledSolids:
    """A `Generator3D` by optimisation: a grid per thing, seen by a diffusion model from all sides.

    First the low-level picture pulls (from the front, by pixels), then the diffusion model under
    the high-level tokens (from everywhere, by score distillation).

    Args:
        diffusion: Of images.
        size: Cells along a side.
        steps: Of either stage.
        lr: Of Adam on logits.
        guidance: Without a classifier.
        background: Grey value behind the things, as in the images of the diffusion model.
        seed: Of views and noise.
    """

    def __init__(
        self,
        diffusion: LatentDiffusion,
        *,
        size: int = 24,
        steps: tuple[int, int] = (100, 200),
        lr: float = 0.1,
        guidance: float | int = 7.5,
        background: float | int = 1.0,
        seed: int = 0,
    ) -> None:
        self.diffusion, self.size, self.steps, self.lr = diffusion, size, steps, lr
        self.guidance, self.background, self.seed = guidance, background, seed

    def optimise(
        self, low: Float[Tensor, "batch 3 height width"], high: Float[Tensor, "batch token dim"]
    ) -> Solids:
        """Things from low-level images and vision tokens."""
        generator = torch.Generator().manual_seed(self.seed)
        cells = (len(low), 4, self.size, self.size, self.size)
        logits = torch.zeros(cells, device=low.device)
        logits[:, 0] = -1.0
        logits.requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=self.lr)
        denoise = guided(self.diffusion, high, None, guidance=self.guidance)
        for step in range(sum(self.steps)):
            solids = Solids(logits[:, 0].sigmoid(), logits[:, 1:].sigmoid())
            meaning = step >= self.steps[0]
            angle = 2 * math.pi * float(torch.rand((), generator=generator)) if meaning else 0.0
            picture = render(solids, [angle], background=self.background)[:, 0]
            shape = low.shape[-2:]
            picture = torch.nn.functional.interpolate(picture, shape, mode="bilinear")
            if meaning:
                latents = self.diffusion.encode(picture.clamp(0, 1))
                loss = score_distillation(
                    denoise, self.diffusion.schedule, latents, generator=generator
                )
            else:
                loss = 10 * (picture - low).square().mean(dim=(1, 2, 3)).sum()
            # Empty where nothing speaks for something: a fog of half-filled cells is no thing.
            loss = loss + 0.01 * logits[:, 0].sigmoid().mean(dim=(1, 2, 3)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return Solids(logits[:, 0].sigmoid(), logits[:, 1:].sigmoid())
