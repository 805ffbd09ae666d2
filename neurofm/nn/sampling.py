"""Choose the next code from scores.

Source: top-k, top-p (nucleus, Holtzman et al. 2020) and typical sampling (Meister et al. 2023), as
OHBA-analysis/MEG-GPT (MIT) combines them.
Axes: the last axis holds the codes; all others are drawn independently.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Sampling:
    """How a code is chosen: the likeliest, or a draw if one of the last three is given.

    Args:
        temperature: Divides the scores before anything else.
        top_k: Draw among this many; the number of codes draws from all of them.
        top_p: See `keep_top_p`; in (0, 1].
        typical: See `keep_typical`; in (0, 1].

    Raises:
        ValueError: More than one way of drawing, or a value out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    typical: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        ways = {"top_k": self.top_k, "top_p": self.top_p, "typical": self.typical}
        given = {name: value for name, value in ways.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"Sampling: {' and '.join(given)} were given; use at most one.")
        if not self.temperature > 0:
            raise ValueError(f"Sampling: temperature is {self.temperature}, it must be above 0.")
        for name, value in given.items():
            if value <= 0 or (name != "top_k" and value > 1):
                wanted = "at least 1" if name == "top_k" else "a probability in (0, 1]"
                raise ValueError(f"Sampling: {name} is {value}, expected {wanted}.")


def choose(
    logits: Float[Tensor, "*axis code"],
    sampling: Sampling | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*axis"]:
    """A code for each set of scores; the likeliest without `sampling`."""
    way = sampling or Sampling()
    logits = logits.float() / way.temperature
    if way.top_k is not None:
        logits = keep_top_k(logits, way.top_k)
    elif way.top_p is not None:
        logits = keep_top_p(logits, way.top_p)
    elif way.typical is not None:
        logits = keep_typical(logits, way.typical)
    else:
        return logits.argmax(-1)
    weight = logits.softmax(-1).flatten(0, -2)
    return draw_codes(weight, 1, generator=generator).reshape(logits.shape[:-1])


def draw_codes(
    weight: Float[Tensor, "*row code"], n: int, *, generator: torch.Generator | None = None
) -> Int[Tensor, "*row draw"]:
    """`n` independent draws in proportion to `weight`, made where the generator lives."""
    device = weight.device if generator is None else generator.device
    drawn = torch.multinomial(weight.to(device), n, replacement=True, generator=generator)
    return drawn.to(weight.device)
