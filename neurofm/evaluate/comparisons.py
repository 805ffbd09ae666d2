"""Which method is better: paired differences, ranks, all pairs. Always over the same people.

A person whom one of two methods did not score is left out of their comparison and counted. Methods
that were trained or tested on other windows are not compared at all; where they were given a share
of the labels, they may have met different draws of as many trials, which is said.

Source: Demšar 2006 (average ranks, critical difference); Benavoli, Corani & Mangili 2016 (Wilcoxon
tests of all pairs, because average ranks of two methods depend on who else is in the table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from neurofm import stats
from neurofm.evaluate.scoring import LOWER_IS_BETTER
from neurofm.evaluate.suite_results import Line, Scored
from neurofm.types import Result

FEWEST_TESTED = 5  # people; with fewer a sign-flip p cannot be below 0.1


@dataclass(frozen=True)
class Compared:
    """A paired difference at one data set, protocol and share, in units of the metric.

    Args:
        line: What is judged.
        against: What it is compared with.
        result: Mean difference over people with its interval; `detail` has `p` of the sign-flip
            test and `p_fdr`, corrected over all comparisons of the same kind; `wins`, and
            `left_out`, the people whom only one of the two scored.
    """

    line: Line
    against: Line
    share: float
    result: Result
    dataset: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Ranking:
    """Methods ranked on the same rows: people of one data set and protocol, or data sets.

    Args:
        lines: In the order of the suite.
        ranks: Average rank of each; 1 is best.
        n: Rows: people or data sets.
        over: "people" or "data sets".
        statistic: Friedman's, with its p.
        critical_difference: Nemenyi's, at 5 %.
        pairs: Wilcoxon's p of each two lines (positions), corrected by Holm's steps.
        left_out: What is not in the table and why, one sentence each.
    """

    dataset: str
    protocol: str
    lines: tuple[Line, ...]
    ranks: tuple[float, ...]
    n: int
    over: str
    statistic: float
    p: float
    critical_difference: float
    pairs: dict[tuple[int, int], float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def pretraining_gain(scored: Sequence[Scored]) -> list[Compared]:
    """Pretrained minus random weights, same reading and share, person by person."""
    at = {(s.place, s.line, s.share): s for s in scored}
    pairs = [
        (s, at.get((s.place, (s.line[0], "random", s.line[2]), s.share)))
        for s in scored
        if s.line[1] == "pretrained"
    ]
    return _compared([(s, other) for s, other in pairs if other is not None])


def reference_of(scored: Sequence[Scored], method: str, like: Scored) -> Scored | None:
    """The reference at the same data set, protocol and share; each of its seeds for itself."""
    for item in scored:
        same = (item.place, item.share) == (like.place, like.share)
        if same and item.line[0] == method and item.members == 1:
            return item
    return None


def against_reference(scored: Sequence[Scored], reference: str) -> list[Compared]:
    """Every line minus the reference, same share, person by person."""
    pairs = [(s, reference_of(scored, reference, s)) for s in scored]
    return _compared([(s, base) for s, base in pairs if base is not None and base is not s])


def other_windows(a: Scored, b: Scored) -> bool:
    """Whether two lines were trained or tested on different windows, all labels being used."""
    return a.share == 1 and other_draws(a, b)


def other_draws(a: Scored, b: Scored) -> bool:
    """Whether two lines met different windows in a fold both have, at whatever share."""
    first, second = a.windows or {}, b.windows or {}
    return any(not first[fold] & second[fold] for fold in first.keys() & second.keys())


def _compared(pairs: Sequence[tuple[Scored, Scored]]) -> list[Compared]:
    found = []
    for one, other in pairs:
        names = [name for name in one.people if name in other.people]
        if names and not other_windows(one, other):
            found.append(_pair(one, other, names))
    if not found:
        return []
    tested = [item for item in found if not np.isnan(item.result.detail["p"])]
    adjusted = (
        stats.fdr([item.result.detail["p"] for item in tested])[1] if tested else np.array([])
    )
    for item, p in zip(tested, adjusted.tolist(), strict=True):
        item.result.detail["p_fdr"] = p
    return found


def _pair(one: Scored, other: Scored, names: Sequence[str]) -> Compared:
    first = np.array([one.people[name] for name in names])
    second = np.array([other.people[name] for name in names])
    test = stats.paired_test(first, second)
    low, high = stats.bootstrap_interval(first - second)
    sign = -1 if one.result.unit in LOWER_IS_BETTER else 1
    detail: dict[str, Any] = {
        "p": test.p if len(names) >= FEWEST_TESTED else np.nan,
        "p_fdr": np.nan,
        "wins": int((sign * first > sign * second).sum()),
        "left_out": len(one.people.keys() ^ other.people.keys()),
    }
    result = Result(
        name=f"{' '.join(one.line)} minus {' '.join(other.line)}",
        value=test.value,
        unit="difference",
        low=None if np.isnan(low) else low,
        high=None if np.isnan(high) else high,
        n=len(names),
        chance=0.0,
        detail=detail,
    )
    return Compared(one.line, other.line, one.share, result, *one.place)


def rankings(scored: Sequence[Scored]) -> list[Ranking]:
    """Ranks over the people of each data set and protocol, and over data sets where there are more.

    At the largest share of the labels; several seeds together are no method of their own and stay
    out. A line that scored less than half of the people, or other windows, is left out and named.
    """
    whole = _whole(scored)
    found = []
    for place in dict.fromkeys(s.place for s in whole):
        made = _over_people([s for s in whole if s.place == place])
        found += [] if made is None else [made]
    for protocol in dict.fromkeys(s.protocol for s in whole):
        made = _over_datasets([s for s in whole if s.protocol == protocol])
        found += [] if made is None else [made]
    return found


def _whole(scored: Sequence[Scored]) -> list[Scored]:
    largest: dict[tuple[str, str], float] = {}
    for item in scored:
        largest[item.place] = max(item.share, largest.get(item.place, 0.0))
    return [s for s in scored if s.share == largest[s.place] and s.members == 1]


def _over_people(items: Sequence[Scored]) -> Ranking | None:
    everybody = {name for item in items for name in item.people}
    left_out: list[str] = []
    kept: list[Scored] = []
    for item in items:
        missing = len(everybody) - len(item.people)
        if 2 * missing > len(everybody):
            left_out.append(
                f"{' '.join(item.line)}: scored {len(item.people)} of {len(everybody)} people"
            )
        elif kept and other_windows(kept[0], item):
            left_out.append(f"{' '.join(item.line)}: other windows")
        else:
            kept.append(item)
    shared = sorted(everybody.intersection(*(item.people for item in kept)) if kept else ())
    if len(kept) < 2 or len(shared) < 2:
        return None
    if len(shared) < len(everybody):
        left_out.append(f"{len(everybody) - len(shared)} people whom not every method scored")
    table = np.array([[item.people[name] for item in kept] for name in shared])
    return _ranking(kept, table, "people", items[0].dataset, left_out)


def _over_datasets(items: Sequence[Scored]) -> Ranking | None:
    datasets = list(dict.fromkeys(item.dataset for item in items))
    at = {(item.dataset, item.line): item for item in items}
    lines = list(dict.fromkeys(item.line for item in items))
    kept = [line for line in lines if all((name, line) in at for name in datasets)]
    if len(datasets) < 2 or len(kept) < 2:
        return None
    left_out = [f"{' '.join(line)}: not on every data set" for line in lines if line not in kept]
    table = np.array([[at[name, line].result.value for line in kept] for name in datasets])
    if np.isnan(table).any():
        return None
    first = [at[datasets[0], line] for line in kept]
    return _ranking(first, table, "data sets", "", left_out)


def _ranking(
    items: Sequence[Scored], table: np.ndarray, over: str, dataset: str, left_out: Sequence[str]
) -> Ranking:
    better = -table if items[0].result.unit in LOWER_IS_BETTER else table
    better = np.round(better, 9)  # equal on paper is equal
    statistic, p = stats.friedman(better)
    places = list(combinations(range(len(items)), 2))
    adjusted = stats.holm([stats.wilcoxon(table[:, i], table[:, j]) for i, j in places])
    return Ranking(
        dataset=dataset,
        protocol=items[0].protocol,
        lines=tuple(item.line for item in items),
        ranks=tuple(stats.average_ranks(better).tolist()),
        n=len(table),
        over=over,
        statistic=statistic,
        p=p,
        critical_difference=stats.critical_difference(len(items), len(table)),
        pairs=dict(zip(places, adjusted.tolist(), strict=True)),
        left_out=tuple(left_out),
    )
