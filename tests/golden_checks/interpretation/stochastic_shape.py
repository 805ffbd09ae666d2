"""Stochastic shape distances and energy scores.

Rotations (`T_alpha*`) are not compared entry by entry: signs and symmetries leave several. They are
given, and our score at each has to be the stored distance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret import similarity as s

INPUTS = ("mean_*", "cov_*", "samples_*", "T_*", "n_restarts_at_optimum_*")


def check(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every score and distance that the file names, by the alpha of its name."""
    t = {name: value.numpy() for name, value in tensors.items()}
    responses = (t["mean_X"], t["cov_X"], t["mean_Y"], t["cov_Y"])
    samples = (t["samples_X"], t["samples_Y"])
    got: dict[str, float] = {}
    fitted: dict[str, s.StochasticShape] = {}
    for name in t:
        kind, _, rest = name.partition("_alpha")
        alpha = rest.removesuffix("_init_means")
        if kind == "distance" and alpha not in fitted:
            restarts = t.get(f"n_restarts_at_optimum_alpha{alpha}", np.array([0, 10]))
            fitted[alpha] = s.stochastic_distance(
                *responses, alpha=float(alpha), n_starts=max(10, int(restarts[-1]))
            )
        if kind == "distance":
            best = fitted[alpha]
            got[name] = float(best.starts[0] if rest.endswith("_means") else best.distance)
            at_stored = s.stochastic_score(
                *responses, rotation=t[f"T_alpha{alpha}"], alpha=float(alpha)
            )
            if not np.isclose(at_stored, t[f"distance_alpha{alpha}"][0], rtol=1e-9):
                got[name] = float("nan")
        elif kind == "distance_identity":
            got[name] = s.stochastic_score(*responses, alpha=float(alpha))
        elif kind == "score_at_T_fixed":
            got[name] = s.stochastic_score(*responses, rotation=t["T_fixed"], alpha=float(alpha))
        elif name.startswith("energy_score"):
            got[name] = s.energy_score(*samples, rotation=t["T_fixed"])
    return {name: torch.tensor([value], dtype=torch.float64) for name, value in got.items()}
