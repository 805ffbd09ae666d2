"""Which network of the brain carries the information: parcels set to zero, against random sets.

Zeroing any parcels costs something. A network matters more than others if it costs more than random
sets of as many parcels.

Source: WAVE (arXiv 2411.07121), whose ablations lack the random sets; Phipson & Smyth 2010 (p).
Axes: window; channel (parcel); set = random set of parcels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.shapes import Float
from neurofm.stats import fdr
from neurofm.types import Sensors


@dataclass(frozen=True)
class NetworkAblation:
    """What it costs to lose a network.

    Args:
        n_parcels: Of the network.
        score: Of the whole brain.
        without: Score without the network.
        random: Scores without random sets of as many parcels.
        p: How often a random set costs as much, one-sided; never 0.
        q: The same, adjusted over the networks (Benjamini-Hochberg).
    """

    network: str
    n_parcels: int
    score: float
    without: float
    random: Float[np.ndarray, " set"]
    p: float
    q: float

    @property
    def cost(self) -> float:
        """Score lost beyond what random sets of the same size lose on average."""
        return float(self.random.mean()) - self.without

    def __str__(self) -> str:
        low, high = np.quantile(self.random, [0.025, 0.975])
        return (
            f"{self.network} ({self.n_parcels} parcels): {self.score:.3f} -> {self.without:.3f}; "
            f"random sets {self.random.mean():.3f} [{low:.3f}, {high:.3f}], "
            f"p = {self.p:.3g}, q = {self.q:.3g}"
        )


def networks_of(sensors: Sensors) -> dict[str, list[int]]:
    """Parcels of each network, by position, from the regions of sensors.

    Raises:
        ValueError: No region is known.
    """
    found: dict[str, list[int]] = {}
    for i, name in enumerate(sensors.region):
        if name:
            found.setdefault(name, []).append(i)
    if not found:
        raise ValueError(
            "networks_of: no sensor has a region. Read parcels with an atlas that has a table of "
            "networks, or `read_networks` from a JSON file."
        )
    return found


def read_networks(path: Path | str) -> dict[str, list[int]]:
    """Parcels of each network from a JSON file: name -> list of positions, the first being 0.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not plain JSON ({error}).") from error
    good = isinstance(found, dict) and all(
        isinstance(part, list) and all(type(i) is int for i in part) for part in found.values()
    )
    if not good or not found:
        raise ValueError(f"{path}: expected a mapping from names to lists of parcels (from 0).")
    return found


def without(batch: Batch, parcels: Sequence[int] | np.ndarray) -> Batch:
    """The batch with these parcels at 0 throughout."""
    x = batch.x.clone()
    x[:, torch.as_tensor(np.asarray(parcels), dtype=torch.int64)] = 0
    return replace(batch, x=x)


def ablate_networks(
    score: Callable[[Batch], float],
    batch: Batch,
    networks: Mapping[str, Sequence[int] | np.ndarray],
    *,
    n_sets: int = 200,
    seed: int = 0,
) -> list[NetworkAblation]:
    """Score windows without each network, and without random sets of as many parcels.

    Args:
        score: Of windows; higher is better. A trained model is not trained anew: parcels at 0 are
            also unlike what it has seen, which the random sets account for.
        batch: Held-out windows; z-scored, so that 0 is a parcel's mean.
        networks: Positions of parcels by name.
        n_sets: Random sets for each size; the smallest p is one over one more.
        seed: Of the sets.

    Raises:
        ValueError: A network without parcels, with all, or beyond the batch's; too few sets.
    """
    n_channels = batch.x.shape[1]
    for name, parcels in networks.items():
        index = np.asarray(parcels, dtype=np.int64)
        inside = len(index) and index.min() >= 0 and index.max() < n_channels
        if not inside or len(set(index.tolist())) != len(index) or len(index) >= n_channels:
            raise ValueError(
                f"ablate_networks: {name!r} has {len(index)} parcels of {n_channels}; expected at "
                f"least one and not all, each once, from 0 to {n_channels - 1}."
            )
    if not networks or n_sets < 1:
        raise ValueError(f"ablate_networks: {len(networks)} networks, {n_sets} sets; expected 1+.")
    whole = float(score(batch))
    rng = np.random.default_rng(seed)
    null: dict[int, np.ndarray] = {}
    for size in sorted({len(parcels) for parcels in networks.values()}):
        drawn = [rng.choice(n_channels, size, replace=False) for _ in range(n_sets)]
        null[size] = np.array([float(score(without(batch, parcels))) for parcels in drawn])
    left = {name: float(score(without(batch, parcels))) for name, parcels in networks.items()}
    p = [
        (1 + int((null[len(networks[name])] <= value).sum())) / (1 + n_sets)
        for name, value in left.items()
    ]
    q = fdr(p)[1]
    return [
        NetworkAblation(
            name, len(networks[name]), whole, value, null[len(networks[name])], p[i], float(q[i])
        )
        for i, (name, value) in enumerate(left.items())
    ]
