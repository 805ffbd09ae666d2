"""Layers of MEG-GPT: the sum of embeddings, and decoder layers of channel and time attention.

Source: OHBA-analysis/MEG-GPT (MIT), arXiv 2510.18080. Deviation: channels may be fewer than the
model has room for, and padded ones are not attended to.
Axes: batch channel time dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.nn.patch_attention import PatchAttention, visible_patches
from neurofm.shapes import Bool, Float, Int

Norm = Literal["layer", "batch", "group"]
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
}


class Component(nn.Module):
    """A table of vectors, and a linear map to the embedding's size where that differs."""

    def __init__(self, n_rows: int, width: int, dim: int, *, start: Tensor | None = None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(n_rows, width) if start is None else start)
        self.project = nn.Identity() if width == dim else nn.Linear(width, dim)

    def no_decay(self) -> list[nn.Parameter]:
        """Parameters without weight decay."""
        return [self.table]

    def forward(self, index: Int[Tensor, "*axis"]) -> Float[Tensor, "*axis dim"]:
        """Rows of the table."""
        return self.project(self.table[index])


def sinusoidal(n: int, dim: int) -> Float[Tensor, "time dim"]:
    """Sines in even features and cosines in odd ones, of falling frequency."""
    rate = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    angle = torch.arange(n, dtype=torch.float32).unsqueeze(1) * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :dim]


class CodeEmbedding(nn.Module):
    """Sum of what a code, its time, its channel and the labels of its recording are worth.

    Args:
        position: "absolute": learned; "sinusoidal": fixed; "rope": none here, attention rotates.
        channel_dim: None: channels are not told apart.
        labels: Of a recording, each with `n_classes`, `label_dim`, and perhaps `init_weights`.
    """

    sines: Tensor

    def __init__(
        self,
        n_codes: int,
        dim: int,
        *,
        n_times: int,
        n_channels: int,
        token_dim: int,
        position_dim: int,
        channel_dim: int | None,
        position: Literal["absolute", "sinusoidal", "rope"],
        labels: Sequence[dict[str, Any]],
    ) -> None:
        super().__init__()
        self.token = Component(n_codes, token_dim, dim)
        nn.init.uniform_(self.token.table, -0.05, 0.05)
        self.position = self.channel = None
        if position == "absolute":
            self.position = Component(n_times, position_dim, dim)
            nn.init.xavier_uniform_(self.position.table)
        elif position == "sinusoidal":
            self.register_buffer("sines", sinusoidal(n_times, position_dim), persistent=False)
            same = position_dim == dim
            self.project_sines = nn.Identity() if same else nn.Linear(position_dim, dim)
        if channel_dim is not None:
            self.channel = Component(n_channels, channel_dim, dim)
            nn.init.xavier_uniform_(self.channel.table)
        self.labels = nn.ModuleList()
        for spec in labels:
            given = spec.get("init_weights")
            start = None if given is None else torch.as_tensor(given, dtype=torch.float32)
            label = Component(spec["n_classes"], spec["label_dim"], dim, start=start)
            if given is None:
                nn.init.uniform_(label.table, -0.05, 0.05)
            self.labels.append(label)

    def forward(
        self,
        codes: Int[Tensor, "batch channel time"],
        labels: Sequence[Int[Tensor, "batch label_time"] | None] | None = None,
    ) -> Float[Tensor, "batch channel time dim"]:
        """Embed codes; without `labels` nothing is said about the recording."""
        channels, times = codes.shape[1:]
        x = self.token(codes)
        if self.position is not None:
            x = x + self.position(torch.arange(times, device=x.device))
        elif hasattr(self, "project_sines"):
            x = x + self.project_sines(self.sines[:times])
        if self.channel is not None:
            x = x + self.channel(torch.arange(channels, device=x.device)).unsqueeze(1)
        for component, label in zip(self.labels, labels or (), strict=False):
            if label is not None:
                x = x + component(label[:, :times]).unsqueeze(1)
        return x


def norm(kind: Norm, dim: int, n_groups: int | None) -> nn.Module:
    """Normalization over features."""
    if kind == "layer":
        return nn.LayerNorm(dim)
    return _FlatNorm(BatchNorm1d(dim) if kind == "batch" else nn.GroupNorm(n_groups or 1, dim))


class _FlatNorm(nn.Module):
    """A norm that wants features second, over all other axes as one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return self.layer(x.flatten(0, -2)).view_as(x)


def feed_forward(dim: int, hidden: int, activation: str, dropout: float) -> nn.Sequential:
    """Linear, activation, linear, dropout."""
    if activation not in _ACTIVATIONS:
        raise ValueError(f"MegGPT: activation {activation!r} is not one of {[*_ACTIVATIONS]}.")
    act = _ACTIVATIONS[activation]()
    return nn.Sequential(nn.Linear(dim, hidden), act, nn.Linear(hidden, dim), nn.Dropout(dropout))


class ChannelDropout(nn.Module):
    """Zeroes whole channels of a window, in training mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p)

    def forward(
        self, x: Float[Tensor, "batch channel time dim"]
    ) -> Float[Tensor, "batch channel time dim"]:
        """Rescaled, so that the mean stays."""
        return x * self.dropout(x.new_ones(*x.shape[:2], 1, 1))


@dataclass(frozen=True)
class LayerShape:
    """What differs between layers.

    Args:
        n_patches: Patches of the input; with `patch` its length in samples.
        length_out: Samples that go on to the next layer.
        recent: Latest samples attended to uncompressed.
        band: See `nn.visible_patches`, also for `recent_band`.
        channels: Attend over channels first.
        cross: Let time attention's result attend to the channel branch's.
        channel_hidden: True = a channel (row) never looks at that channel (column).
    """

    n_patches: int
    patch: int
    length_out: int
    recent: int = 0
    band: int | None = None
    recent_band: int | None = None
    channels: bool = False
    cross: bool = False
    channel_hidden: Sequence[Sequence[bool]] | None = None

    @property
    def length_in(self) -> int:
        """Samples of the input."""
        return self.n_patches * self.patch

    def visible(self, length_out: int, *, recent: int = 0) -> Bool[Tensor, "query key"]:
        """Where time attention with so many queries may look."""
        return visible_patches(
            self.n_patches,
            self.patch,
            length_out,
            recent=recent,
            band=self.band,
            recent_band=self.recent_band,
        )


class ChannelBranch(nn.Module):
    """Attention over the channels of each sample, then a feed-forward network."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_channels: int,
        *,
        n_keys: int | None,
        hidden: Sequence[Sequence[bool]] | None,
        feed_forward_dim: int,
        activation: str,
        dropout: float,
        channel_dropout: float,
        norm_type: Norm,
        n_groups: int | None,
    ) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.attention_norm = norm(norm_type, dim, n_groups)
        self.project = None if n_keys is None else nn.Linear(n_channels, n_keys)
        visible = torch.ones(n_channels, n_keys or n_channels, dtype=torch.bool)
        if hidden is not None:
            visible = ~torch.as_tensor(hidden, dtype=torch.bool)
        self.attention = PatchAttention(dim, n_heads, patch=1, visible=visible)
        self.drop = nn.Sequential(ChannelDropout(channel_dropout), nn.Dropout(dropout))
        self.feedforward_norm = norm(norm_type, dim, n_groups)
        self.feedforward = feed_forward(dim, feed_forward_dim, activation, dropout)

    def forward(
        self,
        x: Float[Tensor, "batch channel time dim"],
        mask: Bool[Tensor, "batch channel"] | None,
        weight: float,
    ) -> Float[Tensor, "batch channel time dim"]:
        """Input plus `weight` times what is added to it."""
        batch, channels, times = x.shape[:3]
        y = self.attention_norm(x)
        rows = y.transpose(1, 2).flatten(0, 1)  # (batch time) channel dim
        keys, key_mask = rows, None
        if mask is not None:
            key_mask = mask.repeat_interleave(times, 0)
        if self.project is not None:
            if key_mask is not None:
                keys, key_mask = torch.where(key_mask.unsqueeze(-1), keys, 0), None
            keys = nn.functional.pad(keys, (0, 0, 0, self.n_channels - channels))
            keys = self.project(keys.transpose(1, 2)).transpose(1, 2)
        y = self.attention(rows, keys, key_mask=key_mask).unflatten(0, (batch, times))
        x = x + weight * self.drop(y.transpose(1, 2))
        return x + weight * self.feedforward(self.feedforward_norm(x))


class DecoderLayer(nn.Module):
    """Optional channel branch, attention to patches of the past, feed-forward network."""

    def __init__(
        self,
        shape: LayerShape,
        dim: int,
        n_heads: int,
        n_channels: int,
        *,
        n_channel_keys: int | None,
        feed_forward_dim: int,
        activation: str,
        dropout: float,
        time_channel_dropout: float,
        channel_dropout: float,
        norm_type: Norm,
        n_groups: int | None,
        rotary_base: float | None,
    ) -> None:
        super().__init__()
        self.length_out = shape.length_out
        self.channels = self.cross_attention = None
        if shape.channels:
            self.channels = ChannelBranch(
                dim,
                n_heads,
                n_channels,
                n_keys=n_channel_keys,
                hidden=shape.channel_hidden,
                feed_forward_dim=feed_forward_dim,
                activation=activation,
                dropout=dropout,
                channel_dropout=channel_dropout,
                norm_type=norm_type,
                n_groups=n_groups,
            )
        # With cross attention, it is what shortens the sequence.
        between = shape.length_in if shape.cross else shape.length_out
        self.length_between = between
        self.time_norm = norm(norm_type, dim, n_groups)
        self.time_attention = PatchAttention(
            dim,
            n_heads,
            patch=shape.patch,
            visible=shape.visible(between, recent=shape.recent),
            recent=shape.recent,
            rotary_base=rotary_base,
        )
        self.drop = nn.Sequential(ChannelDropout(time_channel_dropout), nn.Dropout(dropout))
        if shape.channels and shape.cross:
            self.cross_attention = PatchAttention(
                dim, n_heads, patch=shape.patch, visible=shape.visible(shape.length_out)
            )
        self.feedforward_norm = norm(norm_type, dim, n_groups)
        self.feedforward = feed_forward(dim, feed_forward_dim, activation, dropout)

    def forward(
        self,
        x: Float[Tensor, "batch channel time dim"],
        mask: Bool[Tensor, "batch channel"] | None = None,
        channel_weight: float = 1.0,
    ) -> Float[Tensor, "batch channel step dim"]:
        """The last `length_out` samples.

        Args:
            mask: True = a real channel; None: all are.
            channel_weight: Of what the channel branch adds.
        """
        channels = x if self.channels is None else self.channels(x, mask, channel_weight)
        if self.cross_attention is None:
            x = channels
        y = self.time_norm(x).flatten(0, 1)  # (batch channel) time dim
        y = self.time_attention(y[:, -self.length_between :], y)
        x = x[:, :, -self.length_between :] + self.drop(y.unflatten(0, x.shape[:2]))
        if self.cross_attention is not None:
            x = x[:, :, -self.length_out :]
            y = self.cross_attention(x.flatten(0, 1), channels.flatten(0, 1))
            x = x + y.unflatten(0, x.shape[:2])
        return x + self.feedforward(self.feedforward_norm(x))


def layer_shapes(lists: dict[str, Sequence[Any]], length: int, predicted: int) -> list[LayerShape]:
    """Layers that fit onto each other.

    Raises:
        ValueError: Lists of different lengths, or a layer whose input is not the output before it.
    """
    depths = {name: len(values) for name, values in lists.items()}
    if len(set(depths.values())) > 1:
        raise ValueError(f"MegGPT: lists for different numbers of layers: {depths}.")
    shapes = [
        LayerShape(**dict(zip(lists, values, strict=True)))
        for values in zip(*lists.values(), strict=True)
    ]
    for i, shape in enumerate(shapes):
        if shape.length_in != length or not 0 < shape.length_out <= length:
            raise ValueError(
                f"MegGPT: layer {i} takes {shape.length_in} samples and gives {shape.length_out}, "
                f"but is given {length}. Make n_patches x patch_len of its input equal to that of "
                "the output before it."
            )
        if shape.cross and not shape.channels:
            raise ValueError(f"MegGPT: layer {i}: cross attention needs channel attention.")
        length = shape.length_out
    if not 0 < predicted <= length:
        raise ValueError(
            f"MegGPT: loss_sequence_length is {predicted}, the last layer gives {length} samples."
        )
    return shapes
