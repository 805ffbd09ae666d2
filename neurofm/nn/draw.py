"""Random tensors from an optional generator, wherever it lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def draw(
    function: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Random tensor on `device`, drawn where the generator lives."""
    source = device if generator is None else generator.device
    return function(tuple(shape), generator=generator, device=source).to(device)
