"""How well predicted responses agree with measured ones: one number per channel, or per stimulus.

A channel is a voxel, a sensor, or a column of an embedding that is predicted from a brain; a row
is one held-out stimulus. Correlations over stimuli and over channels are different numbers.

Source: Allen et al. 2022 and Gifford et al. 2023 (noise-normalised r2); Mitchell et al. 2008 and
Oota et al. 2022 (2V2 accuracy); Ozcelik & VanRullen 2023 (matching of moments).
Axes: stimulus = held-out row; channel = column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurofm.metrics.signals import pearson_r
from neurofm.shapes import Float

Rows = Float[np.ndarray, "stimulus channel"]
Other = Float[np.ndarray, "_ _"]  # of the same shape, which is checked with a message


def paired_rows(name: str, true: np.ndarray, predicted: np.ndarray) -> tuple:
    """Both as float64 matrices of one shape.

    Raises:
        ValueError: They differ in shape, are no matrices, are empty, or hold NaN.
    """
    a, b = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(
            f"{name}: true has shape {a.shape} and predicted {b.shape}; expected the same stimulus "
            "by channel matrix. One length for stimuli and responses?"
        )
    for word, values in (("true", a), ("predicted", b)):
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name}: {int((~np.isfinite(values)).sum())} of {values.size} {word} values are "
                "NaN or infinite. Leave those channels or stimuli out, and say how many."
            )
    return a, b


def correlation_per_channel(true: Rows, predicted: Other) -> Float[np.ndarray, " channel"]:
    """Pearson r over stimuli, for each channel; NaN where either is constant."""
    a, b = paired_rows("correlation_per_channel", true, predicted)
    return pearson_r(_flat(a).T, _flat(b).T)


def correlation_per_stimulus(true: Rows, predicted: Other) -> Float[np.ndarray, " stimulus"]:
    """Pearson r over channels, for each stimulus; NaN where either is constant.

    It rises with differences between channels that every stimulus shares: z-score channels by
    training statistics first.
    """
    a, b = paired_rows("correlation_per_stimulus", true, predicted)
    return pearson_r(a, b)


def correlation_distance(true: Rows, predicted: Other) -> Float[np.ndarray, " stimulus"]:
    """1 - Pearson r over channels of matching rows, 0 to 2; lower is better."""
    return 1 - correlation_per_stimulus(true, predicted)


def explained_variance(true: Rows, predicted: Other) -> Float[np.ndarray, " channel"]:
    """1 - Var(true - predicted) / Var(true) over stimuli; a constant error costs nothing.

    Not clipped: worse than the mean is negative. NaN where the truth is constant.
    """
    a, b = paired_rows("explained_variance", true, predicted)
    return _one_minus((a - b).var(0), a)


def r2_score(true: Rows, predicted: Other) -> Float[np.ndarray, " channel"]:
    """1 - mean squared error / Var(true) over stimuli; a constant error is penalised.

    NaN where the truth is constant.
    """
    a, b = paired_rows("r2_score", true, predicted)
    return _one_minus(((a - b) ** 2).mean(0), a)


def noise_normalised_r2(
    r: Float[np.ndarray, " channel"],
    ceiling: Float[np.ndarray, " _"],
    *,
    epsilon: float | int = 0.0,
) -> Float[np.ndarray, " channel"]:
    """Squared correlation as a share of what the noise leaves to explain: max(r, 0)² / ceiling.

    Args:
        r: Correlation over stimuli with the averaged responses.
        ceiling: Share of their variance that is signal, 0 to 1 (`neurofm.ceilings`).
        epsilon: Added to the ceiling. 0 leaves channels without signal out (NaN); the Algonauts
            score is the median with 1e-10, where such a channel counts as enormous.
    """
    a, c = np.asarray(r, dtype=np.float64), np.asarray(ceiling, dtype=np.float64)
    if a.shape != c.shape:
        raise ValueError(f"noise_normalised_r2: r has shape {a.shape}, the ceiling {c.shape}.")
    if (c < 0).any() or (c > 1).any():
        raise ValueError("noise_normalised_r2: a ceiling is a share of variance, 0 to 1.")
    below = c + epsilon
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, np.maximum(a, 0) ** 2 / below, np.nan)


def two_v_two(true: Rows, predicted: Other) -> float:
    """Share of pairs of stimuli whose predictions are matched right by summed cosine distance.

    Chance is 0.5; a tie counts as wrong. Close to 1 for many channels whatever the model, and it
    depends on the mean of each channel: z-score by training statistics first.
    """
    a, b = paired_rows("two_v_two", true, predicted)
    n = len(a)
    if n < 2:
        raise ValueError("two_v_two: 1 stimulus has no pair; expected two or more.")
    distance = 1 - unit_rows(a) @ unit_rows(b).T
    own = np.diag(distance)
    right = own[:, None] + own < distance + distance.T
    return float(right[np.triu_indices(n, 1)].mean())


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of every column."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, values: Float[np.ndarray, "stimulus ..."], *, ddof: int = 0) -> Moments:
        """Over the rows, float64."""
        rows = np.asarray(values, dtype=np.float64)
        if len(rows) <= ddof:
            raise ValueError(f"Moments: {len(rows)} rows are too few for ddof {ddof}.")
        return cls(rows.mean(0), rows.std(0, ddof=ddof))


def moment_match(
    predicted: Float[np.ndarray, "stimulus ..."],
    target: Moments | np.ndarray,
    *,
    source: Moments | np.ndarray | None = None,
    ddof: int = 0,
) -> Float[np.ndarray, "stimulus ..."]:
    """Give predictions the mean and standard deviation of the training targets, column by column.

    Ridge predictions are too close to the mean; generators expect features of natural spread.

    Args:
        predicted: One row per stimulus.
        target: Training targets, or their moments.
        source: What the predictions are standardised by. None: their own moments over these rows,
            the test-batch form, which needs many rows and uses all of them at once. Predictions
            of training rows (best held-out ones), or their moments: a form for single trials.
        ddof: Of every standard deviation computed here (0 Brain-Diffuser, 1 brain captioning).

    Returns:
        float64. A column whose predictions are constant becomes the target's mean.
    """
    rows = np.asarray(predicted, dtype=np.float64)
    own = rows if source is None else source
    if source is None and len(rows) < 2:
        raise ValueError(
            f"moment_match: {len(rows)} row has no spread of its own. Give `source`, the "
            "predictions of training rows, to match single trials."
        )
    given = own if isinstance(own, Moments) else Moments.of(own, ddof=ddof)
    wanted = target if isinstance(target, Moments) else Moments.of(target, ddof=ddof)
    for word, moments in (("source", given), ("target", wanted)):
        if moments.mean.shape != rows.shape[1:]:
            raise ValueError(
                f"moment_match: predictions have columns {rows.shape[1:]}, the {word} "
                f"{moments.mean.shape}."
            )
    scale = np.divide(
        wanted.std, given.std, out=np.zeros_like(np.asarray(wanted.std)), where=given.std > 0
    )
    return (rows - given.mean) * scale + wanted.mean


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays zero."""
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _one_minus(error: np.ndarray, true: np.ndarray) -> np.ndarray:
    constant = true.max(0) == true.min(0)
    variance = np.where(constant, np.nan, true.var(0))
    return 1 - error / variance


def _flat(x: np.ndarray) -> np.ndarray:
    """Constant columns exactly constant after their mean is gone."""
    return np.where(x.max(0) == x.min(0), 0.0, x)
