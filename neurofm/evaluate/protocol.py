"""From windows and folds to predictions, from predictions to numbers with their uncertainty.

A method is scored by the predictions it made for windows it was not trained on, whoever made them:
`cross_validate` runs a scikit-learn estimator over folds, `FoldScores` takes the predictions of a
neural model, and `summarize` and `compare` treat both alike. All held-out windows of a subject make
one score, and the interval is over subjects.

Source: He & Wu 2020 (Euclidean alignment); Varoquaux 2018 (folds are no replicates).
Axes: window channel time; output = class.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from neurofm import metrics, stats
from neurofm.data.align import EuclideanAlignment
from neurofm.data.audit import refuse_leakage
from neurofm.data.rows import Row, Split
from neurofm.shapes import Float, Int
from neurofm.types import Result

Align = Literal["none", "offline", "train"]
Folds = Literal["pooled", "averaged"]
_LABEL_METRICS: dict[str, Callable[..., float]] = {
    "accuracy": metrics.accuracy,
    "balanced_accuracy": metrics.balanced_accuracy,
    "kappa": metrics.cohen_kappa,
}
_PROBABILITY_METRICS: dict[str, Callable[..., float]] = {
    "auroc": metrics.auroc,
    "log_loss": metrics.log_loss,
    "calibration_error": metrics.expected_calibration_error,
}


@dataclass(frozen=True)
class FoldScores:
    """Predictions of one method for held-out windows.

    Args:
        name: Of the method.
        y_true: Index of the true class.
        probability: Of each class; one-hot if a method only names a class.
        subject: Of each window.
        fold: Number of the fold that predicted each window.
        window: Position of each window in the full table, so that methods can be matched.
        group: Of each window, such as its recording: labels are exchanged inside it when chance is
            estimated.
        classes: Names, in the order of the columns.
        seconds: Training and prediction, all folds together.
        align: Which alignment was used; "offline" means that unlabelled test windows were used.
    """

    name: str
    y_true: Int[np.ndarray, " window"]
    probability: Float[np.ndarray, "window output"]
    subject: tuple[str, ...]
    fold: Int[np.ndarray, " window"]
    window: Int[np.ndarray, " window"]
    group: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    seconds: float = 0.0
    align: str = "none"

    def __post_init__(self) -> None:
        n = len(self.y_true)
        lengths = {
            "probability": len(self.probability),
            "subject": len(self.subject),
            "fold": len(self.fold),
            "window": len(self.window),
            "group": len(self.group) or n,
        }
        wrong = {key: value for key, value in lengths.items() if value != n}
        if wrong or not n:
            raise ValueError(f"FoldScores {self.name}: {n} windows, but {wrong or 'none'}.")

    @property
    def y_pred(self) -> Int[np.ndarray, " window"]:
        """Index of the most probable class."""
        return self.probability.argmax(1)


def within_subject(rows: Sequence[Row], *, by: Literal["run", "session"] = "run") -> list[Split]:
    """Leave one run out of each subject, training on the same subject's other runs only.

    For folds that train on everybody's other runs use `neurofm.data.leave_one_out(rows, by="run")`.

    Raises:
        ValueError: A subject has a single run.
    """
    folds = []
    for subject in dict.fromkeys(row.subject for row in rows):
        own = [i for i, row in enumerate(rows) if row.subject == subject]
        # A run of one session is not the run of the same name of another.
        part = {i: (rows[i].session, rows[i].run) if by == "run" else rows[i].session for i in own}
        parts = list(dict.fromkeys(part.values()))
        names = [getattr(rows[next(i for i in own if part[i] == at)], by) for at in parts]
        if len(parts) < 2:
            raise ValueError(
                f"within_subject: subject {subject} has the {by}s {names}, at least two are "
                "needed. Leave the subject out, or split by time."
            )
        for at, name in zip(parts, names, strict=True):
            session = f"session {at[0]}, " if at and names.count(name) > 1 else ""
            folds.append(
                Split(
                    train=tuple(i for i in own if part[i] != at),
                    validate=(),
                    test=tuple(i for i in own if part[i] == at),
                    name=f"{subject}, {session}{by} {name}",
                    by=by,
                )
            )
    return folds


def cross_validate(
    make_estimator: Callable[[], Any],
    x: Float[np.ndarray, "window channel time"],
    rows: Sequence[Row],
    folds: Sequence[Split],
    *,
    name: str,
    align: Align = "none",
) -> FoldScores:
    """Train and test a fresh estimator on each fold.

    Args:
        make_estimator: Returns an unfitted estimator with `predict_proba`, or `predict` alone.
        x: What the estimator takes, microvolts.
        rows: One for each window, with its label.
        folds: Validation windows, if any, join the training side.
        align: Euclidean alignment of each subject: "offline" with the mean covariance of all its
            windows, unlabelled test windows included; "train" with that of its training windows,
            which a held-out subject does not have.

    Raises:
        ValueError: Windows and rows do not match, a fold leaks, a training side holds one class
            only, or a window has no label.
    """
    if len(x) != len(rows) or not folds:
        raise ValueError(
            f"cross_validate: {len(x)} windows, {len(rows)} rows and {len(folds)} folds; expected "
            "one row per window and at least one fold."
        )
    unlabelled = sum(row.label is None for row in rows)
    if unlabelled:
        raise ValueError(f"cross_validate: {unlabelled} of {len(rows)} windows have no label.")
    classes = sorted({str(row.label) for row in rows})
    y = np.array([classes.index(str(row.label)) for row in rows])
    subject = np.array([row.subject for row in rows])
    if align == "offline":
        x = EuclideanAlignment().fit_transform(x, subject.tolist())
    began = time.perf_counter()
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for fold in folds:
        train, test = np.array([*fold.train, *fold.validate]), np.array(fold.test)
        if set(train.tolist()) & set(test.tolist()):
            raise ValueError(f"cross_validate: fold {fold.name} tests windows it trains on.")
        if len(np.unique(y[train])) < 2:
            raise ValueError(
                f"cross_validate: the training side of fold {fold.name} holds one class only. Use "
                "folds by another entity, or more recordings."
            )
        refuse_leakage(rows, fold)
        fit, judged = x[train], x[test]
        if align == "train":
            alignment = EuclideanAlignment().fit(fit, subject[train].tolist())
            fit = alignment.transform(fit, subject[train].tolist())
            judged = alignment.transform(judged, subject[test].tolist())
        estimator = make_estimator().fit(fit, y[train])
        parts.append((test, probability_of(estimator, judged, len(classes))))
    order = np.concatenate([test for test, _ in parts])
    return FoldScores(
        name=name,
        y_true=y[order],
        probability=np.concatenate([probability for _, probability in parts]),
        subject=tuple(subject[order].tolist()),
        fold=np.concatenate([np.full(len(test), i) for i, (test, _) in enumerate(parts)]),
        window=order,
        group=tuple(rows[i].recording for i in order),
        classes=tuple(classes),
        seconds=time.perf_counter() - began,
        align=align,
    )


def probability_of(estimator: Any, x: Any, n_classes: int, **extra: Any) -> np.ndarray:
    """Scores over all classes; a class that the training side lacked gets probability 0."""
    full = np.zeros((len(x), n_classes))
    if hasattr(estimator, "predict_proba"):
        full[:, estimator.classes_] = estimator.predict_proba(x, **extra)
    else:
        full[np.arange(len(x)), estimator.predict(x)] = 1.0
    return full


def per_subject(
    scores: FoldScores, metric: str = "balanced_accuracy", *, folds: Folds = "pooled"
) -> dict[str, float]:
    """Score of each subject.

    Args:
        metric: accuracy, balanced_accuracy, kappa, auroc, log_loss or calibration_error.
        folds: "pooled" scores all of a subject's windows together, as one decoder with one
            threshold would be judged. "averaged" scores each fold and takes the mean, which for
            `auroc` is higher, because models of different folds need not share a scale.

    Returns:
        NaN for a subject whose windows hold one class only, where that leaves the metric undefined;
        folds of one class are left out of an average. Both with a warning.
    """
    known = {**_LABEL_METRICS, **_PROBABILITY_METRICS}
    if metric not in known:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(known)}.")
    given = scores.y_pred if metric in _LABEL_METRICS else scores.probability
    subject = np.array(scores.subject)
    part = scores.fold if folds == "averaged" else np.zeros_like(scores.fold)
    result, undefined, total = {}, 0, 0
    for name in dict.fromkeys(scores.subject):
        own = subject == name
        chosen = [own & (part == fold) for fold in np.unique(part[own])]
        values = np.array([known[metric](scores.y_true[i], given[i]) for i in chosen])
        undefined += int(np.isnan(values).sum())
        total += len(values)
        result[name] = float("nan") if np.isnan(values).all() else float(np.nanmean(values))
    if undefined:
        what = "folds" if folds == "averaged" else "subjects"
        warnings.warn(
            f"{scores.name}: {metric} is undefined for {undefined} of {total} {what} (one class "
            "only); they are left out.",
            stacklevel=2,
        )
    return result


def _chance(scores: FoldScores, metric: str) -> float | None:
    n_classes = scores.probability.shape[1]
    if metric == "accuracy":
        return stats.chance_level(scores.y_true)[0]
    guess: dict[str, float] = {
        "balanced_accuracy": 1 / n_classes,
        "kappa": 0.0,
        "auroc": 0.5,
        "log_loss": float(np.log(n_classes)),
    }
    return guess.get(metric)  # a guess can be perfectly calibrated: no chance level


def summarize(
    scores: FoldScores,
    metric: str = "balanced_accuracy",
    *,
    folds: Folds = "pooled",
    n_permutations: int = 0,
) -> Result:
    """Mean over subjects with a 95 % interval, beside chance.

    Args:
        metric: As in `per_subject`.
        folds: As in `per_subject`.
        n_permutations: Shuffles of the labels inside each recording; their p value goes into
            `detail["p"]`. 0 = not computed.

    Returns:
        `n` subjects; the interval is a bootstrap over them. With one or two subjects that says
        nothing: for `accuracy` it is then Wilson's over windows (`detail["interval"]` says so), for
        other metrics it is left empty.
    """
    values = per_subject(scores, metric, folds=folds)
    finite = np.array([value for value in values.values() if not np.isnan(value)])
    if not len(finite):
        raise ValueError(f"{scores.name}: {metric} is undefined for every subject.")
    interval = "bootstrap over subjects"
    low: float | None
    high: float | None
    low, high = stats.bootstrap_interval(finite)
    if np.isnan(low):
        low = high = None
        interval = "none: fewer than three subjects"
        if metric == "accuracy":
            right = int((scores.y_true == scores.y_pred).sum())
            low, high = stats.wilson_interval(right, len(scores.y_true))
            interval = "Wilson over windows"
    n_folds = len(np.unique(scores.fold))
    detail: dict[str, Any] = {
        "per_subject": values,
        "interval": interval,
        "windows": len(scores.y_true),
        "folds": f"{n_folds}, {folds}",
        "align": scores.align,
        "seconds": scores.seconds,
    }
    if n_permutations:
        detail["p"] = _permutation_p(scores, metric, folds, n_permutations)
    return Result(
        name=scores.name,
        value=float(finite.mean()),
        unit=metric,
        low=low,
        high=high,
        n=len(finite),
        chance=_chance(scores, metric),
        detail=detail,
    )


def _permutation_p(scores: FoldScores, metric: str, folds: Folds, n_permutations: int) -> float:
    sign = -1.0 if metric in ("log_loss", "calibration_error") else 1.0
    rows = np.arange(len(scores.y_true))

    def score(y: np.ndarray, _: np.ndarray) -> float:
        return sign * float(
            np.nanmean(list(per_subject(replace(scores, y_true=y), metric).values()))
        )

    group = scores.group or [f"{s}/{f}" for s, f in zip(scores.subject, scores.fold, strict=True)]
    return stats.permutation_chance(
        scores.y_true, rows, metric=score, groups=np.array(group), n_permutations=n_permutations
    ).p


def compare(
    scores: Sequence[FoldScores], reference: FoldScores, metric: str = "balanced_accuracy"
) -> list[Result]:
    """Difference of each method to a reference, subject by subject on the same windows.

    Returns:
        One result per method: mean difference, its interval over subjects, `detail["p"]` of the
        paired sign-flip test and `detail["p_fdr"]` corrected for the number of methods.

    Raises:
        ValueError: A method was tested on other windows than the reference.
    """
    base = per_subject(reference, metric)
    results = []
    for method in scores:
        if sorted(method.window.tolist()) != sorted(reference.window.tolist()):
            raise ValueError(
                f"compare: {method.name} was tested on {len(method.window)} windows, "
                f"{reference.name} on {len(reference.window)}, and they are not the same. Use the "
                "same rows and folds for both."
            )
        own = per_subject(method, metric)
        names = [name for name in base if not np.isnan(base[name] + own[name])]
        difference = np.array([own[name] - base[name] for name in names])
        test = stats.paired_test([own[name] for name in names], [base[name] for name in names])
        low, high = stats.bootstrap_interval(difference)
        results.append(
            Result(
                name=f"{method.name} minus {reference.name}",
                value=test.value,
                unit=metric,
                low=None if np.isnan(low) else low,
                high=None if np.isnan(high) else high,
                n=len(names),
                chance=0.0,
                detail={"p": test.p, "wins": int((difference > 0).sum())},
            )
        )
    if not results:
        return []
    adjusted = stats.fdr([result.detail["p"] for result in results])[1]
    return [
        replace(result, detail={**result.detail, "p_fdr": float(p)})
        for result, p in zip(results, adjusted, strict=True)
    ]
