"""Save what a fine-tuning learned without the model, and put it on the same model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from torch import nn

from neurofm import cards
from neurofm.batch import BrainModel
from neurofm.io.adapters import base_state, read_adapters, weights_digest, write_adapters
from neurofm.io.seen import Seen, union
from neurofm.io.tensors import some
from neurofm.tasks.adaptations.merging import adapted
from neurofm.tasks.decode import Decode


def save_adapters(task: Decode, path: str | Path) -> Path:
    """Write adapters and readout, and the digest of the weights they belong to.

    Args:
        path: Ends in `.safetensors`.

    Raises:
        ValueError: The task's model has no adapters.
    """
    found = adapted(task.model)
    if found is None:
        raise ValueError(
            f"save_adapters: {type(task.adapt).__name__} puts no adapters into the model. Save the "
            "whole model with save_model(plain_model(task), path)."
        )
    state = task.model.state_dict()
    tensors = {f"model.{name}": state[name] for name in found["adapters"]}
    tensors |= {f"readout.{name}": value for name, value in task.readout.state_dict().items()}
    card = {
        "adapt": cards.spec_of(task.adapt),
        "readout": cards.spec_of(task.readout),
        "n_outputs": task.n_outputs,
        "base": cards.spec_of(task.model)["class_path"],
        "base_digest": weights_digest(base_state(state, found["adapters"])),
    }
    return write_adapters(path, tensors, card, union([Seen.of(task), Seen.of(task.model)]))


def load_adapters(
    path: str | Path, model: BrainModel, *, trusted: tuple[str, ...] = ("neurofm",)
) -> Decode:
    """A task with the adapters of a file on a model, in evaluation mode.

    Args:
        model: The base, as it was when the adapters were trained; it is changed.
            `plain_model(task)` has the adapters in its weights.
        trusted: Packages whose classes the file may name.

    Raises:
        ValueError: No file of adapters, or they were trained on other weights.
    """
    tensors, card, seen = read_adapters(path)
    base = cast(nn.Module, model)
    found = weights_digest(base.state_dict())
    if found != card["base_digest"]:
        raise ValueError(
            f"{path}: these adapters belong to a {card['base']} whose weights have the digest "
            f"{card['base_digest'][:16]}, the {type(model).__name__} given has {found[:16]}. Load "
            "the model that the fine-tuning started from."
        )
    task = Decode(
        model,
        n_outputs=card["n_outputs"],
        readout=cards.build(card["readout"], trusted=trusted, written=True),
        adapt=cast(Any, cards.build(card["adapt"], trusted=trusted, written=True)),
    )
    left = task.load_state_dict(tensors, strict=False)
    missing = [
        name
        for name in (adapted(base) or {"adapters": []})["adapters"]
        if f"model.{name}" not in tensors
    ]
    missing += [name for name in task.readout.state_dict() if f"readout.{name}" not in tensors]
    if left.unexpected_keys or missing:
        raise ValueError(
            f"{path}: does not fit. Missing: {some(missing)}. Unknown: "
            f"{some(left.unexpected_keys)}. Save the adapters again."
        )
    task.seen = base.seen = union([Seen.of(base), seen])  # type: ignore[assignment]
    return task.eval()
