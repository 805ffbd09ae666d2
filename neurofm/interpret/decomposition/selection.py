"""Which latents of a sparse autoencoder speak for a token: the k largest, or as many as are needed.

Functions of pre-activations; what is kept is the activation itself (the positive part), whatever it
was chosen by. Of equal scores the lower latent wins. A row with a NaN stays NaN.

Source: Gao et al. 2024 (k largest), Bussmann et al. 2024 (over a batch), Olmo et al. 2024 (weighted
by gradients), Lee et al. 2025 (as many as match the norm of the input).
Axes: sample latent dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.shapes import Float, Int


def largest(score: Float[Tensor, "sample latent"], k: int) -> Int[Tensor, "sample kept"]:
    """Positions of the k largest scores of each row; of equal ones the first."""
    if not 1 <= k <= score.shape[-1]:
        raise ValueError(
            f"sparse autoencoder: k is {k}, expected 1 to {score.shape[-1]}, the number of latents."
        )
    found = score.topk(k, dim=-1)
    edge = found.values[..., -1:]
    # `topk` takes any of equal scores. At zero it does not matter: what is kept there is zero.
    equal = score == edge
    undecided = (equal.sum(-1) > (found.values == edge).sum(-1)) & (edge[..., 0] > 0)
    index = found.indices
    if bool(undecided.any()):
        order = score[undecided].argsort(dim=-1, descending=True, stable=True)
        index = index.index_put((undecided,), order[..., :k])
    return index


def _kept(active: Tensor, index: Tensor) -> Tensor:
    kept = torch.zeros_like(active).scatter(-1, index, active.gather(-1, index))
    # A NaN beside the kept ones would vanish. (A product with NaN would have a gradient of NaN.)
    return torch.where(active.isnan().any(-1, keepdim=True), active + torch.nan, kept)


@takes_either_by_torch
def top_k(
    pre: Float[Tensor, "sample latent"],
    k: int,
    *,
    norms: Float[Tensor, " latent"] | None = None,
) -> Float[Tensor, "sample latent"]:
    """The k largest activations of each sample, the rest zero.

    Args:
        pre: Pre-activations.
        norms: Of the decoder's rows; then the k largest contributions are kept (activation times
            norm), so that latents with a long row are not at a disadvantage.
    """
    active = pre.relu()
    return _kept(active, largest(active if norms is None else active * norms, k))


@takes_either_by_torch
def batch_top_k(
    pre: Float[Tensor, "sample latent"],
    k: int,
    *,
    norms: Float[Tensor, " latent"] | None = None,
) -> Float[Tensor, "sample latent"]:
    """The k times `sample` largest activations of the whole batch: k is a mean.

    Depends on who shares the batch; afterwards a threshold takes its place (`above`).
    """
    finite = ~pre.isnan().any(-1)
    active = pre[finite].relu()
    score = active if norms is None else active * norms
    flat = largest(score.flatten()[None], k * len(active))[0] if len(active) else None
    kept = torch.zeros_like(active).flatten()
    if flat is not None:
        kept = kept.scatter(0, flat, active.flatten()[flat])
    return torch.full_like(pre, torch.nan).index_put((finite,), kept.view_as(active))


@takes_either_by_torch
def above(
    pre: Float[Tensor, "sample latent"],
    threshold: float,
    *,
    norms: Float[Tensor, " latent"] | None = None,
) -> Float[Tensor, "sample latent"]:
    """Activations (contributions, with `norms`) that reach a threshold, the rest zero."""
    active = pre.relu()
    score = active if norms is None else active * norms
    return torch.where(score < threshold, torch.zeros_like(active), active)


@takes_either_by_torch
def influence(
    gradient: Float[Tensor, "sample dim"], decoder: Float[Tensor, "latent dim"]
) -> Float[Tensor, "sample latent"]:
    """How much the model's loss would change along each latent's direction.

    Args:
        gradient: Of the model's loss by the activation that is decomposed.
    """
    return (gradient @ decoder.T).abs()


@takes_either_by_torch
def gradient_top_k(
    pre: Float[Tensor, "sample latent"],
    k: int,
    weight: Float[Tensor, "sample latent"],
    *,
    beta: float | None = 0.5,
) -> Float[Tensor, "sample latent"]:
    """The k activations with the largest `activation · (1 + beta · weight)`.

    Args:
        weight: See `influence`.
        beta: None for its limit, activation times weight. The published method gives neither a
            value nor a scale of the gradient: 0.5 is ours.
    """
    active = pre.relu()
    return _kept(active, largest(active * (weight if beta is None else 1 + beta * weight), k))


@takes_either_by_torch
def top_afa(
    pre: Float[Tensor, "sample latent"],
    norms: Float[Tensor, " latent"],
    length: Float[Tensor, " sample"],
) -> tuple[Float[Tensor, "sample latent"], Int[Tensor, " sample"]]:
    """As many of the largest contributions as together have the length of the input.

    Nobody chooses k: contributions are counted as if they were orthogonal, and the k comes closest
    to the length.

    Args:
        norms: Of the decoder's rows.
        length: Norm of each input less the decoder's bias.

    Returns:
        Activations, and the k of each sample.
    """
    active = pre.relu()
    size, order = (active * norms).square().sort(dim=-1, descending=True, stable=True)
    reached = size.cumsum(-1).sqrt()
    k = (reached - length[:, None]).abs().argmin(-1) + 1
    rank = torch.arange(pre.shape[-1], device=pre.device)
    kept = active.gather(-1, order) * (rank < k[:, None])
    return torch.zeros_like(active).scatter(-1, order, kept), k
