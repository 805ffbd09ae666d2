"""Tokens of windows that a frozen tokenizer has already seen.

A frozen tokenizer gives the same tokens every epoch, and is most of the cost of a step on a CPU:
each window is tokenized once and its tokens are kept in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens


class TokenCache:
    """Adds tokens to batches, computing each window's only once.

    Args:
        tokenize: The frozen tokenizer.
        limit_gb: Windows beyond this much memory are tokenized anew each time.
    """

    def __init__(self, tokenize: Callable[[Batch], Tokens], *, limit_gb: float = 2.0) -> None:
        self.tokenize = tokenize
        self.limit = int(limit_gb * 1e9)
        self._kept: dict[tuple[int, float], Tokens] = {}
        self._bytes = 0

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `tokens` filled in."""
        keys = list(zip(batch.recording.tolist(), batch.onset.tolist(), strict=True))
        if not all(key in self._kept for key in keys):
            with torch.no_grad():
                tokens = self.tokenize(batch)
            for i, key in enumerate(keys):
                self._keep(key, _map(tokens, lambda t, i=i: t[i].cpu().clone()))  # type: ignore[misc]
            return replace(batch, tokens=tokens)
        rows = [self._kept[key] for key in keys]
        stacked = {
            item.name: torch.stack([getattr(row, item.name) for row in rows]).to(batch.x.device)
            for item in fields(Tokens)
            if getattr(rows[0], item.name) is not None
        }
        return replace(batch, tokens=Tokens(**stacked))

    def _keep(self, key: tuple[int, float], tokens: Tokens) -> None:
        size = sum(
            value.numel() * value.element_size()
            for item in fields(tokens)
            if (value := getattr(tokens, item.name)) is not None
        )
        if key not in self._kept and self._bytes + size <= self.limit:
            self._kept[key] = tokens
            self._bytes += size


def has_frozen_tokenizer(model: nn.Module) -> bool:
    """Whether the model's tokens of a window never change in training."""
    tokenizer = getattr(model, "tokenizer", None)
    return (
        isinstance(tokenizer, nn.Module)
        and hasattr(model, "tokenize")
        and not any(parameter.requires_grad for parameter in tokenizer.parameters())
    )


def _map(tokens: Tokens, function: Callable[[Tensor], Tensor]) -> Tokens:
    changed = {
        item.name: function(value)
        for item in fields(tokens)
        if (value := getattr(tokens, item.name)) is not None
    }
    return replace(tokens, **changed)
