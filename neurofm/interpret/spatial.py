"""Spatial filters of a network, and the patterns in the sensors that they pick up.

A filter says how channels are weighted; because channels share signal and noise, its weights are
not where its signal comes from. The pattern is: how strongly the filter's output is seen at every
channel.

Source: Haufe et al. 2014 (patterns of linear filters).
Axes: filter channel; batch channel time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.shapes import Float


@dataclass(frozen=True)
class SpatialFilters:
    """The first layer that weighs channels.

    Args:
        site: Name of the module.
        weights: Of every output; where a filter also extends over time or several inputs, the
            channel weights that explain most of it.
    """

    site: str
    weights: Float[np.ndarray, "filter channel"]


@dataclass(frozen=True)
class Patterns:
    """What the filters pick up, those with most of the sensors' variance first.

    Args:
        values: In the unit of the signal, for one standard deviation of the filter's output.
        share: Of the variance of all channels that the pattern explains by itself.
        order: Which filter each is.
    """

    values: Float[np.ndarray, "filter channel"]
    share: Float[np.ndarray, " filter"]
    order: tuple[int, ...]


def spatial_filters(
    model: nn.Module, run: Callable[[Tensor], Any], x: Float[Tensor, "batch channel time"]
) -> SpatialFilters:
    """Find the first layer, in the order of a forward pass, that weighs channels by their place.

    An axis is one of channels if exchanging channels of the signal exchanges what the layer reads
    along it; sizes alone could agree by chance.

    Args:
        run: A forward pass of the model on this signal.

    Raises:
        ValueError: No layer does, as in models that take any set of channels.
    """
    order = torch.arange(x.shape[1]).flip(0)
    plain, swapped = _inputs(model, run, x), _inputs(model, run, x[:, order])
    for name, given in plain.items():
        module = model.get_submodule(name)
        axis = _axis(module, given, x.shape[1])
        if axis is None or swapped[name].shape != given.shape:
            continue
        exchanged = given.index_select(axis[0], order.to(given.device))
        scale = float(given.abs().max())
        if torch.allclose(swapped[name], exchanged, rtol=1e-3, atol=1e-4 * scale):
            return SpatialFilters(name, _by_channel(cast(Tensor, module.weight).detach(), axis[1]))
    raise ValueError(
        f"spatial_filters: no layer of {type(model).__name__} has weights for the {x.shape[1]} "
        "channels by their place. Models that take any set of channels have none; look at "
        "attributions."
    )


def _inputs(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> dict[str, Tensor]:
    """What every linear and convolutional layer reads when it is first called, in that order.

    A layer whose weights its parent uses without calling it (braindecode's combined convolutions)
    is taken to read what the parent reads.
    """
    called: dict[str, Tensor] = {}
    names = {id(module): name for name, module in model.named_modules()}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            called.setdefault(names[id(module)], args[0].detach())

    hooks = [module.register_forward_pre_hook(note) for module in model.modules()]
    try:
        with torch.no_grad():
            run(x)
    finally:
        for hook in hooks:
            hook.remove()
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    uncalled = [name for name in layers if name not in called]
    read = {name: called[name] for name in called if name in layers}
    parents = {name: called.get(name.rpartition(".")[0]) for name in uncalled}
    return read | {name: given for name, given in parents.items() if given is not None}


def _axis(module: nn.Module, given: Tensor, n_channels: int) -> tuple[int, int] | None:
    """Axis of the input and of the weight over which the layer sums all channels, if any."""
    if isinstance(module, nn.Linear):
        pairs = [(given.ndim - 1, 1)]
    elif isinstance(module, nn.Conv1d):
        pairs = [(given.ndim - 2, 1)]
    else:  # channels as features, or as rows that the kernel spans
        pairs = [(given.ndim - 3, 1), (given.ndim - 2, 2), (given.ndim - 1, 3)]
    weight = cast(Tensor, module.weight)
    fits = [p for p in pairs if given.shape[p[0]] == weight.shape[p[1]] == n_channels]
    return fits[0] if fits else None


def _by_channel(weight: Tensor, axis: int) -> Float[np.ndarray, "filter channel"]:
    flat = weight.movedim(axis, 1).reshape(len(weight), weight.shape[axis], -1).double().cpu()
    if flat.shape[2] == 1:
        return flat[..., 0].numpy()
    left, strength, _ = np.linalg.svd(flat.numpy(), full_matrices=False)
    return left[..., 0] * strength[:, :1]


def patterns(
    weights: Float[np.ndarray, "filter channel"], x: Float[np.ndarray, "batch sensor time"]
) -> Patterns:
    """Covariance of every filter's output with the channels.

    Args:
        x: The signal that the layer reads.

    Raises:
        ValueError: Channels differ, or no filter's output varies.
    """
    if weights.shape[1] != x.shape[1]:
        raise ValueError(
            f"patterns: filters of {weights.shape[1]} channels for signals of {x.shape[1]}."
        )
    centred = np.asarray(x, dtype=np.float64)
    centred = np.moveaxis(centred - centred.mean(-1, keepdims=True), 1, 0).reshape(x.shape[1], -1)
    covariance = centred @ centred.T / centred.shape[1]
    mixed = weights @ covariance
    power = np.einsum("fc,fc->f", mixed, weights)
    alive = power > 1e-12 * max(float(power.max(initial=0.0)), np.finfo(float).tiny)
    if not alive.any():
        raise ValueError("patterns: the output of no filter varies in these windows.")
    values = mixed[alive] / np.sqrt(power[alive])[:, None]
    share = np.square(values).sum(1) / np.trace(covariance)
    order = np.argsort(-share, kind="stable")
    return Patterns(values[order], share[order], tuple(np.flatnonzero(alive)[order].tolist()))
