"""A network run on part of a window: masked samples are neither zeros nor seen.

A mask travels with the activations. Before a convolution or pooling, masked samples beside valid
ones are filled with the mean of their valid neighbours, as often as the kernel is long; what has
seen nothing valid stays masked and zero. Averages divide by what is valid; attention skips masked
tokens, which keep their places. Less foreign to a network than zeros are.

Source: Balasubramanian & Feizi 2023 (layer masking), carried over to sensors and time.
Axes: batch channel time; mask True = valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import Function, Inputs, signals_of, with_inputs
from neurofm.interpret.attribution.rules import ACTIVATIONS, COMPOSED, seen_through, tensors_in
from neurofm.shapes import Bool, Float

CONVOLVE: dict[str, Callable[..., Tensor]] = {
    "conv1d": F.conv1d,
    "conv2d": F.conv2d,
    "conv3d": F.conv3d,
}
POOLS = frozenset(f"{kind}_pool{n}d" for kind in ("max", "avg") for n in (1, 2, 3))
AVERAGES = frozenset(["mean", *(f"adaptive_avg_pool{n}d" for n in (1, 2, 3))])
# The mask goes the way of the values.
MOVING = frozenset(
    [
        "view",
        "reshape",
        "permute",
        "transpose",
        "movedim",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "expand",
        "contiguous",
        "clone",
        "to",
        "float",
        "double",
        "chunk",
        "split",
        "__getitem__",
        "swapaxes",
    ]
)
KEEPING = ACTIVATIONS | {"dropout", "feature_dropout", "layer_norm", "rms_norm", "group_norm"}
JOINING = frozenset(["add", "sub", "mul", "div", "__rsub__"])


def with_mask(
    function: Function, batch: Inputs, valid: Bool[Tensor, "batch channel time"]
) -> Tensor:
    """Logits of the windows as if masked samples were not there.

    Args:
        function: Of the windows; run once.
        valid: False for channels that are missing or stretches with an artefact.
    """
    x = batch.x if isinstance(batch, Batch) else batch
    if valid.shape != x.shape:
        raise ValueError(
            f"with_mask: mask of shape {tuple(valid.shape)} for windows of {tuple(x.shape)}."
        )
    empty = (~valid.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"with_mask: nothing is valid in windows {empty[:5]}.")
    # NaN may be masked.
    inside = signals_of(with_inputs(batch, torch.where(valid, x, 0.0)), who="with_mask")
    with torch.no_grad(), layer_masking(inside, valid):
        return function(with_inputs(batch, inside))


@contextmanager
def layer_masking(x: Tensor, valid: Bool[Tensor, "batch channel time"]) -> Iterator[None]:
    """Inside the block, what is computed from `x` carries its mask."""
    mode = _Masking()
    mode.masks[x] = valid
    with mode:
        yield


class _Masking(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.masks = WeakIdKeyDictionary()  # tensor -> bool of its shape

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        name = name if name.endswith("__") else name.removesuffix("_")
        masked = [t for t in tensors_in((args, kwargs)) if t in self.masks]
        if not masked:
            return func(*args, **kwargs)
        if name in COMPOSED:
            with self:
                return seen_through(func)(*args, **kwargs)
        first, mask = masked[0], self.masks[masked[0]]
        if name in CONVOLVE and args[0] is first:
            return self._convolve(name, func, first, mask, args[1:], kwargs)
        if name in POOLS:
            return self._pool(name, func, first, mask, args[1:], kwargs)
        if name == "scaled_dot_product_attention":
            return self._attend(func, args, kwargs)
        if name in AVERAGES:
            weight = func(mask.to(first.dtype), *args[1:], **kwargs)
            out = func(first * mask, *args[1:], **kwargs) / weight.clamp(min=1e-12)
            return self._carry(out, weight > 0)
        out = func(*args, **kwargs)
        if name in MOVING:
            return self._carry(out, func(mask, *args[1:], **kwargs) if name != "to" else mask)
        if name == "linear":
            return self._carry(out, mask.any(-1, keepdim=True).expand(out.shape), zero=False)
        if name in KEEPING or name == "batch_norm":
            return self._carry(out, mask, zero=name == "batch_norm")
        if name in JOINING and isinstance(out, Tensor):
            both = [self.masks[t].expand(out.shape) for t in masked]
            return self._carry(out, torch.stack(both).any(0), zero=False)
        return out

    def _carry(self, out: Any, mask: Any, *, zero: bool = True) -> Any:
        if not isinstance(out, Tensor):
            return type(out)(self._carry(o, m) for o, m in zip(out, mask, strict=True))
        if mask.shape == out.shape:
            out = torch.where(mask, out, 0.0) if zero and not mask.all() else out
            self.masks[out] = mask
        return out

    def _convolve(
        self, name: str, func: Any, x: Tensor, mask: Tensor, rest: Any, kwargs: Any
    ) -> Tensor:
        given = dict(zip(("weight", "bias", "stride", "padding", "dilation"), rest, strict=False))
        given |= {k: v for k, v in kwargs.items() if k != "groups"}
        size = given.pop("weight").shape[2:]
        given.pop("bias", None)
        out = func(_filled(x, mask, tuple(size)), *rest, **kwargs)
        seen = mask.any(1, keepdim=True).to(x.dtype)
        reach = CONVOLVE[name](seen, torch.ones(1, 1, *size).to(x), **given) > 0
        return self._carry(out, reach.expand(out.shape))

    def _pool(
        self, name: str, func: Any, x: Tensor, mask: Tensor, rest: Any, kwargs: Any
    ) -> Tensor:
        size = rest[0] if rest else kwargs["kernel_size"]
        places = int(name[-2])
        size = (size,) * places if isinstance(size, int) else tuple(size)
        out = func(_filled(x, mask, size * (places // len(size))), *rest, **kwargs)
        reach = func(mask.to(x.dtype), *rest, **kwargs) > 0
        return self._carry(out, reach)

    def _attend(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        key = args[1]
        out_mask = self.masks.get(args[0])
        if key in self.masks:
            valid = self.masks[key].any(-1).unsqueeze(-2)  # batch head 1 key
            given = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
            if given is not None and given.dtype != torch.bool:
                valid = given.masked_fill(~valid, -torch.inf)
            elif given is not None:
                valid = valid & given
            args = (*args[:3], valid, *args[4:])
            kwargs = {k: v for k, v in kwargs.items() if k != "attn_mask"}
        out = func(*args, **kwargs)
        if out_mask is None or out_mask.shape != out.shape:
            return out
        return self._carry(out, out_mask, zero=False)


def _filled(
    x: Float[Tensor, "batch feature ..."], mask: Tensor, size: tuple[int, ...]
) -> Float[Tensor, "batch feature ..."]:
    """Masked samples filled from valid neighbours, ring by ring, as often as the kernel is long."""
    if mask.all():
        return x
    places = len(size)
    shape = x.shape
    values = torch.where(mask, x, 0.0).flatten(0, 1)[:, None]
    known = mask.to(x.dtype).flatten(0, 1)[:, None]
    around = torch.ones(1, 1, *[3 if n > 1 else 1 for n in size]).to(x)
    convolve = CONVOLVE[f"conv{places}d"]
    padding = tuple(1 if n > 1 else 0 for n in size)
    for _ in range(max(size)):
        count = convolve(known, around, padding=padding)
        mean = convolve(values * known, around, padding=padding) / count.clamp(min=1)
        new = (known == 0) & (count > 0)
        if not new.any():
            break
        values = torch.where(new, mean, values)
        known = torch.where(new, 1.0, known)
    return values.reshape(shape)
