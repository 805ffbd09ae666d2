"""Operations that exported graphs cannot hold, by others that they can, with the same result.

Fourier transforms become products with the matrices of the transform, complex numbers pairs of real
ones, the k-th value the k-th of all sorted. Decisions that depend on data (whether a mask is full,
which kinds there are) are made once and kept: an exported model has fixed channels.

Axes: last = time or frequency.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DECISIONS = {
    *(Tensor.__bool__, Tensor.item, Tensor.tolist, Tensor.__int__, Tensor.__float__),
    *(torch.unique, Tensor.unique, torch.nonzero, Tensor.nonzero),
}


class Pair:
    """Complex numbers as two tensors."""

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    @property
    def shape(self) -> torch.Size:
        """Of either part."""
        return self.real.shape

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func not in _PLAIN:
            raise ValueError(f"export: {func} of complex numbers has no plain form.")
        return _PLAIN[func](*args, **(kwargs or {}))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Pair:
        return Pair(change(self.real), change(self.imag))

    def __getitem__(self, at: Any) -> Pair:
        return self._each(lambda part: part[at])

    def __setitem__(self, at: Any, value: Pair) -> None:
        self.real[at], self.imag[at] = value.real, value.imag

    def __mul__(self, other: Any) -> Pair:
        if not isinstance(other, Pair):
            return self._each(lambda part: part * other)
        real = self.real * other.real - self.imag * other.imag
        return Pair(real, self.real * other.imag + self.imag * other.real)

    __rmul__ = __mul__

    def __getattr__(self, name: str) -> Any:
        # What moves axes does the same to both parts.
        if name not in {"clone", "unsqueeze", "transpose", "flatten", "unflatten", "expand", "to"}:
            raise AttributeError(f"Pair has no {name}: the model cannot be exported.")
        return lambda *args, **kwargs: self._each(lambda x: getattr(x, name)(*args, **kwargs))

    def abs(self) -> Tensor:
        """Magnitude."""
        return (self.real.square() + self.imag.square()).sqrt()

    def angle(self) -> Tensor:
        """Phase, radians."""
        return torch.atan2(self.imag, self.real)


def _rfft(x: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Pair:
    length = int(x.shape[dim])
    if n not in (None, length) or dim not in (-1, x.ndim - 1):
        raise ValueError("export: only transforms of whole last axes are replaced.")
    angle = 2 * np.pi * np.outer(np.arange(length), np.arange(length // 2 + 1)) / length
    scale = 1 / math.sqrt(length) if norm == "ortho" else 1.0
    return Pair(x @ _constant(np.cos(angle) * scale), x @ _constant(-np.sin(angle) * scale))


def _irfft(x: Pair, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    bins = int(x.shape[-1])
    n = 2 * (bins - 1) if n is None else int(n)
    if dim not in (-1, x.real.ndim - 1) or norm is not None or bins < n // 2 + 1:
        raise ValueError("export: only whole inverse transforms of last axes are replaced.")
    k = np.arange(n // 2 + 1)
    twice = np.where((k == 0) | (2 * k == n), 1.0, 2.0)[:, None] / n
    angle = 2 * np.pi * np.outer(k, np.arange(n)) / n
    x = x[..., : n // 2 + 1]
    return x.real @ _constant(twice * np.cos(angle)) - x.imag @ _constant(twice * np.sin(angle))


def _constant(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _renorm(x: Tensor, p: float | int, dim: int, maxnorm: float) -> Tensor:
    axes = [axis for axis in range(x.ndim) if axis != dim]
    size = x.abs().pow(p).sum(axes, keepdim=True).pow(1 / p)
    return torch.where(size > maxnorm, x * (maxnorm / (size + 1e-7)), x)


class _KthValue:
    def __init__(self, values: Tensor) -> None:
        self.values = values


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> _KthValue:
    return _KthValue(x.sort(dim).values.select(dim, k - 1))


def _nanmedian(x: Tensor, dim: int = -1, keepdim: bool = False) -> _KthValue:
    """The lower of two in the middle, as torch has it."""
    known = (~x.isnan()).sum(dim, keepdim=True)
    ordered = torch.where(x.isnan(), torch.inf, x).sort(dim).values
    middle = ordered.gather(dim, ((known - 1).clamp(min=0)) // 2)
    middle = torch.where(known > 0, middle, torch.nan)
    return _KthValue(middle if keepdim else middle.squeeze(dim))


def _view_as_complex(x: Tensor) -> Pair:
    return Pair(x[..., 0], x[..., 1])


def _view_as_real(x: Pair) -> Tensor:
    return torch.stack([x.real, x.imag], -1)


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * angle.cos(), size * angle.sin())


_PLAIN: dict[Any, Callable[..., Any]] = {
    torch.fft.rfft: _rfft,
    torch.fft.irfft: _irfft,
    torch.renorm: _renorm,
    Tensor.renorm: _renorm,
    torch.kthvalue: _kthvalue,
    Tensor.kthvalue: _kthvalue,
    torch.nanmedian: _nanmedian,
    Tensor.nanmedian: _nanmedian,
    torch.view_as_complex: _view_as_complex,
    torch.view_as_real: _view_as_real,
    torch.polar: _polar,
}


def _rows(x: Tensor, mask: Tensor) -> Tensor:
    """`x[mask]` of a full mask."""
    return x.flatten(0, mask.ndim - 1)


def _rows_put(x: Tensor, mask: Tensor, values: Tensor) -> Tensor:
    """`x.index_put((mask,), values)` of a full mask."""
    return values.reshape(x.shape)


_BY_MASK: dict[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _rows,
    Tensor.index_put: _rows_put,
}


class PlainOperations(TorchFunctionMode):
    """Replaces operations while a model is run or traced."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The replacement, where there is one."""
        found = _PLAIN.get(func)
        return (func if found is None else found)(*args, **(kwargs or {}))


class Decisions(TorchFunctionMode):
    """Keeps what a model reads off its tensors in one run, and answers the same in later ones.

    Args:
        answers: Of the first run, by the line of code that asked, in order; filled where `replay`
            is False. An exporter may leave out checks, and so their questions.
    """

    def __init__(self, answers: dict[str, list[Any]], *, replay: bool) -> None:
        super().__init__()
        self.answers, self.replay = answers, replay
        self._asked: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The answer of the first run, or what is computed."""
        if func in _BY_MASK:
            mask = args[1][0] if isinstance(args[1], tuple) and len(args[1]) == 1 else args[1]
            if isinstance(mask, Tensor) and mask.dtype == torch.bool:
                full = self._kept(Tensor.__bool__, (mask.all(),), {})
                return _BY_MASK[func](args[0], mask, *args[2:]) if full else func(*args)
        if func not in _DECISIONS:
            return func(*args, **(kwargs or {}))
        return self._kept(func, args, kwargs or {})

    def _kept(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = f"{_asking()} {getattr(func, '__name__', func)}"
        if not self.replay:
            answer = func(*args, **kwargs)
            self.answers.setdefault(place, []).append(answer)
            if func is Tensor.tolist:  # torch.export asks for the values one by one
                ones = self.answers.setdefault(f"{_asking()} item", [])
                ones.extend(args[0].flatten().tolist())
            return answer
        known = self.answers.get(place, [])
        if self._asked[place] >= len(known):
            if torch.jit.is_tracing():  # sizes are tensors to a trace, and are asked as well
                return func(*args, **kwargs)
            raise ValueError(f"export: the model decides otherwise on another window ({place}).")
        self._asked[place] += 1
        return known[self._asked[place] - 1]


def _asking() -> str:
    """File and line outside torch that asked a tensor."""
    frame = sys._getframe(2)
    while frame.f_back is not None and (
        f"{os.sep}torch{os.sep}" in frame.f_code.co_filename or frame.f_code.co_filename == __file__
    ):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
