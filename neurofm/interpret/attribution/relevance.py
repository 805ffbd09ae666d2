"""Layer-wise relevance propagation through any network, operation by operation.

Relevance is carried as a coefficient: the relevance of a value is the value times the gradient that
`RuleMode` records, so that residual sums, flattening, reused layers and functions need no rule of
their own. What an affine operation passes on is chosen by a rule. Linear and convolution layers
take every rule; averages, batch norms (evaluation mode) and products with a weight take epsilon.

Nothing is lost where there are no biases and no epsilon; what is lost is returned as `delta`.

Source: Bach et al. 2015 (epsilon, alpha-beta); Montavon et al. 2017 (z^B), 2019 (gamma, parts);
Lapuschkin et al. 2019 (flat).
Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neurofm.interpret.attribution.evidence import (
    AXES,
    Attribution,
    Function,
    Inputs,
    Target,
    gradient_of,
    score_of,
    sensing_of,
    signals_of,
    targets_of,
)
from neurofm.interpret.attribution.rules import PASSING, RuleMode, scaled

Run = Callable[[Tensor, Tensor, Tensor | None], Tensor]
# rule(run, x, weight, bias): `run(x, weight, bias)` in value, with the gradient of the rule.
AffineRule = Callable[[Run, Tensor, Tensor, Tensor | None], Tensor]

CONVOLUTIONS = frozenset(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))
AVERAGES = frozenset(
    [f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)] + ["mean", "sum"]
)
# On both sides of zero they are linear, so that relevance passes by the gradient, exactly.
STRAIGHT = frozenset(["relu", "leaky_relu", "prelu", "abs"])


@dataclass(frozen=True)
class Epsilon:
    """In proportion to contributions; `epsilon` (unit of the outputs) absorbs weak ones."""

    epsilon: float | int = 1e-6

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        return _shared(run(x, weight, bias), None, self.epsilon)


@dataclass(frozen=True)
class Gamma:
    """Positive weights count more by `gamma`: fewer contradicting contributions."""

    gamma: float | int = 0.25
    epsilon: float | int = 1e-6

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        more = [None if w is None else w + self.gamma * w.clamp(min=0) for w in (weight, bias)]
        assert more[0] is not None
        return _shared(run(x, more[0], more[1]), run(x, weight, bias), self.epsilon)


@dataclass(frozen=True)
class AlphaBeta:
    """Positive and negative contributions apart, weighted by `alpha` and -`beta`."""

    alpha: float | int = 1.0
    beta: float | int = 0.0
    epsilon: float | int = 1e-6

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-9:
            raise ValueError(
                f"AlphaBeta: alpha {self.alpha} - beta {self.beta} must be 1 to keep relevance."
            )

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        up, down = x.clamp(min=0), x.clamp(max=0)
        w_up, w_down = weight.clamp(min=0), weight.clamp(max=0)
        b_up, b_down = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
        z = run(x, weight, bias).detach()
        positive = run(up, w_up, b_up) + run(down, w_down, None)
        out = scaled(positive, z, self.alpha * z / _away(positive.detach(), self.epsilon))
        if self.beta:
            negative = run(up, w_down, b_down) + run(down, w_up, None)
            share = -self.beta * z / _away(negative.detach(), self.epsilon)
            out = out + scaled(negative, torch.zeros_like(z), share)
        return out


@dataclass(frozen=True)
class Box:
    """z^B, for first layers whose inputs lie between `low` and `high` (unit of the input)."""

    low: float | int
    high: float | int
    epsilon: float | int = 1e-6

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        low, high = _standing_for(x, self.low), _standing_for(x, self.high)
        rest = run(low, weight.clamp(min=0), None) + run(high, weight.clamp(max=0), None)
        z = run(x, weight, bias)
        return _shared(z - rest, z, self.epsilon)


@dataclass(frozen=True)
class Flat:
    """Equal shares for all inputs of an output: where, not which sign, for first layers."""

    def __call__(self, run: Run, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See `AffineRule`."""
        count = run(_standing_for(x, 1.0), torch.ones_like(weight), None)
        return _shared(count, run(x, weight, bias), 0.0)


@dataclass(frozen=True)
class Composite:
    """A rule for each part of a network.

    Args:
        first: Layers that read the input itself, or a view of it.
        convolution: Other convolutions.
        linear: Linear layers, averages and norms.
    """

    first: AffineRule = field(default_factory=Flat)
    convolution: AffineRule = field(default_factory=Gamma)
    linear: AffineRule = field(default_factory=Epsilon)

    @classmethod
    def epsilon(cls, epsilon: float | int) -> Composite:
        """The same epsilon everywhere."""
        return cls(Epsilon(epsilon), Epsilon(epsilon), Epsilon(epsilon))


def relevance(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    rules: Composite | None = None,
    model: nn.Module | None = None,
) -> Attribution:
    """Relevance of each sample for the target's logit.

    Norms, attention, activations and products follow `relevance_rules`.

    Args:
        rules: Of affine layers; `Composite()` if not given.
        model: Looked through for compiled parts, which would hide their operations.

    Returns:
        `delta` is the sum of the relevance minus the logit: what biases and epsilon absorbed.
    """
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    # Relevance is value times coefficient: a sample of exactly zero could carry none.
    x = torch.where(x == 0, 1e-30, x)
    mode = AffineMode(model or nn.Identity(), composite=rules or Composite())

    def ruled(inside: Any) -> Tensor:
        mode.reads(signals_in(inside))
        with mode:
            return function(inside)

    coefficient = gradient_of(ruled, batch, x, target)
    values = x * coefficient
    logit = score_of(function, batch, x, target)
    delta = values.flatten(1).sum(1) - logit
    sensors = sensing_of(batch)
    return Attribution(
        values, AXES, target, "relevance", logit, delta, coefficient=coefficient, sensors=sensors
    )


def signals_in(batch: Any) -> Tensor:
    """The tensor of signals, with its history."""
    return batch if isinstance(batch, Tensor) else batch.x


class AffineMode(RuleMode):
    """`RuleMode` with a rule for every affine operation."""

    def __init__(self, model: nn.Module, *, composite: Composite) -> None:
        super().__init__(model)
        self.composite = composite

    def reads(self, x: Tensor) -> None:
        """Layers that read `x` or views of it are first layers."""
        self._mark(x, "input")

    def apply(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """See `RuleMode`."""
        if name in STRAIGHT:  # relevance passes
            return func(*args, **kwargs)
        if name == "linear" or name in CONVOLUTIONS:
            return self._layer(name, func, args, kwargs)
        if name == "batch_norm":
            if kwargs.get("training", args[5] if len(args) > 5 else False):
                raise ValueError(
                    "relevance: a batch norm in training mode mixes windows. Call model.eval()."
                )
            return self._weak(func(*args, **kwargs))
        if name in AVERAGES:
            return self._weak(func(*args, **kwargs))
        out = super().apply(name, func, args, kwargs)
        if name in PASSING or name in ("pad", "_pad"):
            if self._marked(args[0], "input"):
                self._mark(out, "input")
        elif name in ("matmul", "mm", "bmm", "einsum") and self._by_weight(args):
            out = self._weak(out)
        return out

    def _layer(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        x, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
        if not x.requires_grad:
            return func(*args, **kwargs)
        if weight.requires_grad and not self.constant(weight):
            return super().apply(name, func, args, kwargs)  # weights made from the input
        rule = self.composite.linear if name == "linear" else self.composite.convolution
        if self._marked(x, "input"):
            rule = self.composite.first
        weight = weight.detach()
        bias = None if bias is None else bias.detach()
        return rule(lambda i, w, b: func(i, w, b, *args[3:], **given), x, weight, bias)

    def _weak(self, out: Tensor) -> Tensor:
        rule = self.composite.linear
        return _shared(out, None, rule.epsilon) if isinstance(rule, Epsilon) else out

    def _by_weight(self, args: Any) -> bool:
        flat = [t for a in args for t in (a if isinstance(a, tuple | list) else (a,))]
        tensors = [t for t in flat if isinstance(t, Tensor)]
        return sum(t.requires_grad and not self.constant(t) for t in tensors) == 1 and any(
            self.constant(t) for t in tensors
        )


def _shared(z: Tensor, value: Tensor | None, epsilon: float | int) -> Tensor:
    """`value` shared in proportion to the contributions to `z`."""
    with torch.no_grad():
        value = z.detach() if value is None else value.detach()
        share = value / _away(z.detach(), epsilon)
    return scaled(z, value, share)


def _away(z: Tensor, epsilon: float | int) -> Tensor:
    """Moved away from zero by epsilon; sign(0) = +1. Zeros stay zeros of no share."""
    moved = z + torch.where(z >= 0, epsilon, -epsilon).to(z.dtype)
    return torch.where(moved == 0, torch.inf, moved)


def _standing_for(x: Tensor, value: float) -> Tensor:
    """A constant whose relevance counts as that of `x`."""
    ratio = torch.where(x == 0, 0.0, value / x.detach())
    return x * ratio.detach()
