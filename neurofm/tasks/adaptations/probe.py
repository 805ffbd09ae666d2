"""A frozen model read by a readout, learned step by step or solved at once."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Batch, BrainModel
from neurofm.cards import configured
from neurofm.data.module import BatchLoader
from neurofm.tasks.adaptations.base import Adaptation

_CHUNK = 64  # windows at once


@runtime_checkable
class Solver(Protocol):
    """Finds a linear map from features to scores, such as `neurofm.evaluate.RidgeProbe`."""

    def linear_map(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight, class by feature, and bias, from features of windows and their classes."""
        ...


@configured
class Probe(Adaptation):
    """The model is frozen, dropout and running statistics included; the readout learns.

    Args:
        solver: Computes the readout's linear map from all training windows at once, before the
            first step, which then changes nothing: one epoch is enough. Without it the readout is
            trained by gradients.
    """

    def __init__(self, solver: Solver | None = None) -> None:
        self.solver = solver

    def prepare(self, model: nn.Module) -> None:
        """Freeze everything."""
        model.requires_grad_(False)

    def settle(self, model: nn.Module) -> None:
        """All of the model in evaluation mode."""
        model.eval()

    def curve(self, task: Any, cosine: Any, readout: bool) -> Any:
        """No rate where the solution is known."""
        return None if self.solver is None else lambda step: 0.0

    def start(self, task: Any) -> None:
        """Put the solution into the readout.

        Raises:
            ValueError: The readout is no single linear map, or there is one class only.
        """
        if self.solver is None:
            return
        layer = linear_layer(task.readout)
        task.eval()
        features, y = _features(task, layer)
        task.train()
        weight, bias = self.solver.linear_map(features, y)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))


def linear_layer(readout: nn.Module) -> nn.Linear:
    """The one layer of a linear readout.

    Raises:
        ValueError: It has several layers with weights, another kind, or no bias.
    """
    layers = [part for part in readout.modules() if list(part.parameters(recurse=False))]
    layer = layers[0] if len(layers) == 1 else None
    if not isinstance(layer, nn.Linear) or layer.bias is None:
        raise ValueError(
            f"Probe: {type(readout).__name__} is no single linear map, so that it cannot be "
            "solved. Use PooledLinear or LatentStatistics, or leave `solver` out."
        )
    return layer


@torch.no_grad()
def _features(task: Any, layer: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """What enters the readout's linear map, window feature, and the classes of the windows."""
    seen: list[Tensor] = []
    labels: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
    try:
        for batch in _all_windows(task.trainer.train_dataloader):
            batch = task._cached(batch.to(task.device))
            if batch.y is None:
                raise ValueError("Probe: the windows have no labels; set `labels` in the data.")
            task.readout(cast(BrainModel, task.model).encode(batch))
            labels.append(batch.y.cpu())
    finally:
        handle.remove()
    return torch.cat(seen).double().numpy(), torch.cat(labels).numpy()


def _all_windows(loader: Any) -> Any:
    """Batches of every training window, without moving the place in the epoch."""
    if not isinstance(loader, BatchLoader):
        yield from cast("list[Batch]", loader)
        return
    order = loader.indices.tolist()
    for begin in range(0, len(order), _CHUNK):
        yield loader.windows.batch(order[begin : begin + _CHUNK])
