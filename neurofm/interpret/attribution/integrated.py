"""Integrated gradients: what a logit owes to each sample on the way from a baseline.

Source: Sundararajan et al. 2017.
Axes: batch channel time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.attribution.evidence import (
    AXES,
    Attribution,
    Function,
    Inputs,
    Target,
    baseline_of,
    gradient_of,
    score_of,
    signals_of,
    targets_of,
)


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
    x = signals_of(batch)
    start = baseline_of(baseline, x)
    target = targets_of(function, batch, target)
    if nodes == "gauss-legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        points, weights = (points + 1) / 2, weights / 2
    elif nodes == "midpoint":
        points, weights = (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    else:
        raise ValueError(f"integrated_gradients: nodes={nodes!r}; gauss-legendre or midpoint.")
    total = torch.zeros_like(x)
    for point, weight in zip(points, weights, strict=True):
        gradient = gradient_of(function, batch, start + float(point) * (x - start), target)
        total += float(weight) * gradient
    values = total * (x - start)
    with torch.no_grad():
        change = score_of(function, batch, x, target) - score_of(function, batch, start, target)
    delta = values.flatten(1).sum(1) - change
    return Attribution(values, AXES, target, "integrated gradients", change, delta)
