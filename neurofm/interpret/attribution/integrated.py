"""Integrated gradients: what a logit owes to each sample on the way from a baseline.

Source: Sundararajan et al. 2017; Theiler et al. 1992 (phase-randomised surrogates).
Axes: batch channel time.
"""

from __future__ import annotations

from dataclasses import replace

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
    repeated,
    score_of,
    sensing_of,
    signals_of,
    targets_of,
)
from neurofm.shapes import Float

CACHE_BYTES = 2**19  # of signals in a pass on a CPU: more is slower, not faster


def integrated_gradients(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    baseline: float | int | Tensor = 0.0,
    steps: int = 50,
    nodes: str = "gauss-legendre",
    chunk: int | None = None,
) -> Attribution:
    """Gradients averaged along the straight line from a baseline to the window, times its length.

    Args:
        baseline: Unit of the input; zero is "no signal" for band-passed recordings. `channel_mean`
            and `surrogates` make others.
        steps: Points on the line; look at `completeness_error` to see whether they are enough.
        nodes: "gauss-legendre" or "midpoint"; their weights add up to one.
        chunk: Points in one pass; as many as fit into memory (GPU) or cache if not
            given. Changes nothing else.
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients: steps is {steps}, expected at least 1.")
    x = signals_of(batch)
    start = baseline_of(baseline, x)
    target = targets_of(function, batch, target)
    points, weights = quadrature(nodes, steps)
    chunk = chunk or points_at_once(x)
    total = torch.zeros_like(x)
    for first in range(0, steps, chunk):
        some = points[first : first + chunk]
        along = torch.cat([start + p * (x - start) for p in some.tolist()])
        many = repeated(batch, len(some)) if len(some) > 1 else batch
        gradient = gradient_of(function, many, along, target.repeat(len(some)))
        for weight, one in zip(
            weights[first : first + chunk].tolist(), gradient.split(len(x)), strict=True
        ):
            total.add_(one, alpha=weight)
    values = total * (x - start)
    with torch.no_grad():
        change = score_of(function, batch, x, target) - score_of(function, batch, start, target)
    delta = values.flatten(1).sum(1) - change
    return Attribution(
        values,
        AXES,
        target,
        "integrated gradients",
        change,
        delta,
        coefficient=total,
        sensors=sensing_of(batch),
    )


def integrated_gradients_over(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    baselines: Float[Tensor, "baseline batch channel time"],
    steps: int = 50,
) -> Attribution:
    """Mean over several baselines, such as eight or more `surrogates` of the windows."""
    target = targets_of(function, batch, target)
    each = [
        integrated_gradients(function, batch, target, baseline=one, steps=steps)
        for one in baselines
    ]
    if not each:
        raise ValueError("integrated_gradients_over: no baseline given.")
    first = each[0]
    assert first.change is not None and first.delta is not None
    return replace(
        first,
        values=torch.stack([one.values for one in each]).mean(0),
        change=torch.stack([one.change for one in each if one.change is not None]).mean(0),
        delta=torch.stack([one.delta for one in each if one.delta is not None]).mean(0),
        coefficient=None,  # differs by baseline
        method=f"integrated gradients ({len(each)} baselines)",
    )


def quadrature(nodes: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on [0, 1] and weights that add up to one, float64."""
    if nodes == "gauss-legendre":
        points, weights = np.polynomial.legendre.leggauss(steps)
        return (points + 1) / 2, weights / 2
    if nodes == "midpoint":
        return (np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps)
    raise ValueError(f"integrated_gradients: nodes={nodes!r}; gauss-legendre or midpoint.")


def channel_mean(x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel time"]:
    """Each channel at its mean over the window: a baseline that keeps offsets."""
    return x.mean(-1, keepdim=True).expand_as(x)


def surrogates(
    x: Float[Tensor, "batch channel time"], n: int, *, generator: torch.Generator
) -> Float[Tensor, "surrogate batch channel time"]:
    """Signals of the same spectra with random phases, the same for all channels of a window.

    One set of phases per window keeps the cross-spectra between channels, so that a surrogate lacks
    the events and keeps the rhythms and their topographies.
    """
    spectrum = torch.fft.rfft(x)
    shape = (n, len(x), 1, spectrum.shape[-1])
    phase = 2 * torch.pi * torch.rand(shape, generator=generator, dtype=x.dtype).to(x.device)
    phase[..., 0] = 0
    if x.shape[-1] % 2 == 0:
        phase[..., -1] = 0
    return torch.fft.irfft(spectrum * torch.exp(1j * phase), n=x.shape[-1])


def points_at_once(x: Tensor) -> int:
    """Points of the line whose passes fit into memory together."""
    # A network makes about 64 times as much of its input, with what it keeps for the gradient.
    room = torch.cuda.mem_get_info(x.device)[0] // (4 * 64) if x.is_cuda else CACHE_BYTES
    return max(1, int(room // (x.numel() * x.element_size())))
