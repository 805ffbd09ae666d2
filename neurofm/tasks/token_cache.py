"""Tokens of windows that a frozen tokenizer has already seen.

A frozen tokenizer gives the same tokens every epoch, and is most of the cost of a step on a CPU:
each window is tokenized once and its tokens are kept in memory. A window is known by its recording
and onset, so a cache belongs to one data module, and signals that were changed (occluded, say) must
not pass through it. Tokens that are made once for many runs are kept on disk: `neurofm tokenize`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens


class TokenCache:
    """Adds tokens to batches, computing each window's only once.

    Windows are tokenized one at a time, so that what is kept depends neither on the batch in which
    a window came first nor on padding there: a resumed run finds the same tokens. Once the memory
    is used up, other windows are tokenized batch by batch.

    Args:
        tokenize: The frozen tokenizer.
        limit_gb: Windows beyond this much memory are tokenized anew each time.
    """

    def __init__(self, tokenize: Callable[[Batch], Tokens], *, limit_gb: float = 2.0) -> None:
        self.tokenize = tokenize
        self.limit = int(limit_gb * 1e9)
        self.bytes = 0
        self._kept: dict[tuple[int, float], Tokens] = {}
        self._full = False

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything: other data follow, whose recordings have the same numbers."""
        self._kept, self.bytes, self._full = {}, 0, False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `tokens` filled in."""
        keys = list(zip(batch.recording.tolist(), batch.onset.tolist(), strict=True))
        with torch.no_grad():
            for i, key in enumerate(keys):
                if key not in self._kept and not self._full:
                    self._keep(key, self.tokenize(_window(batch, i)).to("cpu"))
            if not all(key in self._kept for key in keys):
                return replace(batch, tokens=self.tokenize(batch))
        return replace(batch, tokens=_stack([self._kept[key] for key in keys]).to(batch.x.device))

    def _keep(self, key: tuple[int, float], tokens: Tokens) -> None:
        values = [getattr(tokens, item.name) for item in fields(tokens)]
        size = sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))
        if self.bytes + size > self.limit:
            self._full = True
            return
        self._kept[key] = tokens
        self.bytes += size


def has_frozen_tokenizer(model: nn.Module) -> bool:
    """Whether the model's tokens of a window never change in training."""
    tokenizer = getattr(model, "tokenizer", None)
    return (
        isinstance(tokenizer, nn.Module)
        and hasattr(model, "tokenize")
        and not any(parameter.requires_grad for parameter in tokenizer.parameters())
    )


def _window(batch: Batch, i: int) -> Batch:
    """One window of a batch, without the channels that are padding in it."""
    real = batch.channel_mask[i]
    return replace(
        batch,
        x=batch.x[i : i + 1, real],
        channel_mask=batch.channel_mask[i : i + 1, real],
        kind=batch.kind[i : i + 1, real],
        position=batch.position[i : i + 1, real],
        orientation=batch.orientation[i : i + 1, real],
        has_position=batch.has_position[i : i + 1, real],
        onset=batch.onset[i : i + 1],
        subject=batch.subject[i : i + 1],
        recording=batch.recording[i : i + 1],
        y=None if batch.y is None else batch.y[i : i + 1],
    )


def _stack(rows: list[Tokens]) -> Tokens:
    """Tokens of single windows as those of a batch, padded to the largest number."""
    count = max(row.mask.shape[1] for row in rows)

    def stack(name: str, padding: int = 0) -> Tensor:
        parts = []
        for row in rows:
            value = getattr(row, name)
            missing = count - value.shape[1]
            if missing:
                extra = value.new_full((1, missing, *value.shape[2:]), padding)
                value = torch.cat([value, extra], dim=1)
            parts.append(value)
        return torch.cat(parts)

    return Tokens(
        values=stack("values"),
        mask=stack("mask"),
        channel=stack("channel", -1),
        time=stack("time"),
        codes=None if rows[0].codes is None else stack("codes"),
    )
