"""From any set of sensors to a fixed set of latent sources and back, by attention.

Source: OpenTSLab/BrainOmni (MIT), arXiv 2505.18185.
Axes: batch channel step dim; source = latent channel.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurofm.nn.linear import Linear
from neurofm.nn.transformer import FeedForward, RMSNorm, attend
from neurofm.shapes import Bool, Float, Int


class SensorEncoder(nn.Module):
    """What a sensor is and where: geometry and type to features."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.geometry = nn.Sequential(Linear(6, dim // 2), nn.SELU(), Linear(dim // 2, dim))
        self.kind = nn.Embedding(3, dim)
        self.feedforward = FeedForward(dim, dropout)
        self.norm = RMSNorm(dim)

    def spread(self) -> None:
        """Draw linear maps wide enough that sensors far apart start with different features."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                # Normalized positions are about half a unit from their centre: drawn wider.
                gain = 3 if layer is self.geometry[0] else 1
                nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)

    def forward(
        self, pos: Float[Tensor, "batch channel 6"], sensor_type: Int[Tensor, "batch channel"]
    ) -> Float[Tensor, "batch channel dim"]:
        """One vector per sensor."""
        x = self.geometry(pos) + self.kind(sensor_type)
        return self.norm(x + self.feedforward(x))


class ChannelCompression(nn.Module):
    """Attention of learned sources over the channels, apart for every step."""

    def __init__(self, dim: int, heads: int, n_sources: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.sources = nn.Parameter(torch.randn(n_sources, dim))
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.out = Linear(dim, dim)

    def sharpen(self) -> None:
        """Draw linear maps so that every source starts by attending to channels of its own."""
        std = self.key.in_features**-0.5
        nn.init.normal_(self.key.weight, std=8 * std)
        nn.init.normal_(self.value.weight, std=std)
        nn.init.normal_(self.out.weight, std=std)

    def forward(
        self,
        x: Float[Tensor, "batch channel step dim"],
        sensors: Float[Tensor, "batch channel dim"],
        mask: Bool[Tensor, "batch channel"] | None,
    ) -> Float[Tensor, "batch source step dim"]:
        """Sources at every step; channels where `mask` is False take no part."""
        batch, _, steps, _ = x.shape
        key = self.key(x + sensors.unsqueeze(2)).transpose(1, 2).flatten(0, 1)
        value = self.value(x).transpose(1, 2).flatten(0, 1)
        query = self.sources.to(key.dtype).expand(batch * steps, -1, -1)
        if mask is not None:
            mask = mask.repeat_interleave(steps, 0)
        dropout = self.dropout if self.training else 0.0
        out = attend(query, key, value, heads=self.heads, mask=mask, dropout=dropout)
        return self.out(out).unflatten(0, (batch, steps)).transpose(1, 2)


class ChannelExpansion(nn.Module):
    """Attention of sensors over the sources, apart for every step."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.key_value = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def sharpen(self) -> None:
        """Draw linear maps for sources of unit length, so that sensors attend to few of them."""
        dim = self.out.in_features
        nn.init.normal_(self.key_value.weight[:dim], std=0.25 * dim**0.5)
        nn.init.normal_(self.key_value.weight[dim:], std=dim**0.5)
        nn.init.normal_(self.out.weight, std=dim**-0.5)

    def forward(
        self,
        sources: Float[Tensor, "batch source step dim"],
        sensors: Float[Tensor, "batch channel dim"],
    ) -> Float[Tensor, "batch channel step dim"]:
        """Features of each sensor at every step."""
        batch, _, steps, _ = sources.shape
        key, value = self.key_value(sources.transpose(1, 2).flatten(0, 1)).chunk(2, -1)
        query = sensors.repeat_interleave(steps, 0)
        dropout = self.dropout if self.training else 0.0
        out = attend(query.to(key.dtype), key, value, heads=self.heads, dropout=dropout)
        return self.out(out).unflatten(0, (batch, steps)).transpose(1, 2)
