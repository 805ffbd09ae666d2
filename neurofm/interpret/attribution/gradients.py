"""Gradients of a target's logit, also times the input, and averaged over noise or real windows.

Source: Simonyan et al. 2014 (saliency); Shrikumar et al. 2017 (gradient times input); Smilkov et
al. 2017 (SmoothGrad); Erion et al. 2021 (expected gradients).
Axes: batch channel time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.interpret.attribution.evidence import (
    AXES,
    Attribution,
    Function,
    Inputs,
    Target,
    gradient_of,
    score_of,
    sensing_of,
    signals_of,
    targets_of,
)
from neurofm.shapes import Float


def saliency(function: Function, batch: Inputs, target: Target = None) -> Attribution:
    """Gradient of the target's logit: logit per unit of the input, signed."""
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    values = gradient_of(function, batch, x, target)
    return Attribution(values, AXES, target, "gradient", sensors=sensing_of(batch))


def gradient_x_input(function: Function, batch: Inputs, target: Target = None) -> Attribution:
    """Gradient of the target's logit times the input."""
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    gradient = gradient_of(function, batch, x, target)
    return Attribution(
        gradient * x,
        AXES,
        target,
        "gradient x input",
        coefficient=gradient,
        sensors=sensing_of(batch),
    )


def smooth_gradient(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    generator: torch.Generator,
    n: int = 25,
    noise: float | int = 0.1,
    times_input: bool = True,
) -> Attribution:
    """Mean gradient over noisy copies of the windows.

    Args:
        n: Copies; 25 to 50 are usual.
        noise: Standard deviation of the noise, as a share of each window's own.
        times_input: Multiply by the window, for the unit of the logit; else logit per input unit.
    """
    if n < 1 or noise < 0:
        raise ValueError(f"smooth_gradient: n={n}, noise={noise}; at least 1 and 0 are needed.")
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    scale = noise * x.flatten(1).std(1)[:, None, None]
    total = torch.zeros_like(x)
    for _ in range(n):
        drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        total += gradient_of(function, batch, x + scale * drawn, target)
    mean = total / n
    values = mean * x if times_input else mean
    name = "SmoothGrad x input" if times_input else "SmoothGrad"
    coefficient = mean if times_input else None
    sensors = sensing_of(batch)
    return Attribution(values, AXES, target, name, coefficient=coefficient, sensors=sensors)


def expected_gradients(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    background: Float[Tensor, "window channel time"],
    generator: torch.Generator,
    n: int = 50,
) -> Attribution:
    """Integrated gradients from randomly drawn windows, at one random point of each line.

    Args:
        background: Windows that stand for "nothing in particular", such as rest, in the unit of
            the input.
        n: Draws. `delta` falls with their square root; it is also noise of the draws.
    """
    x = signals_of(batch)
    if background.shape[1:] != x.shape[1:] or len(background) == 0:
        raise ValueError(
            f"expected_gradients: background of shape {tuple(background.shape)} for windows of "
            f"{tuple(x.shape[1:])}; same channels and times are needed."
        )
    target = targets_of(function, batch, target)
    values, change = torch.zeros_like(x), x.new_zeros(len(x))
    full = score_of(function, batch, x, target)
    for _ in range(n):
        index = torch.randint(len(background), (len(x),), generator=generator)
        start = background[index.to(background.device)].to(x)
        at = torch.rand(len(x), 1, 1, generator=generator, dtype=x.dtype).to(x.device)
        values += gradient_of(function, batch, start + at * (x - start), target) * (x - start)
        change += full - score_of(function, batch, start, target)
    values, change = values / n, change / n
    delta = values.flatten(1).sum(1) - change
    return Attribution(
        values, AXES, target, "expected gradients", change, delta, sensors=sensing_of(batch)
    )
