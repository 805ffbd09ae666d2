"""Decode categories from patterns, whole runs left out: one call from arrays to a judged number.

    decoded = decode_patterns(patterns, labels, runs)
    print(decoded.result)

Whatever a decoder chooses or estimates it does in the training runs. The interval is over test
runs: trials of one run share its noise.

Source: Haxby et al. 2001; Varoquaux et al. 2017 (folds of whole runs); Combrisson & Jerbi 2015.
Axes: trial voxel, or trial voxel time; output = class.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.base import clone

from neurofm import metrics, stats
from neurofm.evaluate.patterns.named import make_decoder, volumes_decoder
from neurofm.evaluate.patterns.rotated import evidence
from neurofm.evaluate.protocol import FoldScores
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Result


@dataclass(frozen=True)
class DecodedPatterns:
    """What a decoder said of trials of runs that it was not trained on.

    Args:
        scores: Predictions of every tested trial; `window` is its place in the patterns.
        result: Accuracy, mean over test runs, with chance and a 95 % interval over runs. `detail`:
            `per_run`, `per_class`, `p` (labels shuffled inside runs), `null_95` (accuracy that
            shuffled labels reach in 5 % of the shuffles), `chosen` (of every fold).
        runs: Run of every tested trial.
    """

    scores: FoldScores
    result: Result
    runs: tuple[str, ...]

    @property
    def confusion(self) -> Int[np.ndarray, "true predicted"]:
        """Trials by true and predicted class, in the order of `scores.classes`."""
        n = len(self.scores.classes)
        flat = self.scores.y_true * n + self.scores.y_pred
        return np.bincount(flat, minlength=n * n).reshape(n, n)


def run_folds(
    runs: Sequence[str] | np.ndarray,
    *,
    folds: int | None = None,
    test_runs: Sequence[str] | None = None,
) -> list[Bool[np.ndarray, " trial"]]:
    """Which trials each fold tests: whole runs.

    Args:
        folds: Groups of runs; one fold for each run if not given.
        test_runs: A single fold that tests these runs.

    Raises:
        ValueError: Fewer runs than folds, one run, or test runs that are not there.
    """
    own = np.array([str(run) for run in runs])
    names = list(dict.fromkeys(own.tolist()))
    if test_runs is not None:
        chosen = [str(run) for run in test_runs]
        missing = [run for run in chosen if run not in names]
        if missing or len(set(chosen)) >= len(names) or not chosen:
            raise ValueError(
                f"test_runs {chosen}: expected some, and not all, of the runs {names}."
            )
        return [np.isin(own, chosen)]
    n = len(names) if folds is None else folds
    if not 2 <= n <= len(names):
        raise ValueError(
            f"{n} folds of {len(names)} runs ({', '.join(names[:5])}); whole runs are left out, so "
            f"expected 2 to {len(names)} folds and at least two runs."
        )
    return [np.isin(own, part) for part in np.array_split(names, n)]


def checked_patterns(
    patterns: Any, labels: Sequence[Any] | np.ndarray, runs: Sequence[Any] | np.ndarray
) -> tuple[np.ndarray, Int[np.ndarray, " trial"], np.ndarray, tuple[str, ...]]:
    """Patterns, class numbers, runs and the names of classes.

    Raises:
        ValueError: Lengths that differ, NaN, or one category.
    """
    x = np.asarray(patterns)
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise ValueError(f"patterns have shape {x.shape}; expected trial voxel, or with time.")
    if not len(x) == len(labels) == len(runs):
        raise ValueError(
            f"{len(x)} patterns, {len(labels)} labels and {len(runs)} runs; expected one of each "
            "per trial."
        )
    bad = ~np.isfinite(x)
    if bad.any():
        voxels = int(bad.any(axis=(0, *range(2, x.ndim))).sum())
        raise ValueError(
            f"{voxels} of {x.shape[1]} voxels hold NaN or infinity. Leave them out of the mask."
        )
    names = [str(label) for label in labels]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise ValueError(
            f"all {len(x)} trials are {classes[0]!r}; decoding needs two or more categories."
        )
    y = np.array([classes.index(name) for name in names])
    return x, y, np.array([str(run) for run in runs]), classes


def decode_patterns(
    patterns: Float[np.ndarray, "trial voxel *time"],
    labels: Sequence[Any] | np.ndarray,
    runs: Sequence[Any] | np.ndarray,
    *,
    decoder: Any = "lda",
    folds: int | None = None,
    test_runs: Sequence[str] | None = None,
    one_of_each: bool = False,
    subject: str = "",
    name: str | None = None,
    n_permutations: int = 1000,
    seed: int = 0,
) -> DecodedPatterns:
    """Train on some runs, name the category of every trial of the others.

    Args:
        patterns: As `trial_patterns` makes them, z-scored per run.
        labels: Category of each trial.
        runs: Run of each trial.
        decoder: A name (see `make_decoder`), or an unfitted estimator with `fit(x, y)`, or with
            `fit(x, y, groups=runs)`. For patterns over time, by default and with "lda",
            `volumes_decoder`.
        folds: Groups of runs to leave out in turn; each run by itself if not given.
        test_runs: Test these alone, trained on all others.
        one_of_each: The experimenter knows that every test run holds each category equally often,
            and lets the decoder know: trials of a run are assigned together, by the assignment of
            greatest evidence. The score is then of runs, not of single trials; say so beside it.
        subject: Whose.
        name: Of the method, for tables.
        n_permutations: Shuffles of labels inside runs, predictions kept.
        seed: Of the shuffles.

    Raises:
        ValueError: One category, fewer runs than folds, NaN, a training side without a category, or
            `one_of_each` where the test runs do not hold each category equally often.
    """
    x, y, run, classes = checked_patterns(patterns, labels, runs)
    estimator = decoder
    if isinstance(decoder, str):
        over_time = x.ndim == 3 and decoder == "lda"
        estimator = volumes_decoder(x.shape[2]) if over_time else make_decoder(decoder)
    held = run_folds(run, folds=folds, test_runs=test_runs)
    _warn_of_missing(y, run, classes)
    began = time.perf_counter()
    order: list[np.ndarray] = []
    found: list[np.ndarray] = []
    chosen: list[Any] = []
    for out in held:
        said, fitted = _fold(estimator, x, y, run, out, classes)
        if one_of_each:
            said = _assigned(said, y[out], run[out])
        order.append(np.flatnonzero(out))
        found.append(softmax(said, axis=1))
        chosen.append(getattr(fitted, "chosen_", None))
    index = np.concatenate(order)
    title = name or (decoder if isinstance(decoder, str) else type(decoder).__name__)
    scores = FoldScores(
        name=title,
        y_true=y[index],
        probability=np.concatenate(found),
        subject=(subject,) * len(index),
        fold=np.concatenate([np.full(len(part), i) for i, part in enumerate(order)]),
        window=index,
        group=tuple(run[index].tolist()),
        classes=classes,
        seconds=time.perf_counter() - began,
    )
    result = summarize_runs(scores, n_permutations=n_permutations, seed=seed)
    result.detail["chosen"] = [choice for choice in chosen if choice is not None]
    result.detail["one_of_each"] = one_of_each
    return DecodedPatterns(scores, result, scores.group)


def _fold(
    estimator: Any, x: np.ndarray, y: np.ndarray, run: np.ndarray, out: np.ndarray, classes: Any
) -> tuple[np.ndarray, Any]:
    """Evidence for every class of the trials of one fold, and the fitted decoder."""
    missing = sorted(set(range(len(classes))) - set(y[~out].tolist()))
    if missing:
        raise ValueError(
            f"decode_patterns: the runs {sorted(set(run[~out].tolist()))} hold no trial of "
            f"{', '.join(classes[i] for i in missing)}, so nothing can be learned of it when "
            f"{sorted(set(run[out].tolist()))} are left out. Leave the category out, or use fewer "
            "folds."
        )
    fitted = clone(estimator)
    extra = {"groups": run[~out]} if "groups" in inspect.signature(fitted.fit).parameters else {}
    fitted.fit(x[~out], y[~out], **extra)
    if hasattr(fitted, "predict_log_proba") or hasattr(fitted, "decision_function"):
        return evidence(fitted, x[out]), fitted
    return 50.0 * np.eye(len(classes))[np.asarray(fitted.predict(x[out]))], fitted


def _warn_of_missing(y: np.ndarray, run: np.ndarray, classes: tuple[str, ...]) -> None:
    cells = len(set(zip(run.tolist(), y.tolist(), strict=True)))
    total = len(set(run.tolist())) * len(classes)
    if cells < total:
        warnings.warn(
            f"decode_patterns: {total - cells} of {total} cells of run and category hold no trial; "
            "scores of categories rest on different runs.",
            stacklevel=3,
        )


def _assigned(said: np.ndarray, y: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Evidence in which the trials of a run share out the categories between them."""
    made = np.array(said)
    n_classes = said.shape[1]
    for name in np.unique(run):
        own = np.flatnonzero(run == name)
        counts = np.bincount(y[own], minlength=n_classes)
        if len(set(counts.tolist())) > 1:
            raise ValueError(
                f"one_of_each: run {name} holds {counts.tolist()} trials of the categories; "
                "expected equally many of each. Decode without `one_of_each`."
            )
        seats = np.repeat(np.arange(n_classes), counts[0])
        cost = said[own] - said[own].mean(1, keepdims=True)
        trial, seat = linear_sum_assignment(-cost[:, seats])
        made[own[trial], seats[seat]] = said[own].max(1)[trial] + 50.0
    return made


def summarize_runs(
    scores: FoldScores, *, n_permutations: int = 1000, level: float = 0.95, seed: int = 0
) -> Result:
    """Accuracy over test runs, with chance, an interval over runs and a p of shuffled labels.

    Args:
        scores: `group` is the run of each trial.
    """
    run = np.array(scores.group)
    right = scores.y_true == scores.y_pred
    names = list(dict.fromkeys(scores.group))
    per_run = {name: float(right[run == name].mean()) for name in names}
    low: float | None
    high: float | None
    low, high = stats.bootstrap_interval(list(per_run.values()), seed=seed)
    interval = "bootstrap over runs"
    if np.isnan(low):
        low, high = stats.wilson_interval(int(right.sum()), len(right))
        interval = "Wilson over trials: fewer than three runs"
    detail: dict[str, Any] = {
        "per_run": per_run,
        "values": list(per_run.values()),
        "per_class": {
            name: float(right[scores.y_true == i].mean())
            for i, name in enumerate(scores.classes)
            if (scores.y_true == i).any()
        },
        "trials": len(right),
        "interval": interval,
        "seconds": scores.seconds,
    }
    varied = any(len(set(scores.y_true[run == name].tolist())) > 1 for name in names)
    if n_permutations and varied:
        found = stats.permutation_chance(
            scores.y_true,
            scores.y_pred,
            metric=metrics.accuracy,
            groups=run,
            n_permutations=n_permutations,
            seed=seed,
        )
        detail |= {"p": found.p, "null_95": float(np.quantile(found.null, level))}
    return Result(
        name=scores.name,
        value=float(right.mean()),
        unit="accuracy",
        low=low,
        high=high,
        n=len(names),
        chance=stats.chance_level(scores.y_true)[0],
        detail=detail,
    )


def permuted_patterns(
    patterns: Float[np.ndarray, "trial voxel *time"],
    labels: Sequence[Any] | np.ndarray,
    runs: Sequence[Any] | np.ndarray,
    *,
    decoder: Any = "lda",
    n_permutations: int = 100,
    seed: int = 0,
    folds: int | None = None,
) -> stats.Permutation:
    """The stricter test: labels shuffled inside runs, everything trained again each time.

    Args:
        n_permutations: Trainings; p is at least 1 / (1 + as many).

    Returns:
        `null` holds the accuracies of shuffled labels.
    """
    about: dict[str, Any] = {"decoder": decoder, "folds": folds, "n_permutations": 0}
    observed = decode_patterns(patterns, labels, runs, **about).result.value
    run = np.array([str(name) for name in runs])
    shuffled = stats.shuffled_within(
        np.array([str(label) for label in labels]), run, n_permutations=n_permutations, seed=seed
    )
    null = np.array([decode_patterns(patterns, y, runs, **about).result.value for y in shuffled])
    p = (np.sum(null >= observed - 1e-12) + 1) / (n_permutations + 1)
    return stats.Permutation(value=observed, null=null, p=float(p))
