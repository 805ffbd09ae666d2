"""What in a window made the network say so: gradients, integrated gradients, occlusion.

Works on any function from a batch (or a plain tensor) to logits, such as
`lambda batch: readout(model.encode(batch))`. Positive values are evidence for the target. Put the
model in evaluation mode: with batch statistics one window would explain another. Weights, their
gradients and the batch are left as they are.

Source: Sundararajan et al. 2017 (integrated gradients); Zeiler & Fergus 2014 (occlusion).
Axes: batch channel time; band in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.bands import BANDS, remove_band
from neurofm.shapes import Float, Int

Inputs = TypeVar("Inputs", Batch, Tensor)
Function = Callable[[Any], Tensor]
Target = int | Tensor | None
AXES = ("batch", "channel", "time")


@dataclass(frozen=True)
class Attribution:
    """Evidence for a target, per window.

    Args:
        values: One axis per entry of `axes`, batch first; the unit is that of the logits.
        axes: Such as ("batch", "channel", "time").
        target: Class explained in each window.
        method: How it was computed.
        change: Logit of the window minus logit of the baseline, where the method defines it.
        delta: Sum of the values minus `change`: zero if nothing was lost (completeness).
        bands: Names along the band axis.
    """

    values: Float[Tensor, "batch ..."]
    axes: tuple[str, ...]
    target: Int[Tensor, " batch"]
    method: str
    change: Float[Tensor, " batch"] | None = None
    delta: Float[Tensor, " batch"] | None = None
    bands: tuple[str, ...] = ()

    @property
    def completeness_error(self) -> float | None:
        """Mean |delta| as a fraction of mean |change|."""
        if self.delta is None or self.change is None:
            return None
        scale = self.change.abs().mean().clamp(min=torch.finfo(self.change.dtype).tiny)
        return float(self.delta.abs().mean() / scale)

    def over(self, *axes: str, absolute: bool = False) -> Attribution:
        """Sum over some axes, such as "time"; of absolute values if asked for."""
        unknown = [axis for axis in axes if axis not in self.axes[1:]]
        if unknown:
            raise ValueError(f"Attribution: no axis {unknown[0]!r} among {self.axes[1:]}.")
        values = self.values.abs() if absolute else self.values
        if axes:
            values = values.sum([self.axes.index(axis) for axis in axes])
        kept = tuple(axis for axis in self.axes if axis not in axes)
        return replace(self, values=values, axes=kept, bands=self.bands if "band" in kept else ())

    def class_means(
        self, y: Int[Tensor, " batch"] | None = None, *, absolute: bool = False
    ) -> dict[int, np.ndarray]:
        """Mean over the windows of each class, class to array.

        Args:
            y: Class of each window; the explained target if not given.
            absolute: Average magnitudes instead of signed evidence.
        """
        y = self.target if y is None else y
        values = self.values.abs() if absolute else self.values
        values = values.detach().cpu().double()
        return {int(c): values[(y == c).cpu()].mean(0).numpy() for c in torch.unique(y)}


def gradient_x_input(function: Function, batch: Inputs, target: Target = None) -> Attribution:
    """Gradient of the target's logit times the input."""
    x = _inputs(batch)
    target = _targets(function, batch, target)
    gradient = _gradient(function, batch, x, target)
    return Attribution(gradient * x, AXES, target, "gradient x input")


def integrated_gradients(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 50,
    nodes: str = "gauss-legendre",
) -> Attribution:
    """Gradients averaged along the straight line from a baseline to the window, times its length.

    Args:
        baseline: Unit of the input; zero is "no signal" for band-passed recordings.
        steps: Points on the line; look at `completeness_error` to see whether they are enough.
        nodes: "gauss-legendre" or "midpoint".
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients: steps is {steps}, expected at least 1.")
    x = _inputs(batch)
    start = _baseline(baseline, x)
    target = _targets(function, batch, target)
    if nodes == "gauss-legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (points + 1) / 2, weights / 2
    elif nodes == "midpoint":
        points, weights = (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    else:
        raise ValueError(f"integrated_gradients: nodes={nodes!r}; gauss-legendre or midpoint.")
    total = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        gradient = _gradient(function, batch, start + float(point) * (x - start), target)
        total += float(weight) * gradient
    values = total * (x - start)
    with torch.no_grad():
        change = _score(function, batch, x, target) - _score(function, batch, start, target)
    delta = values.flatten(1).sum(1) - change
    return Attribution(values, AXES, target, "integrated gradients", change, delta)


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
    x = _inputs(batch)
    target = _targets(function, batch, target)
    filled = x.mean(-1, keepdim=True).expand_as(x) if how == "mean" else torch.zeros_like(x)
    columns = []
    with torch.no_grad():
        full = _score(function, batch, x, target)
        for away in _neighbourhoods(batch, x, position, radius_m):
            changed = torch.where(away[:, None], filled, x)
            other = batch
            if how == "mask":
                other = _without_channels(batch, away)
            columns.append(full - _score(function, other, changed, target))
    values = torch.stack(columns, dim=1)
    if isinstance(batch, Batch):
        values = torch.where(batch.channel_mask, values, 0.0)
    return Attribution(values, ("batch", "channel"), target, f"channel occlusion ({how})")


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
    x = _inputs(batch)
    target = _targets(function, batch, target)
    columns = []
    with torch.no_grad():
        full = _score(function, batch, x, target)
        for low, high in bands.values():
            without = remove_band(x, sfreq, float(low), float(high))
            if not per_channel:
                columns.append(full - _score(function, batch, without, target))
                continue
            falls = []
            for channel in range(x.shape[1]):
                changed = x.clone()
                changed[:, channel] = without[:, channel]
                falls.append(full - _score(function, batch, changed, target))
            columns.append(torch.stack(falls, dim=1))
    axes = ("batch", "channel", "band") if per_channel else ("batch", "band")
    return Attribution(
        torch.stack(columns, dim=-1), axes, target, "band occlusion", bands=tuple(bands)
    )


def occlude_time(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    length: int,
    stride: int | None = None,
    baseline: float | Tensor = 0.0,
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
    x = _inputs(batch)
    n = int(x.shape[-1])
    stride = length if stride is None else stride
    if not 1 <= length <= n or stride < 1:
        raise ValueError(f"occlude_time: length {length}, stride {stride} for {n} samples.")
    filled = _baseline(baseline, x)
    target = _targets(function, batch, target)
    starts = list(range(0, n - length + 1, stride))
    if starts[-1] + length < n:
        starts.append(starts[-1] + stride)  # the rest, shorter
    rows = [slice(i, i + 1) for i in range(x.shape[1])] if per_channel else [slice(None)]
    values = torch.zeros_like(x) if per_channel else torch.zeros_like(x[:, :1])
    counts = torch.zeros(n, device=x.device)
    with torch.no_grad():
        full = _score(function, batch, x, target)
        for start in starts:
            piece = slice(start, start + length)
            counts[piece] += 1
            for row, channel in enumerate(rows):
                changed = x.clone()
                changed[:, channel, piece] = filled[:, channel, piece]
                fall = full - _score(function, batch, changed, target)
                values[:, row, piece] += fall[:, None]
    values = values / counts.clamp(min=1)
    if per_channel:
        return Attribution(values, ("batch", "channel", "time"), target, "time occlusion")
    return Attribution(values[:, 0], ("batch", "time"), target, "time occlusion")


def lateralisation(
    values: Float[np.ndarray, " channel"],
    position: Float[np.ndarray, "channel 3"],
    *,
    names: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    midline_m: float = 0.01,
) -> float:
    """(right - left) / (right + left) of the mean magnitude: +1 all right, -1 all left.

    In the head frame x points to the right ear, so imagery of the left hand (right motor cortex)
    should be positive.

    Args:
        position: Metres, head frame; channels without one are left out.
        names: Of the channels, needed for `only`.
        only: Use these channels, such as those over the motor cortex.
        midline_m: Channels nearer to the midline belong to neither side. Metres.

    Raises:
        ValueError: No channel on one of the sides.
    """
    use = np.isfinite(position).all(1) & np.isfinite(values)
    if only is not None:
        use &= np.isin(np.asarray(names if names is not None else ()), list(only))
    left, right = use & (position[:, 0] < -midline_m), use & (position[:, 0] > midline_m)
    if not left.any() or not right.any():
        raise ValueError(
            f"lateralisation: {int(left.sum())} channels left and {int(right.sum())} right of the "
            "midline; both sides are needed. Are positions known, in metres, in the head frame?"
        )
    left_mean = float(np.abs(values[left]).mean())
    right_mean = float(np.abs(values[right]).mean())
    total = left_mean + right_mean
    return (right_mean - left_mean) / total if total > 0 else 0.0


def with_inputs(batch: Inputs, x: Tensor) -> Inputs:
    """The batch with other signals; tokens computed from the old ones are dropped."""
    if isinstance(batch, Batch):
        return replace(batch, x=x, tokens=None)
    return x


def target_score(
    function: Function, batch: Batch | Tensor, target: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The target's logit of each window."""
    logits = function(batch)
    if logits.ndim == 1:
        return logits
    return logits.gather(1, target.to(logits.device)[:, None])[:, 0]


def _inputs(batch: Batch | Tensor) -> Tensor:
    x = batch.x if isinstance(batch, Batch) else batch
    if x.ndim != 3:
        raise ValueError(
            f"attribution: input of shape {tuple(x.shape)}; batch channel time needed."
        )
    return x.detach()


def _without_channels(batch: Inputs, away: Tensor) -> Inputs:
    if not isinstance(batch, Batch):
        raise ValueError("occlude_channels: how='mask' needs a Batch, which has a channel_mask.")
    return replace(batch, channel_mask=batch.channel_mask & ~away)


def _targets(function: Function, batch: Inputs, target: Target) -> Int[Tensor, " batch"]:
    x = _inputs(batch)
    if target is None:
        with torch.no_grad():
            logits = function(with_inputs(batch, x))
        if logits.ndim == 1:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return logits.argmax(1)
    if isinstance(target, int):
        return torch.full((len(x),), target, dtype=torch.int64, device=x.device)
    if target.shape != (len(x),):
        raise ValueError(
            f"attribution: target of shape {tuple(target.shape)} for {len(x)} windows."
        )
    return target


def _score(function: Function, batch: Inputs, x: Tensor, target: Tensor) -> Tensor:
    return target_score(function, with_inputs(batch, x), target).detach()


def _gradient(function: Function, batch: Inputs, x: Tensor, target: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        score = target_score(function, with_inputs(batch, x), target)
        if not score.requires_grad:
            raise ValueError(
                "attribution: the logits do not depend differentiably on the input (a tokenizer "
                "without gradient, or torch.no_grad inside the function). Use occlusion."
            )
        (gradient,) = torch.autograd.grad(score.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "attribution: no gradient reaches the input: codes are chosen by a step without one. "
            "Use occlusion."
        )
    return gradient.detach()


def _baseline(baseline: float | Tensor, x: Tensor) -> Tensor:
    if isinstance(baseline, Tensor):
        return baseline.to(x).expand_as(x)
    return torch.full_like(x, float(baseline))


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
