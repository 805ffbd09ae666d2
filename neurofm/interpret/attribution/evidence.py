"""What all attributions share: the result, and how functions are asked for logits and gradients.

A function turns a batch (or a plain tensor, batch channel time) into logits, such as
`lambda batch: readout(model.encode(batch))`. Put the model in evaluation mode: with batch
statistics one window would explain another. Weights, their gradients and the batch stay as they
are.

Axes: batch channel time; band in the order given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.arrays import require_finite
from neurofm.shapes import Float, Int

Inputs = TypeVar("Inputs", Batch, Tensor)
Function = Callable[[Any], Tensor]
Target = int | Tensor | None
AXES = ("batch", "channel", "time")


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Sensing:
    """Where and when the signals of an attribution were taken.

    Args:
        names: Of the channels, or empty.
        position: Metres, NaN where unknown.
        sfreq: Hz.
        unit: Of the signals, "physical" or "z".
    """

    names: tuple[str, ...]
    position: Float[np.ndarray, "channel 3"]
    sfreq: float
    unit: str = "physical"


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
        coefficient: The factor of the input's difference from the baseline in `values`, where the
            method is such a product: it splits the values among parts of the signal (`by_band`).
        sensors: Names, places and rate of what was explained, where the input was a Batch.
        regions: Names along the region axis.
    """

    values: Float[Tensor, "batch ..."]
    axes: tuple[str, ...]
    target: Int[Tensor, " batch"]
    method: str
    change: Float[Tensor, " batch"] | None = None
    delta: Float[Tensor, " batch"] | None = None
    bands: tuple[str, ...] = ()
    coefficient: Float[Tensor, "batch channel time"] | None = None
    sensors: Sensing | None = None
    regions: tuple[str, ...] = ()

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
        bands = self.bands if "band" in kept else ()
        coefficient = self.coefficient if not axes else None
        return replace(self, values=values, axes=kept, bands=bands, coefficient=coefficient)

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

    def plot(self, what: str | None = None) -> Figure:
        """Mean evidence over windows.

        Args:
            what: "scalp" (maps, one per band), "channel time", "band time", "time" or "band"; the
                first of these that the axes and known positions allow if not given.
        """
        from neurofm.interpret.attribution.plots import plot_attribution

        return plot_attribution(self, what)


def sensing_of(batch: Batch | Tensor) -> Sensing | None:
    """Names and places of the first window's channels, which stand for all."""
    if not isinstance(batch, Batch):
        return None
    position = batch.position[0].detach().cpu().double().numpy().copy()
    position[~batch.has_position[0].cpu().numpy()] = np.nan
    return Sensing(batch.names or (), position, float(batch.sfreq), batch.unit)


def repeated(batch: Inputs, times: int) -> Inputs:
    """The windows `times` times, one whole set after the other."""
    if isinstance(batch, Batch):
        return batch._map(lambda t: t.repeat(times, *[1] * (t.ndim - 1)))
    return batch.repeat(times, 1, 1)


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
    if len(target) and not 0 <= int(target.min()) <= int(target.max()) < logits.shape[1]:
        raise ValueError(
            f"attribution: targets from {int(target.min())} to {int(target.max())}; expected "
            f"0 to {logits.shape[1] - 1}, one of the network's classes."
        )
    return logits.gather(1, target.to(logits.device)[:, None])[:, 0]


def signals_of(batch: Batch | Tensor, *, who: str = "attribution") -> Tensor:
    """The signals of a batch, checked and without history."""
    x = batch.x if isinstance(batch, Batch) else batch
    if x.ndim != 3 or not x.numel():
        raise ValueError(
            f"{who}: input of shape {tuple(x.shape)}; batch channel time needed, not empty."
        )
    if isinstance(batch, Batch) and not batch.has_signal:
        raise ValueError(f"{who}: the batch has tokens only; signals of windows are needed.")
    require_finite(who, x)
    return x.detach()


def targets_of(function: Function, batch: Inputs, target: Target) -> Int[Tensor, " batch"]:
    """The class to explain in each window: the given one, or the one the network chose."""
    x = signals_of(batch)
    if target is None:
        with torch.no_grad():
            logits = function(with_inputs(batch, x))
        if logits.ndim == 1:
            return torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return logits.argmax(1)
    if isinstance(target, int):
        return torch.full((len(x),), target, dtype=torch.int64, device=x.device)
    target = torch.as_tensor(target, device=x.device)
    if target.shape != (len(x),) or target.is_floating_point():
        raise ValueError(
            f"attribution: target of {target.dtype} and shape {tuple(target.shape)} for {len(x)} "
            "windows; expected a class, or an integer for each."
        )
    return target


def score_of(function: Function, batch: Inputs, x: Tensor, target: Tensor) -> Tensor:
    """The target's logit of each window with other signals."""
    return target_score(function, with_inputs(batch, x), target).detach()


def gradient_of(function: Function, batch: Inputs, x: Tensor, target: Tensor) -> Tensor:
    """Gradient of the target's logit with respect to the signals."""
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


def baseline_of(baseline: float | int | Tensor, x: Tensor) -> Tensor:
    """A baseline of the signals' shape."""
    if isinstance(baseline, Tensor):
        fits = baseline.ndim <= x.ndim and all(
            mine in (1, theirs)
            for mine, theirs in zip(reversed(baseline.shape), reversed(x.shape), strict=False)
        )
        if not fits:
            raise ValueError(
                f"attribution: baseline of shape {tuple(baseline.shape)} for signals of "
                f"{tuple(x.shape)}; give a number or one value for each channel and time."
            )
        return baseline.to(x).expand_as(x)
    return torch.full_like(x, float(baseline))
