"""Lesions of the input: which regions and rhythms of the brain does a model need?

A group of channels (a region) or a band of frequencies is taken away and the score is measured
again. Any lesion costs something, so every region comes with random regions of the same size, and
every band with random bands of the same width.

Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import Inputs, signals_of, with_inputs
from neurofm.interpret.bands import BANDS, remove_band
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Fill = Literal["zero", "mean", "missing"]


@dataclass(frozen=True)
class Lesions:
    """Scores without regions or bands.

    Args:
        names: Of the lesions.
        intact: Score of the whole windows.
        score: Without each.
        control: With random lesions of the same size instead.
        unit: Of the score.
    """

    names: tuple[str, ...]
    intact: float
    score: Float[np.ndarray, " lesion"]
    control: Float[np.ndarray, "lesion draw"]
    unit: str = "score"

    @property
    def drop(self) -> Float[np.ndarray, " lesion"]:
        """What each lesion costs."""
        return self.intact - self.score

    @property
    def p(self) -> Float[np.ndarray, " lesion"]:
        """Share of random lesions that cost at least as much, the lesion itself counted."""
        worse = (self.control <= self.score[:, None] + 1e-12).sum(1)
        return (worse + 1) / (self.control.shape[1] + 1)

    def plot(self) -> Figure:
        """Cost of each lesion beside random ones of the same size, with 95 % of those."""
        from neurofm.figures import plot_bars

        random = self.intact - self.control
        bars = {
            "lesion": dict(zip(self.names, map(float, self.drop), strict=True)),
            "random, same size": dict(zip(self.names, map(float, random.mean(1)), strict=True)),
        }
        ends = np.quantile(random, [0.025, 0.975], axis=1).T
        spread = {"random, same size": dict(zip(self.names, map(tuple, ends), strict=True))}
        title = f"Lesions of the input, intact {self.intact:.3g}"
        return plot_bars(bars, title=title, unit=f"loss of {self.unit}", intervals=spread)


def lesion_channels(
    score: Callable[[Inputs], float],
    batch: Inputs,
    regions: Mapping[str, Sequence[int]],
    *,
    fill: Fill = "zero",
    n_random: int = 100,
    rng: np.random.Generator | None = None,
    unit: str = "score",
) -> Lesions:
    """Take away groups of channels.

    Args:
        score: Of a batch, larger is better, such as the accuracy of a decoder on it.
        regions: Name to indices of channels.
        fill: "zero"; "mean" of the other channels; "missing": the channel mask says so, for models
            that take any set of channels (needs a Batch).
        n_random: Random groups of the same size for each region.
        rng: Draws them; seed 0 if not given.
    """
    x = signals_of(batch, who="lesion_channels")
    rng = rng or np.random.default_rng(0)
    real = np.arange(x.shape[1])
    if isinstance(batch, Batch):
        real = np.flatnonzero(batch.channel_mask.any(0).cpu().numpy())
    _some("lesion_channels", regions, n_random)
    for name, channels in regions.items():
        if not all(isinstance(k, int | np.integer) for k in channels):
            raise TypeError(f"lesion_channels: {name!r} has {channels}; expected their indices.")
        wrong = sorted(set(map(int, channels)) - set(real.tolist()))
        if wrong or not len(channels) or len(set(channels)) >= len(real):
            raise ValueError(
                f"lesion_channels: {name!r} has {len(channels)} channels of {len(real)}"
                f"{f', unknown ones {wrong}' if wrong else ''}; some must go and some stay."
            )
    if fill not in ("zero", "mean", "missing"):
        raise ValueError(f"lesion_channels: fill={fill!r}; zero, mean or missing.")

    def without(channels: Sequence[int] | np.ndarray) -> float:
        gone = torch.as_tensor(np.asarray(channels, dtype=np.int64), device=x.device)
        if fill == "missing":
            if not isinstance(batch, Batch):
                raise TypeError("lesion_channels: fill='missing' needs a Batch, which has a mask.")
            mask = batch.channel_mask.clone()
            mask[:, gone] = False
            kept = x.clone()
            kept[:, gone] = 0
            other: Any = replace(with_inputs(batch, kept), channel_mask=mask)
            return _finite("lesion_channels", score(other))
        changed = x.clone()
        if fill == "mean":
            stay = [k for k in real.tolist() if k not in set(gone.tolist())]
            changed[:, gone] = x[:, stay].mean(1, keepdim=True)
        else:
            changed[:, gone] = 0
        return _finite("lesion_channels", score(with_inputs(batch, changed)))

    intact = _finite("lesion_channels", score(batch))
    control = [
        [without(rng.choice(real, len(set(c)), replace=False)) for _ in range(n_random)]
        for c in regions.values()
    ]
    return Lesions(
        names=tuple(regions),
        intact=intact,
        score=np.array([without(sorted(set(c))) for c in regions.values()]),
        control=np.array(control).reshape(len(regions), n_random),
        unit=unit,
    )


def lesion_bands(
    score: Callable[[Inputs], float],
    batch: Inputs,
    sfreq: float | int,
    bands: Mapping[str, tuple[float, float]] = BANDS,
    *,
    within: tuple[float, float] = (1.0, 45.0),
    n_random: int = 100,
    rng: np.random.Generator | None = None,
    unit: str = "score",
) -> Lesions:
    """Take away bands of frequencies.

    Args:
        score: As in `lesion_channels`.
        sfreq: Hz.
        bands: Name to lower and upper edge, Hz.
        within: Random bands of the same width lie in here, Hz.
        n_random: Random bands for each.
        rng: Draws them; seed 0 if not given.
    """
    x = signals_of(batch, who="lesion_bands")
    rng = rng or np.random.default_rng(0)

    def without(low: float, high: float) -> float:
        left = with_inputs(batch, remove_band(x, float(sfreq), low, high))
        return _finite("lesion_bands", score(left))

    low, high = within[0], min(within[1], sfreq / 2)
    _some("lesion_bands", bands, n_random)
    control = []
    for name, (a, b) in bands.items():
        if not 0 <= a < b <= sfreq / 2:
            raise ValueError(
                f"lesion_bands: {name!r} is {a:g} to {b:g} Hz; expected two rising edges up to "
                f"{sfreq / 2:g} Hz, half the rate."
            )
        if b - a > high - low:
            raise ValueError(
                f"lesion_bands: {name!r} is {b - a:g} Hz wide; random bands of that width do not "
                f"fit into {low:g} to {high:g} Hz."
            )
        starts = rng.uniform(low, high - (b - a), n_random)
        control.append([without(s, s + b - a) for s in starts])
    return Lesions(
        names=tuple(bands),
        intact=_finite("lesion_bands", score(batch)),
        score=np.array([without(*edges) for edges in bands.values()]),
        control=np.array(control).reshape(len(bands), n_random),
        unit=unit,
    )


def _some(who: str, lesions: Mapping[str, object], n_random: int) -> None:
    if not lesions or n_random < 1:
        raise ValueError(f"{who}: {len(lesions)} lesions, {n_random} random ones; give some.")


def _finite(who: str, score: float) -> float:
    # No comparison with NaN holds, so that every lesion would look beyond its controls.
    if not np.isfinite(score):
        raise ValueError(f"{who}: the score is {score}; expected a finite number.")
    return float(score)
