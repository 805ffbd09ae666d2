"""Which layers a model has: blocks in order, and linear maps that adapters may be put on.

Models are not told apart by name: blocks are a list of equal modules, linear maps are `nn.Linear`
and its subclasses. Parts that only pretraining uses, a frozen tokenizer, and layers whose weights
are limited or shared in ways that cannot be undone are left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from neurofm.nn.functional_layers import FunctionalConv, FunctionalDense
from neurofm.tasks.adaptations.base import fitting

# Parts that `encode` does not use: heads of pretraining, and what only helps to train.
_ELSEWHERE = (
    *("head", "predict_head", "decoder", "companion", "contrast", "quantizer"),
    "network.final_layer",
)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def _used(name: str) -> bool:
    return not any(name == part or name.startswith(f"{part}.") for part in _ELSEWHERE)


def block_lists(model: nn.Module) -> dict[str, int]:
    """Names of lists of blocks that `encode` uses, and how many each has.

    A list is a ModuleList or Sequential of modules of one class that are made of others, or any
    list called `blocks` or `layers`; the outermost ones count.
    """
    found: dict[str, int] = {}
    for name, part in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if inside or not _used(name) or not isinstance(part, (nn.ModuleList, nn.Sequential)):
            continue
        learning = [child for child in part.children() if any(True for _ in child.parameters())]
        frozen = not any(value.requires_grad for value in part.parameters())
        if frozen or not learning:
            continue
        alike = len({type(child) for child in learning}) == 1 and len(learning) == len(part)
        made_of_others = all(any(True for _ in child.children()) for child in learning)
        named = name.rpartition(".")[2] in ("blocks", "layers")
        if (alike and made_of_others) or named:
            found[name] = len(part)
    return found


def layer_numbers(model: nn.Module, blocks: Sequence[str] | None = None) -> dict[str, int]:
    """How far each parameter is from the readout, in blocks: 0 behind them, most before them.

    Args:
        blocks: Names of the lists of blocks; found if not given.

    Raises:
        ValueError: There are none, or a name is none.
    """
    lists = block_lists(model)
    if blocks is not None:
        known = {
            n: m for n, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential))
        }
        chosen = fitting(blocks, list(known), what="LayerwiseDecay: blocks", model=model)
        lists = {name: len(known[name]) for name in known if name in chosen}
    if not lists:
        raise ValueError(
            f"LayerwiseDecay: {type(model).__name__} has no list of blocks, so that no layer comes "
            "before another. Name one by `blocks`, or use `Full` with a smaller `backbone_lr`."
        )
    order = [name for name, _ in model.named_parameters()]
    return {name: _distance(name, order, lists) for name in order}


def _distance(name: str, order: Sequence[str], lists: dict[str, int]) -> int:
    for one, depth in lists.items():
        if name.startswith(f"{one}."):
            return depth - int(name[len(one) + 1 :].partition(".")[0])
    shared = {one: _common(name, one) for one in lists}
    near = [one for one in lists if shared[one] == max(shared.values())]
    first = min(
        i for i, other in enumerate(order) if other.startswith(tuple(f"{n}." for n in near))
    )
    # A tokenizer that learns is the beginning, wherever it is listed.
    if order.index(name) < first or name.startswith("tokenizer."):
        return max(lists[one] for one in near) + 1
    return 0


def _common(name: str, other: str) -> int:
    """Parts that two dotted names begin with."""
    count = 0
    for a, b in zip(name.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def linear_layers(
    model: nn.Module, patterns: Sequence[str] | None, *, what: str
) -> dict[str, nn.Module]:
    """Layers that an adapter can be put on, by name.

    Args:
        patterns: Of names; if not given, all linear maps that `encode` uses, and in a model without
            any, its convolutions that are not grouped.
        what: Who asks, for messages.

    Raises:
        ValueError: A pattern fits no layer, or there are none.
    """
    linear: dict[str, nn.Module] = {}
    conv: dict[str, nn.Module] = {}
    attention = [n for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    for name, layer in model.named_modules():
        # nn.MultiheadAttention reads the weights of its layers and never calls them.
        if not name or name.startswith(tuple(f"{other}." for other in attention)):
            continue
        frozen = not any(value.requires_grad for value in layer.parameters())
        if frozen or not assignable(layer):
            continue
        if isinstance(layer, nn.Linear):
            linear[name] = layer
        elif isinstance(layer, CONVOLUTIONS) and layer.groups == 1:
            conv[name] = layer
    if patterns is not None:
        everything = linear | conv
        chosen = fitting(patterns, list(everything), what=f"{what}: layers", model=model)
        return {name: everything[name] for name in everything if name in chosen}
    for group in (linear, conv):
        used = {name: layer for name, layer in group.items() if _used(name)}
        if used:
            return used
    return {}


def functional_layers(model: nn.Module) -> list[str]:
    """Names of the coefficients of functional layers that `encode` uses."""
    return [
        f"{name}.coefficients"
        for name, layer in model.named_modules()
        if isinstance(layer, (FunctionalConv, FunctionalDense)) and _used(name)
    ]


def assignable(layer: nn.Module) -> bool:
    """Whether a weight put into the layer is the one that it then has."""
    if not parametrize.is_parametrized(layer):
        return True
    if not (isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight")):
        return False
    trial = copy.deepcopy(layer)
    with torch.no_grad():
        weight = 10 * cast(Tensor, trial.weight).detach() + 1  # beyond what a limit would let pass
        try:
            trial.weight = weight
        except (NotImplementedError, RuntimeError):
            return False
        return bool(torch.allclose(cast(Tensor, trial.weight), weight, rtol=1e-4, atol=1e-5))
