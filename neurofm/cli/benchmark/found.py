"""What a suite's records say, computed once for table, figures and report, with its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neurofm.evaluate.comparisons import (
    Compared,
    Ranking,
    against_reference,
    pretraining_gain,
    rankings,
)
from neurofm.evaluate.records import Record
from neurofm.evaluate.scoring import LOWER_IS_BETTER, RATE
from neurofm.evaluate.suite_results import Line, Scored, score
from neurofm.evaluate.suites import Suite

WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "kappa": "kappa",
    "auroc": "AUROC",
    "macro_f1": "macro F1",
    "auprc": "AUPRC",
    "calibration_error": "calibration error",
    "brier": "Brier score",
    "log_loss": "log loss",
    RATE: "bits/min",
}
# What is shown in percent; the others have units of their own.
PERCENT = {"balanced_accuracy", "accuracy", "auroc", "macro_f1", "auprc", "calibration_error"}


def counted(people: int) -> str:
    """So many people."""
    return f"{people} {'person' if people == 1 else 'people'}"


def first_upper(text: str) -> str:
    """The start of a sentence; abbreviations stay as they are."""
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Found:
    """Scores, comparisons and ranks of a suite."""

    suite: Suite
    records: Sequence[Record]
    scored: Sequence[Scored]
    gains: Sequence[Compared]
    versus: Sequence[Compared]
    ranks: Sequence[Ranking]

    @property
    def metric(self) -> str:
        """The one that people are compared by."""
        return str(self.suite.card["metrics"][0])

    @property
    def factor(self) -> float:
        """Of the metric, for display."""
        return 100.0 if self.metric in PERCENT else 1.0

    @property
    def quantity(self) -> str:
        """The metric with its unit."""
        return WORDS[self.metric] + (" (%)" if self.metric in PERCENT else "")

    @property
    def better(self) -> int:
        """1 if a larger score is better, else -1."""
        return -1 if self.metric in LOWER_IS_BETTER else 1

    @property
    def places(self) -> list[tuple[str, str]]:
        """Data sets and protocols that have results."""
        return list(dict.fromkeys(item.place for item in self.scored))

    @property
    def reference(self) -> str:
        """Title of the reference."""
        return self.title(self.suite.card["reference"])

    def at(self, place: tuple[str, str], *, share: float | None = None) -> list[Scored]:
        """Lines of a data set and protocol, at its largest share if none is given."""
        own = [item for item in self.scored if item.place == place]
        wanted = max(item.share for item in own) if share is None else share
        return [item for item in own if item.share == wanted]

    def shares(self, place: tuple[str, str]) -> list[float]:
        """Shares of the labels that a place has results for."""
        return sorted({item.share for item in self.scored if item.place == place})

    def title(self, method: str) -> str:
        """What the card calls a method."""
        return str(self.suite.methods[method].get("title", method))

    def label(self, line: Line) -> str:
        """Method, weights and reading in words."""
        method, weights, reading = line
        how = [weights] if weights != "none" else []
        how += [part for part in reading.split(", ") if part != "trained"]
        return ", ".join([self.title(method), *how])

    def place(self, place: tuple[str, str]) -> str:
        """Data set and protocol in words; the protocol alone where all is of one data set."""
        dataset, protocol = place
        named = str(self.suite.card["datasets"].get(dataset, {}).get("title", dataset))
        how = self.suite.card["protocols"].get(protocol, {}).get("title", protocol)
        how = str(how).replace("_", " ")
        if how and len({item.dataset for item in self.scored}) == 1:
            return how
        return f"{named}, {how}" if how else named


def found_in(suite: Suite, records: Sequence[Record], *, n_permutations: int = 1000) -> Found:
    """All that is computed of records.

    Records from before there were data sets and protocols belong to the first of the card.
    """
    card = suite.card
    first = {"dataset": next(iter(card["datasets"])), "protocol": next(iter(card["protocols"]))}
    records = [{**first, **record} for record in records]
    chosen = card["datasets"][first["dataset"]]["data"]
    scored = score(
        records,
        names=list(card["metrics"]),
        order=list(card["methods"]),
        n_classes=len(chosen["labels"]),
        trial_s=_lengths(suite),
        n_permutations=n_permutations,
    )
    scored.sort(key=lambda item: _position(suite, item))
    return Found(
        suite=suite,
        records=records,
        scored=scored,
        gains=pretraining_gain(scored),
        versus=against_reference(scored, card["reference"]),
        ranks=rankings(scored),
    )


def _position(suite: Suite, item: Scored) -> tuple[int, int]:
    """Data sets and protocols in the order of the card; the order of lines is kept."""
    datasets, protocols = list(suite.card["datasets"]), list(suite.card["protocols"])
    at = [
        names.index(name) if name in names else len(names)
        for names, name in ((datasets, item.dataset), (protocols, item.protocol))
    ]
    return at[0], at[1]


def _lengths(suite: Suite) -> dict[tuple[str, str], float]:
    """Seconds from cue to the end of the window, for every data set and method that say it."""
    found = {}
    for dataset in suite.card["datasets"]:
        for name in suite.methods:
            spec: Any = suite.method(name, dataset)
            own = (spec or {}).get("data", {})
            whole = suite.card["datasets"][dataset]["data"] | own
            if whole.get("window_s"):
                found[dataset, name] = float(whole.get("offset_s", 0.0)) + float(whole["window_s"])
    return {at: length for at, length in found.items() if length > 0}
