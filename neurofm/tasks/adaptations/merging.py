"""An adapted model as a plain one: what was put beside its weights is written into them.

A training checkpoint holds both, the adapters as they are (to go on) and the merged weights of the
layers that have some (`adapted`), so that `load_model` needs nothing but the plain architecture.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neurofm import cards
from neurofm.batch import BrainModel
from neurofm.io.adapters import BASE, plain_state


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Outermost layers that hold a layer of the model as `base_layer`."""
    last = ""
    for name, part in model.named_modules():
        if BASE in dict(part.named_children()) and not (last and name.startswith(f"{last}.")):
            last = name
            yield name, part


@torch.no_grad()
def adapted(model: nn.Module) -> dict[str, Any] | None:
    """What turns the state of an adapted model into that of a plain one; None without adapters.

    Returns:
        "merged": weights by their plain names; "adapters": names of what is left out.
    """
    merged: dict[str, Tensor] = {}
    adapters: list[str] = []
    for name, layer in adapted_layers(model):
        state = _merged(layer)
        merged |= {f"{name}.{key}": value for key, value in state.items()}
        adapters += [
            f"{name}.{key}" for key in layer.state_dict() if not key.startswith(f"{BASE}.")
        ]
    return {"merged": merged, "adapters": adapters} if merged else None


def _merged(layer: nn.Module) -> dict[str, Tensor]:
    """State of the layer inside, with the adapters in its weights."""
    if parametrize.is_parametrized(cast(nn.Module, layer.base_layer)):
        base = cast(Any, copy.deepcopy(layer.base_layer))
        base.weight = cast(Tensor, layer.weight).detach()
        if base.bias is not None:
            base.bias.copy_(cast(Tensor, layer.bias))
    else:
        whole = cast(Any, copy.deepcopy(layer))
        whole.merge()
        base = whole.base_layer
    return {key: value.detach().clone() for key, value in base.state_dict().items()}


def plain_model(task: Any) -> BrainModel:
    """The model of a task, by itself: adapters in its weights, a copy to save and load anywhere.

    Args:
        task: A `Decode`. Its readout is not part of the model.
    """
    model = cast(nn.Module, task.model)
    state = plain_state(model.state_dict(), adapted(model))
    made = cast(
        nn.Module,
        cards.build(
            cards.spec_of(model), trusted=(type(model).__module__.split(".", 1)[0], "neurofm")
        ),
    )
    made.load_state_dict(state)
    for name in ("card", "seen", "_amplitudes"):
        if hasattr(model, name):
            setattr(made, name, copy.deepcopy(getattr(model, name)))
    return cast(BrainModel, made.eval())
