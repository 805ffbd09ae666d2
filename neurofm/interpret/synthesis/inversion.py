"""Feature inversion: a signal that makes at a site what a given window makes there.

What comes back is what the site knows of the window; what differs, it has thrown away.

Source: Mahendran & Vedaldi 2015.
Axes: channel time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.interpret.causal.runs import still
from neurofm.interpret.synthesis.maximise import maximise, run_of
from neurofm.interpret.synthesis.objectives import Pattern, Run, see
from neurofm.interpret.synthesis.result import Synthesis
from neurofm.interpret.synthesis.signals import Prior


def pattern_of(model: nn.Module, site: str, window: Any, *, run: Run | None = None) -> Pattern:
    """What one window, a Batch or tensor of one, makes at a site: an objective."""
    n = len(window)
    if n != 1:
        raise ValueError(f"pattern_of: {n} windows; give one, as window[:1].")
    with still(model):
        seen = see(model, run_of(model) if run is None else run, [site], window, 1)
    return Pattern(site, seen.at(site)[0][0][0].detach().clone())


def invert(
    model: nn.Module,
    site: str,
    window: Batch | Tensor,
    prior: Prior,
    *,
    windows: Any = None,
    run: Run | None = None,
    sfreq: float | int | None = None,
    steps: int = 256,
    restarts: int = 8,
    lr: float | int = 0.05,
    regularisers: Any = (),
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> Synthesis:
    """Find signals that a site cannot tell from a window.

    Args:
        window: One.
        windows: Real ones to compare with; the percentile then says whether the signals are nearer
            to the window, at that site, than other real windows are.

    Returns:
        Values are minus the squared distance at the site over the squared norm of the window's
        values: 0 is perfect. No random changes are made on the way, as the site may see them, and
        there is no control: compare sites, or the inversion of a random-weight model.
    """
    objective = pattern_of(model, site, window, run=run)
    return maximise(
        model,
        objective,
        prior,
        windows=windows,
        run=run,
        sfreq=sfreq,
        steps=steps,
        restarts=restarts,
        lr=lr,
        regularisers=regularisers,
        transforms=None,
        control="none",
        generator=generator,
        seed=seed,
    )
