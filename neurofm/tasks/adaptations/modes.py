"""Modes: what a frozen network does for a task, chosen by a gain and a threshold of each unit.

Unit j of a layer gives `y`; with modes the layer gives

    z(g) * (g * y - t)        z(g) = sigmoid((|g| - 1/2) / T) / sigmoid(1/2 / T)

with a gain g that starts at 1, a threshold t that starts at 0, in the unit's own scale, and a gate
z that depends on the gain: 1 at the start whatever the temperature T, and in the limit of a small T
either 1, or 0 where the gain has fallen below a half. T falls geometrically over the training;
outside of training the gate is the limit. The mean of all gates, times `sparsity`, is added to the
loss, so that units are let go that the task does not need. Layers without a bias have no
thresholds, so that modes can be written into the weights.

Source: gains and thresholds (biases) of single neurons suffice to teach a frozen, even random,
network new tasks (Geadah et al. 2020; Williams et al. 2024); the gate is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.cards import configured
from neurofm.shapes import Bool, Float
from neurofm.tasks.adaptations.base import Adaptation, rest_norms
from neurofm.tasks.adaptations.layers import CONVOLUTIONS, linear_layers

_HALF = 0.5  # gain below which a unit is off


class Gated(nn.Module):
    """A frozen layer with a gain, a gate and perhaps a threshold for each of its units.

    Args:
        layer: Linear or convolution.
        temperature: Of the gate in training mode.
    """

    def __init__(self, layer: nn.Module, temperature: float) -> None:
        super().__init__()
        weight = cast(Tensor, layer.weight)
        self.base_layer = layer.requires_grad_(False)
        self.temperature = temperature
        self.gain = nn.Parameter(weight.new_ones(len(weight)))
        self.threshold: nn.Parameter | None = None
        if layer.bias is not None:
            self.threshold = nn.Parameter(weight.new_zeros(len(weight)))
        self._axes = layer.weight.ndim - 2 if isinstance(layer, CONVOLUTIONS) else 0

    @property
    def weight(self) -> Tensor:
        """With modes: some networks read the weights of a layer in place of calling it."""
        factor = self.gate() * self.gain
        weight = cast(Tensor, self.base_layer.weight)
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))

    @property
    def bias(self) -> Tensor | None:
        """With modes."""
        if self.threshold is None:
            return None
        return self.gate() * (self.gain * cast(Tensor, self.base_layer.bias) - self.threshold)

    def on(self) -> Bool[Tensor, " unit"]:
        """Which units are used."""
        return self.gain.detach().abs() >= _HALF

    def gate(self) -> Float[Tensor, " unit"]:
        """Soft in training mode."""
        if not self.training:
            return self.on().to(self.gain.dtype)
        whole = torch.sigmoid(self.gain.new_tensor(_HALF / self.temperature))
        return torch.sigmoid((self.gain.abs() - _HALF) / self.temperature) / whole

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        gate = self.gate()
        y = self.base_layer(x) * self._shaped(gate * self.gain)
        return y if self.threshold is None else y - self._shaped(gate * self.threshold)

    def _shaped(self, value: Float[Tensor, " unit"]) -> Tensor:
        return value.reshape(-1, *[1] * self._axes)

    @torch.no_grad()
    def merge(self) -> None:
        """Write the hardened modes into the layer, and forget them."""
        gate = self.on().to(self.gain.dtype)
        factor = gate * self.gain
        layer = cast(Any, self.base_layer)
        layer.weight.mul_(factor.reshape(-1, *[1] * (layer.weight.ndim - 1)))
        if self.threshold is not None:
            layer.bias.mul_(factor).sub_(gate * self.threshold)
            self.threshold.zero_()
        self.gain.fill_(1.0)


@configured
class Modes(Adaptation):
    """Gains, thresholds and gates of the units of a frozen model learn; see above.

    Args:
        sparsity: Weight of the mean gate in the loss, nats.
        temperature: Of the gate at the first and at the last step.
        layers: Patterns of names; all linear maps that `encode` uses if not given.
    """

    injects = True

    def __init__(
        self,
        *,
        sparsity: float = 0.1,
        temperature: Sequence[float] = (0.25, 0.02),
        layers: list[str] | None = None,
    ) -> None:
        warm, cold = temperature
        if sparsity < 0 or not 0 < cold <= warm:
            raise ValueError(
                f"Modes: sparsity {sparsity:g}, temperature {warm:g} to {cold:g}; expected 0 or "
                "more, and a temperature above 0 that does not rise."
            )
        self.sparsity, self.temperature = sparsity, (warm, cold)
        self.layers = None if layers is None else list(layers)

    def prepare(self, model: nn.Module) -> None:
        """Freeze the model and put modes around its layers.

        Raises:
            ValueError: A pattern fits no layer, or the model has none with units.
        """
        chosen = linear_layers(model, self.layers, what="Modes")
        if not chosen:
            raise ValueError(
                f"Modes: {type(model).__name__} has no linear map or convolution. Use LoRA, "
                "Partial, TwoStage or Full."
            )
        model.requires_grad_(False)
        for name, layer in chosen.items():
            model.set_submodule(name, Gated(layer, self.temperature[0]))

    def settle(self, model: nn.Module) -> None:
        """Batch norms keep their statistics."""
        rest_norms(model)

    def before_step(self, task: Any) -> None:
        """Cool the gates."""
        warm, cold = self.temperature
        last = max(int(task.trainer.estimated_stepping_batches) - 1, 1)
        now = warm * (cold / warm) ** min(task.global_step / last, 1.0)
        for layer in gated(task.model).values():
            layer.temperature = now

    def penalty(self, model: nn.Module) -> Tensor:
        """The mean gate of all units, weighted."""
        return self.sparsity * torch.cat([layer.gate() for layer in gated(model).values()]).mean()


def gated(model: nn.Module) -> dict[str, Gated]:
    """Layers with modes, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Gated)}


def units(model: nn.Module) -> dict[str, Bool[Tensor, " unit"]]:
    """Which units of each layer a task uses.

    Args:
        model: Of a task with `Modes`, or the task.

    Raises:
        ValueError: No layer has modes.
    """
    found = {name.removeprefix("model."): layer.on().cpu() for name, layer in gated(model).items()}
    if not found:
        raise ValueError(
            f"units: {type(model).__name__} has no modes. Load the task with "
            "`Decode.load_from_checkpoint` from a run with `adapt: Modes`."
        )
    return found


def fraction_on(used: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of the units of each layer that a task uses, and of "all"."""
    everything = torch.cat(list(used.values()))
    parts = {**used, "all": everything}
    return {name: float(on.double().mean()) for name, on in parts.items()}


def overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, float]:
    """Of the units that either task uses, the share that both use: each layer, and "all".

    1.0 where neither uses any.

    Raises:
        ValueError: The tasks' modes are on other layers.
    """
    if {k: len(v) for k, v in first.items()} != {k: len(v) for k, v in second.items()}:
        raise ValueError(
            f"overlap: modes on the layers {', '.join(first)} cannot be compared with modes on "
            f"{', '.join(second)}."
        )
    pairs = {name: (first[name], second[name]) for name in first}
    pairs["all"] = (torch.cat(list(first.values())), torch.cat(list(second.values())))
    return {
        name: int((a & b).sum()) / either if (either := int((a | b).sum())) else 1.0
        for name, (a, b) in pairs.items()
    }
