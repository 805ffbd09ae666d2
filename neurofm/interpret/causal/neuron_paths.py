"""Influential neuron paths: one unit per layer that together carry the answer.

The joint attribution of a set of units is the integral of their gradients while all are scaled from
0 to their values together: what the answer gains by the whole set. Layers are taken in order and in
each the unit is kept that gains most together with those before it. By the theorem on which
integrated gradients rest, the joint attribution is the metric minus the metric with all of the set
at zero, so that candidates cost one forward pass each and are run many at a time; the integral is
taken for the chosen path only, for the share of each unit.

The source is known to us by its abstract: ties, zero as the start and the choice by the closed form
are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.runs import (
    ROWS,
    Metric,
    Run,
    copies,
    rows_of,
    score_of,
    scored,
    still,
    values_at,
)
from neurofm.interpret.patching import Context, Patch, patched
from neurofm.interpret.places import names_of
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class NeuronPath:
    """One unit per layer.

    Args:
        layers: Sites in order.
        units: Chosen unit of each: index along its last axis.
        joint: Joint attribution of the path up to each layer, mean over windows.
        share: Of each unit in the joint attribution of the whole path.
        gain: Joint attribution with each unit of each layer, given the path before it.
        delta: Sum of the shares minus the joint attribution: error of the integral.
        control: Joint attribution of paths of random units.
    """

    layers: tuple[str, ...]
    units: tuple[int, ...]
    joint: Float[np.ndarray, " layer"]
    share: Float[np.ndarray, " layer"]
    gain: tuple[np.ndarray, ...]
    delta: float
    control: Float[np.ndarray, " draw"]

    def plot(self) -> Figure:
        """Joint attribution along the path, and what random paths reach."""
        from neurofm.figures import plot_curves

        curve = (list(range(1, len(self.layers) + 1)), self.joint)
        references = {}
        if len(self.control):
            references["random paths, 95 %"] = float(np.quantile(self.control, 0.95))
        title = "Path of units " + ", ".join(map(str, self.units))
        return plot_curves(
            {"path": curve},
            title=title,
            ylabel="joint attribution (logit)",
            xlabel="layer",
            references=references,
        )


@torch.no_grad()
def neuron_path(
    model: nn.Module,
    batch: Any,
    layers: Sequence[str],
    *,
    run: Run | None = None,
    metric: Metric | None = None,
    steps: int = 20,
    rows: int = ROWS,
    n_random: int = 50,
    rng: np.random.Generator | None = None,
) -> NeuronPath:
    """Greedy search for the path of greatest joint attribution.

    Args:
        layers: Sites from input to output; units are entries of their last axis.
        metric: Of the output; the margin of the chosen class if not given.
        steps: Nodes of the integral.
        rows: Windows times candidates in one pass.
        n_random: Random paths beside it.
        rng: Draws them; seed 0 if not given.
    """
    layers, n = names_of(layers, who="neuron_path"), len(batch)
    if steps < 1:
        raise ValueError(f"neuron_path: steps is {steps}, expected at least 1.")
    out, values = values_at(model, batch, layers, run=run)
    plain, metric = scored(out, n, metric)

    def without(paths: list[list[tuple[str, int]]]) -> np.ndarray:
        """Joint attribution of each set of units."""
        found = []
        at_once = max(1, rows // n)
        for start in range(0, len(paths), at_once):
            some = paths[start : start + at_once]
            with still(model), patched(model, _zeroed(some)):
                scores = rows_of((run or model)(copies(batch, len(some))), n * len(some))
            found += [float((plain - score_of(metric, s)).mean()) for s in scores.chunk(len(some))]
        return np.array(found)

    chosen: list[tuple[str, int]] = []
    joint, gains = [], []
    for layer in layers:
        width = values[layer][0].shape[-1]
        gain = without([[*chosen, (layer, unit)] for unit in range(width)])
        chosen.append((layer, int(gain.argmax())))
        joint.append(float(gain.max()))
        gains.append(gain)
    rng = rng or np.random.default_rng(0)
    draws = [
        [(s, int(rng.integers(values[s][0].shape[-1]))) for s in layers] for _ in range(n_random)
    ]
    share = _shares(model, batch, chosen, values, run or model, metric, steps)
    return NeuronPath(
        layers=tuple(layers),
        units=tuple(unit for _, unit in chosen),
        joint=np.array(joint),
        share=share,
        gain=tuple(gains),
        delta=float(share.sum() - joint[-1]),
        control=without(draws) if draws else np.zeros(0),
    )


def _zeroed(paths: list[list[tuple[str, int]]]) -> dict[str, Patch]:
    def at(site: str) -> Patch:
        def change(value: Tensor, _: Context) -> Tensor:
            changed, size = value.clone(), len(value) // len(paths)
            for block, path in enumerate(paths):
                for where, unit in path:
                    if where == site:
                        changed[block * size : (block + 1) * size, ..., unit] = 0
            return changed

        return change

    return {site: at(site) for site in dict.fromkeys(site for path in paths for site, _ in path)}


def _shares(
    model: nn.Module,
    batch: Any,
    path: list[tuple[str, int]],
    values: dict[str, list[Tensor]],
    run: Run,
    metric: Metric,
    steps: int,
) -> np.ndarray:
    """Integrated gradients of each unit along the joint scaling (Gauss-Legendre)."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    total = np.zeros(len(path))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        scales = [torch.tensor(float(node), dtype=torch.float64) for _ in path]
        patches = {
            site: _scaled(values[site], unit, scale.requires_grad_())
            for (site, unit), scale in zip(path, scales, strict=True)
        }
        with still(model, gradients=True), patched(model, patches):
            score = score_of(metric, rows_of(run(batch), len(batch)))
            slopes = torch.autograd.grad(score.sum(), scales)
        total += weight * np.array([float(slope) for slope in slopes]) / len(batch)
    return total


def _scaled(values: list[Tensor], unit: int, scale: Tensor) -> Patch:
    def change(value: Tensor, context: Context) -> Tensor:
        own = values[0 if "@" in context.site else context.call][..., unit]
        changed = value.clone()
        changed[..., unit] = (scale * own).to(value)
        return changed

    return change
