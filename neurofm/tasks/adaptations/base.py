"""What of a pretrained model is trained for a new task: the argument `adapt` of `Decode`.

An adaptation freezes parts of a model, or puts small trainable ones into it, and says at which rate
what is left learns. The readout always learns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from neurofm.cards import configured

Rates = list[tuple[Sequence[nn.Parameter], float]]
Curve = Callable[[int], float]


class Adaptation:
    """Everything learns; subclasses say what does not."""

    injects = False  # puts parameters of its own into the model

    def prepare(self, model: nn.Module) -> None:
        """Freeze, or put in what is trained; called once, when the task is made."""

    def rates(self, model: nn.Module) -> Rates:
        """Parameters and the factor on the model's learning rate."""
        return [(list(model.parameters()), 1.0)]

    def settle(self, model: nn.Module) -> None:
        """Bring parts that rest into evaluation mode; called whenever training mode is set."""

    def start(self, task: Any) -> None:
        """Before the first step, not when a run is resumed."""

    def before_step(self, task: Any) -> None:
        """Before every training step."""

    def before_update(self, task: Any) -> None:
        """After the gradients of a step, before they are used."""

    def end(self, task: Any) -> None:
        """After the last step, or an interruption."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What is added to the training loss."""
        return None

    def curve(self, task: Any, cosine: Callable[[int, int], float], readout: bool) -> Curve | None:
        """Factor on the rate at each step, where it is not the task's own curve.

        Args:
            cosine: The task's curve: step and number of steps to factor.
            readout: Whether of the readout, or of the model.
        """
        return None


@configured
class Full(Adaptation):
    """All weights learn, the model's at `backbone_lr` times the rate of the readout."""


@configured
class Partial(Adaptation):
    """Only parameters whose names fit a pattern learn; all others are frozen.

    Args:
        train: Patterns of names, such as `blocks.5.*` or `*norm*`.
    """

    def __init__(self, train: list[str]) -> None:
        self.train = list(train)

    def prepare(self, model: nn.Module) -> None:
        """Freeze what no pattern names.

        Raises:
            ValueError: A pattern fits no parameter that could learn; the message names near ones.
        """
        free = [name for name, value in model.named_parameters() if value.requires_grad]
        chosen = fitting(self.train, free, what="Partial: train", model=model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)

    def settle(self, model: nn.Module) -> None:
        """Batch norms without a trained parameter keep their statistics."""
        rest_norms(model)


def fitting(
    patterns: Sequence[str], names: Sequence[str], *, what: str, model: nn.Module
) -> set[str]:
    """Names that fit any of the patterns.

    Raises:
        ValueError: A pattern fits none; the message names near ones.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            bare = pattern.replace("*", "")
            near = difflib.get_close_matches(bare, names, n=3, cutoff=0.4)
            near = near or [name for name in names if any(p in name for p in bare.split("."))][:3]
            hint = f"Near it are {', '.join(near)}." if near else f"There are {', '.join(names)}."
            raise ValueError(
                f"{what}: the pattern {pattern!r} fits none of the {len(names)} names of "
                f"{type(model).__name__}. {hint} `*` stands for any letters, dots included."
            )
        chosen |= found
    return chosen


def rest_norms(model: nn.Module) -> None:
    """Batch norms without a trained parameter in evaluation mode: statistics are weights too."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not any(
            parameter.requires_grad for parameter in layer.parameters()
        ):
            layer.eval()


def trained_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of parameters that learn, and of all."""
    sizes = [(value.numel(), value.requires_grad) for value in module.parameters()]
    return sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
