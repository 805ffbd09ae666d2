"""Signs of source time courses made equal across recordings.

A dipole and its opposite with the opposite time course explain the same field, so every recording's
parcels come with arbitrary signs, and models that learn from many people see the same activity now
upwards, now downwards. Signs leave a parcel's own spectrum as it is but turn its covariance with
others, at all lags: each recording is flipped until its lagged covariances resemble a template's.
One sign for the whole recording stays undetermined; the fewest flips are taken.

Source: Vidaurre et al. 2016, NeuroImage 126:81 (sign ambiguity of source data); the search over
flips of the covariance of time-delay-embedded data follows GLEAN and osl-dynamics (Gohil et al.
2024, eLife 12:RP91949).
Axes: parcel; time; lag = shift in samples, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofm.shapes import Float
from neurofm.types import Signal

LAGS = 15  # embeddings: one every sample, 60 ms at 250 Hz


@dataclass(frozen=True)
class Flips:
    """The signs of one recording.

    Args:
        signs: 1 or -1 of each parcel.
        before: Similarity to the template without flips, -1 to 1.
        after: With them.
    """

    signs: Float[np.ndarray, " parcel"]
    before: float
    after: float


def lagged_covariance(
    data: Float[np.ndarray, "parcel time"], *, lags: int = LAGS
) -> Float[np.ndarray, "lag parcel parcel"]:
    """Correlations of every parcel with every other, the other later by 0 to `lags` - 1 samples.

    Together with their transposes, these are all the different entries of the covariance of data
    embedded with `lags` delays.

    Raises:
        ValueError: Fewer samples than twice the lags, or values that are not finite.
    """
    n_times = data.shape[1]
    if n_times < 2 * lags:
        raise ValueError(f"lagged_covariance: {n_times} samples, expected at least {2 * lags}.")
    x = data.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError("lagged_covariance: NaN or infinite values. Repair or leave them out.")
    x -= x.mean(axis=1, keepdims=True)
    deviation = x.std(axis=1, keepdims=True)
    x /= np.where(deviation > 0, deviation, 1)
    return np.stack([x[:, : n_times - lag] @ x[:, lag:].T / (n_times - lag) for lag in range(lags)])


def similarity(
    one: Float[np.ndarray, "lag parcel parcel"], other: Float[np.ndarray, "lag parcel parcel"]
) -> float:
    """Cosine between two sets of lagged covariances, each parcel's own left out."""
    return float(_agreement(one, other).sum() / _norm(one, other))


def sign_flips(
    covariance: Float[np.ndarray, "lag parcel parcel"],
    template: Float[np.ndarray, "its_lag its_parcel its_parcel"],
    *,
    starts: int = 100,
    seed: int = 0,
) -> Flips:
    """The signs that make a recording most similar to a template.

    From many random signs, the one whose flip helps most is flipped until none helps.

    Args:
        covariance: Of `lagged_covariance`.
        template: Of the same parcels and lags.
        starts: Random starts, besides no flips and the signs of the leading eigenvector.
        seed: Of the random starts: the same recording always gets the same signs.

    Raises:
        ValueError: Other parcels or lags.
    """
    if covariance.shape != template.shape:
        raise ValueError(
            f"sign_flips: covariances of shape {covariance.shape} and a template of "
            f"{template.shape}; both must have the same lags and parcels."
        )
    agreement = _agreement(covariance, template)
    n = len(agreement)
    rng = np.random.default_rng(seed)
    leading = np.linalg.eigh(agreement)[1][:, -1]
    candidates = [np.ones(n), np.where(leading < 0, -1.0, 1.0)]
    candidates += list(rng.choice([-1.0, 1.0], size=(starts, n)))
    best = max((_climb(agreement, signs) for signs in candidates), key=lambda pair: pair[1])[0]
    if (best < 0).sum() * 2 > n or ((best < 0).sum() * 2 == n and best[0] < 0):
        best = -best
    norm = _norm(covariance, template)
    return Flips(best, float(agreement.sum() / norm), float(best @ agreement @ best / norm))


def common_template(
    covariances: Sequence[Float[np.ndarray, "lag parcel parcel"]], *, rounds: int = 2
) -> Float[np.ndarray, "lag parcel parcel"]:
    """A template that all recordings are close to.

    It starts as the recording whose covariances, signs ignored, are most like the others', and
    becomes the mean of all recordings flipped towards it.

    Args:
        covariances: One set per recording.
        rounds: How often the mean is taken.
    """
    absolute = [np.abs(item) for item in covariances]
    mean = np.mean(absolute, axis=0)
    template = covariances[int(np.argmax([similarity(item, mean) for item in absolute]))]
    for _ in range(rounds if len(covariances) > 1 else 0):
        flipped = []
        for item in covariances:
            signs = sign_flips(item, template).signs
            flipped.append(item * np.outer(signs, signs))
        template = np.mean(flipped, axis=0)
    return template


def flip(signal: Signal, flips: Flips) -> Signal:
    """The recording with its parcels' signs changed, and a line in its history."""
    count = int((flips.signs < 0).sum())
    return replace(
        signal,
        data=signal.data * flips.signs.astype(np.float32)[:, None],
        history=(
            *signal.history,
            f"flipped the signs of {count} of {len(flips.signs)} parcels (similarity to the "
            f"template {flips.before:.3f} before, {flips.after:.3f} after)",
        ),
    )


def align_signs(signals: Sequence[Signal], *, lags: int = LAGS) -> list[Signal]:
    """Recordings of the same parcels with their signs made equal.

    Raises:
        ValueError: No recordings, or their parcels differ.
    """
    if not signals:
        raise ValueError("align_signs: no recordings.")
    names = signals[0].sensors.names
    for signal in signals:
        if signal.sensors.names != names:
            raise ValueError(
                f"align_signs: {signal.recording.id} has other parcels than "
                f"{signals[0].recording.id}: pick the same ones, in the same order."
            )
    covariances = [lagged_covariance(signal.data, lags=lags) for signal in signals]
    template = common_template(covariances)
    return [
        flip(signal, sign_flips(covariance, template))
        for signal, covariance in zip(signals, covariances, strict=True)
    ]


def _climb(agreement: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, float]:
    signs = start.copy()
    pull = agreement @ signs
    while True:
        support = signs * pull
        worst = int(support.argmin())
        if support[worst] >= 0:
            return signs, float(support.sum())
        signs[worst] = -signs[worst]
        pull += 2 * agreement[:, worst] * signs[worst]


def _agreement(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """parcel x parcel: how much a pair's covariances agree, summed over lags; zero diagonal."""
    total = np.einsum("l,lij,lij->ij", _weights(len(one)), one, other)
    total = (total + total.T) / 2
    np.fill_diagonal(total, 0)
    return total


def _norm(one: np.ndarray, other: np.ndarray) -> float:
    product = float(_agreement(one, one).sum() * _agreement(other, other).sum())
    return max(np.sqrt(product), np.finfo(float).tiny)


def _weights(lags: int) -> np.ndarray:
    """How often each lag occurs in the covariance of embedded data; others count both ways."""
    weights = 2.0 * (lags - np.arange(lags))
    weights[0] = lags
    return weights
