"""Steering by contrastive activation addition.

The mean difference of a site between windows with and without something (a class, a stage of sleep,
an artefact, a person, a site of recording) is added there, times alpha. Whether that does what it
says is measured on windows it was not made from, over alphas and layers, together with what else
changes.

Source: Rimsky et al. 2024 (contrastive activation addition).
Axes: dim is the last axis of the site.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.arrays import require_finite
from neurofm.interpret.causal.runs import (
    Metric,
    Run,
    apart,
    array_of,
    rows_of,
    score_of,
    still,
)
from neurofm.interpret.patching import Context, Patch, patched
from neurofm.interpret.places import names_of
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tokens = Literal["mean", "last"]
ALPHAS = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Steering:
    """What adding a vector does, over alphas and sites.

    Args:
        sites: Where it was added.
        alphas: Times the vector; the vector is as long as a mean activation if `relative`.
        score: Metric of the steered runs.
        off_target: What else changed: divergence between the other classes (nats), or the change of
            the output relative to its size.
        length: Of the added vector at alpha 1, relative to the mean length of the site's values.
        off_target_unit: Of `off_target`.
    """

    sites: tuple[str, ...]
    alphas: tuple[float, ...]
    score: Float[np.ndarray, "site alpha window"]
    off_target: Float[np.ndarray, "site alpha window"]
    length: Float[np.ndarray, " site"]
    off_target_unit: str

    def plot(self) -> Figure:
        """The metric over alphas, one curve per site, with twice the standard error."""
        from neurofm.figures import plot_curves

        n = self.score.shape[-1]
        wide = 2 * self.score.std(-1) / np.sqrt(n)
        mean = self.score.mean(-1)
        curves = {
            site: (self.alphas, mean[k], mean[k] - wide[k], mean[k] + wide[k])
            for k, site in enumerate(self.sites)
        }
        title = f"Steering, {n} held-out windows"
        return plot_curves(curves, title=title, ylabel="metric (logit)", xlabel="alpha")


@torch.no_grad()
def contrast_vector(
    model: nn.Module,
    positive: Any,
    negative: Any,
    site: str,
    *,
    run: Run | None = None,
    tokens: Tokens = "mean",
) -> Float[Tensor, " dim"]:
    """Mean of a site over windows with something minus that over windows without it.

    Args:
        positive: With it.
        negative: Without it; pairs of the positive ones if that can be had.
        tokens: Mean over the real tokens of each window, or its last real token.
    """
    first = token_values(model, positive, site, run=run, tokens=tokens)
    second = token_values(model, negative, site, run=run, tokens=tokens)
    return first.mean(0) - second.mean(0)


@torch.no_grad()
def token_values(
    model: nn.Module, batch: Any, site: str, *, run: Run | None = None, tokens: Tokens = "mean"
) -> Float[Tensor, "window dim"]:
    """One vector per window and site: the mean over its real tokens, or the last of them."""
    if tokens not in ("mean", "last"):
        raise ValueError(f"steering: tokens={tokens!r}; mean or last.")
    kept: list[Tensor] = []

    def keep(value: Tensor, context: Context) -> Tensor:
        x = value.detach()
        if x.ndim == 2:
            kept.append(x.clone())
            return value
        x = x.flatten(1, -2)
        mask = context.mask
        if mask is None or mask.shape != x.shape[:2]:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if tokens == "last":
            place = torch.arange(x.shape[1], device=x.device)
            kept.append(x[torch.arange(len(x)), (place * mask).argmax(1)])
        else:
            weight = mask[..., None].to(x.dtype)
            kept.append((x * weight).sum(1) / weight.sum(1).clamp(min=1))
        return value

    with still(model), patched(model, {site: keep}):
        (run or model)(batch)
    found = rows_of(torch.stack(kept).mean(0), len(batch))
    require_finite(f"steering: {site!r}", found)
    return found


def added(vector: Float[Tensor, " dim"], alpha: float | int = 1.0) -> Patch:
    """Patch that adds alpha times a vector to every token; nothing at all for alpha 0."""

    def add(value: Tensor, context: Context) -> Tensor:
        if vector.shape != value.shape[-1:]:
            raise ValueError(
                f"steering: a vector of shape {tuple(vector.shape)} for values of "
                f"{tuple(value.shape)} at {context.site!r}; expected one entry for each unit."
            )
        return value if alpha == 0 else value + alpha * vector.to(value)

    return add


@torch.no_grad()
def steering(
    model: nn.Module,
    batch: Any,
    vectors: Mapping[str, Tensor],
    metric: Metric,
    *,
    found_on: Sequence[Any],
    alphas: Sequence[float | int] = ALPHAS,
    relative: bool = False,
    target: int | None = None,
    off_target: Callable[[Tensor, Tensor], Tensor] | None = None,
    run: Run | None = None,
) -> Steering:
    """Add vectors at sites, one site and one alpha at a time, and measure on held-out windows.

    Args:
        batch: Windows that are in none of `found_on`.
        vectors: Site to vector, from `contrast_vector`.
        metric: Of the output, such as `logit_difference(0, 1)`.
        found_on: Batches the vectors were made from.
        alphas: Multiples of the vector.
        relative: Vectors are scaled to the mean length of the site's values first, so that layers
            can be compared.
        target: Class that is steered to; the others are what should not change.
        off_target: Of the plain and the steered output, one number per window. If not given, the
            divergence between the probabilities of all classes but `target`, or without a target
            the change of the output relative to its size.
    """
    names_of(list(vectors), who="steering")
    apart(found_on, [batch], "steering")
    n = len(batch)
    with still(model):
        plain = rows_of((run or model)(batch), n)
    unit = "as given"
    if off_target is None:
        if target is None:
            off_target, unit = _relative_change, "relative change of the output"
        else:
            if plain.ndim != 2 or plain.shape[1] < 3 or not 0 <= target < plain.shape[1]:
                raise ValueError(
                    f"steering: an output of shape {tuple(plain.shape)} has no two classes beside "
                    f"the target {target}. Leave out target, or give off_target."
                )
            off_target, unit = _other_classes(target), "KL of the other classes (nats)"
    scores, others, lengths = [], [], []
    for site, vector in vectors.items():
        size = _mean_length(model, batch, site, run)
        long = float(vector.double().norm())
        if not np.isfinite(long) or long == 0:
            raise ValueError(f"steering: the vector at {site!r} has length {long:g}.")
        used = vector * (size / long) if relative else vector
        lengths.append(1.0 if relative else long / size)
        row, other = [], []
        for alpha in alphas:
            with still(model), patched(model, {site: added(used, alpha)}):
                out = rows_of((run or model)(batch), n)
            row.append(array_of(score_of(metric, out)))
            other.append(array_of(off_target(plain, out)))
        scores.append(row)
        others.append(other)
    return Steering(
        sites=tuple(vectors),
        alphas=tuple(map(float, alphas)),
        score=np.array(scores),
        off_target=np.array(others),
        length=np.array(lengths),
        off_target_unit=unit,
    )


def _mean_length(model: nn.Module, batch: Any, site: str, run: Run | None) -> float:
    lengths: list[Tensor] = []

    def measure(value: Tensor, context: Context) -> Tensor:
        length = value.double().norm(dim=-1)
        mask = context.mask
        lengths.append(length[mask] if mask is not None and mask.shape == length.shape else length)
        return value

    with still(model), patched(model, {site: measure}):
        (run or model)(batch)
    return float(torch.cat([length.flatten() for length in lengths]).mean())


def _other_classes(target: int) -> Callable[[Tensor, Tensor], Tensor]:
    def divergence(plain: Tensor, changed: Tensor) -> Tensor:
        rest = [k for k in range(plain.shape[1]) if k != target]
        p, q = (x[:, rest].double().log_softmax(1) for x in (plain, changed))
        return (p.exp() * (p - q)).sum(1)

    return divergence


def _relative_change(plain: Tensor, changed: Tensor) -> Tensor:
    before, after = plain.double().flatten(1), changed.double().flatten(1)
    return (after - before).norm(dim=1) / before.norm(dim=1).clamp(min=1e-12)
