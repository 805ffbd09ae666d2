"""Does an attribution mean anything: weight randomisation and deletion curves.

A map that stays the same when the weights are random shows the input, not the network. A map whose
top channels can be taken away without lowering the logit more than random ones does not show what
the network used.

Source: Adebayo et al. 2018 (randomisation); Samek et al. 2017 (deletion).
Axes: batch channel time; step = fraction of channels taken away.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from neurofm.interpret.attribution.evidence import (
    Attribution,
    Function,
    Inputs,
    signals_of,
    target_score,
    with_inputs,
)
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Model = TypeVar("Model", bound=nn.Module)


def randomized_copy(
    model: Model, *, generator: torch.Generator, only: Sequence[str] | None = None
) -> Model:
    """A copy with fresh weights; the model itself is left alone.

    Modules that know how to initialise themselves do; other parameters get their own entries in
    random order, which keeps their scale. Buffers that are not learned by gradient (a code book
    updated by moving average, positions) stay.

    Args:
        only: Names of modules to randomise with everything below them, for a cascade from the
            output down; all if not given.
    """
    other = copy.deepcopy(model)
    modules = dict(other.named_modules())
    unknown = [name for name in only or () if name not in modules]
    if unknown:
        raise ValueError(f"randomized_copy: no module {unknown[0]!r}; known: {list(modules)[1:9]}.")
    chosen = [other] if only is None else [modules[name] for name in only]
    seed = int(torch.randint(2**31, (1,), generator=generator))
    done: set[int] = set()
    # Initialisers draw from the global generator: give them a private state.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for root in chosen:
            for module in root.modules():
                own = [p for p in module.parameters(recurse=False) if id(p) not in done]
                reset = getattr(module, "reset_parameters", None)
                if own and callable(reset):
                    reset()
                else:
                    for parameter in own:
                        flat = parameter.flatten()
                        parameter.copy_(flat[torch.randperm(len(flat))].view_as(parameter))
                done.update(id(p) for p in module.parameters(recurse=False))
    return other


def attribution_similarity(a: Attribution, b: Attribution) -> float:
    """Spearman correlation of the magnitudes of two attributions, mean over windows.

    Of the trained and a randomised model it should be near 0; a window whose values are constant in
    one of them counts as 0.
    """
    if a.values.shape != b.values.shape:
        raise ValueError(
            f"attribution_similarity: shapes {tuple(a.values.shape)} and {tuple(b.values.shape)}."
        )
    first, second = (
        stats.rankdata(one.values.detach().abs().flatten(1).cpu().double().numpy(), axis=1)
        for one in (a, b)
    )
    first = first - first.mean(1, keepdims=True)
    second = second - second.mean(1, keepdims=True)
    norm = np.sqrt(np.square(first).sum(1) * np.square(second).sum(1))
    product = (first * second).sum(1)
    return float(np.divide(product, norm, out=np.zeros_like(product), where=norm > 0).mean())


@dataclass(frozen=True)
class DeletionCurve:
    """The target's mean logit while channels are set to zero.

    Args:
        fraction: Of channels taken away.
        most: Those with most evidence first.
        least: Those with least evidence first.
        random: In random order: the control.
    """

    fraction: Float[np.ndarray, " step"]
    most: Float[np.ndarray, " step"]
    least: Float[np.ndarray, " step"]
    random: Float[np.ndarray, " step"]

    @property
    def deletion_area(self) -> float:
        """Mean logit while the channels with most evidence go first: low is good."""
        return float(np.trapezoid(self.most, self.fraction))

    @property
    def insertion_area(self) -> float:
        """Mean logit while the channels with most evidence come first: high is good.

        What is left when the least go first is what is there when the most come first.
        """
        return float(np.trapezoid(self.least, self.fraction))

    @property
    def random_area(self) -> float:
        """The control of both."""
        return float(np.trapezoid(self.random, self.fraction))

    def plot(self) -> Figure:
        """The three orders."""
        from neurofm.figures import plot_curves

        orders = {"most evidence first": self.most, "least first": self.least}
        return plot_curves(
            {k: (self.fraction, v) for k, v in {**orders, "random order": self.random}.items()},
            title="Deletion of channels",
            ylabel="mean logit of the target",
            xlabel="share of channels taken away",
        )

    @property
    def gain(self) -> float:
        """Area between the random and the most-first curve; above 0 if the map is informative."""
        return float(np.trapezoid(self.random - self.most, self.fraction))


def deletion_curve(
    function: Function,
    batch: Inputs,
    attribution: Attribution,
    *,
    generator: torch.Generator,
    steps: int = 10,
    n_random: int = 5,
) -> DeletionCurve:
    """Take channels away in the order of an attribution and watch the target's logit.

    Args:
        attribution: Of the same windows; other axes than channel are summed.
        steps: Steps from nothing to all channels taken away.
        n_random: Random orders averaged for the control.
    """
    if "channel" not in attribution.axes:
        raise ValueError(f"deletion_curve: needs a channel axis, got {attribution.axes}.")
    rest = [axis for axis in attribution.axes[1:] if axis != "channel"]
    evidence = attribution.over(*rest).values
    x = signals_of(batch, who="deletion_curve")
    n = x.shape[1]
    if evidence.shape != x.shape[:2]:
        raise ValueError(
            f"deletion_curve: evidence of {tuple(evidence.shape)} (windows, channels) for signals "
            f"of {tuple(x.shape)}; expected that of the same windows."
        )
    counts = np.unique(np.linspace(0, n, steps + 1).round().astype(int))
    falling = evidence.argsort(dim=1, descending=True)
    shuffled = [
        torch.rand(evidence.shape, generator=generator).argsort(dim=1).to(x.device)
        for _ in range(n_random)
    ]

    def curve(order: Tensor) -> np.ndarray:
        rank = torch.empty_like(order)
        rank.scatter_(1, order, torch.arange(n, device=x.device).expand_as(order))
        points = []
        with torch.no_grad():
            for count in counts.tolist():
                kept = torch.where((rank < count)[..., None], 0.0, x)
                score = target_score(function, with_inputs(batch, kept), attribution.target)
                points.append(float(score.mean()))
        return np.array(points)

    return DeletionCurve(
        fraction=counts / n,
        most=curve(falling),
        least=curve(falling.flip(1)),
        random=np.mean([curve(order) for order in shuffled], axis=0),
    )
