"""Gradients of a target's logit, and gradients times the input.

Source: Simonyan et al. 2014 (saliency); Shrikumar et al. 2017 (gradient times input).
Axes: batch channel time.
"""

from __future__ import annotations

from neurofm.interpret.attribution.evidence import (
    AXES,
    Attribution,
    Function,
    Inputs,
    Target,
    gradient_of,
    sensing_of,
    signals_of,
    targets_of,
)


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
