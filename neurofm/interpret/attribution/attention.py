"""What tokens take from tokens: attention rollout and gradient-weighted attention.

Attention weights are read from the operations themselves (softmax times values, the fused kernel,
`nn.MultiheadAttention`), so any network with self-attention over one set of tokens will do.
Attention says where information may come from, not that it is used: compare with `relevance`.

Source: Abnar & Zuidema 2020 (rollout); Chefer et al. 2021 (gradient-weighted relevance).
Axes: batch head query key; token = query or key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from neurofm.interpret.attribution.evidence import (
    Function,
    Inputs,
    Target,
    signals_of,
    target_score,
    targets_of,
    with_inputs,
)
from neurofm.interpret.attribution.rules import (
    COMPOSED,
    PASSING,
    PRODUCTS,
    seen_through,
    tensors_in,
)
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TokenRelevance:
    """How much each token (query) owes to each token of the first layer (key).

    Args:
        values: Shares, which add up to one over keys (rollout), or in the unit of the logit.
        method: How it was computed.
        n_layers: Attention layers found.
    """

    values: Float[Tensor, "batch query key"]
    method: str
    n_layers: int

    def read_by(self, query: int | None = None) -> Float[Tensor, "batch key"]:
        """What one token read (such as a class token), or all on average."""
        return self.values.mean(1) if query is None else self.values[:, query]

    def plot(self) -> Figure:
        """Mean over windows."""
        from neurofm.figures import plot_matrix

        return plot_matrix(
            self.values.detach().double().mean(0).cpu().numpy(),
            title=f"{self.method}, {len(self.values)} windows, {self.n_layers} layers",
            unit="share" if self.method == "attention rollout" else "logit",
            xlabel="token of the input",
            ylabel="token of the output",
        )


def attention_rollout(
    function: Function, batch: Inputs, *, residual: float | int = 0.5
) -> TokenRelevance:
    """Attention multiplied through the layers.

    Args:
        residual: Share that passes a layer by its residual connection.
    """
    if not 0 <= residual <= 1:
        raise ValueError(f"attention_rollout: residual {residual} is not between 0 and 1.")
    x = signals_of(batch)
    with torch.no_grad():
        layers = _attentions(function, with_inputs(batch, x), len(x))[1]
    total = _identity(layers[0])
    for weights in layers:
        mixed = residual * _identity(weights) + (1 - residual) * weights.mean(1)
        total = mixed / mixed.sum(-1, keepdim=True) @ total
    return TokenRelevance(total, "attention rollout", len(layers))


def weighted_attention(function: Function, batch: Inputs, target: Target = None) -> TokenRelevance:
    """Attention weighted by its positive gradient for the target's logit, through the layers."""
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    with torch.enable_grad():
        inputs = with_inputs(batch, x.requires_grad_(True))
        logits, layers = _attentions(function, inputs, len(x))
        score = target_score(lambda _: logits, inputs, target)
        gradients = torch.autograd.grad(score.sum(), layers, allow_unused=True)
    total = _identity(layers[0])
    for weights, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            continue
        total = total + (gradient * weights.detach()).clamp(min=0).mean(1) @ total
    return TokenRelevance(total.detach(), "gradient-weighted attention", len(layers))


def _attentions(function: Function, batch: Any, n: int) -> tuple[Tensor, list[Tensor]]:
    mode = _Watch(n)
    with mode:
        logits = function(batch)
    shapes = {tuple(w.shape[-2:]) for w in mode.found}
    if not mode.found:
        raise ValueError("attention: no attention weights found; the function has no attention.")
    if len(shapes) > 1 or any(a != b for a, b in shapes):
        raise ValueError(
            f"attention: layers of query x key {sorted(shapes)}; rollout needs self-attention over "
            "the same tokens in every layer."
        )
    return logits, mode.found


class _Watch(TorchFunctionMode):
    """Keeps attention weights as batch head query key."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.found: list[Tensor] = []
        self._weights = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in COMPOSED:
            with self:
                return seen_through(func)(*args, **kwargs)
        if name == "scaled_dot_product_attention":
            return self._fused(*args, **kwargs)
        given = list(tensors_in((args, kwargs)))
        marked = [t for t in given if t in self._weights]
        if name in PRODUCTS - {"mul", "multiply"} and marked:
            changed = self._keep(marked[0])
            args = tuple(_swapped(a, marked[0], changed) for a in args)
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        if (name == "softmax" and out.ndim >= 3) or (marked and name in (PASSING | {"mul"})):
            for tensor in tensors_in(out):
                self._weights[tensor] = True
        return out

    def _keep(self, weights: Tensor) -> Tensor:
        shaped = weights.reshape(self.n, -1, *weights.shape[-2:])
        self.found.append(shaped)
        return shaped.view(weights.shape)

    def _fused(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
            scores = scores.masked_fill(~ones.tril(), -torch.inf)
        if attn_mask is not None:
            bool_mask = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if bool_mask else scores + attn_mask
        return self._keep(scores.softmax(-1)) @ value


def _swapped(value: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_swapped(item, old, new) for item in value)
    return new if value is old else value


def _identity(weights: Tensor) -> Tensor:
    n = weights.shape[-1]
    return torch.eye(n, dtype=weights.dtype, device=weights.device).expand(len(weights), n, n)
