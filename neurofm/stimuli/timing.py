"""From features of events, or of every moment, to the times at which a brain was measured.

Slow signals (fMRI) get features convolved with the haemodynamic response, or several delays beside
each other; fast ones (M/EEG) get lags. `data.hrf` has the responses.

Source: Lanczos 1956, Huth et al. 2016 (features of words at volumes).
Axes: time feature; stimulus = event. Seconds, Hz.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurofm.data.hrf import CANONICAL, DoubleGamma, frame_times, lagged, trial_regressors
from neurofm.shapes import Float
from neurofm.types import Event

Rows = Float[np.ndarray, "_ feature"]


def require_same_length(features: np.ndarray, responses: np.ndarray, *, what: str) -> None:
    """Refuse features and responses of different length.

    Args:
        what: Where, such as the name of the run.

    Raises:
        ValueError: They differ; both numbers are named.
    """
    if len(features) != len(responses):
        raise ValueError(
            f"{what}: features of {len(features)} moments or stimuli for {len(responses)} "
            "responses; expected the same number. Were volumes dropped, or a stimulus left out?"
        )


def at_volumes(
    features: Rows,
    onsets_s: Float[np.ndarray, " stimulus"],
    durations_s: Float[np.ndarray, " stimulus"] | float | int,
    n_times: int,
    tr_s: float | int,
    *,
    hrf: DoubleGamma = CANONICAL,
    at: float = 0.0,
) -> Float[np.ndarray, "time feature"]:
    """Features of events as expected BOLD: the sum of every event's response times its features.

    Args:
        onsets_s: Seconds from the first volume.
        durations_s: 0 is an impulse of the area of one second.
        at: When in a volume its samples were taken, as a share of the repetition time.

    Raises:
        ValueError: Numbers of features, onsets and durations differ, or an event begins after the
            last volume.
    """
    onsets = np.asarray(onsets_s, dtype=np.float64)
    durations = np.broadcast_to(np.asarray(durations_s, dtype=np.float64), onsets.shape)
    require_same_length(features, onsets, what="at_volumes")
    end = n_times * tr_s
    late = onsets >= end
    if late.any():
        raise ValueError(
            f"at_volumes: {int(late.sum())} of {len(onsets)} events begin after the {end:g} s of "
            f"{n_times} volumes, the first at {onsets[late].min():g} s. Is it the list of another "
            "run, or another repetition time?"
        )
    events = [Event(float(t), float(d), "") for t, d in zip(onsets, durations, strict=True)]
    times = frame_times(n_times, 1.0 / tr_s, at=at)
    found = np.zeros((n_times, features.shape[1]))
    for lo in range(0, len(events), 512):
        found += trial_regressors(events[lo : lo + 512], times, hrf=hrf) @ features[lo : lo + 512]
    return found.astype(np.float32)


def downsample(
    features: Rows,
    times_s: Float[np.ndarray, " sample"],
    n_times: int,
    tr_s: float | int,
    *,
    how: str = "lanczos",
    lobes: int = 3,
) -> Float[np.ndarray, "time feature"]:
    """Features of moments, or of words, to one row per volume.

    Args:
        times_s: Of the rows, seconds from the first volume; need not be regular.
        how: "lanczos": a low-pass filter at half the rate of the volumes, centred at the middle of
            each. Its weights sum to 1 wherever a row is near; where none is, the result is 0.
            "mean", "sum": over the rows inside each volume, 0 where there is none.
        lobes: Of the Lanczos window.

    Raises:
        ValueError: Unknown `how`, or numbers of rows and times differ.
    """
    if how not in ("lanczos", "mean", "sum"):
        raise ValueError(f"downsample: how is {how!r}, expected lanczos, mean or sum.")
    times = np.asarray(times_s, dtype=np.float64)
    require_same_length(features, times, what="downsample")
    if how == "lanczos":
        middle = (np.arange(n_times) + 0.5) * tr_s
        found = np.zeros((n_times, features.shape[1]))
        for lo in range(0, n_times, 256):
            apart = (middle[lo : lo + 256, None] - times[None]) / tr_s
            weight = np.sinc(apart) * np.sinc(apart / lobes) * (np.abs(apart) < lobes)
            near = (np.abs(apart) < 1).any(axis=1, keepdims=True)
            total = weight.sum(axis=1, keepdims=True)
            weight = np.where(near & (np.abs(total) > 1e-3), weight / (total + 1e-12), 0.0)
            found[lo : lo + 256] = weight @ features
        return found.astype(np.float32)
    volume = np.floor(times / tr_s + 1e-9).astype(int)
    inside = (volume >= 0) & (volume < n_times)
    found = np.zeros((n_times, features.shape[1]))
    np.add.at(found, volume[inside], features[inside])
    if how == "mean":
        counts = np.bincount(volume[inside], minlength=n_times)[:, None]
        found /= np.maximum(counts, 1)
    return found.astype(np.float32)


def delayed(features: Rows, delays: Sequence[int] = (1, 2, 3, 4)) -> Rows:
    """Features of earlier volumes beside each other: a finite impulse response; see `lagged`."""
    return lagged(features, delays)


def with_lags(
    features: Rows, sfreq: float | int, *, start_s: float = -0.1, stop_s: float = 0.5
) -> Float[np.ndarray, "time feature_lag"]:
    """Features at lags around each sample, for M/EEG: a temporal response function.

    Args:
        sfreq: Of features and responses.
        start_s: First lag; negative: features after the response.
        stop_s: Last lag.

    Returns:
        All features at the first lag, then at the next; zeros beyond the ends.

    Raises:
        ValueError: The first lag lies after the last.
    """
    first, last = round(start_s * sfreq), round(stop_s * sfreq)
    if last < first:
        raise ValueError(f"with_lags: from {start_s} to {stop_s} s; expected increasing lags.")
    n, width = features.shape
    padded = np.pad(features, [(max(last, 0), max(-first, 0)), (0, 0)])
    base = max(last, 0)
    parts = [padded[base - lag : base - lag + n] for lag in range(first, last + 1)]
    return np.concatenate(parts, axis=1).reshape(n, width * len(parts))


def at_samples(
    features: Rows, onsets_s: Float[np.ndarray, " stimulus"], n_times: int, sfreq: float | int
) -> Float[np.ndarray, "time feature"]:
    """Features of events as impulses at the nearest sample, for `with_lags`.

    Raises:
        ValueError: Numbers differ, or an event lies outside the samples.
    """
    onsets = np.asarray(onsets_s, dtype=np.float64)
    require_same_length(features, onsets, what="at_samples")
    sample = np.round(onsets * sfreq).astype(int)
    outside = (sample < 0) | (sample >= n_times)
    if outside.any():
        raise ValueError(
            f"at_samples: {int(outside.sum())} of {len(onsets)} events lie outside the "
            f"{n_times / sfreq:g} s, such as one at {onsets[outside][0]:g} s. Drop them with their "
            "features first."
        )
    found = np.zeros((n_times, features.shape[1]), dtype=np.float32)
    np.add.at(found, sample, features.astype(np.float32))
    return found
