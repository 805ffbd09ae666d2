"""Sums, copies and draws over the processes of a distributed run; one process is left as it is.

A step of several processes is that of one process with all their windows: each holds a consecutive
part of the batch, its rows (batch first) are a consecutive part of all rows, and what is random is
drawn for all. Gradients are averaged over processes: a loss over a varying number of items (hidden
tokens, say) goes through `batch_mean`, so that this average is the gradient of the whole batch.
Axes: row = one vector of this process; rows are numbered over all processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from neurofm.shapes import Float, Int


def running() -> bool:
    """Whether this is one of the processes of a distributed run."""
    return distributed.is_available() and distributed.is_initialized()


def place() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if running() else (0, 1)


def all_reduce(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over processes."""
    if running():
        for tensor in tensors:
            distributed.all_reduce(tensor)


def broadcast(*tensors: Tensor) -> None:
    """Replace each tensor by the first process's."""
    if running():
        for tensor in tensors:
            distributed.broadcast(tensor, src=0)


def batch_mean(value: Tensor, count: int | Tensor) -> Tensor:
    """Mean over the items of all processes, from the mean over the `count` items of this one.

    Each process has the gradient of its own part, scaled so that the average over processes is
    that of the whole mean, also where one has more items than another.
    """
    world = place()[1]
    if world == 1:
        return value
    count = torch.as_tensor(count, dtype=value.dtype, device=value.device)
    packed = torch.cat([(value.detach() * count).flatten(), count.view(1)])
    all_reduce(packed)
    total = packed[-1].clamp(min=1)
    own = value * (world * count / total)
    return own + ((packed[:-1] / total).view_as(value) - own.detach())


def average(values: Tensor) -> Tensor:
    """Mean over processes, without gradient."""
    mean = values.detach().clone()
    all_reduce(mean)
    return mean / place()[1]


def gather(values: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, one behind the other."""
    values, world = values.unsqueeze(0).contiguous(), place()[1]
    if world == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world)]
    distributed.all_gather(parts, values)
    return torch.cat(parts)


def mean_rows(rows: Float[Tensor, "row ..."]) -> Tensor:
    """Mean over the rows of all processes, without gradient."""
    if place()[1] == 1:
        return rows.detach().mean(0)
    total, count = rows.detach().sum(0), torch.tensor(float(len(rows)), device=rows.device)
    all_reduce(total, count)
    return total / count


def count_rows(rows: Tensor) -> tuple[int, int]:
    """Rows of the processes before this one, and of all."""
    if place()[1] == 1:
        return 0, len(rows)
    rank, world = place()
    counts = torch.zeros(world, dtype=torch.int64, device=rows.device)
    counts[rank] = len(rows)
    all_reduce(counts)
    numbers = counts.tolist()
    return sum(numbers[:rank]), sum(numbers)


def take_rows(
    rows: Float[Tensor, "row dim"], index: Int[Tensor, " item"], *, before: int
) -> Float[Tensor, "item dim"]:
    """Rows by number, the same on every process; the first process's numbers count."""
    index = index.to(rows.device)
    if place()[1] == 1:
        return rows[index]
    broadcast(index)
    mine = (index >= before) & (index < before + len(rows))
    taken = rows.new_zeros(len(index), *rows.shape[1:])
    taken[mine] = rows[index[mine] - before]
    all_reduce(taken)
    return taken


def draw_numbers(
    total: int, n: int, generator: torch.Generator | None, device: torch.device
) -> Int[Tensor, " item"]:
    """`n` of the numbers below `total`, distinct if there are enough."""
    device = device if generator is None else generator.device
    if total >= n:
        return torch.randperm(total, generator=generator, device=device)[:n]
    return torch.randint(total, (n,), generator=generator, device=device)


def draw_rows(
    rows: Float[Tensor, "row dim"], n: int, generator: torch.Generator | None = None
) -> Float[Tensor, "item dim"]:
    """`n` random rows of all processes, distinct if there are enough; the same on every process."""
    before, total = count_rows(rows)
    return take_rows(rows, draw_numbers(total, n, generator, rows.device), before=before)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, before: int, total: int) -> Tensor:
        ctx.before, ctx.n = before, len(rows)
        gathered = rows.new_zeros(total, *rows.shape[1:])
        gathered[before : before + len(rows)] = rows
        all_reduce(gathered)
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.contiguous().clone()
        all_reduce(grad)
        return grad[ctx.before : ctx.before + ctx.n], None, None


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in order; gradients come back from all of them."""
    if place()[1] == 1:
        return rows
    return _Gather.apply(rows, *count_rows(rows))
