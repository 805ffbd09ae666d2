"""Stop a run whose loss is no number, and say which windows it came from.

On an accelerator the answer of a step is read in the next one, while that is computed: waiting for
it at once would leave the device idle in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neurofm.batch import Batch, Contexts, Pairs
from neurofm.nn.processes import all_reduce

NAMED = 3  # windows listed in a message


@dataclass(frozen=True)
class _Step:
    number: int
    batch: Batch | Pairs | Contexts
    bad: Tensor
    arrived: Any


class Guard:
    """Watches the losses of a run.

    Args:
        fail: Called with the number of the step and its batch; raises.
    """

    def __init__(self, fail: Callable[[int, Any], None]) -> None:
        self._fail = fail
        self._open: _Step | None = None

    def watch(self, loss: Tensor, batch: Batch | Pairs | Contexts, step: int) -> None:
        """Note the loss of a step, and fail for it or, on an accelerator, for the one before."""
        bad = loss.detach().isfinite().logical_not().float()
        all_reduce(bad)
        if not loss.is_cuda:
            self._judge(_Step(step, batch, bad, None))
            return
        before = self._open
        host = torch.empty((), pin_memory=True)
        host.copy_(bad, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._open = _Step(step, batch, host, arrived)
        if before is not None:
            self._judge(before)

    def close(self) -> None:
        """Wait for the last answer; fail if it is bad."""
        last, self._open = self._open, None
        if last is not None:
            self._judge(last)

    def _judge(self, step: _Step) -> None:
        if step.arrived is not None:
            step.arrived.synchronize()
        if float(step.bad):
            self._open = None
            self._fail(step.number, step.batch)


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that hold NaN or infinite values."""
    names = [name for name, value in state.items() if value.is_floating_point()]
    if not names:
        return []
    good = torch.stack([state[name].isfinite().all().cpu() for name in names])
    return [name for name, fine in zip(names, good.tolist(), strict=True) if not fine]


def windows_of(batch: Batch, data: Any, *, damaged: bool) -> list[str]:
    """Recording and onset of the windows of a batch, or of those with NaN or infinite samples."""
    chosen = torch.arange(len(batch))
    if damaged:
        bad = ~batch.x.isfinite().all(-1) & batch.channel_mask
        chosen = bad.any(1).nonzero().flatten().cpu()
    entries = getattr(getattr(data, "windows", None), "entries", None)
    names = []
    for i in chosen.tolist():
        number = int(batch.recording[i])
        name = f"recording {number}" if entries is None else entries[number].recording.id
        names.append(f"{name} at {float(batch.onset[i]):g} s")
    return names


def damaged_pairs(batch: Pairs) -> list[str]:
    """Stimulus and person of the pairs with NaN or infinite values."""
    finite = batch.stimulus.isfinite().flatten(1).all(1)
    mask = batch.mask.view(*batch.mask.shape, *[1] * (batch.y.ndim - 2))
    finite &= (batch.y.isfinite() | ~mask).flatten(1).all(1)
    pairs = zip(batch.index[~finite].tolist(), batch.subject[~finite].tolist(), strict=True)
    return [f"stimulus {index} of person {person}" for index, person in pairs]


def some(names: list[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
