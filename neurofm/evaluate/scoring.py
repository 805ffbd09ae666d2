"""Scores of one set of predictions against many vectors of labels: the true ones and shuffled ones.

The same numbers as in `neurofm.metrics`, for a thousand permutations in milliseconds. Windows whose
highest probability is shared by several classes count as a part of a hit, not as the class that
happens to come first: somebody who says the same of every window scores exactly chance.

Axes: permutation = a vector of labels; window = one prediction; output = class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import rankdata

from neurofm.shapes import Float, Int

METRICS = (
    "balanced_accuracy",
    "accuracy",
    "kappa",
    "auroc",
    "macro_f1",
    "auprc",
    "calibration_error",
    "brier",
    "log_loss",
)
RATE = "bits_per_min"  # made of the balanced accuracy and the length of a trial
LOWER_IS_BETTER = frozenset({"calibration_error", "brier", "log_loss"})
# Models of different folds need not share a scale, so what orders windows is scored fold by fold.
AVERAGED = frozenset({"auroc", "auprc"})
_BINS = 10  # of confidence


def choices(p: Float[np.ndarray, "window output"]) -> Float[np.ndarray, "window output"]:
    """The class a window is given; classes of equal probability share it."""
    highest = p == p.max(1, keepdims=True)
    return highest / highest.sum(1, keepdims=True)


def score_labels(
    metric: str,
    y: Int[np.ndarray, "permutation window"],
    p: Float[np.ndarray, "window output"],
) -> Float[np.ndarray, " permutation"]:
    """The metric of the same predictions under each vector of labels.

    Returns:
        NaN where it is undefined: a single class for `auroc` and `auprc`, one and the same constant
        for `kappa`.

    Raises:
        ValueError: The metric is unknown; `METRICS` are known.
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}.")
    is_class = [(y == c).astype(np.float64) for c in range(p.shape[1])]
    if metric in ("auroc", "auprc"):
        one = _rank_area if metric == "auroc" else _precision_area
        columns = [1] if p.shape[1] == 2 else list(range(p.shape[1]))
        return _nanmean(np.stack([one(is_class[c], p[:, c]) for c in columns], 1))
    if metric in ("brier", "log_loss"):
        if metric == "brier":
            cost = (p**2).sum(1, keepdims=True) - 2 * p + 1
        else:
            cost = -np.log(np.maximum(p, np.finfo(np.float64).eps))
        total = sum(own @ cost[:, c] for c, own in enumerate(is_class))
        return np.asarray(total) / p.shape[0]
    if metric == "calibration_error":
        return _calibration_error(is_class, p)
    made = choices(p)
    counts = np.stack([own @ made for own in is_class], 1)  # permutation true predicted
    return _FROM_COUNTS[metric](counts)


def confusion_counts(
    y: Int[np.ndarray, " window"], p: Float[np.ndarray, "window output"]
) -> Float[np.ndarray, "true predicted"]:
    """Windows by true and chosen class; a shared choice counts in parts."""
    return np.eye(p.shape[1])[y].T @ choices(p)


def _accuracy(counts: np.ndarray) -> np.ndarray:
    return np.trace(counts, axis1=1, axis2=2) / counts.sum((1, 2))


def _balanced(counts: np.ndarray) -> np.ndarray:
    return _nanmean(_share(np.diagonal(counts, axis1=1, axis2=2), counts.sum(2)))


def _kappa(counts: np.ndarray) -> np.ndarray:
    expected = (counts.sum(1) * counts.sum(2)).sum(1) / counts.sum((1, 2)) ** 2
    return _share(_accuracy(counts) - expected, 1 - expected)


def _macro_f1(counts: np.ndarray) -> np.ndarray:
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return _nanmean(_share(2 * hits, counts.sum(1) + counts.sum(2)))


_FROM_COUNTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced,
    "kappa": _kappa,
    "macro_f1": _macro_f1,
}


def _rank_area(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    n = positive.sum(1)
    above = positive @ rankdata(score) - n * (n + 1) / 2
    return _share(above, n * (positive.shape[1] - n))


def _precision_area(positive: np.ndarray, score: np.ndarray) -> np.ndarray:
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(positive[:, order], axis=1)[:, last]
    gained = np.diff(hits, prepend=0, axis=1)
    area = _share((gained * hits / (last + 1)).sum(1), hits[:, -1])
    return np.where(hits[:, -1] == positive.shape[1], np.nan, area)


def _calibration_error(is_class: list[np.ndarray], p: np.ndarray) -> np.ndarray:
    made, confidence = choices(p), p.max(1)
    inside = np.eye(_BINS)[np.clip(np.ceil(confidence * _BINS).astype(int) - 1, 0, _BINS - 1)]
    right = sum(own @ (inside * made[:, [c]]) for c, own in enumerate(is_class))
    return np.abs(right - confidence @ inside).sum(1) / len(p)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 1e-12)


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _share(np.where(known, values, 0.0).sum(1), known.sum(1).astype(float))
