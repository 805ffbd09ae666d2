"""Scores where a label belongs to a person (a diagnosis), not to a window.

Within one person there is then nothing to score: windows are scored over all people together, and
people by one decision each, made of all their windows: by the majority of the windows, or by the
mean of their probabilities. A tie is not broken by the order of the classes; it counts as a part of
a hit and is reported. Intervals draw people; chance exchanges the labels of whole people.

Axes: window = one held-out window; output = class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from neurofm.evaluate.predictions import Predictions
from neurofm.evaluate.scoring import LOWER_IS_BETTER, choices, score_labels
from neurofm.types import Result

RULES = ("majority vote", "mean probability")


@dataclass(frozen=True)
class Decided:
    """One decision per person.

    Args:
        rule: "majority vote" or "mean probability".
        results: By metric, over people.
        ties: People for whom classes were equally likely, the mean over seeds.
    """

    rule: str
    results: Mapping[str, Result]
    ties: float


def decide(predictions: Predictions, rule: str) -> Predictions:
    """One row per person and seed: votes, or the mean probability, in place of the windows.

    Raises:
        ValueError: The rule is neither of `RULES`, or somebody has windows of several classes.
    """
    if rule not in RULES:
        raise ValueError(f"decide: rule {rule!r} is not one of {', '.join(RULES)}.")
    if not predictions.one_class_each:
        raise ValueError(
            "decide: a person has windows of several classes, or everybody the same one; decisions "
            "per person need a label per person."
        )
    said = choices(predictions.p) if rule == RULES[0] else predictions.p
    rows, p = [], []
    for seed in np.unique(predictions.seed):
        for person in predictions.people:
            own = (predictions.person == person) & (predictions.seed == seed)
            if own.any():
                rows.append(int(np.flatnonzero(own)[0]))
                # Rounded: sums of the same votes in another order must tie.
                p.append(np.round(said[own].mean(0), 10))
    chosen = np.zeros(len(predictions.y), dtype=bool)
    chosen[rows] = True
    order = np.argsort(rows)
    return replace(predictions.some(chosen), p=np.array(p)[order])


def decided(
    predictions: Predictions, *, n_permutations: int = 1000, n_resamples: int = 1000
) -> list[Decided]:
    """Decisions by both rules, scored over people."""
    found = []
    for rule in RULES:
        made = decide(predictions, rule)
        names = ["accuracy", "balanced_accuracy"] + (["auroc"] if rule == RULES[1] else [])
        results = over_people(made, names, n_permutations=n_permutations, n_resamples=n_resamples)
        ties = (choices(made.p).max(1) < 1).sum() / len(np.unique(made.seed))
        found.append(Decided(rule, results, float(ties)))
    return found


def over_people(
    predictions: Predictions,
    names: Sequence[str],
    *,
    n_permutations: int = 1000,
    n_resamples: int = 500,
) -> dict[str, Result]:
    """All windows together, labels belonging to people; the mean over seeds.

    Args:
        n_permutations: Exchanges of the labels of whole people.
        n_resamples: Draws of people with replacement for the interval (percentiles).

    Returns:
        By metric: `detail["people"]` has each person's share of windows right, and
        `detail["permutation"]` chance, what luck reaches in 5 % of the permutations, and p.
    """
    people = predictions.people
    index = {name: i for i, name in enumerate(people)}
    who = np.array([index[name] for name in predictions.person.tolist()])
    label = np.zeros(len(people), dtype=np.int64)
    label[who] = predictions.y
    rng = np.random.default_rng(0)
    exchanged = np.array([rng.permutation(label) for _ in range(n_permutations)])[:, who]
    drawn = rng.integers(0, len(people), (n_resamples, len(people)))
    seeds = [predictions.seed == seed for seed in np.unique(predictions.seed)]
    right = choices(predictions.p)[np.arange(len(who)), predictions.y]
    hits = {name: float(right[who == i].mean()) for name, i in index.items()}
    found = {}
    for name in names:
        labels = np.concatenate([predictions.y[None], exchanged])
        scores = np.mean([score_labels(name, labels[:, s], predictions.p[s]) for s in seeds], 0)
        low, high = _interval(_resampled(name, predictions, who, drawn, seeds), len(people))
        value, null = float(scores[0]), scores[1:]
        sign = -1 if name in LOWER_IS_BETTER else 1
        at_least = int((sign * null >= sign * value - 1e-12).sum())
        found[name] = Result(
            name=name,
            value=value,
            unit=name,
            low=low,
            high=high,
            n=len(people),
            detail={
                "people": hits,
                "permutation": {
                    "chance": float(null.mean()),
                    "luck": float(np.quantile(null, 0.05 if sign < 0 else 0.95)),
                    "p": (at_least + 1) / (len(null) + 1),
                },
            },
        )
    return found


def _resampled(
    name: str, predictions: Predictions, who: np.ndarray, drawn: np.ndarray, seeds: list[np.ndarray]
) -> np.ndarray:
    def one(chosen: np.ndarray) -> float:
        return float(score_labels(name, predictions.y[None, chosen], predictions.p[chosen])[0])

    members = [[np.flatnonzero(s & (who == i)) for i in range(drawn.shape[1])] for s in seeds]
    return np.array(
        [
            np.mean([one(np.concatenate([own[i] for i in draw])) for own in members])
            for draw in drawn
        ]
    )


def _interval(values: np.ndarray, n_people: int) -> tuple[float | None, float | None]:
    known = values[~np.isnan(values)]
    if n_people < 3 or not len(known):
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
