"""One function for numpy and torch: it returns the kind it was given.

A function is written for one kind; its decorator turns the other kind's arguments before the call
and the arrays it returns after it (also inside tuples, lists and dicts). Arrays on the CPU share
their memory, so the turn costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def takes_either(function: Callable[P, R]) -> Callable[..., R]:
    """For a function of numpy arrays: tensors come in, tensors on the same device go out."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        device = _device((args, kwargs))
        if device is None:
            return function(*args, **kwargs)
        args, kwargs = _each((args, kwargs), Tensor, lambda x: x.detach().cpu().numpy())
        back = _each(function(*args, **kwargs), np.ndarray, torch.from_numpy)
        return _each(back, Tensor, lambda x: x.to(device))

    return called


def takes_either_by_torch(function: Callable[P, R]) -> Callable[..., R]:
    """For a function of tensors: arrays come in, arrays go out.

    For products large enough to be worth a GPU, which stay on the device of their tensors.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if _device((args, kwargs)) is not None:
            return function(*args, **kwargs)
        args, kwargs = _each((args, kwargs), np.ndarray, _tensor)
        return _each(function(*args, **kwargs), Tensor, lambda x: x.detach().numpy())

    return called


def require_finite(who: str, x: np.ndarray | Tensor, rows: str = "windows") -> None:
    """Raise if a value is NaN or infinite.

    Args:
        who: Begins the message.
        rows: What the first axis counts.
    """
    good = torch.isfinite(x) if isinstance(x, Tensor) else np.isfinite(x)
    if good.all():
        return
    at = np.argwhere(~np.asarray(good.cpu() if isinstance(good, Tensor) else good))
    raise ValueError(
        f"{who}: {len(np.unique(at[:, 0]))} of {len(x)} {rows} hold NaN or infinite values, first "
        f"at {at[0].tolist()}; leave them out, or repair them, first."
    )


def _tensor(x: np.ndarray) -> Tensor:
    # torch warns of arrays it could write to although it may not.
    x = np.ascontiguousarray(x)
    return torch.from_numpy(x if x.flags.writeable else x.copy())


def _device(value: Any) -> torch.device | None:
    """Of the first tensor, None if there is none."""
    if isinstance(value, Tensor):
        return value.device
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((d for d in map(_device, value) if d is not None), None)
    return None


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each(item, kind, change) for key, item in value.items()}
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(_each(item, kind, change) for item in value)
    return value
