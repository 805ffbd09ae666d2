"""The readout first, then everything; and slower rates for earlier layers.

Source: Kumar et al. 2022 (a fresh readout distorts pretrained features; train it first); Clark et
al. 2020 and Bao et al. 2022 (layer-wise decay of the learning rate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from neurofm.cards import configured
from neurofm.nn.processes import place
from neurofm.tasks.adaptations.base import Adaptation, Curve, Rates
from neurofm.tasks.adaptations.layers import layer_numbers


@configured
class TwoStage(Adaptation):
    """First the readout on the frozen model, then both; each stage has its own rise and fall.

    Args:
        steps: Of the first stage; or
        epochs: of the first stage.
        lr: Of the readout in the first stage; the task's `lr` if not given. The second stage has
            the task's `lr` and `backbone_lr`.
    """

    def __init__(
        self, *, steps: int | None = None, epochs: int | None = None, lr: float | None = None
    ) -> None:
        if (steps is None) == (epochs is None) or (steps or epochs or 0) < 1:
            raise ValueError(
                f"TwoStage: steps {steps}, epochs {epochs}; expected one of them, 1 or more."
            )
        self.steps, self.epochs, self.lr = steps, epochs, lr
        self._free: list[nn.Parameter] = []
        self._first: int | None = None
        self._resting = False

    def settle(self, model: nn.Module) -> None:
        """In the first stage the model is in evaluation mode."""
        if self._resting:
            model.eval()

    def first(self, task: Any) -> int:
        """Steps of the first stage.

        Raises:
            ValueError: No step would be left for the second.
        """
        total = int(task.trainer.estimated_stepping_batches)
        steps = self.steps
        if steps is None:
            batches = task.trainer.num_training_batches
            steps = (self.epochs or 0) * math.ceil(batches / task.trainer.accumulate_grad_batches)
        if steps >= total:
            raise ValueError(
                f"TwoStage: the first stage takes {steps} of {total} steps, so that the model "
                "would never learn. Make it shorter, or train longer."
            )
        return steps

    def curve(self, task: Any, cosine: Callable[[int, int], float], readout: bool) -> Curve:
        """Of both stages, one behind the other."""
        total, first = int(task.trainer.estimated_stepping_batches), self.first(task)
        share = (1.0 if self.lr is None else self.lr / task.lr) if readout else 0.0

        def factor(step: int) -> float:
            if step < first:
                return share * cosine(step, first)
            return cosine(step - first, total - first)

        return factor

    def before_step(self, task: Any) -> None:
        """Freeze or thaw the model where a stage begins."""
        if self._first is None:
            self._first = self.first(task)
            self._free = [p for p in task.model.parameters() if p.requires_grad]
        resting = task.global_step < self._first
        if resting != self._resting:
            self._resting = resting
            self._freeze(resting)
            task.train()

    def _freeze(self, rest: bool) -> None:
        # Several processes wait for every gradient that was announced: see `before_update`.
        if place()[1] == 1:
            for parameter in self._free:
                parameter.requires_grad_(not rest)

    def before_update(self, task: Any) -> None:
        """With several processes the model has gradients in the first stage: forget them."""
        if self._resting:
            for parameter in self._free:
                parameter.grad = None

    def end(self, task: Any) -> None:
        """Thaw the model."""
        if self._resting:
            self._freeze(False)
        self._first, self._resting, self._free = None, False, []


@configured
class LayerwiseDecay(Adaptation):
    """Each block learns more slowly than the next.

    The rate of block i of L, counted from 1, is `lr * decay ** (L + 1 - i)`; what comes before the
    blocks (tokenizer, embeddings) is number 0, what comes behind them number L + 1, as is the
    readout. Branches side by side are numbered each by itself.

    Args:
        decay: 0 to 1; 0.65 to 0.9 are usual.
        blocks: Names of the lists of blocks, where they are not found by themselves.
    """

    def __init__(self, decay: float = 0.75, *, blocks: list[str] | None = None) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"LayerwiseDecay: decay is {decay:g}, expected above 0, up to 1.")
        self.decay, self.blocks = decay, blocks

    def prepare(self, model: nn.Module) -> None:
        """Find the blocks.

        Raises:
            ValueError: The model has none.
        """
        layer_numbers(model, self.blocks)

    def rates(self, model: nn.Module) -> Rates:
        """One factor for every distance from the readout."""
        found: dict[int, list[nn.Parameter]] = {}
        parameters = dict(model.named_parameters())
        for name, distance in layer_numbers(model, self.blocks).items():
            found.setdefault(distance, []).append(parameters[name])
        return [(found[distance], self.decay**distance) for distance in sorted(found)]
