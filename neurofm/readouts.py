"""From an embedding to a prediction.

Axes: batch token dim; output = class or target value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurofm.batch import Embedding
from neurofm.cards import configured
from neurofm.shapes import Float


@configured
class PooledLinear(nn.Module):
    """One linear map of the pooled embedding: the linear probe.

    Args:
        dim: Features of the pooled embedding.
        dropout: Before the map, in training mode.
    """

    def __init__(self, dim: int, n_outputs: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, n_outputs)

    def forward(self, embedding: Embedding) -> Float[Tensor, "batch output"]:
        """One row of outputs per window."""
        return self.linear(self.dropout(embedding.pooled()))


@configured
class LatentMLP(nn.Module):
    """Average each latent source over time, then a two-layer network over all sources.

    For embeddings whose tokens are ordered source by source, such as BrainOmni's.

    Args:
        dim: Features of a token.
        n_sources: Latent sources.
        dropout: Before the first layer, in training mode.

    Source: BrainOmni's fine-tuning head.
    """

    def __init__(
        self, dim: int, n_outputs: int, *, n_sources: int = 16, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.n_sources = n_sources
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n_sources * dim, dim),
            nn.SELU(),
            nn.Linear(dim, n_outputs),
        )

    def forward(self, embedding: Embedding) -> Float[Tensor, "batch output"]:
        """One row of outputs per window."""
        if embedding.tokens.shape[1] % self.n_sources:
            raise ValueError(
                f"LatentMLP: {embedding.tokens.shape[1]} tokens cannot be split into "
                f"{self.n_sources} sources. Set n_sources to the model's."
            )
        tokens = embedding.tokens.unflatten(1, (self.n_sources, -1))
        weight = embedding.mask.unflatten(1, (self.n_sources, -1)).unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weight).sum(2) / weight.sum(2).clamp(min=1)
        return self.layers(torch.flatten(mean, 1))
