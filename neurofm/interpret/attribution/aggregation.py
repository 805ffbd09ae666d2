"""Attributions over sensors, time and frequency: by band, by region, in bins of time.

Where an attribution is the input's difference from a baseline times a coefficient (gradient x
input, integrated gradients, relevance), it splits exactly among parts of that difference: each band
gets the coefficient times its part of the signal, and the parts add up to the whole.

Axes: batch channel band time; region in place of channel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import Attribution, baseline_of, signals_of
from neurofm.interpret.bands import BANDS, remove_band

REST = "rest"  # what is in no band: the mean, and frequencies outside


def by_band(
    attribution: Attribution,
    batch: Batch | Tensor,
    *,
    bands: Mapping[str, tuple[float | int, float | int]] = BANDS,
    sfreq: float | int | None = None,
    baseline: float | int | Tensor = 0.0,
) -> Attribution:
    """Split an attribution among frequency bands.

    Args:
        batch: The windows that were explained.
        bands: Name to lower and upper edge, Hz, without overlap; what is left is "rest".
        sfreq: Hz; the Batch's own if not given.
        baseline: As it was given to the method.
    """
    if attribution.coefficient is None:
        raise ValueError(
            f"by_band: {attribution.method} is not a product with the input, so it has no share by "
            "band. Use gradient x input, integrated gradients or relevance, or occlude_bands."
        )
    if sfreq is None:
        if not isinstance(batch, Batch):
            raise ValueError("by_band: a plain tensor has no sampling rate; give sfreq.")
        sfreq = batch.sfreq
    edges = sorted(bands.values())
    if any(low < high for (_, high), (low, _) in itertools.pairwise(edges)):
        raise ValueError(f"by_band: bands overlap: {dict(bands)}. They must share out the signal.")
    x = signals_of(batch)
    rest = x - baseline_of(baseline, x)
    parts = []
    for low, high in bands.values():
        without = remove_band(rest, float(sfreq), float(low), float(high))
        parts.append(rest - without)
        rest = without
    parts.append(rest)
    values = torch.stack([attribution.coefficient * part for part in parts], dim=2)
    axes = ("batch", "channel", "band", "time")
    return replace(attribution, values=values, axes=axes, bands=(*bands, REST), coefficient=None)


def by_region(
    attribution: Attribution, regions: Mapping[str, Sequence[str] | Sequence[int]]
) -> Attribution:
    """Sum over the channels of each region.

    Args:
        regions: Name to channels, by index or (where the Batch named them) by name.
    """
    axis = attribution.axes.index("channel") if "channel" in attribution.axes else -1
    if axis < 0:
        raise ValueError(f"by_region: needs a channel axis, got {attribution.axes}.")
    names = attribution.sensors.names if attribution.sensors is not None else ()
    n = attribution.values.shape[axis]
    sums = []
    for region, channels in regions.items():
        unknown = [c for c in channels if (c not in names if isinstance(c, str) else c >= n)]
        if unknown or not len(channels):
            what = f"no channel {unknown[0]!r}" if unknown else "no channels"
            raise ValueError(f"by_region: {what} for {region!r} among {names or n}.")
        index = [names.index(c) if isinstance(c, str) else int(c) for c in channels]
        picked = attribution.values.index_select(
            axis, torch.tensor(index, device=attribution.values.device)
        )
        sums.append(picked.sum(axis))
    axes = tuple("region" if a == "channel" else a for a in attribution.axes)
    return replace(
        attribution,
        values=torch.stack(sums, dim=axis),
        axes=axes,
        regions=tuple(regions),
        coefficient=None,
        sensors=None,
    )


def in_bins(attribution: Attribution, length: int) -> Attribution:
    """Sum over pieces of `length` samples; a shorter rest at the end is a piece of its own."""
    if "time" not in attribution.axes or length < 1:
        raise ValueError(f"in_bins: length {length}, axes {attribution.axes}; needs a time axis.")
    axis = attribution.axes.index("time")
    pieces = attribution.values.split(length, dim=axis)
    sensors = attribution.sensors
    if sensors is not None:
        sensors = replace(sensors, sfreq=sensors.sfreq / length)
    return replace(
        attribution,
        values=torch.stack([piece.sum(axis) for piece in pieces], dim=axis),
        coefficient=None,
        sensors=sensors,
    )
