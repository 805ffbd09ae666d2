"""From the records of a suite to scores with intervals, and to paired comparisons.

A person's score is the mean over seeds; intervals and tests are over people, because seeds are no
replicates of anybody's brain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm import stats
from neurofm.evaluate.records import Record
from neurofm.types import Result

Line = tuple[str, str, str]  # method, weights, reading


@dataclass(frozen=True)
class Scored:
    """One method, kind of weights and way of reading, at one share of the labels.

    Args:
        line: Method, weights and reading.
        result: Mean over people with its interval; `detail["people"]` has one value each.
        trials: Training trials of a fold; the mean if folds differ.
        seeds: How many, at least, each person was scored with.
        cpu_s: Processor time of decoding: all folds, seeds and people.
    """

    line: Line
    share: float
    result: Result
    trials: float
    seeds: int
    cpu_s: float


@dataclass(frozen=True)
class Compared:
    """A paired difference at one share of the labels, in percentage points over 100.

    Args:
        line: What is judged.
        against: What it is compared with.
        result: Mean difference over people with its interval; `detail` has `p` of the sign-flip
            test and `p_fdr`, corrected over all comparisons of the same kind.
    """

    line: Line
    against: Line
    share: float
    result: Result


def score(
    records: Sequence[Record], *, metric: str, chance: float, order: Sequence[str]
) -> list[Scored]:
    """Mean over people of every line and share.

    Args:
        metric: Of each person in a record.
        chance: Of the metric.
        order: Of the methods.

    Raises:
        ValueError: A record lacks the metric.
    """
    grouped: dict[tuple[Line, float], list[Record]] = {}
    for record in records:
        line = (record["method"], record["weights"], record["reading"])
        grouped.setdefault((line, record["share"]), []).append(record)
    rank = {name: i for i, name in enumerate(order)}
    found = []
    for (line, share), own in sorted(
        grouped.items(), key=lambda item: (rank[item[0][0][0]], item[0])
    ):
        people = _people(own, metric)
        means = [float(np.mean(values)) for values in people.values()]
        low, high = stats.bootstrap_interval(means)
        result = Result(
            name=" ".join(line),
            value=float(np.mean(means)),
            unit=metric,
            low=None if np.isnan(low) else low,
            high=None if np.isnan(high) else high,
            n=len(means),
            chance=chance,
            detail={"people": dict(zip(people, means, strict=True))},
        )
        found.append(
            Scored(
                line=line,
                share=share,
                result=result,
                trials=float(np.mean([record["n_train"] for record in own])),
                seeds=min(len(values) for values in people.values()),
                cpu_s=float(sum(record["cpu_s"] for record in own)),
            )
        )
    return found


def _people(records: Sequence[Record], metric: str) -> dict[str, list[float]]:
    """Scores of each person, one per seed."""
    people: dict[str, list[float]] = {}
    for record in sorted(records, key=lambda r: (r["fold"], r["seed"])):
        for name, values in record["people"].items():
            if metric not in values:
                raise ValueError(f"record {record['key']}: no {metric}, only {sorted(values)}.")
            if not np.isnan(values[metric]):
                people.setdefault(name, []).append(values[metric])
    return people


def pretraining_cost(records: Sequence[Record]) -> dict[str, float]:
    """Method to processor seconds of all its pretrainings, each counted once."""
    cost: dict[tuple[str, int, int], float] = {}
    for record in records:
        if record["weights"] == "pretrained":
            at = (record["method"], record["fold"], record["seed"])
            cost[at] = float(record["pretraining_cpu_s"])
    total: dict[str, float] = {}
    for (method, _, _), seconds in cost.items():
        total[method] = total.get(method, 0.0) + seconds
    return total


def pretraining_gain(scored: Sequence[Scored]) -> list[Compared]:
    """Pretrained minus random weights, same reading and share, person by person."""
    pairs = [(s.line, (s.line[0], "random", s.line[2])) for s in scored]
    chosen = dict.fromkeys(pair for pair in pairs if pair[0][1] == "pretrained")
    return _compared(scored, list(chosen))


def against_reference(scored: Sequence[Scored], reference: str) -> list[Compared]:
    """Every line minus a method without pretraining, same share, person by person."""
    base = (reference, "none", "trained")
    pairs = dict.fromkeys((s.line, base) for s in scored if s.line != base)
    return _compared(scored, list(pairs))


def _compared(scored: Sequence[Scored], pairs: Sequence[tuple[Line, Line]]) -> list[Compared]:
    at: Mapping[tuple[Line, float], Scored] = {(s.line, s.share): s for s in scored}
    found = []
    for line, against in pairs:
        for share in sorted({s.share for s in scored if s.line == line}):
            base = at.get((against, share))
            if base is None:
                continue
            own, other = at[line, share].result.detail["people"], base.result.detail["people"]
            names = [name for name in own if name in other]
            found.append(_pair(line, against, share, [(own[n], other[n]) for n in names]))
    if not found:
        return []
    adjusted = stats.fdr([item.result.detail["p"] for item in found])[1]
    for item, p in zip(found, adjusted.tolist(), strict=True):
        item.result.detail["p_fdr"] = p
    return found


def _pair(
    line: Line, against: Line, share: float, values: Sequence[tuple[float, float]]
) -> Compared:
    first, second = np.array(values).T
    test = stats.paired_test(first, second)
    low, high = stats.bootstrap_interval(first - second)
    detail: dict[str, Any] = {"p": test.p, "wins": int((first > second).sum())}
    result = Result(
        name=f"{' '.join(line)} minus {' '.join(against)}",
        value=test.value,
        unit="difference",
        low=None if np.isnan(low) else low,
        high=None if np.isnan(high) else high,
        n=len(values),
        chance=0.0,
        detail=detail,
    )
    return Compared(line, against, share, result)
