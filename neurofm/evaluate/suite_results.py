"""From the records of a suite to scores with intervals and chance.

A person's score is the mean over seeds; intervals and tests are over people, because seeds are no
replicates of anybody's brain. Records hold the predictions for every held-out window (`test`), or,
if they are old, only the scores of `people`; of the latter, folds are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurofm import stats
from neurofm.evaluate.decisions import Decided, decided, over_people
from neurofm.evaluate.predictions import Outcome, Predictions, outcomes, permutation_p
from neurofm.evaluate.records import Record
from neurofm.evaluate.scoring import LOWER_IS_BETTER, METRICS, RATE
from neurofm.types import Result

Line = tuple[str, str, str]  # method, weights, reading


@dataclass(frozen=True)
class Scored:
    """One method, kind of weights and way of reading, on one data set, protocol and share.

    Args:
        line: Method, weights and reading.
        results: By metric, the suite's first metric first: mean over people with its interval.
            `detail["people"]` has one value each; `detail["permutation"]`, where there are
            predictions, chance, what luck reaches in 5 % of the permutations, and p.
        trials: Training trials of a fold; the mean if folds differ.
        seeds: How many, at least, each person was scored with.
        cpu_s: Processor time of decoding: all folds, seeds and people.
        decoders: Folds and seeds, each of which trained one.
        pretraining_s: Processor time of the pretraining of a decoder, the mean.
        parameters: Of the model; None if the records do not say.
        members: Seeds whose mean probability is the prediction; 1 = every seed for itself.
        align: What unlabelled test data was used for; "none" if for nothing, empty if the records
            do not say.
        classes: Their names, empty if the records do not say.
        windows: Fold to hashes of its training and test windows.
        train_people: People a decoder was trained on, the mean; None if unknown.
        predictions: What was said of each window; None if the records hold scores only.
        decided: Decisions per person, where labels belong to people.
    """

    dataset: str
    protocol: str
    line: Line
    share: float
    results: Mapping[str, Result]
    trials: float | int
    seeds: int
    cpu_s: float
    decoders: int
    pretraining_s: float = 0.0
    parameters: int | None = None
    members: int = 1
    align: str = ""
    classes: tuple[str, ...] = ()
    windows: Mapping[int, frozenset[str]] | None = None
    train_people: float | None = None
    predictions: Predictions | None = None
    decided: tuple[Decided, ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        """Data set and protocol."""
        return self.dataset, self.protocol

    @property
    def result(self) -> Result:
        """By the suite's first metric."""
        return next(iter(self.results.values()))

    @property
    def people(self) -> dict[str, float]:
        """Score of each person by the first metric, those without one left out."""
        found: Mapping[str, float] = self.result.detail["people"]
        return {name: value for name, value in found.items() if not np.isnan(value)}

    @property
    def decoder_s(self) -> float:
        """Processor seconds that one decoder cost, pretraining included."""
        return self.members * (self.cpu_s / max(self.decoders, 1) + self.pretraining_s)


def score(
    records: Sequence[Record],
    *,
    names: Sequence[str],
    order: Sequence[str],
    n_classes: int | None = None,
    trial_s: Mapping[tuple[str, str], float] | None = None,
    n_permutations: int = 1000,
) -> list[Scored]:
    """Mean over people of every data set, protocol, line and share.

    Args:
        records: With `dataset` and `protocol`.
        names: Metrics of the suite, the one that people are compared by first. Where there are
            predictions all other metrics follow.
        order: Of the methods.
        n_classes: Of records that do not say their classes.
        trial_s: Data set and method to the seconds from the start of a trial to its decision.

    Raises:
        ValueError: A record lacks a metric and has no predictions to make it of.
    """
    grouped: dict[tuple[tuple[str, str], Line, float], list[Record]] = {}
    for record in records:
        line = (record["method"], record["weights"], record["reading"])
        place = (record["dataset"], record["protocol"])
        grouped.setdefault((place, line, record["share"]), []).append(record)
    # Scores of people and scores made of windows are not mixed in one table.
    old = {place for (place, _, _), own in grouped.items() if any("test" not in r for r in own)}
    places = list(dict.fromkeys(place for place, _, _ in grouped))
    rank = {name: i for i, name in enumerate(order)}
    found = []
    for (place, line, share), own in sorted(
        grouped.items(), key=lambda item: (places.index(item[0][0]), rank[item[0][1][0]], item[0])
    ):
        base = _about(place, line, share, own)
        if place in old:
            results = _from_people(own, names, n_classes)
            found.append(replace(base, results=results))
            continue
        length = (trial_s or {}).get((place[0], line[0]))
        made = Predictions.of(own)
        found.append(_from_windows(base, made, names, length, n_permutations))
        together = made.together() if _same_training(own) else None
        if together is not None:
            n = base.seeds
            labelled = replace(base, line=(*line[:2], f"{line[2]}, {n} seeds together"), members=n)
            found.append(_from_windows(labelled, together, names, length, n_permutations))
    return found


def _same_training(records: Sequence[Record]) -> bool:
    """Whether all seeds of a fold were trained on the same windows: else they know more labels."""
    hashes: dict[int, set[str]] = {}
    for record in records:
        hashes.setdefault(record["fold"], set()).add(record["windows"])
    return all(len(found) == 1 for found in hashes.values())


def _about(place: tuple[str, str], line: Line, share: float, records: Sequence[Record]) -> Scored:
    """All but the scores."""
    pretraining = [r.get("pretraining_cpu_s", 0.0) for r in records if r["weights"] == "pretrained"]
    sizes = [r["parameters"] for r in records if r.get("parameters") is not None]
    people = [r["n_train_people"] for r in records if r.get("n_train_people") is not None]
    windows: dict[int, set[str]] = {}
    seeds: dict[str, set[int]] = {}
    for record in records:
        windows.setdefault(record["fold"], set()).add(str(record["windows"]))
        for name in record.get("people") or set(record["test"]["subject"]):
            seeds.setdefault(str(name), set()).add(record["seed"])
    return Scored(
        dataset=place[0],
        protocol=place[1],
        line=line,
        share=share,
        results={},
        trials=float(np.mean([record["n_train"] for record in records])),
        seeds=min(len(own) for own in seeds.values()),
        cpu_s=float(sum(record["cpu_s"] for record in records)),
        decoders=len(records),
        pretraining_s=float(np.mean(pretraining)) if pretraining else 0.0,
        parameters=int(max(sizes)) if sizes else None,
        align=", ".join(sorted({str(r["align"]) for r in records if "align" in r})),
        classes=tuple(map(str, records[0].get("classes", ()))),
        windows={fold: frozenset(own) for fold, own in windows.items()},
        train_people=float(np.mean(people)) if people else None,
    )


def _from_people(
    records: Sequence[Record], names: Sequence[str], n_classes: int | None
) -> dict[str, Result]:
    classes = len(records[0].get("classes", ())) or n_classes
    known = set.intersection(*(set(v) for r in records for v in r["people"].values()))
    if names[0] not in known:
        raise ValueError(f"record {records[0]['key']}: no {names[0]}, only {sorted(known)}.")
    found = {}
    for name in (name for name in names if name in known):
        people: dict[str, list[float]] = {}
        for record in sorted(records, key=lambda r: (r["fold"], r["seed"])):
            for person, values in record["people"].items():
                if values[name] is not None and not np.isnan(values[name]):
                    people.setdefault(person, []).append(values[name])
        means = {person: float(np.mean(values)) for person, values in people.items()}
        found[name] = _result(name, Outcome(means, None), _guess(name, classes))
    return found


def _from_windows(
    base: Scored,
    made: Predictions,
    names: Sequence[str],
    trial_s: float | None,
    n_permutations: int,
) -> Scored:
    wanted = list(dict.fromkeys([*names, *METRICS]))
    if made.one_class_each:
        wanted = [name for name in wanted if name != RATE]
        results = over_people(made, wanted, n_permutations=n_permutations)
        results = {
            name: replace(result, chance=_chance(name, made)) for name, result in results.items()
        }
        own = tuple(decided(made, n_permutations=n_permutations))
        return replace(base, results=results, predictions=made, decided=own)
    if trial_s is not None:
        wanted = list(dict.fromkeys([*wanted, RATE]))
    else:
        wanted = [name for name in wanted if name != RATE]
    found = outcomes(made, wanted, trial_s=trial_s, n_permutations=n_permutations)
    results = {name: _result(name, found[name], _chance(name, made)) for name in wanted}
    if trial_s is not None:
        results[RATE].detail["trial_s"] = trial_s
    return replace(base, results=results, predictions=made)


def _result(name: str, outcome: Outcome, chance: float | None) -> Result:
    values = [value for value in outcome.people.values() if not np.isnan(value)]
    low, high = stats.bootstrap_interval(values) if values else (np.nan, np.nan)
    detail: dict[str, Any] = {"people": outcome.people}
    p = permutation_p(name, outcome)
    if outcome.null is not None and p is not None:
        tail = 0.05 if name in LOWER_IS_BETTER else 0.95
        detail["permutation"] = {
            "chance": float(np.nanmean(outcome.null)),
            "luck": float(np.nanquantile(outcome.null, tail)),
            "p": p,
        }
    return Result(
        name=name,
        value=outcome.value,
        unit=name,
        low=None if np.isnan(low) else low,
        high=None if np.isnan(high) else high,
        n=len(values),
        chance=chance,
        detail=detail,
    )


def _guess(name: str, n_classes: int | None) -> float | None:
    """What a guess among equally likely classes scores; None where that is not one number."""
    if name in ("kappa", RATE):
        return 0.0
    if name == "auroc":
        return 0.5
    if n_classes is None:
        return None
    by_classes = {
        "balanced_accuracy": 1 / n_classes,
        "brier": 1 - 1 / n_classes,
        "log_loss": float(np.log(n_classes)),
    }
    return by_classes.get(name)


def _chance(name: str, made: Predictions) -> float | None:
    """The same, with the frequencies of the classes at hand."""
    own = [made.y[made.person == person] for person in made.people]
    if made.one_class_each:
        own = [made.y]
    if name == "accuracy":
        return float(np.mean([stats.chance_level(y)[0] for y in own]))
    if name == "auprc":
        two = len(made.classes) == 2
        return float(np.mean([np.mean(y == 1) if two else 1 / len(np.unique(y)) for y in own]))
    return _guess(name, len(made.classes))


def pretraining_cost(records: Sequence[Record]) -> dict[str, float]:
    """Method to processor seconds of all its pretrainings, each counted once."""
    cost: dict[tuple[Any, ...], float] = {}
    for record in records:
        if record["weights"] == "pretrained":
            at = tuple(record[key] for key in ("method", "dataset", "protocol", "fold", "seed"))
            cost[at] = float(record["pretraining_cpu_s"])
    total: dict[str, float] = {}
    for (method, *_), seconds in cost.items():
        total[method] = total.get(method, 0.0) + seconds
    return total
