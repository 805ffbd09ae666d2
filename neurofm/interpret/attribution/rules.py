"""Relevance propagation of transformers as a changed gradient (RelP).

    with relevance_rules(model):
        logits = model(x)                   # the values of the plain network
    (coefficient,) = torch.autograd.grad(logits[0, 1], x)
    relevance = x * coefficient             # adds up to the logit where nothing has a bias

Inside the block every operation is the plain one in value, and what is recorded for its gradient is
the linear map that propagates relevance: norms keep their scale fixed, attention its weights, an
elementwise function is the factor it multiplied with, a product gives half to each factor. Linear
maps keep their gradient (0-rule). The rules are tied to operations, not to modules, so that
networks written with functions, reused layers and residual sums need nothing of their own. They
hold for everything computed inside the block, so compute the metric after it unless it is linear;
the backward pass may come later. Gradients end at what requires one: an input, a site's value.

Source: Achtibat et al. 2024 (AttnLRP); Jafari et al. 2025 (RelP); Ali et al. 2022 (fixed norms).
"""

from __future__ import annotations

import functools
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RULES = ("norm", "attention", "activation", "product")
STABILISER = 1e-6  # of the published elementwise rule

# Names as torch's functions and methods have them; in place they end with an underscore.
ACTIVATIONS = _words(
    "relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish softplus tanh sigmoid softsign "
    "hardtanh hardsigmoid hardswish logsigmoid tanhshrink hardshrink softshrink threshold exp log "
    "log1p expm1 sin cos square pow abs sqrt erf"
)
PRODUCTS = _words("mul multiply matmul __rmatmul__ bmm mm mv dot einsum")
QUOTIENTS = _words("div divide true_divide")
SCALES = _words("rsqrt reciprocal __rdiv__")
# What changes the form, kind or mask of attention weights, which stay attention weights.
PASSING = _words(
    "dropout view reshape permute transpose movedim flatten unflatten squeeze unsqueeze expand to "
    "type type_as float half bfloat16 double contiguous clone masked_fill nan_to_num __getitem__ "
    "swapaxes expand_as repeat repeat_interleave where chunk split unbind div __get__"
)
# Functions of torch written in Python from others that have rules.
COMPOSED = frozenset(["multi_head_attention_forward", "normalize"])
RECURRENT = frozenset(["lstm", "gru", "rnn_tanh", "rnn_relu"])


@contextmanager
def relevance_rules(model: nn.Module, *, rules: Sequence[str] = RULES) -> Iterator[None]:
    """While the block lasts, gradients are recorded by the rules of relevance propagation.

    Args:
        model: Its weights are told from values that depend on the input; nothing in it changes.
        rules: Those to use, of "norm", "attention", "activation" and "product".

    Raises:
        ValueError: A rule that does not exist, or parts of the model that are compiled.
    """
    mode = RuleMode(model, rules=rules)
    with mode:
        yield


class RuleMode(TorchFunctionMode):
    """Records the gradient of each operation by its rule. See `relevance_rules`."""

    def __init__(self, model: nn.Module, *, rules: Sequence[str] = RULES) -> None:
        super().__init__()
        unknown = [rule for rule in rules if rule not in RULES]
        if unknown:
            raise ValueError(f"relevance_rules: no rule {unknown[0]!r}; known: {', '.join(RULES)}.")
        compiled = [name for name, part in model.named_modules() if hasattr(part, "_orig_mod")]
        if compiled:
            raise ValueError(
                f"relevance_rules: {compiled[0] or 'the model'!r} is compiled, so its operations "
                "cannot be seen. Give the module it was made from (`_orig_mod`)."
            )
        self.rules = frozenset(rules)
        self._marks = WeakIdKeyDictionary()  # tensor -> "weights" or "factor"

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        learning = [t for t in tensors_in((args, kwargs)) if t.requires_grad]
        if not learning or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if all(self.constant(t) for t in learning):
            return self._mark(func(*args, **kwargs), "weights")
        plain = name.removesuffix("_")
        in_place = plain != name and not name.endswith("__")
        if not (in_place or kwargs.get("inplace")) or plain not in CHANGED:
            return self.apply(name, func, args, kwargs)
        if in_place:
            func = next(f for f in (getattr(at, plain, None) for at in PLACES) if f is not None)
        else:
            kwargs = {**kwargs, "inplace": False}
        target, before = args[0], args[0].clone()
        if self._marked(target, "factor"):
            self._mark(before, "factor")
        changed = self.apply(plain, func, (before, *args[1:]), kwargs)
        target.copy_(changed)
        return self._mark(target, "factor") if self._marked(changed, "factor") else target

    def apply(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The operation, out of place, with the gradient of its rule."""
        if name in COMPOSED:
            with self:
                return seen_through(func)(*args, **kwargs)
        if name == "glu":
            first, second = args[0].chunk(2, dim=kwargs.get("dim", args[1] if args[1:] else -1))
            with self:
                return first * torch.sigmoid(second)
        if name in RECURRENT:
            warnings.warn(f"relevance_rules: {name} keeps its plain gradient.", stacklevel=3)
        if name in ACTIVATIONS and "activation" in self.rules:
            return self._activation(name, func, args, kwargs)
        if name in PRODUCTS:
            return self._product(name, func, args, kwargs)
        if name == "scaled_dot_product_attention" and "attention" in self.rules:
            args, kwargs = _fixed_weights(*args, **kwargs)
        if "norm" in self.rules:
            if name in NORMS:
                return _straight(func(*args, **kwargs), NORMS[name](*args, **kwargs))
            if name in QUOTIENTS and isinstance(args[1], Tensor):
                args = (args[0], args[1].detach(), *args[2:])
        out = func(*args, **kwargs)
        factor = (name == "softmax" and "attention" in self.rules) or (
            name in SCALES and "norm" in self.rules
        )
        if name in PASSING and not factor:
            factor = any(self._marked(t, "factor") for t in tensors_in((args, kwargs)))
        return self._mark(out, "factor") if factor else out

    def constant(self, tensor: Tensor) -> bool:
        """Whether it is a weight, or computed from weights alone."""
        return isinstance(tensor, nn.Parameter) or self._marked(tensor, "weights")

    def _activation(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        x = args[0] if args else kwargs["input"]
        if not x.requires_grad:
            return func(*args, **kwargs)
        with torch.no_grad():
            out = func(*args, **kwargs)
            away = torch.where(x >= 0, STABILISER, -STABILISER).to(x.dtype)
            factor = out / (x + away)
        return scaled(x.expand_as(out), out, factor)

    def _product(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        learning = [t for t in tensors_in(args) if t.requires_grad]
        values = [t for t in learning if not self.constant(t)]
        marked = [t for t in values if self._marked(t, "factor")]
        if len(marked) < len(values):  # weights of a sum: fixed, where what is summed is not
            args = _without_gradient(args, {id(t) for t in marked})
            values = values[: len(values) - len(marked)]
        out = func(*args, **kwargs)
        if len(values) > 1 and "product" in self.rules:
            out = _straight(out.detach(), out / len(values))
        if len(marked) == len(learning) and name in ("mul", "multiply"):
            self._mark(out, "factor")  # masked or scaled attention
        return out

    def _marked(self, tensor: Any, kind: str) -> bool:
        return isinstance(tensor, Tensor) and self._marks.get(tensor) == kind

    def _mark(self, value: Any, kind: str) -> Any:
        for tensor in tensors_in(value):
            if tensor.requires_grad and not isinstance(tensor, nn.Parameter):
                self._marks[tensor] = kind
        return value


class _Factor(torch.autograd.Function):
    """A value that counts as a fixed factor times `x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value.clone()  # which the network may change in place

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None


def scaled(x: Tensor, value: Tensor, factor: Tensor) -> Tensor:
    """`value`, which counts as a fixed factor times `x`."""
    return _Factor.apply(x, value, factor)


def _straight(value: Tensor, rule: Tensor) -> Tensor:
    """The value of one, the gradient of the other."""
    return value.detach() + (rule - rule.detach())


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    return _affine(_fixed_scale(input, dims, eps), weight, bias)


def _rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    dims = list(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    scale = torch.rsqrt(input.detach().square().mean(dims, keepdim=True) + eps)
    return _affine(input * scale, weight, None)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    groups = input.unflatten(1, (num_groups, -1))
    scaled = _fixed_scale(groups, list(range(2, groups.ndim)), eps).flatten(1, 2)
    return _affine(scaled, *(_by_channel(w, input) for w in (weight, bias)))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    scaled = _fixed_scale(input, list(range(2, input.ndim)), eps)
    return _affine(scaled, *(_by_channel(w, input) for w in (weight, bias)))


def _fixed_scale(x: Tensor, dims: list[int], eps: float) -> Tensor:
    spread = x.detach().var(dims, correction=0, keepdim=True)
    return (x - x.mean(dims, keepdim=True)) * torch.rsqrt(spread + eps)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _by_channel(weight: Tensor | None, x: Tensor) -> Tensor | None:
    return None if weight is None else weight.view(-1, *[1] * (x.ndim - 2))


def _fixed_weights(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any) -> Any:
    """Arguments of attention whose weights have no gradient."""
    rest = tuple(r.detach() if isinstance(r, Tensor) else r for r in rest)
    kwargs = {k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    return (query.detach(), key.detach(), value, *rest), kwargs


@functools.cache
def seen_through(func: types.FunctionType) -> Callable[..., Any]:
    """The function, which no longer asks whether it is overridden as a whole."""
    inside = dict(func.__globals__)
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        inside[name] = lambda *_: False
    copy = types.FunctionType(
        func.__code__, inside, func.__name__, func.__defaults__, func.__closure__
    )
    copy.__kwdefaults__ = func.__kwdefaults__
    return copy


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors among arguments or results, also within tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def _without_gradient(value: Any, which: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value.detach() if id(value) in which else value
    if isinstance(value, tuple | list):
        return type(value)(_without_gradient(item, which) for item in value)
    return value


NORMS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
}
PLACES = (Tensor, torch, F)
CHANGED = ACTIVATIONS | PRODUCTS | QUOTIENTS | SCALES | {"softmax"}
