"""LoRA, DoRA and IA3: a few numbers beside frozen weights, through peft.

Their product with, or sum to, the frozen weight is again one weight, so that an adapted model can
be written as a plain one (`neurofm.tasks.adaptations.merging`). peft loads transformers: it is
imported when the first of these is prepared.

Source: Hu et al. 2022 (LoRA); Liu et al. 2024 (DoRA); Liu et al. 2022 (IA3).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from neurofm.cards import configured
from neurofm.compat import guard_torchaudio, optional
from neurofm.tasks.adaptations.base import Adaptation, rest_norms
from neurofm.tasks.adaptations.layers import functional_layers, linear_layers

_NAME = "default"  # of peft's first adapter


class _Injected(Adaptation):
    """Layers with parameters of peft's around the model's own, which are frozen."""

    injects = True

    def __init__(self, layers: list[str] | None) -> None:
        self.layers = None if layers is None else list(layers)

    def _config(self, peft: Any, model: nn.Module) -> Any:
        raise TypeError(f"{type(self).__name__} must define _config(peft, model).")

    def prepare(self, model: nn.Module) -> None:
        """Put adapters around the layers and freeze all else.

        Raises:
            ImportError: peft is not installed.
            ValueError: A pattern fits no layer, or the model has none that fits.
        """
        guard_torchaudio()
        peft = optional("peft")
        peft.inject_adapter_in_model(self._config(peft, model), model)
        for layer in model.modules():
            kind: Any = type(layer)
            if issubclass(kind, peft.tuners.lora.Linear):
                layer.__class__ = _readable(kind, _low_rank_weight, _own_bias)
            elif issubclass(kind, peft.tuners.ia3.Linear):
                layer.__class__ = _readable(kind, _scaled_weight, _scaled_bias)

    def settle(self, model: nn.Module) -> None:
        """Batch norms keep their statistics."""
        rest_norms(model)

    def _none(self, model: nn.Module) -> ValueError:
        others = [name for name in ("LoRA", "Partial", "TwoStage") if name != type(self).__name__]
        return ValueError(
            f"{type(self).__name__}: {type(model).__name__} has no layer it can adapt. Use "
            f"{', '.join(others)} or Full."
        )


@configured
class LoRA(_Injected):
    """A change of low rank for every linear map.

    Args:
        rank: Of the change.
        alpha: The change is multiplied by `alpha / rank`; twice the rank if not given.
        dropout: Of what enters the change, in training mode.
        layers: Patterns of names, such as `*query*`. If not given, all linear maps that the model's
            `encode` uses; without any, its convolutions, or the coefficients of functional layers.
    """

    weight_decomposed = False

    def __init__(
        self,
        *,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        layers: list[str] | None = None,
    ) -> None:
        super().__init__(layers)
        if rank < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"{type(self).__name__}: rank {rank}, dropout {dropout:g}; expected 1 or more, and "
                "0 or more below 1."
            )
        self.rank, self.alpha, self.dropout = rank, alpha, dropout

    def _config(self, peft: Any, model: nn.Module) -> Any:
        chosen = linear_layers(model, self.layers, what=type(self).__name__)
        coefficients = [] if chosen or self.weight_decomposed else functional_layers(model)
        if not chosen and not coefficients:
            raise self._none(model)
        alpha = 2 * self.rank if self.alpha is None else self.alpha
        return peft.LoraConfig(
            r=self.rank,
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            target_modules=_exactly(chosen) if chosen else [],
            target_parameters=coefficients or None,
            use_dora=self.weight_decomposed,
        )


@configured
class DoRA(LoRA):
    """LoRA of the direction of each weight vector, and its length learned besides."""

    weight_decomposed = True


@configured
class IA3(_Injected):
    """One factor for every output of the linear maps; for those that narrow, for every input.

    Args:
        layers: Patterns of names; all linear maps that `encode` uses if not given.
    """

    def __init__(self, *, layers: list[str] | None = None) -> None:
        super().__init__(layers)

    def _config(self, peft: Any, model: nn.Module) -> Any:
        chosen = linear_layers(model, self.layers, what="IA3")
        chosen = {n: m for n, m in chosen.items() if not isinstance(m, nn.Conv1d)}  # not in peft
        if not chosen:
            raise self._none(model)
        narrow = [
            name
            for name, layer in chosen.items()
            if isinstance(layer, nn.Linear) and layer.in_features > layer.out_features
        ]
        return peft.IA3Config(
            target_modules=_exactly(chosen), feedforward_modules=_exactly(narrow) if narrow else []
        )


@functools.cache
def _readable(
    layer: type, weight: Callable[[Any], Tensor], bias: Callable[[Any], Tensor | None]
) -> type:
    """A layer of peft's whose weight and bias are what it computes with.

    Some networks read the weights of a layer in place of calling it (LaBraM's attention, torch's
    encoder layers in evaluation), and would pass by the adapter.
    """
    return type(layer.__name__, (layer,), {"weight": property(weight), "bias": property(bias)})


def _low_rank_weight(layer: Any) -> Tensor:
    base = layer.get_base_layer().weight
    if layer.merged:
        return base
    changed = base + layer.get_delta_weight(_NAME)
    if not layer.use_dora[_NAME]:
        return changed
    length = layer.lora_magnitude_vector[_NAME].weight
    return changed * (length / changed.norm(dim=1).detach()).unsqueeze(1)


def _own_bias(layer: Any) -> Tensor | None:
    return layer.get_base_layer().bias


def _scaled_weight(layer: Any) -> Tensor:
    base = layer.get_base_layer().weight
    return base if layer.merged else base * layer.ia3_l[_NAME]


def _scaled_bias(layer: Any) -> Tensor | None:
    bias = layer.get_base_layer().bias
    if bias is None or layer.merged or layer.is_feedforward:
        return bias
    return bias * layer.ia3_l[_NAME].flatten()


def _exactly(names: Iterable[str]) -> str:
    """A pattern for these names alone: peft takes names in a list as endings of others."""
    return "|".join(re.escape(name) for name in names)
