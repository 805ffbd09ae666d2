"""How well predicted classes agree with the true ones.

Labels are of any hashable kind, or the class indices of score columns. What a metric cannot say is
NaN with a documented reason, or an error: never a silent 0.

Source: Cohen 1960 (kappa); Fawcett 2006 (area under the ROC curve); Guo et al. 2017 (calibration);
Brier 1950 (squared error of probabilities); Wolpaw et al. 1998 (information transfer rate).
Axes: window = one prediction; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import xlogy
from scipy.stats import rankdata

from neurofm.shapes import Float


def _pair(name: str, y_true: Sequence | np.ndarray, y_pred: Sequence | np.ndarray) -> tuple:
    true, predicted = np.asarray(y_true), np.asarray(y_pred)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(
            f"{name}: y_true has shape {true.shape} and y_pred {predicted.shape}; expected two "
            "vectors of one length, with class labels (use argmax for scores)."
        )
    if not len(true):
        raise ValueError(f"{name}: nothing to score, both vectors are empty.")
    return true, predicted


def accuracy(y_true: Sequence | np.ndarray, y_pred: Sequence | np.ndarray) -> float:
    """Share of windows predicted right, 0 to 1."""
    true, predicted = _pair("accuracy", y_true, y_pred)
    return float(np.mean(true == predicted))


def confusion(
    y_true: Sequence | np.ndarray,
    y_pred: Sequence | np.ndarray,
    *,
    labels: Sequence | np.ndarray | None = None,
) -> np.ndarray:
    """Counts, true class by row and predicted class by column.

    Args:
        labels: Order of the classes; all that occur, sorted, if not given.

    Raises:
        ValueError: A class occurs that is not in `labels`.
    """
    true, predicted = _pair("confusion", y_true, y_pred)
    order = np.unique(np.concatenate([true, predicted])) if labels is None else np.asarray(labels)
    place = {label: i for i, label in enumerate(order.tolist())}
    extra = sorted({str(v) for v in [*true.tolist(), *predicted.tolist()] if v not in place})
    if extra:
        raise ValueError(f"confusion: classes {extra} are not in labels {order.tolist()}.")
    counts = np.zeros((len(order), len(order)), dtype=np.int64)
    rows, columns = [place[v] for v in true.tolist()], [place[v] for v in predicted.tolist()]
    np.add.at(counts, (rows, columns), 1)
    return counts


def balanced_accuracy(y_true: Sequence | np.ndarray, y_pred: Sequence | np.ndarray) -> float:
    """Mean over the true classes of the share predicted right; chance is 1 / classes.

    A class that is only ever predicted, never true, does not count.
    """
    true, predicted = _pair("balanced_accuracy", y_true, y_pred)
    return float(np.mean([np.mean(predicted[true == c] == c) for c in np.unique(true)]))


def cohen_kappa(y_true: Sequence | np.ndarray, y_pred: Sequence | np.ndarray) -> float:
    """Agreement beyond what the marginal frequencies give by chance; 0 = chance, 1 = perfect.

    NaN if truth and prediction are one and the same constant: chance agreement is then complete.
    """
    counts = confusion(y_true, y_pred)
    total = counts.sum()
    expected = float(counts.sum(0) @ counts.sum(1)) / total**2
    if expected == 1.0:
        return float("nan")
    return float((np.trace(counts) / total - expected) / (1 - expected))


def macro_f1(y_true: Sequence | np.ndarray, y_pred: Sequence | np.ndarray) -> float:
    """Mean over classes of the harmonic mean of precision and recall, 0 to 1.

    Classes that occur in the truth or in the prediction count; one that is never hit gives 0.
    """
    counts = confusion(y_true, y_pred)
    return float(np.mean(2 * np.diag(counts) / (counts.sum(0) + counts.sum(1))))


def auroc(y_true: Sequence | np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: how often a window of the class outscores one of another class.

    Ties count half, so a constant score gives 0.5.

    Args:
        y_true: Two classes for a vector of scores (the larger label is the positive one); for a
            matrix, column indices.
        score: `window` for two classes, or `window output`. Two columns are scored by the second;
            more by the unweighted mean over classes, each against the rest.

    Returns:
        NaN if only one class is present. Classes that never occur are left out of the mean.
    """
    true, scores = np.asarray(y_true), np.asarray(score, dtype=np.float64)
    if true.ndim != 1 or scores.ndim not in (1, 2) or len(scores) != len(true):
        raise ValueError(
            f"auroc: y_true has shape {true.shape} and score {scores.shape}; expected window and "
            "window or window output."
        )
    if np.isnan(scores).any():
        raise ValueError(f"auroc: {int(np.isnan(scores).sum())} of {scores.size} scores are NaN.")
    classes = np.unique(true)
    if scores.ndim == 2 and not set(classes.tolist()) <= set(range(scores.shape[1])):
        raise ValueError(
            f"auroc: labels {classes.tolist()} are not indices of {scores.shape[1]} score columns."
        )
    if scores.ndim == 1 and len(classes) > 2:
        raise ValueError(f"auroc: {len(classes)} classes need one score column each.")
    if len(classes) < 2:
        return float("nan")
    if scores.ndim == 1:
        return _binary_auroc(true == classes[-1], scores)
    if scores.shape[1] == 2:
        return _binary_auroc(true == 1, scores[:, 1])
    return float(np.mean([_binary_auroc(true == c, scores[:, c]) for c in classes]))


def _binary_auroc(positive: np.ndarray, score: np.ndarray) -> float:
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    rank = rankdata(score)[positive].sum()
    return float((rank - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(y_true: Sequence | np.ndarray, score: np.ndarray) -> float:
    """Area under the curve of precision over recall, by steps; a guess gives the class share.

    Equal scores share one threshold. Arguments as in `auroc`: two columns are scored by the second,
    more by the unweighted mean over the classes that occur, each against the rest.

    Returns:
        NaN if only one class is present.
    """
    true, scores = np.asarray(y_true), np.asarray(score, dtype=np.float64)
    if true.ndim != 1 or scores.ndim not in (1, 2) or len(scores) != len(true):
        raise ValueError(
            f"average_precision: y_true has shape {true.shape} and score {scores.shape}; expected "
            "window and window or window output."
        )
    classes = np.unique(true)
    if len(classes) < 2:
        return float("nan")
    if scores.ndim == 1:
        return _binary_precision(true == classes[-1], scores)
    if scores.shape[1] == 2:
        return _binary_precision(true == 1, scores[:, 1])
    return float(np.mean([_binary_precision(true == c, scores[:, c]) for c in classes]))


def _binary_precision(positive: np.ndarray, score: np.ndarray) -> float:
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(positive[order])[last]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (last + 1)).sum() / hits[-1])


def _probabilities(name: str, y_true: Sequence | np.ndarray, probability: np.ndarray) -> tuple:
    true, p = np.asarray(y_true), np.asarray(probability, dtype=np.float64)
    if p.ndim != 2 or true.shape != p.shape[:1] or not len(true):
        raise ValueError(
            f"{name}: y_true has shape {true.shape} and probability {p.shape}; expected window and "
            "window output."
        )
    if (p < 0).any() or not np.allclose(p.sum(1), 1.0, atol=1e-4):
        raise ValueError(
            f"{name}: rows must be probabilities (not negative, sum 1). Apply a softmax first."
        )
    if not set(np.unique(true).tolist()) <= set(range(p.shape[1])):
        raise ValueError(f"{name}: labels must be column indices 0 to {p.shape[1] - 1}.")
    return true.astype(int), p


def log_loss(
    y_true: Sequence | np.ndarray, probability: Float[np.ndarray, "window output"]
) -> float:
    """Mean negative log probability of the true class, nats. A guess gives log(classes)."""
    true, p = _probabilities("log_loss", y_true, probability)
    chosen = p[np.arange(len(true)), true]
    return float(-np.log(np.maximum(chosen, np.finfo(np.float64).eps)).mean())


def brier_score(
    y_true: Sequence | np.ndarray, probability: Float[np.ndarray, "window output"]
) -> float:
    """Mean squared distance between the probabilities and the true class, summed over classes.

    0 to 2, as Brier defined it (libraries that report one class of two give half of it). A guess
    gives 1 - 1 / classes.
    """
    true, p = _probabilities("brier_score", y_true, probability)
    return float(((p - np.eye(p.shape[1])[true]) ** 2).sum(1).mean())


def expected_calibration_error(
    y_true: Sequence | np.ndarray,
    probability: Float[np.ndarray, "window output"],
    *,
    n_bins: int = 10,
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of confidence, 0 to 1.

    Biased upwards for few windows: with 45, expect about 0.1 from a calibrated model.
    """
    true, p = _probabilities("expected_calibration_error", y_true, probability)
    confidence, right = p.max(1), p.argmax(1) == true
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gap = np.bincount(bins, weights=right - confidence, minlength=n_bins)
    return float(np.abs(gap).sum() / len(true))


def information_transfer_rate(
    accuracy: float | np.ndarray, *, n_classes: int, trial_s: float
) -> np.ndarray:
    """Bits per minute that a choice among equally likely classes carries (Wolpaw's formula).

    It takes errors to be spread evenly over the wrong classes and counts no time between trials.

    Args:
        accuracy: 0 to 1, any shape; below 1 / classes the formula grows again, and 0 is returned.
        n_classes: Two or more.
        trial_s: Seconds from the start of a trial to its decision.
    """
    p = np.asarray(accuracy, dtype=np.float64)
    if n_classes < 2 or not trial_s > 0:
        raise ValueError(
            f"information_transfer_rate: {n_classes} classes in trials of {trial_s} s; expected "
            "two or more, and a positive length."
        )
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"information_transfer_rate: accuracy {p}, expected 0 to 1.")
    bits = np.log2(n_classes) + xlogy(p, p) / np.log(2)
    bits = bits + xlogy(1 - p, (1 - p) / (n_classes - 1)) / np.log(2)
    bits = np.where(p < 1 / n_classes, 0.0, np.maximum(bits, 0.0))
    return np.asarray(bits * 60 / trial_s)
