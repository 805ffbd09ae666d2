"""Sums and copies over the processes of a distributed run; nothing happens in a single process."""

from __future__ import annotations

from torch import Tensor, distributed


def _running() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def all_reduce(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over processes."""
    if _running():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def broadcast(*tensors: Tensor) -> None:
    """Replace each tensor by the first process's."""
    if _running():
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)
