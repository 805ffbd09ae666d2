"""Responses of voxels from an image embedding by one linear map: what guided synthesis climbs.

Source: Luo et al. 2023, 2024 (BrainDiVE, BrainSCUBA): CLIP's image embedding of length one, a
linear map with bias, AdamW; their augmentation.
Axes: batch, 3 height width (0 to 1) or embedding; channel = voxel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.nn.draw import draw
from neurofm.shapes import Float


@cards.configured
class LinearVoxelEncoder(nn.Module):
    """A `ResponseModel`: embedding, length one, linear.

    Args:
        dim: Of the embedding (512 for CLIP ViT-B).
        n_channels: Voxels.
        embed: Images to embeddings; frozen. None: stimuli come as embeddings.
        scale: Of the initial weights (published 0.5).
    """

    def __init__(
        self, dim: int, n_channels: int, *, embed: nn.Module | None = None, scale: float = 0.5
    ) -> None:
        super().__init__()
        self.dim, self.n_channels = dim, n_channels
        self.embed = None if embed is None else embed.eval().requires_grad_(False)
        self.linear = nn.Linear(dim, n_channels)
        with torch.no_grad():
            self.linear.weight.mul_(scale)

    def embedding(self, stimulus: Tensor) -> Float[Tensor, "batch dim"]:
        """Of length one."""
        found = stimulus if self.embed is None else self.embed(stimulus)
        if found.ndim != 2 or found.shape[1] != self.dim:
            wanted = "embeddings" if self.embed is None else "an embedding of each image"
            raise ValueError(
                f"LinearVoxelEncoder: {tuple(found.shape)}, expected {wanted} of {self.dim}."
            )
        return F.normalize(found, dim=1)

    def respond(
        self, stimulus: Tensor, *, subject: Tensor | None = None
    ) -> Float[Tensor, "batch channel"]:
        """Predicted responses; `subject` is not used, as every person has an encoder."""
        return self.linear(self.embedding(stimulus))

    def forward(self, stimulus: Tensor) -> Float[Tensor, "batch channel"]:
        """As `respond`."""
        return self.respond(stimulus)

    def directions(self) -> Float[Tensor, "channel dim"]:
        """What each voxel likes, of length one; for `project_onto_images`."""
        return F.normalize(self.linear.weight.detach(), dim=1)

    @torch.no_grad()
    def solve(
        self,
        stimulus: Tensor,
        responses: Float[Tensor, "stimulus channel"],
        *,
        penalty: float | int,
    ) -> None:
        """Set the map to the ridge solution with an intercept, without augmentation."""
        x = torch.cat([self.embedding(part) for part in stimulus.split(256)]).double()
        y = responses.double()
        mean_x, mean_y = x.mean(0), y.mean(0)
        gram = (x - mean_x).T @ (x - mean_x) + penalty * torch.eye(self.dim, dtype=x.dtype)
        weight = torch.linalg.solve(gram, (x - mean_x).T @ (y - mean_y)).T
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(mean_y - weight @ mean_x)

    def fit(
        self,
        stimulus: Tensor,
        responses: Float[Tensor, "stimulus channel"],
        *,
        epochs: int = 100,
        batch_size: int = 64,
        lr: float = 3e-4,
        weight_decay: float = 2e-2,
        shift: int = 4,
        noise: float | int = 0.05,
        brightness: float | int = 0.05,
        seed: int = 0,
    ) -> list[float]:
        """AdamW on squared error with the published settings; returns the loss of each epoch.

        Args:
            stimulus: Images, augmented anew every time, or embeddings, which are not.
            responses: z-scored.
            lr: Halved over 100 epochs, evenly in its logarithm.
            weight_decay: 2e-2 (BrainDiVE) or 1.5e-2 (BrainSCUBA).
            shift: Pixels to any side; edges are repeated.
            noise: Of pixels (deviation).
            brightness: Factor of 1 less to 1 more of it.
        """
        if len(stimulus) != len(responses) or responses.shape[1] != self.n_channels:
            raise ValueError(
                f"LinearVoxelEncoder: {len(stimulus)} stimuli, responses {tuple(responses.shape)}; "
                f"expected a row for each of {self.n_channels} voxels."
            )
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(self.linear.parameters(), lr=lr, weight_decay=weight_decay)
        history = []
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = lr * 0.5 ** (epoch / 100)
            order = torch.randperm(len(stimulus), generator=generator)
            total = 0.0
            for rows in order.split(batch_size):
                given = stimulus[rows]
                if self.embed is not None:
                    given = augment(
                        given, shift=shift, noise=noise, brightness=brightness, generator=generator
                    )
                loss = F.mse_loss(self(given), responses[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            history.append(total / len(stimulus))
        return history


def augment(
    images: Float[Tensor, "batch 3 height width"],
    *,
    shift: int = 4,
    noise: float | int = 0.05,
    brightness: float | int = 0.05,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Images moved, noisy and brighter or darker, each in its own way; not clamped."""
    n, _, height, width = images.shape
    if shift:
        padded = F.pad(images, (shift,) * 4, mode="replicate")
        at = (draw(torch.rand, (n, 2), generator, images.device) * (2 * shift + 1)).long()
        images = torch.stack(
            [
                one[:, y : y + height, x : x + width]
                for one, (y, x) in zip(padded, at.tolist(), strict=True)
            ]
        )
    factor = 1 + brightness * (2 * draw(torch.rand, (n, 1, 1, 1), generator, images.device) - 1)
    return images * factor + noise * draw(torch.randn, images.shape, generator, images.device)
