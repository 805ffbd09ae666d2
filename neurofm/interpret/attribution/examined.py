"""An attribution together with what says whether to believe it.

Axes: batch channel time; step = modules randomised so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from neurofm.interpret.attribution.evidence import (
    Attribution,
    Function,
    Inputs,
    Target,
    signals_of,
    targets_of,
    with_inputs,
)
from neurofm.interpret.attribution.planted import Method, PlantedEvidence, planted_evidence
from neurofm.interpret.attribution.sanity import (
    DeletionCurve,
    attribution_similarity,
    deletion_curve,
    randomized_copy,
)
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Examined:
    """An attribution and its sanity checks.

    Args:
        attribution: Of the model as it is.
        randomised: Modules given fresh weights, from the output down; all of those before too.
        cascade: Rank correlation with the attribution of the randomised model; should fall. Of the
            coefficients where there are any, because values share the input.
        deletion: Logit while channels are taken away; None without a channel axis.
        stability: Rank correlation with the attribution of slightly noisy windows; should be high.
        planted: The method on a network and windows of known evidence; None if it cannot be asked.
    """

    attribution: Attribution
    randomised: tuple[str, ...]
    cascade: Float[np.ndarray, " step"]
    deletion: DeletionCurve | None
    stability: float
    planted: PlantedEvidence | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against the attribution, in words."""
        found = []
        if len(self.cascade) and abs(self.cascade[-1]) > 0.5:
            found.append(
                f"it hardly depends on the weights: r = {self.cascade[-1]:.2f} with a network of "
                "random ones"
            )
        if self.deletion is not None and self.deletion.gain <= 0:
            found.append(
                f"taking its channels away does no more than random ones ({self.deletion.gain:.3g})"
            )
        if self.stability < 0.5:
            found.append(f"it changes with a little noise: r = {self.stability:.2f}")
        error = self.attribution.completeness_error
        if error is not None and error > 0.05:
            found.append(f"it does not add up to the logit: {error:.0%} are missing or too many")
        if self.planted is not None and not self.planted.found:
            found.append(
                f"the method misses planted evidence: {self.planted.share:.0%} of it inside, "
                f"chance {self.planted.chance:.0%}"
            )
        return tuple(found)

    def plot(self) -> Figure:
        """Similarity along the cascade of randomised modules."""
        from neurofm.figures import plot_curves

        steps = np.arange(len(self.cascade) + 1)
        curve = np.concatenate([[1.0], self.cascade])
        return plot_curves(
            {"with the trained network's": (steps, curve)},
            title=f"{self.attribution.method} while weights are randomised",
            ylabel="rank correlation",
            xlabel="modules randomised, from the output down",
            references={"unrelated": 0.0, "a little noise in the input": self.stability},
        )


def examine(
    method: Method,
    model: nn.Module,
    batch: Inputs,
    target: Target = None,
    *,
    read: Callable[[Any], Function] | None = None,
    cascade: int | None = 5,
    noise: float | int = 0.05,
    plant: bool = True,
    generator: torch.Generator,
) -> Examined:
    """Compute an attribution and check it.

    Args:
        method: Called with a function, a batch and a target: `gradient_x_input`, or
            `functools.partial(integrated_gradients, steps=20)`.
        model: Its weights are randomised in copies; itself it is left alone.
        read: From the model (or a copy) to the function that is explained; the model itself if not
            given.
        cascade: Steps of randomisation at most; None for every module.
        noise: Of the stability check, share of each window's standard deviation.
        plant: Ask the method for planted evidence, on windows of the batch's shape.
    """
    read = read or (lambda one: one)
    target = targets_of(read(model), batch, target)
    found = method(read(model), batch, target)
    names = _from_the_output(model)
    counts = np.arange(1, len(names) + 1)
    if cascade is not None and len(names) > cascade:
        counts = np.unique(np.linspace(1, len(names), cascade).round().astype(int))
    similarity = []
    for count in counts.tolist():
        copy = randomized_copy(model, generator=generator, only=names[:count])
        other = method(read(copy), batch, target)
        similarity.append(attribution_similarity(_weights(found), _weights(other)))
    x = signals_of(batch)
    drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    noisy = x + noise * x.flatten(1).std(1)[:, None, None] * drawn
    near = method(read(model), with_inputs(batch, noisy), target)
    deletion = None
    if "channel" in found.axes:
        deletion = deletion_curve(read(model), batch, found, generator=generator)
    sfreq = found.sensors.sfreq if found.sensors is not None else 100.0
    planted = None
    if plant:
        planted = planted_evidence(
            method, n_channels=x.shape[1], n_times=x.shape[2], sfreq=sfreq, generator=generator
        )
    return Examined(
        found,
        tuple(names[count - 1] for count in counts.tolist()),
        np.array(similarity),
        deletion,
        attribution_similarity(found, near),
        planted,
    )


def _weights(attribution: Attribution) -> Attribution:
    """What of an attribution depends on the network."""
    if attribution.coefficient is None:
        return attribution
    return replace(attribution, values=attribution.coefficient)


def _from_the_output(model: nn.Module) -> list[str]:
    """Modules with weights of their own, last first; a whole block where it holds loose weights."""
    named = [
        name
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    return named[::-1]
