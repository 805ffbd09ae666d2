"""Start layers from data: unit variance and zero mean at every layer's output.

Deep convolutions with default weights let a signal fade beside their biases; what is left of it
then drowns in the first optimizer steps. One pass over one batch rescales the layers in order.

Source: Mishkin & Matas 2016 (layer-sequential unit variance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.nn.conv import Conv, ConvTranspose
from neurofm.nn.processes import mean_rows


def unit_variance(layers: Iterable[nn.Module], run: Callable[[], Any]) -> None:
    """Rescale layers so that on the data of `run` their outputs have mean 0 and variance 1.

    Args:
        layers: `Conv`, `ConvTranspose` or `Linear`, each used once by `run`.
        run: A forward pass; its result is not used.
    """
    hooks = [layer.register_forward_hook(_rescale) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _rescale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    mean = mean_rows(output.flatten(0, -2))
    scale = mean_rows((output - mean).flatten().square()).sqrt().clamp(min=1e-12)
    weight, bias = _parameters(layer)
    weight.div_(scale)
    bias.sub_(mean).div_(scale)
    return (output - mean) / scale


def _parameters(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """What scales the output linearly, and the bias."""
    if isinstance(layer, (Conv, ConvTranspose)):
        gain: Tensor = layer.conv.parametrizations.weight.original0
        return gain, layer.conv.bias
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    raise TypeError(f"unit_variance: cannot rescale a {type(layer).__name__}.")
