"""Grad-CAM: features of a layer weighted by how much the logit rises with them.

Source: Selvaraju et al. 2017.
Axes: batch time, as long as the input; feature = channel of the layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.interpret.activations import near_misses
from neurofm.interpret.attribution.evidence import (
    Attribution,
    Function,
    Inputs,
    Target,
    sensing_of,
    signals_of,
    target_score,
    targets_of,
    with_inputs,
)
from neurofm.shapes import Float


def grad_cam(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    model: nn.Module,
    site: str,
    positive: bool = False,
    stretch: bool = True,
) -> Attribution:
    """When in the window a layer's features speak for the target.

    Args:
        model: What `function` calls; holds the layer.
        site: Module whose output is batch, feature, (height,) time.
        positive: Leave out evidence against the target (the ReLU of the source).
        stretch: Interpolate to the length of the input; otherwise the time axis of the layer.
    """
    modules = dict(model.named_modules())
    if site not in modules:
        raise ValueError(f"grad_cam: no module {site!r}.{near_misses(site, list(modules)[1:])}")
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, out: Any) -> None:
        if not isinstance(out, Tensor) or out.ndim not in (3, 4):
            what = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"grad_cam: {site!r} gives {what}; batch, feature, time are needed.")
        seen.append(out)

    handle = modules[site].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            score = target_score(function, with_inputs(batch, x.requires_grad_(True)), target)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(f"grad_cam: {site!r} was called {len(seen)} times, one call is needed.")
    (gradient,) = torch.autograd.grad(score.sum(), seen[0])
    values = class_activation(seen[0].detach(), gradient)
    if positive:
        values = values.clamp(min=0)
    if stretch:
        values = F.interpolate(values[:, None], size=x.shape[-1], mode="linear")[:, 0]
    return Attribution(
        values, ("batch", "time"), target, f"Grad-CAM at {site}", sensors=sensing_of(batch)
    )


def class_activation(
    features: Float[Tensor, "batch feature *place"], gradient: Float[Tensor, "batch feature *place"]
) -> Float[Tensor, "batch time"]:
    """Features times their mean gradients, summed over features and all places but time."""
    weight = gradient.flatten(2).mean(2)
    values = torch.einsum("bf,bf...->b...", weight, features)
    return values.flatten(1, -2).sum(1) if values.ndim > 2 else values
