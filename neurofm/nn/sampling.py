"""Choose the next code from scores.

Source: top-k, top-p (nucleus, Holtzman et al. 2020) and typical sampling (Meister et al. 2023), as
OHBA-analysis/MEG-GPT (MIT) combines them.
Axes: the last axis holds the codes; all others are drawn independently.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.shapes import Float, Int


def keep_top_k(logits: Float[Tensor, "... code"], k: int) -> Float[Tensor, "... code"]:
    """The `k` largest scores; minus infinity elsewhere."""
    values, chosen = logits.topk(min(k, logits.shape[-1]), -1)
    return torch.full_like(logits, -torch.inf).scatter(-1, chosen, values)


def keep_top_p(logits: Float[Tensor, "... code"], p: float) -> Float[Tensor, "... code"]:
    """The likeliest codes whose probability together just exceeds `p`."""
    values, order = logits.sort(-1, descending=True)
    probability = values.softmax(-1)
    before = probability.cumsum(-1) - probability
    return _restore(values, order, before <= p)


def keep_typical(logits: Float[Tensor, "... code"], p: float) -> Float[Tensor, "... code"]:
    """Codes whose surprise is closest to the entropy, until their probability exceeds `p`."""
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum(-1, keepdim=True)
    order = (-log_p - entropy).abs().argsort(-1)
    probability = log_p.exp().gather(-1, order)
    before = probability.cumsum(-1) - probability
    return _restore(logits.gather(-1, order), order, before <= p)


def _restore(values: Tensor, order: Tensor, kept: Tensor) -> Tensor:
    """Sorted scores back in their places, minus infinity where not kept; the first is kept."""
    kept = kept.clone()
    kept[..., 0] = True
    values = torch.where(kept, values, -torch.inf)
    return torch.empty_like(values).scatter(-1, order, values)


def choose(
    logits: Float[Tensor, "*axis code"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    typical: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*axis"]:
    """The likeliest code, or a draw if one of `top_k`, `top_p`, `typical` is given.

    Args:
        temperature: Divides the scores before anything else.
        top_k: Draw among this many; the number of codes draws from all of them.
        top_p: See `keep_top_p`; in (0, 1].
        typical: See `keep_typical`; in (0, 1].

    Raises:
        ValueError: More than one way of drawing, or a value out of range.
    """
    ways = {"top_k": top_k, "top_p": top_p, "typical": typical}
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) > 1:
        raise ValueError(f"choose: {' and '.join(given)} were given; use at most one of them.")
    if not temperature > 0:
        raise ValueError(f"choose: temperature is {temperature}, it must be above 0.")
    logits = logits.float() / temperature
    if not given:
        return logits.argmax(-1)
    if top_k is not None:
        if top_k < 1:
            raise ValueError(f"choose: top_k is {top_k}, expected at least 1.")
        logits = keep_top_k(logits, top_k)
    else:
        (name, p) = next(iter(given.items()))
        if not 0 < p <= 1:
            raise ValueError(f"choose: {name} is {p}, expected a probability in (0, 1].")
        logits = keep_top_p(logits, p) if top_p is not None else keep_typical(logits, p)
    flat = logits.softmax(-1).flatten(0, -2)
    if generator is not None:
        flat = flat.to(generator.device)
    drawn = torch.multinomial(flat, 1, generator=generator).to(logits.device)
    return drawn.reshape(logits.shape[:-1])
