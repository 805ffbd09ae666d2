"""Images that a region of the brain would answer to most, by diffusion guided by an encoder.

At every step the noise that a diffusion model predicts is moved by the gradient of the predicted
response of a region (BrainDiVE). The three parts are any differentiable functions: `denoise(z, t)`,
`decode(latents)` and `respond(images)`; nothing here knows their networks.

Source: Luo et al. 2023 (BrainDiVE, arXiv 2306.03089); Hong et al. 2023 (self-attention guidance).
Axes: batch, then those of a latent; voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.nn.draw import draw
from neurofm.reconstruct.diffusion import (
    Denoise,
    LatentDiffusion,
    NoiseSchedule,
    guided,
    sample,
)
from neurofm.shapes import Bool, Float, Int

Sharpen = Callable[[Tensor, Tensor, Tensor, Denoise], Tensor]


@dataclass(frozen=True)
class GuidedImages:
    """What a guided synthesis made, the best image first.

    Args:
        images: As decoded, 0 to 1.
        latents: They were decoded from.
        response: Mean predicted response of the region's voxels to each image.
        order: Row of each among those that were drawn.
    """

    images: Float[Tensor, "batch channel height width"]
    latents: Tensor
    response: Float[Tensor, " batch"]
    order: Int[Tensor, " batch"]


class ResponseGuidance:
    """A denoiser whose noise is moved so that a region's predicted response rises.

    Args:
        denoise: Noise in `z` at `t`; gradients must pass through it.
        schedule: Of the diffusion.
        decode: Latents to images. Do not clamp in it: that kills the gradient outside 0 to 1.
        respond: Images to responses, `batch voxel`.
        voxels: Which voxels are the region: True, or their indices; all if None.
        gamma: Strength; 130 as published for Stable Diffusion and z-scored voxels. 0 leaves the
            noise as it is.
        sharpen: Adds to the predicted noise before the guidance: `(z, t, e, denoise) -> e`, such as
            `SelfAttentionGuidance`.

    Calling it with `z` and `t` gives the moved noise, as `diffusion.sample` takes it.
    """

    def __init__(
        self,
        denoise: Denoise,
        schedule: NoiseSchedule,
        decode: Callable[[Tensor], Tensor],
        respond: Callable[[Tensor], Tensor],
        *,
        voxels: Bool[Tensor, " voxel"] | Int[Tensor, " index"] | None = None,
        gamma: float | int = 130.0,
        sharpen: Sharpen | None = None,
    ) -> None:
        if gamma < 0:
            raise ValueError(
                f"ResponseGuidance: gamma {gamma}, expected 0 up. To lower a response, negate what "
                "`respond` returns."
            )
        self.denoise_alone, self.schedule, self.gamma = denoise, schedule, gamma
        self.decode, self.respond, self.voxels, self.sharpen = decode, respond, voxels, sharpen

    def objective(self, images: Tensor) -> Float[Tensor, " batch"]:
        """Mean response of the region to each image; float32 whatever the networks compute in."""
        response = self.respond(images).float()
        if response.ndim != 2:
            raise ValueError(
                f"ResponseGuidance: respond gave {tuple(response.shape)}, expected batch voxel."
            )
        if self.voxels is not None:
            if self.voxels.dtype == torch.bool and len(self.voxels) != response.shape[1]:
                raise ValueError(
                    f"ResponseGuidance: a mask of {len(self.voxels)} voxels for responses of "
                    f"{response.shape[1]}. It belongs to another encoder."
                )
            response = response[:, self.voxels]
        if not response.shape[1]:
            raise ValueError("ResponseGuidance: the region has no voxels.")
        return response.mean(dim=1)

    def __call__(self, z: Tensor, t: Int[Tensor, " batch"]) -> Tensor:
        """Predicted noise minus sqrt(1 - alpha_bar) times the gradient of gamma x the objective."""
        if self.gamma == 0:
            with torch.no_grad():
                e = self.denoise_alone(z, t)
                return self._sharpened(z, t, e)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            e = self.denoise_alone(leaf, t)
            if self.sharpen is not None:  # counts in the image, without a gradient of its own
                with torch.no_grad():
                    added = self._sharpened(leaf, t, e) - e
                e = e + added
            signal, spread = self.schedule.scales(t, leaf)
            clean = (leaf - spread * e) / signal
            # As noisy steps say little of the image, the estimate counts as much as there is noise.
            blend = spread * clean + (1 - spread) * leaf
            energy = self.gamma * self.objective(self.decode(blend)).sum()
            (gradient,) = torch.autograd.grad(energy, leaf)
        if not torch.isfinite(gradient).all():
            raise ValueError(
                f"ResponseGuidance: the gradient at step {int(t[0])} is not finite. Lower gamma "
                f"(now {self.gamma}) or compute in float32."
            )
        return (e - spread * gradient).detach()

    def _sharpened(self, z: Tensor, t: Tensor, e: Tensor) -> Tensor:
        return e if self.sharpen is None else self.sharpen(z, t, e, self.denoise_alone)


class SelfAttentionGuidance:
    """Move the noise away from what is predicted when attended places are blurred.

    Args:
        attention: After a call of the denoiser, the attention of its middle block as
            `batch head query key`; such as a closure over `interpret.Recorder`.
        schedule: Of the diffusion.
        scale: 0.75 as published with BrainDiVE.
        threshold: On attention averaged over heads and summed over queries; 1 is even attention.
        sigma: Of the Gaussian that blurs, in latent pixels; 9 x 9 of them.
    """

    def __init__(
        self,
        attention: Callable[[], Tensor],
        schedule: NoiseSchedule,
        *,
        scale: float | int = 0.75,
        threshold: float | int = 1.0,
        sigma: float | int = 1.0,
    ) -> None:
        self.attention, self.schedule = attention, schedule
        self.scale, self.threshold, self.sigma = scale, threshold, sigma

    def __call__(self, z: Tensor, t: Tensor, e: Tensor, denoise: Denoise) -> Tensor:
        """The noise, sharpened."""
        summed = self.attention().mean(dim=1).sum(dim=1)  # batch key
        ratio = (z.shape[-2] * z.shape[-1] / summed.shape[1]) ** 0.5
        height, width = round(z.shape[-2] / ratio), round(z.shape[-1] / ratio)
        if height * width != summed.shape[1]:
            raise ValueError(
                f"SelfAttentionGuidance: attention over {summed.shape[1]} places does not tile "
                f"latents of {z.shape[-2]} x {z.shape[-1]}."
            )
        mask = (summed > self.threshold).to(z.dtype).reshape(-1, 1, height, width)
        mask = F.interpolate(mask, z.shape[-2:])
        clean = self.schedule.clean(z, e, t)
        degraded = mask * blur(clean, sigma=self.sigma) + (1 - mask) * clean
        return e + self.scale * (e - denoise(self.schedule.noisy(degraded, e, t), t))


def blur(
    images: Float[Tensor, "batch channel height width"], *, sigma: float | int, size: int = 9
) -> Float[Tensor, "batch channel height width"]:
    """Gaussian of `sigma` pixels in a window of `size`; edges are mirrored."""
    at = torch.arange(size, device=images.device, dtype=images.dtype) - (size - 1) / 2
    bell = torch.exp(-0.5 * (at / sigma) ** 2)
    bell = (bell / bell.sum()).reshape(1, 1, -1)
    half = size // 2
    if min(images.shape[-2:]) <= half:
        raise ValueError(
            f"blur: {tuple(images.shape[-2:])} pixels, expected more than {half} for a window of "
            f"{size}."
        )
    flat = F.pad(images.flatten(0, 1).unsqueeze(1), (half, half, half, half), mode="reflect")
    smooth = F.conv2d(F.conv2d(flat, bell.unsqueeze(2)), bell.unsqueeze(3))
    return smooth.reshape(images.shape)


def synthesise(
    guidance: ResponseGuidance,
    noise: Tensor,
    *,
    steps: int = 50,
    solver: str = "dpmpp",
    keep: int | None = None,
    generator: torch.Generator | None = None,
) -> GuidedImages:
    """Images that drive a region, the best by the encoder first.

    Args:
        noise: A latent of standard normal numbers for each image to draw.
        steps: 50 of DPM-Solver++ as published.
        keep: The best so many only.

    Returns:
        Images whose response is measured again on what was decoded and clamped, as an eye would see
        them; not on the last step's estimate.
    """
    if keep is not None and not 1 <= keep <= len(noise):
        raise ValueError(f"synthesise: keep {keep} of {len(noise)} images.")
    schedule = guidance.schedule
    latents = sample(guidance, schedule, noise, steps=steps, solver=solver, generator=generator)
    with torch.no_grad():
        images = guidance.decode(latents).clamp(0, 1)
        response = guidance.objective(images)
    order = response.argsort(descending=True, stable=True)[:keep]
    return GuidedImages(images[order], latents[order], response[order], order)


def images_for_region(
    diffusion: LatentDiffusion,
    respond: Callable[[Tensor], Tensor],
    *,
    voxels: Bool[Tensor, " voxel"] | Int[Tensor, " index"] | None = None,
    n: int = 8,
    gamma: float | int = 130.0,
    vision: Float[Tensor, "token dim"] | None = None,
    text: Float[Tensor, "word dim_"] | None = None,
    guidance: float | int = 0.0,
    steps: int = 50,
    keep: int | None = None,
    sharpen: Sharpen | None = None,
    generator: torch.Generator | None = None,
) -> GuidedImages:
    """Images of a generator that drive a region: `SmallGenerator`, or a pipeline of diffusers.

    Args:
        diffusion: Its denoiser, autoencoder and schedule are used.
        respond: Images to responses, `batch voxel`, with a gradient.
        voxels: As in `ResponseGuidance`.
        n: Images to draw.
        gamma: As in `ResponseGuidance`.
        vision: Tokens of the kind that the generator attends to.
        text: The same; a pipeline with a text encoder needs none (an empty sentence).
        guidance: By the tokens; 0 leaves what they say out and needs only their shape, which is the
            empty prompt that was published.
        steps: As in `synthesise`.
        keep: As in `synthesise`.
        sharpen: As in `ResponseGuidance`.
    """
    if n < 1:
        raise ValueError(f"images_for_region: {n} images, expected one or more.")
    tokens = [None if one is None else one.expand(n, *one.shape) for one in (vision, text)]
    moved = ResponseGuidance(
        guided(diffusion, *tokens, guidance=guidance),
        diffusion.schedule,
        diffusion.decode,
        respond,
        voxels=voxels,
        gamma=gamma,
        sharpen=sharpen,
    )
    device = diffusion.schedule.alpha_bar.device
    noise = draw(torch.randn, (n, *diffusion.latent_shape()), generator, device)
    return synthesise(moved, noise, steps=steps, keep=keep, generator=generator)
