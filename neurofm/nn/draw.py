"""Random tensors from an optional generator, wherever it lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from neurofm.nn.processes import place
from neurofm.shapes import Bool, Int


def draw(
    function: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Random tensor on `device`, drawn where the generator lives."""
    source = device if generator is None else generator.device
    return function(tuple(shape), generator=generator, device=source).to(device)


def draw_windows(
    function: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """The same for a shape whose first axis is the batch: a row for each window.

    Processes that start from one seed draw for the windows of all and take their own rows, so that
    a window's draw does not depend on how many processes there are.
    """
    (rank, world), n = place(), shape[0]
    drawn = draw(function, (n * world, *shape[1:]), generator, device)
    return drawn[rank * n : (rank + 1) * n]


def keep_channels(
    real: Bool[Tensor, "batch channel"], fraction: float, generator: torch.Generator | None
) -> Bool[Tensor, "batch channel"]:
    """Hide a fraction (at least one, never all) of each window's channels, one draw for all."""
    drawn = draw(torch.rand, real.shape[1:], generator, real.device)
    rank = torch.where(real, drawn, 2.0).argsort(1).argsort(1)
    count = real.sum(1, keepdim=True)
    hidden = (fraction * count).long().clamp(min=1).minimum(count - 1)
    return real & (rank >= hidden)


def shown_channels(
    count: int, fraction: float, generator: torch.Generator | None, device: torch.device
) -> Int[Tensor, " shown"]:
    """What `keep_channels` keeps where all channels are real: the same of every window."""
    hidden = min(max(int(fraction * count), 1), count - 1)
    drawn = draw(torch.rand, (count,), generator, device)
    return drawn.argsort()[hidden:].sort().values
