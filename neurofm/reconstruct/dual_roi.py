"""Two decoders of one brain: what a thing looks like from early areas, what it is from later ones.

Source: Brain3D (arXiv 2405.15239) for the division; its sizes were not accessible, those here are
this project's. `stabilise` stands in for the projection onto a manifold that it describes.
Axes: batch, voxel; low and high = dimensions of both targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.reconstruct.small_generator import train
from neurofm.shapes import Float


@cards.configured
class DualROIEncoder(nn.Module):
    """Responses to a low-level and a high-level embedding, each from voxels of its own.

    Args:
        n_voxels: Of the mask that responses come in.
        low_voxels: Indices of voxels of early areas (V1 to V4).
        high_voxels: Indices of voxels of later areas.
        low_dim: Of the low-level target: shallow tokens of an image network, or latents, flattened.
        high_dim: Of the high-level target: an image embedding such as CLIP's.
        hidden: Units between: voxels, hidden, GELU, LayerNorm, target. None: one linear map, which
            `solve` also finds as a ridge.
        contrast: Weight of the symmetric contrastive loss beside squared error.
        temperature: Of that loss.
    """

    low_index: Tensor
    high_index: Tensor

    def __init__(
        self,
        n_voxels: int,
        low_voxels: Sequence[int],
        high_voxels: Sequence[int],
        low_dim: int,
        high_dim: int,
        *,
        hidden: int | None = 2048,
        contrast: float = 0.3,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        for name, voxels in (("low_voxels", low_voxels), ("high_voxels", high_voxels)):
            if not len(voxels) or min(voxels) < 0 or max(voxels) >= n_voxels:
                raise ValueError(
                    f"DualROIEncoder: {name} has {len(voxels)} indices, expected some from 0 to "
                    f"{n_voxels - 1}. Turn a mask into indices with numpy.flatnonzero."
                )
        self.n_voxels, self.contrast, self.temperature = n_voxels, contrast, temperature
        self.register_buffer("low_index", torch.tensor(list(low_voxels)), persistent=False)
        self.register_buffer("high_index", torch.tensor(list(high_voxels)), persistent=False)
        self.low = _head(len(low_voxels), low_dim, hidden)
        self.high = _head(len(high_voxels), high_dim, hidden)

    def forward(
        self, voxels: Float[Tensor, "batch voxel"]
    ) -> tuple[Float[Tensor, "batch low"], Float[Tensor, "batch high"]]:
        """Both embeddings."""
        if voxels.shape[1] != self.n_voxels:
            raise ValueError(
                f"DualROIEncoder: {voxels.shape[1]} voxels, it was built for a mask of "
                f"{self.n_voxels}."
            )
        return self.low(voxels[:, self.low_index]), self.high(voxels[:, self.high_index])

    def loss(
        self,
        voxels: Float[Tensor, "batch voxel"],
        low: Float[Tensor, "batch low"],
        high: Float[Tensor, "batch high"],
    ) -> Float[Tensor, ""]:
        """Squared error and contrast of both embeddings, added."""
        total = voxels.new_zeros(())
        for guess, target in zip(self(voxels), (low, high), strict=True):
            total = total + F.mse_loss(guess, target)
            if self.contrast:
                total = total + self.contrast * symmetric_clip(guess, target, self.temperature)
        return total

    def fit(
        self,
        voxels: Float[Tensor, "stimulus voxel"],
        low: Float[Tensor, "stimulus low"],
        high: Float[Tensor, "stimulus high"],
        *,
        steps: int = 1000,
        batch_size: int = 64,
        lr: float = 3e-4,
        seed: int = 0,
    ) -> list[float]:
        """Learn by gradients from training stimuli; returns the loss of each step."""
        generator = torch.Generator().manual_seed(seed)
        self.train()
        history = train(
            self.parameters(),
            lambda rows: self.loss(voxels[rows], low[rows], high[rows]),
            *(len(voxels),),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            generator=generator,
        )
        self.eval()
        return history

    @torch.no_grad()
    def solve(
        self,
        voxels: Float[Tensor, "stimulus voxel"],
        low: Float[Tensor, "stimulus low"],
        high: Float[Tensor, "stimulus high"],
        *,
        penalty: float | int,
    ) -> None:
        """Set linear heads to the ridge solution with an intercept.

        Raises:
            ValueError: There are hidden units.
        """
        parts = ((self.low, self.low_index, low), (self.high, self.high_index, high))
        for head, index, target in parts:
            if not isinstance(head, nn.Linear):
                raise ValueError("DualROIEncoder.solve: only for hidden=None; use fit.")
            x, y = voxels[:, index].double(), target.double()
            mean_x, mean_y = x.mean(0), y.mean(0)
            x, y = x - mean_x, y - mean_y
            gram = x @ x.T + penalty * torch.eye(len(x), dtype=x.dtype)
            weight = torch.linalg.solve(gram, y).T @ x
            head.weight.copy_(weight)
            head.bias.copy_(mean_y - weight @ mean_x)


def _head(n_in: int, n_out: int, hidden: int | None) -> nn.Module:
    if hidden is None:
        return nn.Linear(n_in, n_out)
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, n_out)
    )


def symmetric_clip(
    first: Float[Tensor, "batch dim"],
    second: Float[Tensor, "batch dim"],
    temperature: float | int = 0.07,
) -> Float[Tensor, ""]:
    """Find each row's partner by cosine, from either side; nats."""
    scores = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / temperature
    own = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def stabilise(
    predicted: Float[Tensor, "batch dim"],
    training: Float[Tensor, "stimulus dim_"],
    *,
    k: int = 10,
    temperature: float | int = 0.05,
) -> Float[Tensor, "batch dim_"]:
    """Put predicted embeddings back among real ones: a mean of the nearest of the training set.

    Args:
        predicted: Noisy ones.
        training: Embeddings of *training* stimuli; a test stimulus among them would be found.
        k: Nearest by cosine that count.
        temperature: Of the softmax over their cosines that weighs them.
    """
    if predicted.shape[1] != training.shape[1]:
        raise ValueError(
            f"stabilise: {predicted.shape[1]} predicted dimensions, {training.shape[1]} of "
            "training embeddings."
        )
    if not 1 <= k <= len(training) or not temperature > 0:
        raise ValueError(
            f"stabilise: k {k} of {len(training)} training embeddings, temperature {temperature}."
        )
    cosine = F.normalize(predicted, dim=1) @ F.normalize(training, dim=1).T
    best = cosine.topk(k, dim=1)
    share = (best.values / temperature).softmax(dim=1)
    return (share.unsqueeze(2) * training[best.indices]).sum(1)
