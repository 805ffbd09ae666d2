"""Encoder, attender, decoder: what an object is, from the forces on a rat's whiskers.

`decoder(attender(encoder(x)))`: a ConvRNN gives a vector per step, a small GPT relates the steps,
a readout names the object. Activations of any part, averaged over time, are compared with neurons
by `interpret.neural_predictivity`.

Source: neuroagents-lab/2025-tactile-whisking (MIT), arXiv 2505.18361. Its Mamba and S4 attenders
are left out: they need packages of their own. Published training: SGD 1e-3, momentum 0.9, weight
decay 5e-4, a tenth every 30 of 100 epochs, batches of 256.
Axes: batch time dim; step = time step of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models.conv_recurrent import ConvRNNEncoder
from neurofm.nn.linear import Linear
from neurofm.shapes import Float


class CausalBlock(nn.Module):
    """Pre-norm attention to what came before, and a perceptron."""

    def __init__(self, dim: int, heads: int, *, dropout: float | int) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.out = Linear(dim, 3 * dim), Linear(dim, dim)
        self.widen, self.narrow = Linear(dim, 4 * dim), Linear(4 * dim, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Tokens after one block."""
        parts = self.query_key_value(self.norm_1(x)).chunk(3, -1)
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self.drop(self.out(y.transpose(1, 2).flatten(2)))
        hidden = F.gelu(self.widen(self.norm_2(x)), approximate="tanh")
        return x + self.drop(self.narrow(hidden))


@configured
class GPTAttender(nn.Module):
    """Relates the vectors of a clip. Defaults: the published size.

    Behind every `per_step` vectors stands one learned action token; what it becomes is the output.

    Args:
        dim: Of the vectors, coming and going.
        depth: Blocks.
        heads: Of attention.
        block: Most tokens, actions included.
        per_step: Vectors before each action.
        dropout: In training mode.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        depth: int = 8,
        heads: int = 4,
        block: int = 65,
        per_step: int = 1,
        dropout: float | int = 0.1,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"GPTAttender: dim {dim} is not a multiple of heads {heads}.")
        self.dim, self.block, self.per_step = dim, block, per_step
        self.input = Linear(dim, dim)
        self.action = nn.Parameter(0.02 * torch.randn(dim))
        self.position = nn.Parameter(0.02 * torch.randn(block, dim))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(CausalBlock(dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.out = Linear(dim, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch step dim"]:
        """A vector per action.

        Raises:
            ValueError: More steps than the positions reach, or a part of a step.
        """
        steps, rest = divmod(x.shape[1], self.per_step)
        length = steps * (self.per_step + 1)
        if rest or not 0 < length <= self.block:
            raise ValueError(
                f"GPTAttender: {x.shape[1]} vectors, {self.per_step} of them per step, are "
                f"{length} tokens with their actions; expected whole steps of at most {self.block}."
            )
        observed = self.input(x).unflatten(1, (steps, self.per_step))
        actions = self.action.expand(len(x), steps, 1, -1).to(observed.dtype)
        y = torch.cat([observed, actions], 2).flatten(1, 2)
        y = self.drop(y + self.position[:length])
        for block in self.blocks:
            y = block(y)
        y = self.norm(y).unflatten(1, (steps, self.per_step + 1))[:, :, -1]
        return self.out(y)


@configured
class StepsDecoder(nn.Module):
    """Classes from the last vector, or from all of them side by side.

    Args:
        dim: Of a vector.
        n_outputs: Classes; published 117.
        n_steps: Vectors of a clip, for "all".
        steps: Which are read, "last" or "all".
        hidden: Widths between; none for a linear map, (1024, 512) for the published one of all.
    """

    def __init__(
        self,
        dim: int = 512,
        n_outputs: int = 117,
        *,
        n_steps: int = 22,
        steps: str = "last",
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if steps not in ("last", "all"):
            raise ValueError(f"StepsDecoder: steps {steps!r} is not 'last' or 'all'.")
        self.n_steps, self.steps, self.n_outputs = n_steps, steps, n_outputs
        widths = [dim * (n_steps if steps == "all" else 1), *hidden, n_outputs]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [Linear(a, b), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Float[Tensor, "batch step dim"]) -> Float[Tensor, "batch output"]:
        """One score per class."""
        if self.steps == "last":
            return self.layers(x[:, -1])
        if x.shape[1] != self.n_steps:
            raise ValueError(f"StepsDecoder: {x.shape[1]} steps, built for {self.n_steps}.")
        return self.layers(x.flatten(1))


@configured
class EncoderAttenderDecoder(nn.Module):
    """Classes of clips. Defaults: the published ConvRNN with GPT.

    Args:
        encoder: From a clip to a vector per step.
        attender: Between; None for none.
        decoder: From vectors to classes.
    """

    def __init__(
        self,
        encoder: ConvRNNEncoder | None = None,
        attender: GPTAttender | None = None,
        decoder: StepsDecoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ConvRNNEncoder() if encoder is None else encoder
        self.attender = nn.Identity() if attender is None else attender
        self.decoder = StepsDecoder(self.encoder.dim) if decoder is None else decoder

    def forward(
        self, x: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch output"]:
        """One score per class."""
        return self.decoder(self.attender(self.encoder(x)))

    @torch.no_grad()
    def time_averages(
        self, x: Float[Tensor, "batch time channel height width"]
    ) -> dict[str, Float[Tensor, "batch feature"]]:
        """What the parts made of clips, averaged over time: to be compared with neurons.

        Returns:
            "encoder", "attender" and each convolutional node (`encoder.nodes.3`), flattened.
        """
        sums: dict[str, Tensor] = {}

        def keep(name: str):  # type: ignore[no-untyped-def]
            def hook(module: nn.Module, given: object, out: tuple[Tensor, Tensor]) -> None:
                value = out[0].flatten(1) / x.shape[1]
                sums[name] = sums[name] + value if name in sums else value

            return hook

        hooks = [
            node.register_forward_hook(keep(f"encoder.nodes.{i}"))
            for i, node in enumerate(self.encoder.nodes)
        ]
        try:
            encoded = self.encoder(x)
        finally:
            for hook in hooks:
                hook.remove()
        return {
            **sums,
            "encoder": encoded.mean(1),
            "attender": self.attender(encoded).mean(1),
        }
