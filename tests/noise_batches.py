"""Batches of noise at electrodes, for tests of models."""

from __future__ import annotations

import torch

from neurofm.batch import Batch
from neurofm.units import Kind


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(x: torch.Tensor, sfreq: float = 64.0) -> Batch:
    n, channels, _ = x.shape
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG)),
        position=0.08 * torch.randn(channels, 3, generator=generator(2)).expand(n, -1, -1),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=10 * torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


def noise(n: int = 3, channels: int = 5, time: int = 192, sfreq: float = 64.0) -> Batch:
    return batch_of(20 * torch.randn(n, channels, time, generator=generator(1)), sfreq)
