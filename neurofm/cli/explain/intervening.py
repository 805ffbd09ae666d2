"""Exchange what passes through a run's network between trials.

Axes: window; place = sites, or parts of sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neurofm.cli.explain.explaining import function_of
from neurofm.cli.explain.inside import Inside, Place, passing
from neurofm.interpret.causal import (
    activation_patching,
    attribution_patching,
    logit_difference,
    other_class,
    other_subject,
    taken,
)
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval

PAIRS, PARTS, FEWEST = 48, 6, 8
_QUIET = ("Norm", "Dropout", "Identity")


@dataclass(frozen=True)
class Effects:
    """Shares of the difference between two trials that patching moves, places by kind of patch.

    Args:
        value: Sum over windows of what moves, over the sum of the differences.
        low: Lower end of the 95 % interval over windows.
        high: Upper end.
    """

    value: Float[np.ndarray, " place"]
    low: Float[np.ndarray, " place"]
    high: Float[np.ndarray, " place"]


@dataclass(frozen=True)
class Patched:
    """Patching of places: whole sites, parts inside them (such as attention), parts of their axis.

    Args:
        names: Of the places, sites first, then what is inside, then parts of sites.
        kinds: "site", "inside" or "part", of each.
        denoise: A trial of the wanted class put into one of the other class.
        noise: The reverse.
        control: Denoising with another trial of the class that is there already: nothing to move.
        unchanged: Largest change of the logits when a run is given its own values.
        correlation: "plain" and "relevance" to the correlation of first-order estimates with true
            denoising over places and windows, and its interval; reasons where there is none.
        n: Windows.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    denoise: Effects
    noise: Effects
    control: Effects
    unchanged: float
    correlation: dict[str, tuple[float, float, float] | str]
    n: int

    def of(self, kind: str) -> np.ndarray:
        """Which places are of a kind."""
        return np.flatnonzero([k == kind for k in self.kinds])


def patching(inside: Inside) -> Patched:
    """Exchange values between trials of two classes of one person that are both decoded rightly.

    Raises:
        ValueError: The recordings differ in channels, or too few trials are decoded rightly.
    """
    held, decoder = inside.held, inside.decoder
    if not held.same_sensors:
        raise ValueError("patching: the recordings have different channels, so nothing can change.")
    run = function_of(decoder)
    batch, y = held.windows.batch(held.chosen), held.classes(held.chosen)
    with torch.no_grad():
        right = (torch.cat([run(b) for b, _ in held.batches(held.chosen)]).argmax(1) == y).numpy()
    rng = np.random.default_rng(inside.seed)
    people = held.subjects()
    use = np.flatnonzero(right & [_pairable(k, right, y.numpy(), people) for k in range(len(y))])
    if len(use) < FEWEST:
        raise ValueError(
            f"patching: {int(right.sum())} of {len(y)} windows are decoded rightly, {len(use)} "
            "with partners in both classes of their person. What the network does not do cannot "
            f"be located; {FEWEST} are the least."
        )
    own, who = y.numpy()[use], people[use]
    partner = other_class(own, subject=who, rng=rng)
    # Another trial of the partner's class and person.
    donor = other_subject(np.arange(len(use)), labels=_pairs(own, who), rng=rng)[partner]
    some = np.sort(rng.permutation(len(use))[:PAIRS])
    clean, corrupt, same = (
        taken(batch, use[index[some]]) for index in (np.arange(len(use)), partner, donor)
    )
    metric = logit_difference(torch.as_tensor(own[some]), torch.as_tensor(own[partner[some]]))
    places = _places(inside, clean)
    names = [name for name, _ in places]
    common: dict[str, Any] = {"run": run, "metric": metric}
    there = activation_patching(decoder, clean, corrupt, names, **common)
    back = activation_patching(decoder, clean, corrupt, names, direction="noise", **common)
    other = activation_patching(decoder, same, corrupt, names, **common)
    again = activation_patching(decoder, corrupt, corrupt, names, **common)
    whole = there.clean - there.corrupt
    return Patched(
        names=tuple(names),
        kinds=tuple(kind for _, kind in places),
        denoise=_effects(there.score - there.corrupt, whole),
        noise=_effects(there.clean - back.score, whole),
        control=_effects(other.score - there.corrupt, whole),
        unchanged=float(np.abs(again.score - again.corrupt).max()),
        correlation={
            kind: _correlation(inside, clean, corrupt, names, kind, common, there)
            for kind in ("plain", "relevance")
        },
        n=len(some),
    )


def _pairs(y: np.ndarray, who: np.ndarray) -> np.ndarray:
    return np.unique([f"{k} {p}" for k, p in zip(y, who, strict=True)], return_inverse=True)[1]


def _pairable(k: int, right: np.ndarray, y: np.ndarray, people: np.ndarray) -> bool:
    """Two trials of its own and of another class, so that every trial has a partner and a donor."""
    mine = right & (people == people[k])
    counts = [int((mine & (y == c)).sum()) for c in np.unique(y)]
    return min(counts) > 1


def _effects(moved: np.ndarray, whole: np.ndarray) -> Effects:
    value = moved.sum(1) / whole.sum()

    def ends(row: np.ndarray) -> tuple[float, float]:
        return bootstrap_interval(
            np.arange(len(whole)),
            statistic=lambda i: float(row[i.astype(int)].sum() / whole[i.astype(int)].sum()),
            method="percentile",
            n_resamples=1000,
        )

    low, high = np.array([ends(row) for row in moved]).T
    return Effects(value, low, high)


def _places(inside: Inside, batch: Any) -> list[tuple[str, str]]:
    found = [(name, "site") for name in inside.names]
    parts: list[tuple[str, str]] = []
    some = taken(batch, np.arange(2))
    for place in inside.places:
        (value, _), *_ = passing(inside.decoder, some, [place.name])[place.name]
        module = inside.decoder.get_submodule(place.name.partition(":")[0].partition("[")[0])
        for child, inner in module.named_children():
            name = f"{place.name}.{child}"
            if any(word in type(inner).__name__ for word in _QUIET) or len(found) > 24:
                continue
            try:
                (one, _), *more = passing(inside.decoder, some, [name])[name]
            except (ValueError, RuntimeError):
                continue
            if not more and one.shape == value.shape:
                found.append((name, "inside"))
        if "[" not in place.name and value.ndim > 2:
            parts += [(f"{place.name}[{part}]", "part") for part in _parts(place, value)]
    return found + parts


def _parts(place: Place, value: Tensor) -> list[str]:
    axis, n = ("time", value.shape[-1]) if place.axis == 1 else ("token", value.shape[1])
    edges = np.unique(np.linspace(0, n, min(PARTS, n) + 1).round().astype(int))
    return [f"{axis}={a}:{b}" for a, b in pairwise(edges)] if n > 1 else []


def _correlation(
    inside: Inside,
    clean: Any,
    corrupt: Any,
    names: list[str],
    kind: Literal["plain", "relevance"] | str,
    common: dict[str, Any],
    true: Any,
) -> tuple[float, float, float] | str:
    try:
        found = attribution_patching(
            inside.decoder,
            clean,
            corrupt,
            names,
            gradient="plain" if kind == "plain" else "relevance",
            check=0,
            at_least=0,
            **common,
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        return str(error)
    a = np.stack([found.estimate[name] for name in names])
    b = true.score - true.corrupt

    def r(index: np.ndarray) -> float:
        x, y = a[:, index.astype(int)].ravel(), b[:, index.astype(int)].ravel()
        return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0

    every = np.arange(a.shape[1])
    if a.std() == 0:
        return "no gradient reaches the sites"
    ends = bootstrap_interval(every, statistic=r, method="percentile", n_resamples=500)
    return (r(every), *ends)
