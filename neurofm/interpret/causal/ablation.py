"""Ablation: what is lost without a place, and is a circuit all that is needed?

A place is ablated by putting something there that says nothing about the window: its mean over
data (the default, since zero is a value the network may never have met), another window's value,
zero, or the value without one direction. A circuit is a set of sites; *faithfulness* is the share
of the metric left when everything else is ablated, *completeness* the share left when the circuit
itself is ablated (low if nothing outside does the same). Both mean little without circuits of the
same size drawn at random, which come with the result.

Source: Wang et al. 2023; Arditi et al. 2024 (directions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.runs import (
    ROWS,
    Edit,
    Metric,
    Run,
    array_of,
    each_run,
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

How = Literal["mean", "resample", "zero"]


@dataclass(frozen=True)
class Ablation:
    """The metric without each site.

    Args:
        names: Of the sites.
        score: Metric without the site.
        plain: Metric of the untouched run.
        how: What was put there.
    """

    names: tuple[str, ...]
    score: Float[np.ndarray, "site window"]
    plain: Float[np.ndarray, " window"]
    how: str

    @property
    def loss(self) -> Float[np.ndarray, " site"]:
        """Mean over windows of what is lost, in units of the metric."""
        return (self.plain - self.score).mean(1)

    def plot(self) -> Figure:
        """What is lost without each site, bars."""
        from neurofm.figures import plot_bars

        title = f"{self.how} ablation, {len(self.plain)} windows"
        values = dict(zip(self.names, map(float, self.loss), strict=True))
        return plot_bars(values, title=title, unit="loss of metric (logit)")


@dataclass(frozen=True)
class Circuit:
    """How much of the metric a set of sites carries.

    Args:
        sites: Of the circuit.
        faithfulness: Share of the metric kept by the circuit alone, 1 if it is all that is needed.
        completeness: Share kept without the circuit, 0 if nothing else does the same.
        control_faithfulness: Of random circuits of the same size.
        control_completeness: Likewise.
    """

    sites: tuple[str, ...]
    faithfulness: float
    completeness: float
    control_faithfulness: Float[np.ndarray, " draw"]
    control_completeness: Float[np.ndarray, " draw"]

    @property
    def p(self) -> float:
        """Share of random circuits at least as faithful, this one counted."""
        better = int((self.control_faithfulness >= self.faithfulness - 1e-12).sum())
        return (better + 1) / (len(self.control_faithfulness) + 1)

    def plot(self) -> Figure:
        """Both shares beside random circuits."""
        from neurofm.figures import plot_bars

        bars = {"faithfulness": self.faithfulness, "completeness": self.completeness}
        draws = {
            "faithfulness": self.control_faithfulness,
            "completeness": self.control_completeness,
        }
        series = {"circuit": bars, "random": {k: float(v.mean()) for k, v in draws.items()}}
        ends = {k: tuple(np.quantile(v, [0.025, 0.975])) for k, v in draws.items()}
        title = f"Circuit of {len(self.sites)} sites, p = {self.p:.3f}"
        return plot_bars(series, title=title, unit="share of metric", intervals={"random": ends})


@torch.no_grad()
def mean_value(
    model: nn.Module, data: Any, site: str, *, run: Run | None = None, per_token: bool = False
) -> Tensor:
    """Mean of a site over data, padding left out: its last axis, or one such row per token."""
    total: Any = 0
    count: Any = 0

    def add(value: Tensor, context: Context) -> Tensor:
        nonlocal total, count
        x, mask = value.double(), context.mask
        if mask is None or x.ndim < 3 or mask.shape != x.shape[:2]:
            mask = torch.ones(x.shape[: min(2, x.ndim - 1)], device=x.device)
        weight = mask.double().reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        axes = [0] if per_token else list(range(x.ndim - 1))
        total = total + (x * weight).sum(axes)
        count = count + weight.expand(*x.shape[:-1], 1).sum(axes)
        return value

    if not len(data):
        raise ValueError("mean_value: no windows to average.")
    with still(model), patched(model, {site: add}):
        (run or model)(data)
    return total / count.clamp(min=1)


def without_direction(direction: Float[Tensor, " dim"]) -> Patch:
    """Patch that removes a direction of the last axis: a - (a · u) u."""
    u = unit(direction)

    def remove(value: Tensor, _: Context) -> Tensor:
        at = u.to(value)
        return value - (value @ at)[..., None] * at

    return remove


def constant(vector: Tensor) -> Patch:
    """Patch that puts the same values into every window, such as a mean or zeros."""
    return lambda value, _: vector.to(value).expand_as(value).clone()


def unit(direction: Tensor) -> Tensor:
    """The direction with length 1, float64."""
    u = direction.double()
    if u.ndim != 1 or not torch.isfinite(u).all() or not u.norm() > 0:
        raise ValueError(
            f"causal: a direction of shape {tuple(u.shape)} and length {u.norm():.3g}; a vector "
            "of finite numbers that are not all zero is needed."
        )
    return u / u.norm()


@torch.no_grad()
def ablation(
    model: nn.Module,
    batch: Any,
    sites: Sequence[str],
    *,
    run: Run | None = None,
    metric: Metric | None = None,
    how: How = "mean",
    reference: Any = None,
    rng: np.random.Generator | None = None,
    rows: int = ROWS,
) -> Ablation:
    """Ablate one site after another.

    Args:
        metric: Of the output; the margin of the class chosen without ablation if not given.
        how: "mean" over windows of `reference`, at each place of the site; "resample": the value of
            another of its windows; "zero".
        reference: Windows that stand for the data; `batch` itself if not given.
        rng: Draws the other windows; seed 0 if not given.
    """
    edits = [Edit(site) for site in names_of(sites, who="ablation")]
    plain, metric = _plain(model, batch, run, metric)
    values = replacements(
        model, batch, [e.site for e in edits], run=run, how=how, reference=reference, rng=rng
    )
    outs = each_run(model, batch, edits, values, run=run, rows=rows)
    score = np.stack([array_of(score_of(metric, out)) for out in outs])
    return Ablation(tuple(map(str, edits)), score, array_of(plain), how)


@torch.no_grad()
def circuit(
    model: nn.Module,
    batch: Any,
    sites: Sequence[str],
    everything: Sequence[str],
    *,
    run: Run | None = None,
    metric: Metric | None = None,
    how: How = "mean",
    reference: Any = None,
    n_random: int = 100,
    rng: np.random.Generator | None = None,
) -> Circuit:
    """Is a set of sites enough for the behaviour, and is it needed?

    Args:
        sites: The circuit.
        everything: All sites of the kind, those of the circuit among them; the metric without any
            of them counts as nothing.
        metric, how, reference: As in `ablation`.
        n_random: Random circuits of the same size.
        rng: Draws them; seed 0 if not given.
    """
    names, inside = (names_of(some, who="circuit") for some in (everything, sites))
    outside = [site for site in inside if site not in names]
    if outside:
        raise ValueError(f"circuit: sites {outside} are not among `everything`, {names}.")
    rng = rng or np.random.default_rng(0)
    plain, metric = _plain(model, batch, run, metric)
    values = replacements(model, batch, names, run=run, how=how, reference=reference, rng=rng)

    def left(gone: Sequence[str]) -> float:
        patches: dict[str, Patch] = {}
        for site in gone:
            patches[site] = _calls(values[site])
        with still(model), patched(model, patches):
            return float(score_of(metric, rows_of((run or model)(batch), len(batch))).mean())

    full, none = float(plain.mean()), left(names)
    if abs(full - none) < 1e-9:
        raise ValueError(
            f"circuit: the metric is {full:.4g} with and {none:.4g} without all sites, so there is "
            "nothing to explain. Take other sites or another metric."
        )

    def shares(some: Sequence[str]) -> tuple[float, float]:
        rest = [site for site in names if site not in set(some)]
        return tuple((left(gone) - none) / (full - none) for gone in (rest, some))  # type: ignore[return-value]

    faithful, complete = shares(inside)
    draws = [rng.choice(len(names), len(inside), replace=False) for _ in range(n_random)]
    control = np.array([shares([names[k] for k in draw]) for draw in draws]).reshape(-1, 2)
    return Circuit(tuple(inside), faithful, complete, control[:, 0], control[:, 1])


def replacements(
    model: nn.Module,
    batch: Any,
    sites: Sequence[str],
    *,
    run: Run | None = None,
    how: How = "mean",
    reference: Any = None,
    rng: np.random.Generator | None = None,
) -> dict[str, list[Tensor]]:
    """What ablation puts at each site, call by call, one row per row of the site in `batch`."""
    if how not in ("mean", "resample", "zero"):
        raise ValueError(f"ablation: how={how!r}; mean, resample or zero.")
    data = batch if reference is None else reference
    _, values = values_at(model, data, sites, run=run)
    n, found = len(batch), {}
    if how == "resample" and len(data) < 2:
        raise ValueError(f"ablation: {len(data)} window to resample from; give `reference`.")
    generator = rng or np.random.default_rng(0)
    # Never the window's own value.
    shift = generator.integers(1, len(data), n) if how == "resample" else np.zeros(n, int)
    chosen = torch.as_tensor((np.arange(n) + shift) % len(data))
    for site, calls in values.items():
        if how == "zero":
            found[site] = [_fitted(torch.zeros_like(v[:1]), v, n, len(data)) for v in calls]
        elif how == "mean":
            found[site] = [_fitted(v.mean(0, keepdim=True), v, n, len(data)) for v in calls]
        else:
            odd = [v.shape for v in calls if len(v) != len(data)]
            if odd:
                raise ValueError(
                    f"ablation: {site!r} has {odd[0][0]} rows for {len(data)} windows, so other "
                    "windows cannot be told apart there; use mean."
                )
            found[site] = [v[chosen.to(v.device)] for v in calls]
    return found


def _fitted(row: Tensor, value: Tensor, n: int, n_data: int) -> Tensor:
    return row.expand(len(value) // n_data * n, *row.shape[1:])


def _calls(values: list[Tensor]) -> Patch:
    def put(value: Tensor, context: Context) -> Tensor:
        return values[0 if "@" in context.site else context.call].to(value)

    return put


def _plain(
    model: nn.Module, batch: Any, run: Run | None, metric: Metric | None
) -> tuple[Tensor, Metric]:
    with still(model):
        return scored((run or model)(batch), len(batch), metric)
