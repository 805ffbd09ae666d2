"""How much a logit falls when channels, pieces of time or frequency bands are taken away.

Needs no gradient, so it also works for tokenizers that choose codes.

Source: Zeiler & Fergus 2014.
Axes: batch channel time; band in the order given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import (
    Attribution,
    Function,
    Inputs,
    Target,
    baseline_of,
    score_of,
    sensing_of,
    signals_of,
    targets_of,
)
from neurofm.interpret.bands import BANDS, remove_band
from neurofm.shapes import Float


def occlude_channels(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    how: str = "zero",
    position: Float[np.ndarray, "channel 3"] | None = None,
    radius_m: float = 0.0,
) -> Attribution:
    """How much the target's logit falls when a channel is taken away.

    Neighbouring electrodes record nearly the same, so taking one away may change little: with
    `radius_m` all channels that near are taken away together, and the value is the centre's.

    Args:
        how: Replace by "zero", by the channel's "mean" over time, or leave it out through
            `channel_mask` ("mask": for a Batch and models that accept any set of channels).
        position: Metres; those of the first window of a Batch if not given.
        radius_m: Metres; 0 for single channels.
    """
    if how not in ("zero", "mean", "mask"):
        raise ValueError(f"occlude_channels: how={how!r} is not one of zero, mean, mask.")
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    filled = x.mean(-1, keepdim=True).expand_as(x) if how == "mean" else torch.zeros_like(x)
    columns = []
    with torch.no_grad():
        full = score_of(function, batch, x, target)
        for away in _neighbourhoods(batch, x, position, radius_m):
            changed = torch.where(away[:, None], filled, x)
            other = batch
            if how == "mask":
                other = _without_channels(batch, away)
            columns.append(full - score_of(function, other, changed, target))
    values = torch.stack(columns, dim=1)
    if isinstance(batch, Batch):
        values = torch.where(batch.channel_mask, values, 0.0)
    axes, method = ("batch", "channel"), f"channel occlusion ({how})"
    return Attribution(values, axes, target, method, sensors=sensing_of(batch))


def occlude_bands(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    bands: Mapping[str, tuple[float, float]] = BANDS,
    sfreq: float | None = None,
    per_channel: bool = False,
) -> Attribution:
    """How much the target's logit falls when a frequency band is taken away.

    Args:
        bands: Name to lower and upper edge, Hz; removed without phase shift, see `remove_band`.
        sfreq: Hz; the Batch's own if not given.
        per_channel: Remove it from one channel at a time (channels × bands passes) instead of from
            all: values are then batch × channel × band.
    """
    if sfreq is None:
        if not isinstance(batch, Batch):
            raise ValueError("occlude_bands: a plain tensor has no sampling rate; give sfreq.")
        sfreq = batch.sfreq
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    columns = []
    with torch.no_grad():
        full = score_of(function, batch, x, target)
        for low, high in bands.values():
            without = remove_band(x, sfreq, float(low), float(high))
            if not per_channel:
                columns.append(full - score_of(function, batch, without, target))
                continue
            falls = []
            for channel in range(x.shape[1]):
                changed = x.clone()
                changed[:, channel] = without[:, channel]
                falls.append(full - score_of(function, batch, changed, target))
            columns.append(torch.stack(falls, dim=1))
    axes = ("batch", "channel", "band") if per_channel else ("batch", "band")
    return Attribution(
        torch.stack(columns, dim=-1),
        axes,
        target,
        "band occlusion",
        bands=tuple(bands),
        sensors=sensing_of(batch),
    )


def occlude_time(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    length: int,
    stride: int | None = None,
    baseline: float | int | Tensor = 0.0,
    per_channel: bool = False,
) -> Attribution:
    """How much the target's logit falls when a piece of the window is replaced.

    Args:
        length: Samples replaced at a time.
        stride: Samples between pieces; `length` if not given. Overlapping pieces are averaged.
        baseline: Unit of the input.
        per_channel: Replace it in one channel at a time.

    Returns:
        Each sample carries the fall of its piece: batch × time, or batch × channel × time.
    """
    channels = 1 if per_channel else signals_of(batch).shape[1]
    found = occlude(
        function, batch, target, size=(channels, length), stride=(1, stride), baseline=baseline
    )
    found = replace(found, method="time occlusion")
    if per_channel:
        return found
    return replace(found, values=found.values[:, 0], axes=("batch", "time"))


def occlude(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    size: tuple[int, int],
    stride: tuple[int, int | None] | None = None,
    baseline: float | int | Tensor = 0.0,
) -> Attribution:
    """How much the target's logit falls when a block of channels and times is replaced.

    Args:
        size: Channels (in the order of the input) and samples of a block.
        stride: Between blocks; their size if not given. Overlapping blocks are averaged; a rest at
            the end is a smaller block.
        baseline: Unit of the input.

    Returns:
        Each sample carries the fall of its block.
    """
    x = signals_of(batch)
    height, length = size
    down, along = stride or size
    along = length if along is None else along
    n, times = int(x.shape[1]), int(x.shape[2])
    if not (1 <= length <= times and 1 <= height <= n) or along < 1 or down < 1:
        raise ValueError(
            f"occlude: blocks of {height} channels and length {length}, stride {down} and {along}, "
            f"for {n} channels of {times} samples."
        )
    filled = baseline_of(baseline, x)
    target = targets_of(function, batch, target)
    values = torch.zeros_like(x)
    counts = torch.zeros(n, times, device=x.device, dtype=x.dtype)
    with torch.no_grad():
        full = score_of(function, batch, x, target)
        for top in _starts(n, height, down):
            for start in _starts(times, length, along):
                block = (slice(None), slice(top, top + height), slice(start, start + length))
                changed = x.clone()
                changed[block] = filled[block]
                fall = full - score_of(function, batch, changed, target)
                values[block] += fall[:, None, None]
                counts[block[1:]] += 1
    values = values / counts.clamp(min=1)
    axes = ("batch", "channel", "time")
    return Attribution(values, axes, target, "occlusion", sensors=sensing_of(batch))


def _starts(n: int, size: int, stride: int) -> list[int]:
    starts = list(range(0, n - size + 1, stride))
    if starts[-1] + size < n:
        starts.append(starts[-1] + stride)  # the rest, smaller
    return starts


def _without_channels(batch: Inputs, away: Tensor) -> Inputs:
    if not isinstance(batch, Batch):
        raise ValueError("occlude_channels: how='mask' needs a Batch, which has a channel_mask.")
    return replace(batch, channel_mask=batch.channel_mask & ~away)


def _neighbourhoods(
    batch: Inputs, x: Tensor, position: np.ndarray | None, radius_m: float
) -> list[Tensor]:
    """For each channel, the channels that go with it: bool, channel."""
    n = x.shape[1]
    if radius_m <= 0:
        return list(torch.eye(n, dtype=torch.bool, device=x.device))
    if position is None:
        if not isinstance(batch, Batch):
            raise ValueError("occlude_channels: radius_m needs position for a plain tensor.")
        place = batch.position[0].double()
        known = batch.has_position[0]
    else:
        place = torch.as_tensor(position, dtype=torch.float64, device=x.device)
        known = torch.isfinite(place).all(1)
        place = torch.nan_to_num(place)
    near = (torch.cdist(place, place) <= radius_m) & known[:, None] & known[None]
    return list(near | torch.eye(n, dtype=torch.bool, device=x.device))
