"""Sparse autoencoder: activations as sums of few directions out of many.

`z = act((x - b) W_enc + b_enc)`, `x̂ = z W_dec + b`. `select` says which latents stay: "topk" (k of
each sample), "batch_topk" (k on average; once trained a threshold), "gradient" (chosen in training
with the gradient of the model's loss, g-SAE) or "top_afa" (as many as match the norm of the input).
Works on any site: tokens, channels, or the joined outputs of attention heads (the input of their
output projection, site "path:input").

Source: Gao et al. 2024 and the papers named in `selection`.
Axes: batch dim latent, with any further axes in front; head = heads of attention.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.decomposition.selection import (
    above,
    batch_top_k,
    gradient_top_k,
    influence,
    largest,
    top_afa,
    top_k,
)
from neurofm.shapes import Float, Int

Select = Literal["topk", "batch_topk", "gradient", "top_afa"]
SELECTS = ("topk", "batch_topk", "gradient", "top_afa")
GATHERED = 32  # with fewer latents than one in so many kept, decoding by gathering is faster


@configured
class SparseAutoencoder(nn.Module):
    """An overcomplete dictionary of a site, with few entries used at a time.

    Inputs of any scale: `scale`, set by training, brings them to a mean norm of the square root of
    `dim`; outputs are in units of the input again. Latents are in the scaled units.

    Args:
        dim: Features at the site.
        n_latents: Entries of the dictionary, 8 to 32 times `dim`.
        k: Latents of a sample; "top_afa" finds its own.
        select: See the module's first lines.
        rescale: Choose by contribution (activation times norm of the decoder's row); rows are then
            free to have any norm. Otherwise they are kept at unit norm. Not for "gradient".
        beta: Weight of the gradient in "gradient"; None for activation times gradient.
        seed: Of the initial directions.
    """

    scale: Tensor
    threshold: Tensor

    def __init__(
        self,
        dim: int,
        n_latents: int,
        *,
        k: int = 32,
        select: Select = "topk",
        rescale: bool = False,
        beta: float | None = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if select not in SELECTS:
            raise ValueError(f"SparseAutoencoder: select={select!r} is not one of {SELECTS}.")
        if not 1 <= k <= n_latents:
            raise ValueError(
                f"SparseAutoencoder: k is {k} of {n_latents} latents; expected 1 to {n_latents}."
            )
        if rescale and select == "gradient":
            raise ValueError("SparseAutoencoder: rescale is not defined for select='gradient'.")
        self.dim, self.n_latents, self.k = dim, n_latents, k
        self.select, self.rescale, self.beta = select, rescale, beta
        generator = torch.Generator().manual_seed(seed)
        directions = F.normalize(torch.randn(n_latents, dim, generator=generator), dim=1)
        self.decoder = nn.Parameter(directions * (0.1 if rescale else 1.0))
        self.encoder = nn.Parameter(self.decoder.detach().T.clone())
        self.encoder_bias = nn.Parameter(torch.zeros(n_latents))
        self.decoder_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("threshold", torch.full((), torch.nan))

    @property
    def norms(self) -> Float[Tensor, " latent"]:
        """Of the decoder's rows."""
        return self.decoder.norm(dim=1)

    def pre_activations(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch latent"]:
        """What is chosen from, signed."""
        if x.shape[-1] != self.dim:
            raise ValueError(
                f"SparseAutoencoder: inputs have {x.shape[-1]} features, expected {self.dim}: made "
                "for another site?"
            )
        scaled = x * self.scale - self.decoder_bias
        return (scaled @ self.encoder + self.encoder_bias).to(x.dtype)

    def encode(
        self,
        x: Float[Tensor, "*batch dim"],
        *,
        gradient: Float[Tensor, "*batch dim"] | None = None,
    ) -> Float[Tensor, "*batch latent"]:
        """Activations of the latents, most of them zero.

        Args:
            gradient: Of the model's loss by x, for "gradient" in training; without it that chooses
                the k largest, as it does once trained.
        """
        pre = self.pre_activations(x).flatten(0, -2)
        slope = None if gradient is None else gradient.flatten(0, -2)
        return self.chosen(pre, x.flatten(0, -2), slope).unflatten(0, x.shape[:-1])

    def chosen(
        self,
        pre: Float[Tensor, "sample latent"],
        x: Float[Tensor, "sample dim"],
        gradient: Float[Tensor, "sample dim"] | None = None,
    ) -> Float[Tensor, "sample latent"]:
        """The rule of `select` on pre-activations of x."""
        norms = self.norms if self.rescale else None
        if self.select == "top_afa":
            length = (x * self.scale - self.decoder_bias).norm(dim=1)
            return cast(Tensor, top_afa(pre, self.norms, length)[0])
        if self.select == "batch_topk":
            if self.training:
                return batch_top_k(pre, self.k, norms=norms)
            threshold = float(self.threshold)
            if threshold != threshold:
                raise ValueError(
                    "SparseAutoencoder: select='batch_topk' has no threshold yet, which training "
                    "finds. Train it, or call it in training mode."
                )
            return above(pre, threshold, norms=norms)
        if self.select == "gradient" and gradient is not None:
            weight = influence(gradient, self.decoder.detach())
            return gradient_top_k(pre, self.k, weight, beta=self.beta)
        return top_k(pre, self.k, norms=norms)

    def decode(self, latents: Float[Tensor, "*batch latent"]) -> Float[Tensor, "*batch dim"]:
        """From latents to the units of the input."""
        return (latents @ self.decoder + self.decoder_bias) / self.scale

    def sparse(
        self, pre: Float[Tensor, "sample latent"], weight: Float[Tensor, "sample latent"] | None
    ) -> tuple[Int[Tensor, "sample kept"], Float[Tensor, "sample kept"]]:
        """Which k latents of each sample are kept, and their activations, where `gathers`.

        Args:
            weight: See `influence`; for "gradient" in training.
        """
        active = pre.relu()
        score = active * self.norms if self.rescale else active
        if weight is not None:
            score = active * (weight if self.beta is None else 1 + self.beta * weight)
        index = largest(score.detach(), self.k)
        return index, active.gather(-1, index)

    def gather(
        self, index: Int[Tensor, "sample kept"], kept: Float[Tensor, "sample kept"]
    ) -> Float[Tensor, "sample dim"]:
        """`decode` of few latents: only their rows of the decoder are touched."""
        total = F.embedding_bag(index, self.decoder, per_sample_weights=kept, mode="sum")
        return (total + self.decoder_bias) / self.scale

    @property
    def gathers(self) -> bool:
        """Whether so few latents are kept that `gather` is faster than `decode`."""
        few = self.k * GATHERED < self.n_latents
        return few and self.select in ("topk", "gradient")

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The input as its few latents say it."""
        if not self.gathers:
            return self.decode(self.encode(x))
        rows = x.flatten(0, -2)
        return self.gather(*self.sparse(self.pre_activations(rows), None)).unflatten(
            0, x.shape[:-1]
        )


@takes_either_by_torch
def head_shares(decoder: Float[Tensor, "latent dim"], n_heads: int) -> Float[Tensor, "latent head"]:
    """How much of each latent's direction lies in each head's part of the features; rows sum to 1.

    For an autoencoder of the joined outputs of attention heads.
    """
    if decoder.shape[1] % n_heads:
        raise ValueError(
            f"head_shares: {decoder.shape[1]} features do not divide among {n_heads} heads."
        )
    share = decoder.double().unflatten(1, (n_heads, -1)).square().sum(-1)
    return share / share.sum(-1, keepdim=True)


@takes_either_by_torch
def source_attribution(
    attention: Float[Tensor, "batch head token source"],
    values: Float[Tensor, "batch head source feature"],
    direction: Float[Tensor, " dim"],
) -> Float[Tensor, "batch token source"]:
    """How much each source token adds to a latent's pre-activation, through all heads.

    Summed over sources, this is the joined head outputs times the direction.

    Args:
        attention: Weights after the softmax.
        values: Of the source tokens.
        direction: The latent's column of the encoder (times its `scale`); head after head.
    """
    n_heads = values.shape[1]
    if direction.numel() != n_heads * values.shape[-1]:
        raise ValueError(
            f"source_attribution: a direction of {direction.numel()} numbers for {n_heads} heads "
            f"of {values.shape[-1]} features."
        )
    along = torch.einsum("bhsf,hf->bhs", values, direction.unflatten(0, (n_heads, -1)))
    return torch.einsum("bhts,bhs->bts", attention, along)
