"""Sharing ratio decomposition (experimental): relevance of places rather than of single units.

The features of one place (a time of a convolution, a token) form a vector. Relevance of an output
vector is shared among the places it was made from by how far their contributions point along it:
ratio of p in q = <v_pq, v_q> / |v_q|², with v before the activation, so that silent units count.
The equation was rebuilt from a short description of the method: check it before relying on it.

Source: Han et al. 2024 (sharing ratio decomposition).
Axes: batch channel time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.interpret.attribution.evidence import Attribution, Function, Inputs, Target
from neurofm.interpret.attribution.relevance import Composite, Run, relevance


def sharing_ratios(
    function: Function, batch: Inputs, target: Target = None, *, model: nn.Module | None = None
) -> Attribution:
    """Relevance by sharing ratios; experimental. `model` as for `relevance`."""
    rules = Composite(Sharing(), Sharing(), Sharing())
    found = relevance(function, batch, target, rules=rules, model=model)
    return replace(found, method="sharing ratios (experimental)")


@dataclass(frozen=True)
class Sharing:
    """Shares by projection on the output vector of a place; heads (one vector in all) plainly."""

    epsilon: float | int = 1e-12

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        out = run(x, weight, bias)
        if out.ndim < 3:
            return out
        return _Projected.apply(out, -1 if weight.ndim == 2 else 1, self.epsilon)


class _Projected(torch.autograd.Function):
    """A vector whose relevance as a whole is spread along itself."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, axis: int, epsilon: float | int) -> Tensor:
        ctx.save_for_backward(z)
        ctx.axis, ctx.epsilon = axis, epsilon
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        whole = (z * gradients[0]).sum(ctx.axis, keepdim=True)
        norm = z.square().sum(ctx.axis, keepdim=True)
        return z * whole / (norm + ctx.epsilon), None, None
