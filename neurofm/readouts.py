"""From an embedding to a prediction.

Axes: batch token dim; output = class or target value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurofm.batch import BrainModel, Embedding
from neurofm.cards import callable_from_cards, configured
from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.nn.functional_layers import Basis, FunctionalDense
from neurofm.shapes import Float


@configured
class PooledLinear(nn.Module):
    """One linear map of the pooled embedding: the linear probe.

    Args:
        dim: Features of the pooled embedding.
        dropout: Before the map, in training mode.
        zero: Start from a map that knows nothing. From few windows what random weights say of
            many features is not unlearned.
    """

    def __init__(
        self, dim: int, n_outputs: int, *, dropout: float = 0.0, zero: bool = False
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(dim, n_outputs)
        if zero:
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        return self.linear(self.dropout(embedding.pooled()))


@configured
class FlatLinear(nn.Module):
    """One linear map of all tokens in a row, so that each place of the window has its own weights.

    For embeddings with the same tokens for every window, such as those over `TrialPatches`.

    Args:
        dim: Features of a token.
        n_tokens: Of a window.
        dropout: Before the map, in training mode.

    Source: the flattened head of PatchTST and of arXiv 2601.00573; the default is its size for 26
    channels of 8 patches.
    """

    def __init__(
        self, dim: int, n_outputs: int, *, n_tokens: int = 208, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.n_tokens = n_tokens
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_tokens * dim, n_outputs)

    def features(self, embedding: Embedding) -> Float[Tensor, "batch feature"]:
        """All tokens in a row.

        Raises:
            ValueError: Another number of tokens than `n_tokens`.
        """
        found = embedding.tokens.shape[1]
        if found != self.n_tokens:
            raise ValueError(
                f"FlatLinear: windows of {found} tokens, n_tokens is {self.n_tokens}. Set "
                f"`n_tokens: {found}` in the readout."
            )
        return embedding.tokens.flatten(1)

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        return self.linear(self.dropout(self.features(embedding)))


@callable_from_cards
def class_head(model: BrainModel, n_outputs: int, *, dropout: float = 0.0) -> PooledLinear:
    """The head that a model was pretrained with, as a readout to fine-tune; or a fresh one.

    Args:
        model: With a linear `head` on its pooled embedding, such as MIRepNet; it is not changed.
        n_outputs: Classes. With as many as in pretraining the head keeps its weights, and the
            labels must be listed in the same order; otherwise it starts anew.
        dropout: Before the head, in training mode.

    Source: MIRepNet's fine-tuning.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear) or head.in_features != model.dim:
        raise ValueError(
            f"class_head: {type(model).__name__} has no linear head on its {model.dim} features. "
            "Use PooledLinear."
        )
    readout = PooledLinear(model.dim, n_outputs, dropout=dropout)
    if n_outputs == head.out_features:
        readout.linear.load_state_dict(head.state_dict())
    return readout


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

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        tokens, weight = _by_source(embedding, self.n_sources)
        mean = (tokens * weight).sum(2) / weight.sum(2).clamp(min=1)
        return self.layers(torch.flatten(mean, 1))


@configured
class LatentStatistics(nn.Module):
    """Mean and standard deviation of each latent source over time, then one linear map.

    A rhythm that fades leaves the mean of a token where it was and shrinks its spread, so the
    second half carries what power-based decoders use. For embeddings whose tokens are ordered
    source by source, such as BrainOmni's.

    Args:
        dim: Features of a token.
        n_sources: Latent sources.
        dropout: Before the map, in training mode.
    """

    def __init__(
        self, dim: int, n_outputs: int, *, n_sources: int = 16, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.n_sources = n_sources
        # What differs between trials is small beside what does not: scale each feature over trials.
        self.norm = BatchNorm1d(2 * n_sources * dim, momentum=0.3, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * n_sources * dim, n_outputs)

    def features(self, embedding: Embedding) -> Float[Tensor, "batch feature"]:
        """The statistics themselves: means of all sources, then standard deviations."""
        tokens, weight = _by_source(embedding, self.n_sources)
        count = weight.sum(2).clamp(min=1)
        mean = (tokens * weight).sum(2) / count
        spread = ((tokens - mean.unsqueeze(2)).square() * weight).sum(2) / count
        return torch.cat([mean.flatten(1), (spread + 1e-8).sqrt().flatten(1)], 1)

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        return self.linear(self.dropout(self.norm(self.features(embedding))))


@configured
class FunctionalReadout(nn.Module):
    """The integral of the tokens times weights that change smoothly over the window.

    For embeddings with one token for each moment, in order, such as FunctionalNetwork's.

    Args:
        dim: Features of a token.
        n_functions: Of the basis; 1, a constant, makes the answer independent of when.
        basis: "fourier" or "legendre".
        dropout: Before the map, in training mode.

    Source: the last layer of functional neural networks, with a bias for each output.
    """

    def __init__(
        self,
        dim: int,
        n_outputs: int,
        *,
        n_functions: int = 1,
        basis: Basis = "fourier",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.dropout = nn.Dropout(dropout)
        self.dense = FunctionalDense(
            dim, n_outputs, n_functions=n_functions, basis=basis, pooling=True
        )
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output

        Raises:
            ValueError: Some tokens are padding.
        """
        if not bool(embedding.mask.all()):
            raise ValueError(
                "FunctionalReadout: some tokens are padding; it needs the same moments of all "
                "windows."
            )
        tokens = self.dropout(embedding.tokens)
        return self.dense.linear(tokens.transpose(1, 2)) + self.bias


def _by_source(embedding: Embedding, n_sources: int) -> tuple[Tensor, Tensor]:
    """Tokens as `batch source step dim`, and 1 where a step is real."""
    if embedding.tokens.shape[1] % n_sources:
        raise ValueError(
            f"{embedding.tokens.shape[1]} tokens cannot be split into {n_sources} sources. Set the "
            "readout's n_sources to the model's."
        )
    tokens = embedding.tokens.unflatten(1, (n_sources, -1))
    weight = embedding.mask.unflatten(1, (n_sources, -1)).unsqueeze(-1).to(tokens.dtype)
    return tokens, weight
