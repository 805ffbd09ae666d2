"""How close predictions of responses come to the noise ceiling, by region, with intervals.

Intervals are over stimuli, drawn with replacement: how far the scores of this person would go for
other stimuli of the same kind. They say nothing of other people.

Source: Efron 1979 (bootstrap); Allen et al. 2022 (ceilings).
Axes: stimulus channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.metrics import correlation_per_channel
from neurofm.shapes import Float
from neurofm.types import Result

_CHANNELS = 2048


@dataclass(frozen=True)
class EncodingScores:
    """Scores of one encoding model on held-out stimuli.

    Args:
        r: Correlation over stimuli; NaN for constant channels.
        ceiling: Largest correlation of any model, in expectation.
        normalised: r / ceiling; NaN where the ceiling is too low to divide by.
        regions: Median of `normalised` by region, and "all": with interval, unit, and under
            `detail` the channels counted, the median r and the median ceiling.
    """

    r: Float[np.ndarray, " channel"]
    ceiling: Float[np.ndarray, " channel"]
    normalised: Float[np.ndarray, " channel"]
    regions: dict[str, Result]


def score_encoding(
    true: np.ndarray,
    predicted: np.ndarray,
    ceiling: np.ndarray,
    *,
    region: Sequence[str] = (),
    least: float = 0.2,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> EncodingScores:
    """Correlation over the noise ceiling of every channel, and its median by region.

    Args:
        true: Responses, `stimulus channel`.
        predicted: The same shape.
        ceiling: Of each channel's correlation, `ceilings.repeats(...).r`.
        region: Of each channel; "" is none.
        least: Channels with a lower ceiling are not divided by it, nor counted.
        n_bootstrap: Draws of stimuli for the intervals.

    Raises:
        ValueError: Shapes that do not fit, or fewer than five stimuli.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    ceiling = np.asarray(ceiling, dtype=np.float64)
    n, channels = true.shape
    if predicted.shape != true.shape or ceiling.shape != (channels,) or n < 5:
        raise ValueError(
            f"score_encoding: responses {true.shape}, predictions {predicted.shape}, ceiling "
            f"{ceiling.shape}; expected the same `stimulus channel` of at least 5 stimuli, and a "
            "ceiling per channel."
        )
    if len(region) not in (0, channels):
        raise ValueError(f"score_encoding: {len(region)} regions for {channels} channels.")
    r = correlation_per_channel(true, predicted)
    usable = np.isfinite(ceiling) & (ceiling >= least) & np.isfinite(r)
    divisor = np.where(usable, ceiling, np.nan)
    names = [name for name in dict.fromkeys(region) if name]
    members = {name: np.flatnonzero(usable & (np.array(region) == name)) for name in names}
    members["all"] = np.flatnonzero(usable)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_bootstrap)
    drawn = _weighted_r(true, predicted, draws.astype(np.float64)) / divisor
    regions = {}
    for name, own in members.items():
        everywhere = usable if name == "all" else np.array(region) == name
        about = {"channels": len(own), "of": int(np.sum(everywhere))}
        if not len(own):
            regions[name] = Result(name, float("nan"), "r / ceiling", n=n, detail=about)
            continue
        low, high = np.nanpercentile(np.nanmedian(drawn[:, own], axis=1), [2.5, 97.5])
        regions[name] = Result(
            name=name,
            value=float(np.median(r[own] / ceiling[own])),
            unit="r / ceiling",
            low=float(low),
            high=float(high),
            n=n,
            chance=0.0,
            ceiling=1.0,
            detail=about
            | {"r": float(np.median(r[own])), "ceiling_r": float(np.median(ceiling[own]))},
        )
    return EncodingScores(r=r, ceiling=ceiling, normalised=r / divisor, regions=regions)


def _weighted_r(
    true: np.ndarray, predicted: np.ndarray, weights: np.ndarray
) -> Float[np.ndarray, "draw channel"]:
    """Correlation over stimuli that count so many times each; NaN where one side is constant."""
    found = np.full((len(weights), true.shape[1]), np.nan)
    share = weights / weights.sum(axis=1, keepdims=True)
    for lo in range(0, true.shape[1], _CHANNELS):
        part = slice(lo, lo + _CHANNELS)
        a, b = (x[:, part].astype(np.float64) for x in (true, predicted))
        a, b = a - a.mean(axis=0), b - b.mean(axis=0)
        ma, mb = share @ a, share @ b
        cov = share @ (a * b) - ma * mb
        var = (share @ a**2 - ma**2) * (share @ b**2 - mb**2)
        known = var > 1e-20
        found[:, part] = np.where(known, cov / np.sqrt(np.where(known, var, 1)), np.nan)
    return found
