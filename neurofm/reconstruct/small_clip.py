"""A small network that puts images and captions into one space: tokens of both, trained here.

What CLIP is to photographs, for the images of a study: the vision and text tokens that ridges
predict and generators read, and an embedding in which images and captions are compared.

Source: Radford et al. 2021 (CLIP).
Axes: batch, 3 height width (0 to 1); token dim; word (an index; 0 fills up).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.reconstruct.dual_roi import symmetric_clip
from neurofm.reconstruct.small_generator import train
from neurofm.shapes import Float, Int


@cards.configured
class SmallCLIP(nn.Module):
    """Images and captions to tokens and to one embedding of length one.

    Args:
        n_words: Of the vocabulary; word 0 fills up.
        dim: Of tokens and embedding.
        width: Of the convolutions.
        max_words: In a caption.
    """

    def __init__(self, n_words: int, dim: int = 32, width: int = 32, max_words: int = 7) -> None:
        super().__init__()
        self.dim = dim
        self.see = nn.Sequential(
            *(nn.Conv2d(3, width, 5, 2, 2), nn.GELU(), nn.Conv2d(width, 2 * width, 3, 2, 1)),
            *(nn.GroupNorm(4, 2 * width), nn.GELU(), nn.Conv2d(2 * width, dim, 3, 2, 1)),
        )
        self.look = nn.Sequential(nn.GELU(), nn.Linear(dim, 2 * dim), nn.GELU())
        self.image = nn.Linear(2 * dim, dim)
        self.word = nn.Embedding(n_words, dim, padding_idx=0)
        self.order = nn.Parameter(0.1 * torch.randn(max_words, dim))
        self.read = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def vision_tokens(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch token dim"]:
        """A token for every 8 x 8 pixels."""
        return self.see(images - 0.5).flatten(2).transpose(1, 2)

    def text_tokens(self, words: Int[Tensor, "batch word"]) -> Float[Tensor, "batch word dim"]:
        """A token for every word."""
        return self.word(words) + self.order[: words.shape[1]]

    def embed_images(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Embeddings, `batch dim`, of length one."""
        # The mean square keeps where things are out, and the places where nothing is nearly so.
        return F.normalize(self.image(self.look(self.vision_tokens(images)).mean(1)), dim=1)

    def embed_words(self, words: Int[Tensor, "batch word"]) -> Tensor:
        """Embeddings, `batch dim`, of length one."""
        return F.normalize(self.read(self.text_tokens(words)).mean(1), dim=1)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """As `embed_images`."""
        return self.embed_images(images)


def train_small_clip(
    images: Float[Tensor, "stimulus 3 height width"],
    words: Int[Tensor, "stimulus word"],
    *,
    n_words: int,
    steps: int = 600,
    dim: int = 32,
    temperature: float = 0.1,
    seed: int = 0,
) -> SmallCLIP:
    """A network that finds the caption of an image and the image of a caption.

    Args:
        images: Of training.
        words: Indices of the words of their captions.
    """
    if len(images) != len(words):
        raise ValueError(f"train_small_clip: {len(images)} images, {len(words)} captions.")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SmallCLIP(n_words, dim=dim, max_words=words.shape[1])

    def loss(rows: Tensor) -> Tensor:
        pictures = network.embed_images(images[rows])
        return symmetric_clip(pictures, network.embed_words(words[rows]), temperature)

    train(
        *(network.parameters(), loss, len(images)), steps=steps, lr=3e-3, generator=generator
    )  # fmt: skip
    return network.eval().requires_grad_(False)
