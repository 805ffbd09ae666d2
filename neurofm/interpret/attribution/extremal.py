"""Extremal perturbations: the part of a window, of a given size, that keeps the logit highest.

A mask of fixed area is fitted by gradient: "preserve" keeps what is under it, "delete" takes it
away, "dual" asks for both. Areas are fitted one by one, and the smallest that reaches the logit of
the whole window says how much of it the network needs.

Source: Fong et al. 2019.
Axes: batch channel time, in masks over frequency: batch band time; area in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.attribution.evidence import (
    Function,
    Inputs,
    Sensing,
    Target,
    score_of,
    sensing_of,
    signals_of,
    target_score,
    targets_of,
    with_inputs,
)
from neurofm.interpret.attribution.masks import (
    Perturb,
    area_penalty,
    fade,
    fade_bands,
    smooth_mask,
)
from neurofm.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AREAS = (0.05, 0.1, 0.2, 0.4)
BAND_EDGES = (1.0, 4.0, 8.0, 13.0, 20.0, 30.0, 40.0)  # Hz
GROWTH = 1.0035**800  # of the weight of the area over all steps, as published
RANKING = 0.1  # of the jitter at the start
DOMAINS = ("time", "channel", "channel time", "frequency", "frequency time")


@dataclass(frozen=True)
class Extremal:
    """Masks of several areas for each window.

    Args:
        masks: Between 0 and 1; an axis the mask does not have is of length one. Over frequency the
            second axis are the bands.
        areas: Share of the mask's places.
        score: Target's logit of what each mask keeps ("preserve", "dual") or leaves ("delete").
        full: Target's logit of the whole window.
        nothing: Target's logit where the mask is zero everywhere: the floor.
        random: Mean logit with shifted masks of the same areas: the control.
        target: Class explained.
        mode: "preserve", "delete" or "dual".
    """

    masks: Float[Tensor, "area batch channel time"]
    areas: tuple[float, ...]
    score: Float[Tensor, "area batch"]
    full: Float[Tensor, " batch"]
    nothing: Float[Tensor, " batch"]
    random: Float[Tensor, "area batch"]
    target: Int[Tensor, " batch"]
    mode: str
    sensors: Sensing | None = None

    @property
    def smallest(self) -> Float[Tensor, " batch"]:
        """Smallest area whose logit reaches the full one (or, deleted, the floor); NaN if none."""
        reached: Bool[Tensor, "area batch"]
        reached = self.score <= self.nothing if self.mode == "delete" else self.score >= self.full
        areas = torch.tensor(self.areas, dtype=torch.float64, device=self.score.device)[:, None]
        least = torch.where(reached, areas, torch.inf).amin(0)
        return torch.where(torch.isinf(least), torch.nan, least)

    def plot(self) -> Figure:
        """Logit by area, with that of shifted masks."""
        from neurofm.figures import plot_curves

        def mean(values: Tensor) -> np.ndarray:
            return values.double().mean(1).cpu().numpy()

        areas = np.array(self.areas)
        return plot_curves(
            {
                "fitted mask": (areas, mean(self.score)),
                "same mask, shifted": (areas, mean(self.random)),
            },
            title=f"Extremal masks ({self.mode}), {self.full.shape[0]} windows",
            ylabel="logit",
            xlabel="area asked for, share of the mask",
            references={
                "whole window": float(self.full.mean()),
                "nothing": float(self.nothing.mean()),
            },
        )


def extremal_perturbation(
    function: Function,
    batch: Inputs,
    target: Target = None,
    *,
    areas: Sequence[float] = AREAS,
    mode: str = "preserve",
    domain: str = "time",
    perturb: Callable[[Tensor], Perturb] | None = None,
    sfreq: float | int | None = None,
    edges: Sequence[float | int] = BAND_EDGES,
    step: int = 8,
    sigma: float | int | None = None,
    iterations: int = 800,
    lr: float | int = 0.01,
    generator: torch.Generator,
) -> Extremal:
    """Fit masks of fixed areas.

    Args:
        areas: Shares of the mask's places, above 0 and below 1.
        mode: "preserve", "delete" or "dual".
        domain: What a mask chooses among: "time", "channel" (voxels, of images), "channel time",
            "frequency" or "frequency time".
        perturb: From signals to a function of a mask, such as `fade` (default) or
            `lambda x: low_pass(x, sfreq)`. Over frequency bands fade.
        sfreq: Hz, for masks over frequency.
        edges: Hz, of their bands; what lies outside stays.
        step: Samples between the mask's parameters.
        sigma: Samples, width of one; three steps if not given.
        iterations: Gradient steps. The area weighs 0.3 for each of the mask's parameters, which
            is the published 300 for its 32 x 32, and grows 16 times until the end; the logit counts
            as a share of what the whole window adds, times the same.
        lr: Of gradient descent with momentum 0.9.
        generator: Of the order of equal values, and of the shifts of the control.
    """
    if mode not in ("preserve", "delete", "dual") or domain not in DOMAINS:
        raise ValueError(
            f"extremal_perturbation: mode {mode!r}, domain {domain!r}; preserve, delete or dual, "
            f"and one of {', '.join(DOMAINS)}."
        )
    if not areas or not all(0 < a < 1 for a in areas):
        raise ValueError(f"extremal_perturbation: areas {tuple(areas)} must be between 0 and 1.")
    x = signals_of(batch)
    target = targets_of(function, batch, target)
    spectral = "frequency" in domain
    if spectral and (sfreq is None or perturb is not None):
        raise ValueError(
            f"extremal_perturbation: domain {domain!r} needs sfreq and takes no perturb, as bands "
            "fade there."
        )
    apply = fade_bands(x, sfreq, edges) if spectral and sfreq else (perturb or fade)(x)
    sigma = 3.0 * step if sigma is None else float(sigma)
    n_rows = len(edges) - 1 if spectral else x.shape[1] if "channel" in domain else 1
    n_places = x.shape[2] if "time" in domain else 1
    cells = -(-x.shape[2] // step) if "time" in domain else 1

    def expanded(one: Tensor) -> Tensor:
        if "time" not in domain:
            return one
        return smooth_mask(one, x.shape[2], step=step, sigma=sigma)

    def logit(mask: Tensor) -> Tensor:
        return target_score(function, with_inputs(batch, apply(mask)), target)

    with torch.no_grad():
        full = score_of(function, batch, x, target)
        nothing = logit(x.new_zeros(len(x), n_rows if spectral else x.shape[1], x.shape[2]))
    gap = (full - nothing).abs().clamp(min=torch.finfo(x.dtype).eps)

    def objective(mask: Tensor) -> Tensor:
        kept = logit(mask) if mode != "delete" else 0.0
        return (kept - (logit(1 - mask) if mode != "preserve" else 0.0)) / gap

    masks = []
    strength = 0.3 * n_rows * cells
    for area in areas:
        wanted = torch.full((len(x),), float(area), dtype=torch.float64)
        parameters = torch.ones(len(x), n_rows, cells, device=x.device, dtype=x.dtype)
        momentum = torch.zeros_like(parameters)
        weight = 1.0
        for k in range(iterations):
            # All start at one: which of them are ranked low must not be decided by their order.
            jitter = torch.rand(len(x), n_rows, n_places, generator=generator).to(x)
            jitter *= RANKING * (1 - k / iterations)
            with torch.enable_grad():
                parameters.requires_grad_(True)
                mask = expanded(parameters)
                penalty = area_penalty(mask, wanted, jitter=jitter)
                loss = strength * (weight * penalty - objective(mask)).sum()
                (gradient,) = torch.autograd.grad(loss, parameters)
            momentum = 0.9 * momentum + 0.1 * gradient
            parameters = (parameters.detach() - lr * momentum).clamp(0, 1)
            weight *= GROWTH ** (1 / iterations)
        masks.append(expanded(parameters).detach().expand(len(x), n_rows, -1))
    stacked = torch.stack(masks)
    with torch.no_grad():
        seen = [1 - m if mode == "delete" else m for m in stacked]
        score = torch.stack([logit(m) for m in seen])
        random = torch.stack([logit(_shifted(m, generator)) for m in seen])
    return Extremal(
        stacked, tuple(areas), score, full, nothing, random, target, mode, sensing_of(batch)
    )


def _shifted(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Moved around by a random step of at least a quarter: the same area elsewhere."""
    axis = 2 if mask.shape[2] > 1 else 1
    n = mask.shape[axis]
    if n < 2:
        return mask
    least = max(1, n // 4)
    return mask.roll(int(torch.randint(least, n - least + 1, (1,), generator=generator)), axis)
