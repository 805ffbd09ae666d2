"""Transcoder: a layer's output as few latents of its input, in place of the layer.

`z = relu(x W_enc + b_enc)`, or the k largest, and `ŷ = z W_dec + b_dec`, with a linear map of x
beside it if asked for. Unlike an autoencoder's, its latents tie what goes into a layer to what
comes out, so that an edge between two of them has a part that does not depend on the input.

Source: Dunefsky et al. 2024, "Transcoders find interpretable LLM feature circuits".
Axes: batch dim out latent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.decomposition.sae_training import (
    Shuffled,
    Training,
    descend,
    learning_rate,
)
from neurofm.interpret.decomposition.selection import top_k
from neurofm.shapes import Float


@configured
class Transcoder(nn.Module):
    """A sparse stand-in for one layer.

    Args:
        dim: Features that go in.
        n_latents: Latents.
        out: Features that come out; `dim` if not given.
        k: Keep the k largest; all positive ones if not given, made few by the training's penalty.
        skip: Add a linear map of the input.
        seed: Of the initial directions.
    """

    def __init__(
        self,
        dim: int,
        n_latents: int,
        *,
        out: int | None = None,
        k: int | None = None,
        skip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if k is not None and not 1 <= k <= n_latents:
            raise ValueError(f"Transcoder: k is {k} of {n_latents} latents.")
        self.dim, self.n_latents, self.k = dim, n_latents, k
        out = dim if out is None else out
        generator = torch.Generator().manual_seed(seed)
        encoder = F.normalize(torch.randn(dim, n_latents, generator=generator), dim=0)
        self.encoder = nn.Parameter(encoder)
        self.encoder_bias = nn.Parameter(torch.zeros(n_latents))
        # Starts without a say: first the bias learns the mean.
        self.decoder = nn.Parameter(torch.zeros(n_latents, out))
        self.decoder_bias = nn.Parameter(torch.zeros(out))
        self.skip = nn.Linear(dim, out, bias=False) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def encode(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch latent"]:
        """Activations of the latents; nothing is subtracted from the input."""
        pre = (x @ self.encoder + self.encoder_bias).flatten(0, -2)
        latents = pre.relu() if self.k is None else top_k(pre, self.k)
        return latents.unflatten(0, x.shape[:-1])

    def decode(
        self, latents: Float[Tensor, "*batch latent"], x: Float[Tensor, "*batch dim"] | None = None
    ) -> Float[Tensor, "*batch out"]:
        """The layer's output, from latents and, with `skip`, the input."""
        y = latents @ self.decoder + self.decoder_bias
        return y if self.skip is None or x is None else y + self.skip(x)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch out"]:
        """What the layer would make of x."""
        return self.decode(self.encode(x), x)


def train_transcoder(
    transcoder: Transcoder,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    steps: int,
    penalty: float = 1e-3,
    batch_size: int = 4096,
    lr: float | None = None,
    seed: int = 0,
) -> Training:
    """Fit a stand-in: `‖y - ŷ‖² + penalty · ‖z‖₁` per sample; the transcoder is changed.

    Args:
        x: What goes into the layer, `sample dim`.
        y: What comes out, `sample out`.
        penalty: On the sum of activations; without effect on the number of latents where `k` is
            given.
    """
    if len(x) != len(y) or x.shape[-1] != transcoder.dim:
        raise ValueError(
            f"train_transcoder: inputs {tuple(x.shape)} and outputs {tuple(y.shape)}; expected as "
            f"many of both, inputs with {transcoder.dim} features."
        )
    both = torch.cat([torch.as_tensor(x), torch.as_tensor(y)], 1)
    batches = Shuffled(both, batch_size, seed=seed)
    course: list[Tensor] = []
    spread = (both[:, transcoder.dim :] - both[:, transcoder.dim :].mean(0)).square().sum(1).mean()
    silent = torch.zeros(transcoder.n_latents, dtype=torch.int64)
    limit, seen = max(steps * min(batch_size, len(both)) // 5, 1), 0

    def loss(rows: Tensor) -> Tensor:
        nonlocal silent, seen
        rows = rows.to(transcoder.encoder.device, transcoder.encoder.dtype)
        source, target = rows[:, : transcoder.dim], rows[:, transcoder.dim :]
        latents = transcoder.encode(source)
        missed = (target - transcoder.decode(latents, source)).square().sum(1).mean()
        with torch.no_grad():
            spoke = (latents > 0).cpu()
            silent = torch.where(spoke.any(0), 0, silent + len(rows))
            seen += len(rows)
            dead = (silent >= limit).double().mean()
            course.append(torch.stack([missed.cpu() / spread, spoke.sum(1).double().mean(), dead]))
        return missed + penalty * latents.sum(1).mean()

    rate = learning_rate(transcoder.n_latents) if lr is None else lr
    descend(transcoder, batches, loss, steps=steps, lr=rate)
    values = torch.stack(course).double().numpy()
    missed, spoke, dead_share = values.T
    return Training(missed, spoke, dead_share, seen, batches.n_dropped, limit)


@takes_either_by_torch
def edge_attribution(
    earlier: Float[Tensor, "*batch latent"],
    decoder: Float[Tensor, "latent dim"],
    encoder: Float[Tensor, "dim later"],
) -> Float[Tensor, "*batch latent later"]:
    """How much each earlier latent adds to the pre-activation of each later one, at a token.

    The first factor depends on the input, `decoder @ encoder` does not. Holds where what the
    earlier latents write is what the later ones read: along a residual stream, without a norm.

    Args:
        earlier: Activations of the earlier transcoder (or autoencoder).
        decoder: Its own.
        encoder: Of the later one.
    """
    return earlier[..., None] * (decoder @ encoder)
