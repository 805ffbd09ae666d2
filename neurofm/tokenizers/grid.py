"""Tokens of tokenizers that look at each channel by itself: token = channel x places + place."""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.batch import Tokens
from neurofm.shapes import Bool, Float, Int
from neurofm.units import Kind


def channel_tokens(
    values: Float[Tensor, "batch channel place dim"],
    mask: Bool[Tensor, "batch channel"],
    time: Float[Tensor, " place"],
    codes: Int[Tensor, "batch channel place level"] | None = None,
) -> Tokens:
    """A grid of channels and places in time as tokens; those of padded channels are masked.

    Args:
        time: Seconds from the start of the window.
    """
    n, channels, places, _ = values.shape
    channel = torch.arange(channels, device=values.device).repeat_interleave(places)
    return Tokens(
        values=values.flatten(1, 2),
        mask=mask.repeat_interleave(places, 1),
        channel=channel.expand(n, -1),
        time=time.repeat(channels).expand(n, -1),
        codes=None if codes is None else codes.flatten(1, 2),
    )


def kind_rows(
    kind: Int[Tensor, "batch channel"], kinds: tuple[Kind, ...]
) -> Int[Tensor, "batch channel"]:
    """Number of each channel's kind among `kinds`; 0 for padding."""
    table = torch.zeros(len(Kind), dtype=torch.long, device=kind.device)
    for row, one in enumerate(kinds):
        table[int(one)] = row
    return table[kind.long().clamp(min=0)]
