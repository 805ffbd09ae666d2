"""Activations of a network together with how much they matter to its output.

Axes: sample unit. A map or a series of tokens is averaged over its places, activation and gradient
alike: what a unit does everywhere in the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.runs import still
from neurofm.interpret.monitoring.coverage import Influence
from neurofm.interpret.patching import Context, patched
from neurofm.shapes import Float


def uniform_divergence(logits: Float[Tensor, "sample output"]) -> Float[Tensor, " sample"]:
    """Divergence of softmax from the uniform distribution, nats: 0 where all is undecided."""
    return -logits.log_softmax(-1).mean(-1) - math.log(logits.shape[-1])


def output_power(outputs: Float[Tensor, "sample ..."]) -> Float[Tensor, " sample"]:
    """Squared length of the output: the objective for networks without classes."""
    return outputs.flatten(1).square().sum(1)


def influences(
    model: nn.Module,
    sites: Sequence[str],
    *,
    run: Callable[[Any], Any],
    batches: Iterable[Any],
    objective: Callable[[Any], Tensor] = uniform_divergence,
    unit_axis: int = -1,
) -> dict[str, Influence]:
    """Activations at sites, and gradients of an objective with respect to them.

    The model is in evaluation mode meanwhile; its modes, weights and gradients are as before
    afterwards, and frozen models work, too.

    Args:
        sites: As of `record`; a module called several times per batch gives `name@0`, `name@1`.
        run: Called with each batch; returns what the objective takes, such as logits.
        objective: One number per sample: `uniform_divergence` of logits, `output_power` of the
            output of a regression or of an encoder.
        unit_axis: Where the units are: the last axis of tokens, 1 of `batch channel time`.

    Raises:
        ValueError: A site does not exist, holds no floats, or does not matter to the objective.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    with still(model, gradients=True):
        for batch in batches:
            for name, value, gradient, mask in _one(model, sites, run, batch, objective):
                pair = tuple(_reduced(x, mask, unit_axis) for x in (value.detach(), gradient))
                found.setdefault(name, []).append((pair[0], pair[1]))
    if not found:
        raise ValueError("influences: no batch was given.")
    return {
        name: Influence(*(np.concatenate(part) for part in zip(*pairs, strict=True)))
        for name, pairs in found.items()
    }


def _one(
    model: nn.Module,
    sites: Sequence[str],
    run: Callable[[Any], Any],
    batch: Any,
    objective: Callable[[Any], Tensor],
) -> list[tuple[str, Tensor, Tensor, Tensor | None]]:
    kept: list[tuple[str, int, Tensor, Tensor | None]] = []

    def keep(value: Tensor, context: Context) -> Tensor:
        if not value.is_floating_point():
            raise ValueError(
                f"influences: {context.site!r} holds {value.dtype}; expected floats, which have a "
                "gradient."
            )
        if not value.requires_grad:  # weights rest: the graph begins at the first site
            value = value.detach().requires_grad_(True)
        kept.append((context.site, context.call, value, context.mask))
        return value.clone()  # the next module may be an in-place activation

    with patched(model, dict.fromkeys(sites, keep)):
        loss = objective(run(batch))
    gradients: Sequence[Tensor | None] = [None] * len(kept)
    if loss.requires_grad:
        gradients = torch.autograd.grad(loss.sum(), [one[2] for one in kept], allow_unused=True)
    repeated = {site for site, call, *_ in kept if call > 0}
    rows = []
    for (site, call, value, mask), gradient in zip(kept, gradients, strict=True):
        if gradient is None:
            raise ValueError(
                f"influences: nothing of {site!r} reaches the objective; choose a site that the "
                "output is computed from, and let `run` keep gradients."
            )
        rows.append((f"{site}@{call}" if site in repeated else site, value, gradient, mask))
    return rows


def _reduced(x: Tensor, mask: Tensor | None, unit_axis: int) -> np.ndarray:
    """Mean over places, padded ones left out; float64."""
    if x.ndim < 2:
        raise ValueError(
            f"influences: a value of shape {tuple(x.shape)}; expected sample and unit."
        )
    places = x.double().movedim(unit_axis, -1)
    if mask is not None and places.ndim > 2 and mask.shape == places.shape[:2]:
        weight = mask.to(places).reshape(*mask.shape, *[1] * (places.ndim - 2))
        weight = weight.expand(*places.shape[:-1], 1).flatten(1, -2)
        flat = places.flatten(1, -2)
        mean = (flat * weight).sum(1) / weight.sum(1).clamp(min=1)
    else:
        mean = places.flatten(1, -2).mean(1) if places.ndim > 2 else places
    return mean.cpu().numpy()
