"""Behaviour read from simulated futures: will the objects touch?

Source: anayebi/mental-sim, arXiv 2305.11772.
Axes: video; frame; feature; class.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval
from neurofm.types import Result

PENALTIES = tuple(10.0**i for i in range(-8, 9))  # inverse strength of the penalty


@dataclass(frozen=True)
class Behaviour:
    """What was read from features of held-out videos.

    Args:
        result: Accuracy; its interval is over videos.
        probability: Of the second class, or of all classes in sorted order.
        human: Correlation of the probability with the share of people who said so; None if nobody
            was asked, or with more than two classes.
        C: Chosen inverse strength of the penalty.
    """

    result: Result
    probability: Float[np.ndarray, "video ..."]
    human: float | None
    C: float


def read_behaviour(
    train: Float[np.ndarray, "video frame feature"],
    train_y: np.ndarray,
    test: Float[np.ndarray, "held frame feature"],
    test_y: np.ndarray,
    *,
    human: Float[np.ndarray, " held"] | None = None,
    folds: int = 5,
    seed: int = 42,
    name: str = "behaviour",
) -> Behaviour:
    """Standardise, choose a logistic regression inside the training videos, and test it once.

    Args:
        train: Features over time, flattened for the regression.
        train_y: Class of each video.
        test: Of other videos.
        test_y: Their classes.
        human: Share of people who said the second class, for each test video.
        folds: Stratified, shuffled by `seed`; published 5 and 42.

    Raises:
        ValueError: Features of another shape, NaN, one class, or a class with too few videos.
    """
    x, held = (np.asarray(part).reshape(len(part), -1) for part in (train, test))
    classes, counts = np.unique(train_y, return_counts=True)
    if x.shape[1] != held.shape[1] or len(x) != len(train_y) or len(held) != len(test_y):
        raise ValueError(
            f"read_behaviour: {x.shape} training and {held.shape} test features for {len(train_y)} "
            f"and {len(test_y)} classes; expected one class per video and equal features."
        )
    if not (np.isfinite(x).all() and np.isfinite(held).all()):
        raise ValueError("read_behaviour: features hold NaN or infinite values.")
    if len(classes) < 2 or counts.min() < folds:
        raise ValueError(
            f"read_behaviour: classes {dict(zip(classes.tolist(), counts.tolist(), strict=True))}, "
            f"expected two or more with at least {folds} videos each. Use fewer folds."
        )
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    search = GridSearchCV(pipeline, {"logisticregression__C": PENALTIES}, cv=split)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # penalties near zero, never the best
        search.fit(x, train_y)
    right = (search.predict(held) == test_y).astype(float)
    p = search.predict_proba(held)
    if len(classes) == 2:
        p = p[:, 1]
    agree = None
    if human is not None and p.ndim == 1:
        agree = float(np.corrcoef(p, human)[0, 1])
    low, high = bootstrap_interval(right, n_resamples=1000)
    chance = float(max(np.mean(test_y == label) for label in classes))
    result = Result(
        name=name, value=float(right.mean()), low=low, high=high, n=len(right), chance=chance
    )
    return Behaviour(result, p, agree, float(search.best_params_["logisticregression__C"]))
