"""Small networks for images of 32 x 32: autoencoder, latent denoiser, and a prior over embeddings.

They are trained on the spot (`train_small_generator`), in seconds, on whatever images a study
shows. So a reconstruction runs from end to end without any published weights, and what those add
can be told from what the brain says.

Source: Rombach et al. 2022 (diffusion in latents); Xu et al. 2023 (Versatile Diffusion: attention
to images and to text, mixed); Ramesh et al. 2022 and Scotti et al. 2023 (a diffusion prior from one
embedding to another, predicting the clean one).
Axes: batch, 3 height width (0 to 1); token dim (vision); word dim (text).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.nn.draw import draw
from neurofm.reconstruct.diffusion import NoiseSchedule, sample
from neurofm.shapes import Float, Int


def _groups(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


class _Residual(nn.Module):
    """Two convolutions around a shift by the time embedding, if there is one."""

    def __init__(self, width: int, *, time_dim: int = 0) -> None:
        super().__init__()
        self.first = nn.Sequential(_groups(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.shift = nn.Linear(time_dim, width) if time_dim else None
        self.second = nn.Sequential(
            _groups(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        y = self.first(x)
        if self.shift is not None:
            y = y + self.shift(time)[:, :, None, None]
        return x + self.second(y)


@cards.configured
class SmallAutoencoder(nn.Module):
    """Images to latents of a quarter of their height and width, and back.

    Args:
        channels: Of the latents.
        width: Of the hidden layers.
        size: Pixels of an image, a multiple of 4; others are resized (bicubic).

    Latents have mean 0 and variance 1 in each channel over the images that `standardise` saw.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 4, width: int = 32, size: int = 32) -> None:
        super().__init__()
        if size < 8 or size % 4:
            raise ValueError(f"SmallAutoencoder: size {size}, expected a multiple of 4 from 8 up.")
        self.channels, self.size = channels, size
        self.down = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), _Residual(width)),
            *(nn.SiLU(), nn.Conv2d(width, width, 4, 2, 1), _Residual(width), nn.SiLU()),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.up = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, padding=1), _Residual(width), nn.SiLU()),
            *(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), _Residual(width)),
            *(nn.SiLU(), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)),
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def resized(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Images of the size that this network takes."""
        if images.shape[-2:] == (self.size, self.size):
            return images
        shape = (self.size, self.size)
        return F.interpolate(images, shape, mode="bicubic", antialias=True).clamp(0, 1)

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Latents, `batch channel height width`."""
        raw = self.down(2 * self.resized(images) - 1)
        return (raw - self.mean[:, None, None]) / self.std[:, None, None]

    def decode(self, latents: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Images, about 0 to 1, not clamped."""
        raw = self.up(latents * self.std[:, None, None] + self.mean[:, None, None])
        return (raw + 1) / 2

    def loss(self, images: Tensor) -> Float[Tensor, ""]:
        """Squared error of pixels, with a little pressure on the latents towards small numbers."""
        images = self.resized(images)
        latents = self.encode(images)
        return F.mse_loss(self.decode(latents), images) + 1e-4 * latents.square().mean()

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Set mean and deviation of the latents from images."""
        self.mean.zero_()
        self.std.fill_(1.0)
        raw = torch.cat([self.encode(part) for part in images.split(256)])
        self.mean.copy_(raw.mean(dim=(0, 2, 3)))
        self.std.copy_(raw.std(dim=(0, 2, 3)).clamp(min=1e-6))


def time_features(t: Int[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Sines and cosines of the step."""
    rate = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angle = t.float().unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class _Attend(nn.Module):
    """Places ask vision and text tokens; what both answer is mixed."""

    def __init__(self, width: int, vision_dim: int, text_dim: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = _groups(width)
        self.vision = nn.MultiheadAttention(
            width, heads, kdim=vision_dim, vdim=vision_dim, batch_first=True
        )
        self.text = nn.MultiheadAttention(
            width, heads, kdim=text_dim, vdim=text_dim, batch_first=True
        )

    def forward(
        self, x: Tensor, vision: Tensor | None, text: Tensor | None, share: float
    ) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        seen = said = None
        if vision is not None:
            seen = self.vision(places, vision, vision, need_weights=False)[0]
        if text is not None:
            said = self.text(places, text, text, need_weights=False)[0]
        if seen is not None and said is not None:
            added = (1 - share) * seen + share * said
        else:
            added = seen if seen is not None else said
        if added is None:
            return x
        return x + added.transpose(1, 2).reshape(x.shape)


@cards.configured
class SmallDenoiser(nn.Module):
    """The noise in latents, given tokens of images and of text.

    Args:
        channels: Of the latents.
        vision_dim: Of a vision token.
        text_dim: Of a text token.
        width: Of the hidden layers.
        mixing: Share of text in what attention adds; 0.4 as published.
        places: Of a side of the latents, for learned positions.
    """

    def __init__(
        self,
        channels: int = 4,
        vision_dim: int = 32,
        text_dim: int = 32,
        width: int = 64,
        mixing: float = 0.4,
        places: int = 8,
    ) -> None:
        super().__init__()
        if not 0 <= mixing <= 1:
            raise ValueError(f"SmallDenoiser: mixing {mixing}, expected 0 (vision) to 1 (text).")
        self.mixing, self.width, self.dims = mixing, width, (vision_dim, text_dim)
        self.time = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width), nn.SiLU()
        )
        self.place = nn.Parameter(torch.zeros(width, places, places))
        self.nothing_seen = nn.Parameter(torch.zeros(vision_dim))
        self.nothing_said = nn.Parameter(torch.zeros(text_dim))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.Conv2d(width, width, 4, 2, 1)
        self.blocks = nn.ModuleList(_Residual(width, time_dim=2 * width) for _ in range(4))
        self.attend = nn.ModuleList(_Attend(width, vision_dim, text_dim) for _ in range(3))
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.leave = nn.Sequential(
            _groups(width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)
        )

    def unconditional(
        self, vision: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Learned tokens that say nothing, of these shapes."""
        self._check(vision, text)
        seen = None if vision is None else self.nothing_seen.expand(vision.shape)
        return seen, None if text is None else self.nothing_said.expand(text.shape)

    def _check(self, vision: Tensor | None, text: Tensor | None) -> None:
        for name, tokens, dim in zip(("vision", "text"), (vision, text), self.dims, strict=True):
            if tokens is not None and tokens.shape[-1] != dim:
                raise ValueError(
                    f"SmallDenoiser: {name} tokens of {tokens.shape[-1]} features, it was built "
                    f"for {dim}. Predict the tokens that the generator was trained with."
                )

    def forward(
        self,
        z: Float[Tensor, "batch channel height width"],
        t: Int[Tensor, " batch"],
        vision: Float[Tensor, "batch token dim"] | None = None,
        text: Float[Tensor, "batch word dim_"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """The noise in `z` at step `t`."""
        self._check(vision, text)
        time = self.time(time_features(t, self.width))
        fine = self.attend[0](
            self.blocks[0](self.enter(z) + self.place, time), vision, text, self.mixing
        )
        coarse = self.attend[1](self.blocks[1](self.down(fine), time), vision, text, self.mixing)
        fine = fine + self.up(self.blocks[2](coarse, time))
        fine = self.attend[2](self.blocks[3](fine, time), vision, text, self.mixing)
        return self.leave(fine)


@cards.configured
class DiffusionPrior(nn.Module):
    """From one embedding to another by diffusion: an image's, given what the brain says of it.

    A ridge predicts the mean of what could have been seen, which lies off the cloud of embeddings
    of real images; the prior draws one on it.

    Args:
        dim: Of both embeddings.
        width: Of the hidden layers.
        n_steps: Of training.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int = 64, width: int = 256, n_steps: int = 200) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.schedule = NoiseSchedule(n_steps)
        self.net = nn.Sequential(
            *(nn.Linear(2 * dim + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()),
            *(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)),
        )
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(1))

    def standardise(self, target: Float[Tensor, "stimulus dim"]) -> None:
        """Set mean and (one) deviation from embeddings of images."""
        self.mean.copy_(target.mean(0))
        self.std.copy_((target - self.mean).square().mean().sqrt().clamp(min=1e-6))

    def clean(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """The clean embedding, standardised, that `z` is a noisy version of."""
        scaled = (condition - self.mean) / self.std
        return self.net(torch.cat([z, scaled, time_features(t, 32)], dim=1))

    def loss(
        self,
        target: Float[Tensor, "batch dim"],
        condition: Float[Tensor, "batch dim"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Squared error of the clean embedding at random steps; 1 is what its mean gives."""
        clean = (target - self.mean) / self.std
        t = draw(torch.rand, (len(clean),), generator, clean.device)
        t = (t * len(self.schedule)).long()
        noise = draw(torch.randn, clean.shape, generator, clean.device)
        return F.mse_loss(self.clean(self.schedule.noisy(clean, noise, t), t, condition), clean)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "batch dim"],
        *,
        steps: int = 25,
        eta: float | int = 0.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Embeddings like those of images, one for each condition."""
        if condition.shape[1] != self.dim:
            raise ValueError(
                f"DiffusionPrior: a condition of {condition.shape[1]} features, expected "
                f"{self.dim}."
            )

        def denoise(z: Tensor, t: Tensor) -> Tensor:
            signal, spread = self.schedule.scales(t, z)
            return (z - signal * self.clean(z, t, condition)) / spread

        noise = draw(torch.randn, condition.shape, generator, condition.device)
        drawn = sample(denoise, self.schedule, noise, steps=steps, eta=eta, generator=generator)
        return drawn * self.std + self.mean
