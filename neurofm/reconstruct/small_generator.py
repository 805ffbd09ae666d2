"""The small generator: autoencoder and latent diffusion as one, and how it is trained.

Source: see `small_networks`.
Axes: stimulus (a training image), 3 height width; token dim; word dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.nn.draw import draw
from neurofm.reconstruct.diffusion import NoiseSchedule, generate_images
from neurofm.reconstruct.small_networks import DiffusionPrior, SmallAutoencoder, SmallDenoiser
from neurofm.shapes import Float


@cards.configured
class SmallGenerator(nn.Module):
    """A `LatentDiffusion` and `ImageGenerator` without published weights.

    Args:
        autoencoder: Images to latents.
        denoiser: Noise in latents, given tokens.
        n_steps: Of the diffusion in training.
        strength: Of the noise on the low-level image (published: 0.75).
        guidance: Without a classifier. Published is 7.5 for Versatile Diffusion; a small network
            trained on few images needs less.
        steps: Of sampling (published: 50).
        drop: Share of training images whose tokens are withheld, for `guidance`.
    """

    def __init__(
        self,
        autoencoder: SmallAutoencoder,
        denoiser: SmallDenoiser,
        *,
        n_steps: int = 1000,
        strength: float = 0.75,
        guidance: float = 2.0,
        steps: int = 50,
        drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.autoencoder, self.denoiser, self.drop = autoencoder, denoiser, drop
        # Not the cosine: its last steps leave so little signal that errors grow 10,000 times.
        self.schedule = NoiseSchedule(n_steps, kind="scaled_linear")
        self.strength, self.guidance, self.steps = strength, guidance, steps

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images."""
        return self.autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, not clamped."""
        return self.autoencoder.decode(latents)

    def denoise(self, z: Tensor, t: Tensor, vision: Tensor | None, text: Tensor | None) -> Tensor:
        """The noise in `z`."""
        return self.denoiser(z, t, vision, text)

    def unconditional(
        self, vision: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens that say nothing."""
        return self.denoiser.unconditional(vision, text)

    def latent_shape(self) -> tuple[int, ...]:
        """channel height width"""
        side = self.autoencoder.size // 4
        return (self.autoencoder.channels, side, side)

    def generate(
        self,
        low_level: Float[Tensor, "batch 3 height width"] | None,
        vision_tokens: Float[Tensor, "batch token dim"] | None = None,
        text_tokens: Float[Tensor, "batch word dim_"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch 3 height_ width_"]:
        """Images from blurred ones and tokens; see `generate_images`."""
        return generate_images(
            *(self, low_level, vision_tokens, text_tokens),
            strength=self.strength,
            guidance=self.guidance,
            steps=self.steps,
            generator=generator,
        )

    def loss(
        self,
        latents: Float[Tensor, "batch channel height width"],
        vision: Float[Tensor, "batch token dim"] | None,
        text: Float[Tensor, "batch word dim_"] | None,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Squared error of the noise at random steps; tokens are withheld at times."""
        n = len(latents)
        t = (draw(torch.rand, (n,), generator, latents.device) * len(self.schedule)).long()
        noise = draw(torch.randn, latents.shape, generator, latents.device)
        hidden = draw(torch.rand, (2, n, 1, 1), generator, latents.device) < self.drop
        hidden = hidden | (draw(torch.rand, (n, 1, 1), generator, latents.device) < self.drop)
        nothing = self.unconditional(vision, text)
        seen = None if vision is None else torch.where(hidden[0], cast(Tensor, nothing[0]), vision)
        said = None if text is None else torch.where(hidden[1], cast(Tensor, nothing[1]), text)
        guess = self.denoise(self.schedule.noisy(latents, noise, t), t, seen, said)
        return F.mse_loss(guess, noise)


def train(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    n: int,
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-3,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Adam with a rate that rises over a tenth of the steps and falls as a cosine to nothing.

    Args:
        parameters: What learns.
        loss: Of a batch, by the indices of its rows.
        n: Rows there are.
        steps: Of the optimizer.
        lr: At its highest.
        generator: Draws the rows.

    Returns:
        The loss of each step.

    Raises:
        ValueError: No rows, or a loss that is not finite.
    """
    if n < 1 or steps < 1:
        raise ValueError(f"train: {n} rows and {steps} steps; expected at least one of each.")
    learning = list(parameters)
    optimizer = torch.optim.AdamW(learning, lr=lr, weight_decay=1e-4)
    found = []
    for step in range(steps):
        done = step / steps
        rate = min(1.0, (step + 1) / max(1, steps // 10)) * (0.5 + 0.5 * math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = lr * rate
        rows = draw(torch.rand, (min(batch_size, n),), generator, learning[0].device)
        value = loss((rows * n).long())
        if not torch.isfinite(value):
            raise ValueError(
                f"train: the loss of step {step} is {float(value.detach())}. Lower lr ({lr})."
            )
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        found.append(value.detach())
    return torch.stack(found).tolist()


def train_small_generator(
    images: Float[Tensor, "stimulus 3 height width"],
    vision: Float[Tensor, "row token dim"] | None,
    text: Float[Tensor, "row_ word dim_"] | None,
    *,
    autoencoder_steps: int = 300,
    denoiser_steps: int = 600,
    width: int = 48,
    seed: int = 0,
) -> SmallGenerator:
    """An autoencoder and then a diffusion in its latents, from training images alone.

    Args:
        images: 0 to 1; never those that will be reconstructed.
        vision: Their tokens; None to do without.
        text: Tokens of their captions; None to do without.
        autoencoder_steps: Of the optimizer, 32 images each.
        denoiser_steps: Of the optimizer, 32 images each.
        width: Of the denoiser; two thirds of it of the autoencoder.
        seed: Of weights, order and noise.

    Returns:
        The generator in evaluation mode; attribute `history` has the losses of both trainings.
    """
    for name, tokens in (("vision", vision), ("text", text)):
        if tokens is not None and len(tokens) != len(images):
            raise ValueError(
                f"train_small_generator: {len(tokens)} {name} tokens for {len(images)} images."
            )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        side = min(images.shape[-1] // 4 * 4, 32)
        autoencoder = SmallAutoencoder(width=2 * width // 3, size=side)
        denoiser = SmallDenoiser(
            autoencoder.channels,
            1 if vision is None else vision.shape[-1],
            1 if text is None else text.shape[-1],
            width=width,
            places=autoencoder.size // 4,
        )
    made = SmallGenerator(autoencoder, denoiser).to(images.device)
    images = autoencoder.resized(images)
    history = {}
    history["autoencoder"] = train(
        autoencoder.parameters(),
        lambda rows: autoencoder.loss(images[rows]),
        *(len(images),),
        steps=autoencoder_steps,
        batch_size=32,
        lr=4e-3,
        generator=generator,
    )
    autoencoder.standardise(images)
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(part) for part in images.split(256)])
    history["denoiser"] = train(
        denoiser.parameters(),
        lambda rows: made.loss(
            *(latents[rows], _rows(vision, rows), _rows(text, rows)), generator=generator
        ),
        *(len(images),),
        steps=denoiser_steps,
        batch_size=32,
        lr=4e-3,
        generator=generator,
    )
    made.history = history  # type: ignore[assignment]
    return made.eval().requires_grad_(False)


def train_prior(
    condition: Float[Tensor, "stimulus dim"],
    target: Float[Tensor, "stimulus_ dim_"],
    *,
    steps: int = 1000,
    width: int = 256,
    seed: int = 0,
) -> DiffusionPrior:
    """A prior from predicted embeddings to those of the images.

    Args:
        condition: What the brain predicts for training stimuli that the ridge was *not* fitted on
            (`BrainDiffuser.held_out_predictions`): predictions of its own training stimuli are
            better than any test will be.
        target: Embeddings of the images.
    """
    if condition.shape != target.shape:
        raise ValueError(
            f"train_prior: {tuple(condition.shape)} conditions, {tuple(target.shape)} targets."
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        prior = DiffusionPrior(target.shape[1], width=width).to(target.device)
    prior.standardise(target)
    train(
        prior.net.parameters(),
        lambda rows: prior.loss(target[rows], condition[rows], generator=generator),
        *(len(target),),
        steps=steps,
        generator=generator,
    )
    return prior.eval().requires_grad_(False)


def _rows(tokens: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if tokens is None else tokens[rows]
