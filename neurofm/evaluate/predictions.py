"""What a method said of held-out windows, gathered from the records of its folds and seeds.

A person's score is made of all held-out windows of the person, as one decoder would be judged;
areas under curves are made fold by fold and averaged. Chance is what the same predictions score
when the labels are shuffled inside recordings, so that what sets recordings apart cannot pass for
an effect.

Axes: window = one held-out window in one fold and seed; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from neurofm import metrics, stats
from neurofm.evaluate.records import Record
from neurofm.evaluate.scoring import AVERAGED, LOWER_IS_BETTER, RATE, score_labels
from neurofm.shapes import Bool, Float, Int

_MOST_LABELS = 10_000_000  # shuffled at once: what memory holds easily
_LEAST = 5e-5  # records keep four decimals of a probability: a 0 means less than this


@dataclass(frozen=True)
class Predictions:
    """Probabilities beside the truth.

    Args:
        classes: In the order of the outputs.
        person: Of each window.
        recording: Labels are exchanged inside it when chance is estimated.
        window: Of the recording, such as its onset; with person, recording and fold it says which
            window this is.
    """

    classes: tuple[str, ...]
    person: np.ndarray
    recording: np.ndarray
    window: np.ndarray
    fold: Int[np.ndarray, " window"]
    seed: Int[np.ndarray, " window"]
    y: Int[np.ndarray, " window"]
    p: Float[np.ndarray, "window output"]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Predictions:
        """From the `test` part of records of one method.

        Raises:
            ValueError: Records disagree about classes, or one is not consistent; its key is named.
        """
        classes = tuple(map(str, records[0]["classes"]))
        columns: dict[str, list[np.ndarray]] = {}
        for record in records:
            test, n = record["test"], len(record["test"]["y"])
            named = {label: i for i, label in enumerate(classes)}
            y = [value if isinstance(value, int) else named.get(value, -1) for value in test["y"]]
            p = np.asarray(test["p"], dtype=np.float64)
            lengths = {len(test[key]) for key in ("subject", "recording", "window", "p")}
            if (
                tuple(map(str, record["classes"])) != classes
                or lengths != {n}
                or p.shape != (n, len(classes))
                or not np.isfinite(p).all()
                or not set(y) <= set(range(len(classes)))
            ):
                raise ValueError(
                    f"record {record['key']}: predictions {p.shape} for {n} windows of the classes "
                    f"{list(record['classes'])} do not fit the classes {list(classes)} or are not "
                    "numbers. Delete it; its cell is computed again."
                )
            p = np.maximum(p, _LEAST)
            found = {
                "person": np.array(list(map(str, test["subject"]))),
                "recording": np.array(list(map(str, test["recording"]))),
                "window": np.array(list(map(str, test["window"]))),
                "fold": np.full(n, int(record["fold"])),
                "seed": np.full(n, int(record["seed"])),
                "y": np.array(y, dtype=np.int64),
                "p": p / p.sum(1, keepdims=True),
            }
            for key, value in found.items():
                columns.setdefault(key, []).append(value)
        joined = {key: np.concatenate(parts) for key, parts in columns.items()}
        names = ("window", "recording", "fold", "person", "seed")
        order = np.lexsort([joined[name] for name in names])
        return cls(classes=classes, **{key: value[order] for key, value in joined.items()})

    @property
    def people(self) -> list[str]:
        """In sorted order."""
        return sorted(set(self.person.tolist()))

    @cached_property
    def one_class_each(self) -> bool:
        """Whether labels belong to people: each has one class, and all together several."""
        single = all(len(np.unique(self.y[self.person == name])) == 1 for name in self.people)
        return single and len(np.unique(self.y)) > 1

    def some(self, chosen: Bool[np.ndarray, " window"]) -> Predictions:
        """These windows only."""
        names = ("person", "recording", "window", "fold", "seed", "y", "p")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def together(self) -> Predictions | None:
        """The mean probability over seeds of each window: the seeds as one decoder.

        Returns:
            None if there is one seed, if seeds predicted other windows, or all the same.
        """
        seeds = np.unique(self.seed)
        parts = [self.some(self.seed == seed) for seed in seeds]
        names = ("person", "recording", "window", "fold", "y")
        first = parts[0]
        for part in parts[1:]:
            for name in names:
                if not np.array_equal(getattr(first, name), getattr(part, name)):
                    return None
        if len(parts) < 2 or all(np.allclose(first.p, part.p, atol=1e-3) for part in parts[1:]):
            return None
        return replace(first, p=np.mean([part.p for part in parts], axis=0))


@dataclass(frozen=True)
class Outcome:
    """A metric of predictions.

    Args:
        people: Person to mean over seeds; NaN where it is undefined.
        null: Mean over people of each permutation; None where no shuffle changes anything.
    """

    people: dict[str, float]
    null: Float[np.ndarray, " permutation"] | None

    @property
    def value(self) -> float:
        """Mean over the people for whom it is defined."""
        return _mean(list(self.people.values()))


def outcomes(
    predictions: Predictions,
    names: Sequence[str],
    *,
    trial_s: float | None = None,
    n_permutations: int = 1000,
) -> dict[str, Outcome]:
    """Score every person by several metrics, with the true labels and with shuffled ones.

    Args:
        names: Of `scoring.METRICS`, or "bits_per_min", which needs `trial_s`.
        trial_s: Seconds from the start of a trial to its decision.
        n_permutations: 0 = no null; fewer are drawn of people with very many windows.
    """
    most = max(int((predictions.person == name).sum()) for name in predictions.people)
    n_permutations = min(n_permutations, max(100, _MOST_LABELS // most))
    scores: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in names}
    changes = False
    for i, person in enumerate(predictions.people):
        own = predictions.some(predictions.person == person)
        for seed in np.unique(own.seed):
            part = own.some(own.seed == seed)
            # Labelled by the person, not by the seed: every seed meets the same permutations.
            shuffled = stats.shuffled_within(
                part.y, part.recording, n_permutations=n_permutations, seed=i
            )
            changes = changes or bool((shuffled != part.y).any())
            labels = np.concatenate([part.y[None], shuffled])
            for name in names:
                scores[name].setdefault(person, []).append(_person(part, name, labels, trial_s))
    found = {}
    for name, by_person in scores.items():
        table = np.array([_columns_mean(np.array(values)) for values in by_person.values()])
        people = dict(zip(by_person, table[:, 0].tolist(), strict=True))
        null = _columns_mean(table[:, 1:]) if changes and n_permutations else None
        found[name] = Outcome(people, null)
    return found


def permutation_p(name: str, outcome: Outcome) -> float | None:
    """Share of permutations at least as good as the truth, the truth counted in."""
    if outcome.null is None or np.isnan(outcome.value):
        return None
    sign = -1 if name in LOWER_IS_BETTER else 1
    as_good = sign * outcome.null >= sign * outcome.value - 1e-12
    return float((as_good.sum() + 1) / (len(outcome.null) + 1))


def _person(part: Predictions, name: str, labels: np.ndarray, trial_s: float | None) -> np.ndarray:
    """One person and seed under each vector of labels."""
    if name == RATE:
        if trial_s is None:
            raise ValueError(f"{RATE}: the length of a trial is not known.")
        hits = score_labels("balanced_accuracy", labels, part.p)
        return metrics.information_transfer_rate(
            np.clip(hits, 0, 1), n_classes=len(part.classes), trial_s=trial_s
        )
    if name not in AVERAGED:
        return score_labels(name, labels, part.p)
    folds = [part.fold == fold for fold in np.unique(part.fold)]
    return _columns_mean(np.array([score_labels(name, labels[:, f], part.p[f]) for f in folds]))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not np.isnan(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _columns_mean(table: np.ndarray) -> np.ndarray:
    """Mean of each column over what is defined."""
    known = ~np.isnan(table)
    count = known.sum(0)
    total = np.where(known, table, 0.0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
