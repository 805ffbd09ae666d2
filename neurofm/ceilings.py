"""How well any model could predict responses that are noisy: noise ceilings.

Three estimates that answer different questions. `repeats` and `split_half` use repeated
presentations: what can be predicted of one person's averaged responses. `leave_one_subject_out`
uses other people: what is shared between people, which a model of one person may exceed. Without
repeats (or people) there is no ceiling, and none is made up: that is an error.

Source: Allen et al. 2022 (signal and noise variance over repeats); Spearman 1910 and Brown 1910
(reliability of a longer test); Nili et al. 2014 (bounds over people).
Axes: trial = one presentation; stimulus; channel; subject.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.metrics import pearson_r
from neurofm.shapes import Float

_AT_ONCE = 512  # channels


@dataclass(frozen=True)
class Ceiling:
    """A noise ceiling for every channel.

    Args:
        fraction: Share of the variance of the averaged responses that is signal, 0 to 1: the
            largest r² of any model, in expectation. NaN for constant channels.
        ncsnr: Standard deviation of the signal over that of a single presentation's noise.
        n_stimuli: With repeats; what the estimate is from.
        n_single: Shown once: they say nothing about noise.
        n_averaged: Presentations that an averaged response is made of (the harmonic mean).
    """

    fraction: Float[np.ndarray, " channel"]
    ncsnr: Float[np.ndarray, " channel"]
    n_stimuli: int
    n_single: int
    n_averaged: float

    @property
    def r(self) -> Float[np.ndarray, " channel"]:
        """The largest correlation of any model with the averaged responses, in expectation."""
        return np.sqrt(self.fraction)


@dataclass(frozen=True)
class SubjectBounds:
    """Correlation of people with the mean of people, for every channel.

    Args:
        lower: With the mean of the others; a model of what people share should reach it.
        upper: With the mean of all, oneself included; no model of what people share exceeds it.
        by_subject: The lower bound of each person.
    """

    lower: Float[np.ndarray, " channel"]
    upper: Float[np.ndarray, " channel"]
    by_subject: Float[np.ndarray, "subject channel"]


def spearman_brown(r: np.ndarray | float) -> np.ndarray:
    """Reliability of the whole from the correlation of its halves: 2 r / (1 + r).

    At and below -1 it is not defined and NaN; negative values stay negative.
    """
    half = np.asarray(r, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(half > -1, 2 * half / (1 + half), np.nan)


def largest_r(half: np.ndarray | float) -> np.ndarray:
    """Largest correlation of any model with averaged responses, from that of their halves.

    The root of `spearman_brown`. NaN where halves do not agree (0 or below): no ceiling is known
    there, and a score is not to be divided by it.
    """
    r = np.asarray(half, dtype=np.float64)
    return np.sqrt(np.where(r > 0, spearman_brown(r), np.nan))


def repeats(
    values: Float[np.ndarray, "trial channel"],
    stimulus: Sequence[Hashable],
    *,
    n_averaged: float | int | None = None,
) -> Ceiling:
    """Signal and noise from the spread between presentations of one stimulus.

    Responses are z-scored per channel over all trials; noise variance is the mean over stimuli of
    the variance between presentations (ddof 1), signal variance what is left of 1, at least 0.

    Args:
        stimulus: Of each trial; equal values are the same stimulus again.
        n_averaged: Presentations averaged in the responses that a model predicts; as given
            otherwise (stimuli shown 3, 2 and 1 times count 1/3, 1/2 and 1 in the mean of 1 / n).

    Raises:
        ValueError: No stimulus was shown twice, so there is no ceiling; or NaN.
    """
    rows, codes, counts = _trials("repeats", values, stimulus)
    constant = rows.max(0) == rows.min(0)
    spread = rows.std(0)
    z = (rows - rows.mean(0)) / np.where(constant, 1, spread)
    shown = len(counts)
    sums = np.zeros((shown, z.shape[1]))
    np.add.at(sums, codes, z)
    residual = z - (sums / counts[:, None])[codes]
    squares = np.zeros_like(sums)
    np.add.at(squares, codes, residual**2)
    several = counts > 1
    noise = (squares[several] / (counts[several] - 1)[:, None]).mean(0)
    signal = np.maximum(1 - noise, 0)
    share = float((1 / counts).mean()) if n_averaged is None else 1 / n_averaged
    with np.errstate(invalid="ignore", divide="ignore"):
        ncsnr = np.sqrt(signal / noise)
        fraction = signal / (signal + noise * share)
    return Ceiling(
        fraction=np.where(constant, np.nan, fraction),
        ncsnr=np.where(constant, np.nan, ncsnr),
        n_stimuli=int(several.sum()),
        n_single=int((~several).sum()),
        n_averaged=1 / share,
    )


def split_half(
    values: Float[np.ndarray, "trial channel"],
    stimulus: Sequence[Hashable],
    *,
    n_splits: int = 100,
    seed: int = 0,
) -> Ceiling:
    """Reliability of the averaged responses from halves of the presentations.

    The presentations of every stimulus are halved at random (of an odd number one is left out each
    time), halves averaged and correlated over stimuli; the mean over splits is corrected to the
    full number by the formula of Spearman and Brown.

    Returns:
        `fraction` is the corrected reliability, 0 where it is negative. `ncsnr` follows from it.

    Raises:
        ValueError: Fewer than three stimuli were shown twice; or NaN.
    """
    rows, codes, counts = _trials("split_half", values, stimulus)
    several = np.flatnonzero(counts > 1)
    if len(several) < 3:
        raise ValueError(
            f"split_half: {len(several)} stimuli were shown twice or more; a correlation over "
            "stimuli needs at least 3."
        )
    r = np.concatenate(
        [
            _half_correlation(rows[:, start : start + _AT_ONCE], codes, counts, n_splits, seed)
            for start in range(0, rows.shape[1], _AT_ONCE)
        ]
    )
    used = 2 * (counts[several] // 2)
    n = float(1 / (1 / used).mean())
    fraction = np.clip(spearman_brown(r), 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ncsnr = np.sqrt(fraction / (1 - fraction) / n)
    constant = rows.max(0) == rows.min(0)
    return Ceiling(
        fraction=np.where(constant, np.nan, fraction),
        ncsnr=np.where(constant, np.nan, ncsnr),
        n_stimuli=len(several),
        n_single=int((counts == 1).sum()),
        n_averaged=n,
    )


def _half_correlation(
    rows: np.ndarray, codes: np.ndarray, counts: np.ndarray, n_splits: int, seed: int
) -> Float[np.ndarray, " channel"]:
    """Mean over splits of the correlation of both halves; the same splits for all channels."""
    rng = np.random.default_rng(seed)
    half = counts // 2
    start = np.cumsum(counts) - counts
    place = np.arange(len(codes)) - np.repeat(start, counts)  # among a stimulus's presentations
    own = np.repeat(half, counts)
    several = half > 0
    first = np.cumsum(half[several]) - half[several]
    total = np.zeros(rows.shape[1])
    for _ in range(n_splits):
        order = np.lexsort((rng.random(len(codes)), codes))
        one, two = (
            np.add.reduceat(rows[order[kept]], first) / half[several, None]
            for kept in (place < own, (place >= own) & (place < 2 * own))
        )
        total += pearson_r(one.T, two.T)
    return total / n_splits


def leave_one_subject_out(
    values: Float[np.ndarray, "subject stimulus channel"],
) -> SubjectBounds:
    """Correlation over stimuli of each person with the mean of the others, averaged over people.

    Args:
        values: Channels that correspond between people (parcels, or a common surface). Each
            person's are z-scored first, so that none dominates the mean.

    Raises:
        ValueError: Fewer than two people, fewer than three stimuli, or NaN.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 3 or x.shape[0] < 2 or x.shape[1] < 3:
        raise ValueError(
            f"leave_one_subject_out: shape {x.shape}; expected two people or more by three stimuli "
            "or more by channels. One person has no ceiling over people."
        )
    if not np.isfinite(x).all():
        raise ValueError("leave_one_subject_out: NaN or infinite responses; leave them out first.")
    constant = (x.max(1) == x.min(1)).any(0)
    scale = np.where(np.ptp(x, axis=1, keepdims=True) > 0, x.std(1, keepdims=True), 1)
    z = (x - x.mean(1, keepdims=True)) / scale
    total = z.sum(0)
    own = z.transpose(0, 2, 1)
    others = ((total - z) / (len(z) - 1)).transpose(0, 2, 1)
    everybody = np.broadcast_to((total / len(z)).T, own.shape)
    lower = np.where(constant, np.nan, pearson_r(own, others))
    upper = np.where(constant, np.nan, pearson_r(own, everybody).mean(0))
    return SubjectBounds(lower.mean(0), upper, lower)


def _trials(name: str, values: np.ndarray, stimulus: Sequence[Hashable]) -> tuple:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(stimulus):
        raise ValueError(
            f"{name}: responses of shape {rows.shape} and {len(stimulus)} stimuli; expected trial "
            "by channel and one stimulus per trial."
        )
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(0).sum())
        raise ValueError(f"{name}: {bad} of {rows.shape[1]} channels hold NaN or infinite values.")
    place: dict[Hashable, int] = {}
    codes = np.array([place.setdefault(s, len(place)) for s in stimulus])
    counts = np.bincount(codes)
    if not (counts > 1).any():
        raise ValueError(
            f"{name}: each of the {len(counts)} stimuli was shown once. Without repeats noise "
            "cannot be told from signal: there is no ceiling, report raw scores and say so."
        )
    return rows, codes, counts
