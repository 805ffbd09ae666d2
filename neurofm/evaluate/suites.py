"""Suites: which methods are compared on which data sets, by which protocols, shares and seeds.

A suite is one card, `recipes/benchmarks/NAME.yaml`. It unfolds into cells: one method with one kind
of weights and one way of reading them, on one fold of a protocol on a data set, with a share of the
labels and a seed. A cell is known by a hash of all that decides its numbers, so that a record of it
is found again and never used for something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurofm.data.rows import Row, Split
from neurofm.evaluate.folds import is_among, make_folds

CODE_VERSION = 1  # raise it when code changes the numbers of a cell
WEIGHTS = ("pretrained", "random")
READINGS = ("linear probe", "fine-tuned")
_NOT_NUMBERS = ("title", "about", "seeds", "protocols")  # of a method


@dataclass(frozen=True)
class Cell:
    """One number per person to be found.

    Args:
        dataset: Name in the suite.
        protocol: Name in the suite.
        method: Name in the suite.
        weights: "pretrained", "random", or "none" for a method that has no pretraining.
        reading: "linear probe", "fine-tuned", or "trained" for a method that has no pretraining.
        fold: Position in the protocol's folds.
        share: Of the training labels, 0 to 1.
        seed: Of weights, pretraining and the choice of labels.
    """

    dataset: str
    protocol: str
    method: str
    weights: str
    reading: str
    fold: int
    share: float
    seed: int

    def __str__(self) -> str:
        how = "" if self.weights == "none" else f" {self.weights}, {self.reading}"
        share = "" if self.share == 1 else f" {self.share:.0%}"
        return (
            f"{self.dataset} {self.protocol} {self.method}{how} fold {self.fold}{share} "
            f"seed {self.seed}"
        )


@dataclass(frozen=True)
class Suite:
    """A suite card, checked.

    Args:
        name: Of the card.
        card: Its content.
        validation: Protocols train and test on what they keep for choosing settings.
    """

    name: str
    card: Mapping[str, Any]
    validation: bool = False

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """Name to what the card says of it."""
        return self.card["methods"]

    @property
    def datasets(self) -> Mapping[str, Mapping[str, Any]]:
        """Name to what the card says of it."""
        return self.card["datasets"]

    @property
    def metric(self) -> str:
        """The first of the card's metrics: the one that tables are about."""
        return str(self.card["metrics"][0])

    @property
    def protocols(self) -> Mapping[str, Mapping[str, Any]]:
        """Name to which folds."""
        found = self.card["protocols"]
        if not self.validation:
            return found
        merged = {name: {**spec, **spec.get("validation", {})} for name, spec in found.items()}
        return {
            name: {key: value for key, value in spec.items() if key != "validation"}
            for name, spec in merged.items()
        }

    def labels(self, dataset: str) -> list[str]:
        """Classes of a data set, in order."""
        return [str(label) for label in self.datasets[dataset]["data"]["labels"]]

    def on(self, people: Mapping[str, Sequence[str]], *, title: str) -> Suite:
        """The suite on other people; a data set whose people these are already is left as it is.

        Groups of people stay, cut to these people, if everybody is in one of them. Otherwise the
        people are dealt to as many groups, in order.

        Args:
            people: Of every data set.
            title: Added to the data set's.
        """
        datasets = {name: dict(about) for name, about in self.datasets.items()}
        for name, about in datasets.items():
            own = people[name]
            card = about["data"].get("subjects") or ()
            if len(card) == len(own) and all(is_among(person, card) for person in own):
                continue
            about["data"] = {**about["data"], "subjects": list(own)}
            about["title"] = f"{about.get('title', name)}, {title}"
            groups = about.get("groups")
            if groups:
                cut = [[p for p in own if is_among(p, list(map(str, g)))] for g in groups]
                if not all(cut) or sum(map(len, cut)) < len(own):
                    cut = [part.tolist() for part in np.array_split(np.array(own), len(groups))]
                about["groups"] = [group for group in cut if group]
        card = {**self.card, "datasets": datasets}
        if datasets != self.datasets and card.get("notes"):
            card["notes"] = f"Written for the people of the card: {card['notes']}"
        return replace(self, card=card)

    def as_run(self) -> dict[str, Any]:
        """The card that gives this suite."""
        card = {**self.card, "protocols": self.protocols}
        plain: dict[str, Any] = json.loads(json.dumps(card))  # without YAML's references
        return plain

    def method(self, name: str, dataset: str, protocol: str | None = None) -> dict[str, Any] | None:
        """A method with what the data set changes of it; None if it leaves the method out.

        Steps of the data set come before those of the method.

        Args:
            protocol: None as well if the method takes part in others only.
        """
        changes = self.datasets[dataset].get("changes", {}).get(name, {})
        if changes is None:
            return None
        found = merged(self.methods[name], changes)
        if protocol is not None and protocol not in found.get("protocols", [protocol]):
            return None
        before = self.datasets[dataset]["data"].get("preprocess")
        if before:
            own = found["data"].get("preprocess") or []
            found["data"] = {**found["data"], "preprocess": [*before, *own]}
        return found

    def folds(self, dataset: str, protocol: str, rows: Sequence[Row]) -> list[Split]:
        """Folds of a protocol on windows of a data set.

        Raises:
            ValueError: The windows do not allow this protocol.
        """
        groups = self.datasets[dataset].get("groups", ())
        return make_folds(rows, self.protocols[protocol], groups=groups)

    def others(self, dataset: str, rows: Sequence[Row], split: Split) -> list[str]:
        """The people that models decoding a fold may be pretrained on.

        Everybody who is not tested; where the data set has groups of people, those of groups in
        which nobody is tested, so that the folds of a group share their pretraining.
        """
        tested = list(dict.fromkeys(rows[i].subject for i in split.test))
        groups = self.datasets[dataset].get("groups")
        if not groups:
            names = dict.fromkeys(row.subject for row in rows)
            return [name.rpartition("/")[2] for name in names if name not in tested]
        free = [
            [str(name) for name in group]
            for group in groups
            if not any(is_among(person, list(map(str, group))) for person in tested)
        ]
        return [name for group in free for name in group]

    def cells(
        self, dataset: str, protocol: str, n_folds: int, *, methods: Iterable[str] | None = None
    ) -> list[Cell]:
        """All cells of a protocol on a data set, of all methods or of some."""
        found = []
        for name in self.methods if methods is None else methods:
            method = self.method(name, dataset, protocol)
            if method is None:
                continue
            seeds = self.card["seeds"][: method.get("seeds")]
            found += [
                Cell(dataset, protocol, name, weights, reading, fold, float(share), int(seed))
                for fold in range(n_folds)
                for seed in seeds
                for weights, reading in ways(method)
                for share in self.card["shares"]
            ]
        return found

    def config(self, cell: Cell, windows: str, *, pretraining: Sequence[str]) -> dict[str, Any]:
        """All that decides the numbers of a cell.

        Args:
            windows: Hash of its training and test windows.
            pretraining: People that pretrained weights come from.
        """
        method = self.method(cell.method, cell.dataset) or {}
        method = {k: v for k, v in method.items() if k not in _NOT_NUMBERS}
        if cell.weights != "pretrained":
            method.pop("stages", None)
        if cell.reading == "linear probe":
            method.pop("finetune", None)
        elif "finetune" in method:
            method["finetune"] = schedule(method["finetune"], cell.weights)
        dataset = self.datasets[cell.dataset]
        protocol = self.protocols[cell.protocol]
        return {
            "code": CODE_VERSION,
            "version": self.card["version"],
            "data": dataset["data"],
            "cue_s": float(dataset.get("cue_s", 0.0)),
            "protocol": {k: v for k, v in protocol.items() if k not in ("title", "validation")},
            "pretraining": list(pretraining) if cell.weights == "pretrained" else [],
            "weights": cell.weights,
            "reading": cell.reading,
            "seed": cell.seed,
            "share": cell.share,
            "windows": windows,
            "method": method,
        }


def ways(method: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Kinds of weights and ways of reading them that a method is run with."""
    if "estimator" in method:
        return [("none", "trained")]
    weights = method.get("weights", WEIGHTS)
    readings = method.get("readings", READINGS)
    return [
        (kind, reading)
        for kind in weights
        for reading in (("trained",) if kind == "none" else readings)
    ]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with changes put in; mappings are merged, everything else is replaced."""
    result = deepcopy(dict(base))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else deepcopy(value)
    return result


def schedule(finetune: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """How a model with these weights is fine-tuned: `task` with its `pretrained` or `random` part.

    Rates that suit pretrained weights need not suit random ones, so each may have its own.
    """
    rest = {key: value for key, value in finetune.items() if key not in WEIGHTS}
    return rest | {"task": {**finetune.get("task", {}), **finetune.get(weights, {})}}


def digest(value: Any) -> str:
    """Short hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def window_hash(trials: Sequence[Row], train: Iterable[int], test: Iterable[int]) -> str:
    """Hash of the trials on both sides, the same for windows of any length and rate.

    Args:
        trials: Rows that start at their event, not at the first sample of a window, which is
            another moment at another rate.
    """

    def side(members: Iterable[int]) -> list[list[Any]]:
        chosen = [trials[i] for i in members]
        return sorted([*_trial(row), str(row.label)] for row in chosen)

    return digest([side(train), side(test)])


def _trial(row: Row) -> tuple[str, int]:
    """Recording and onset of the event, in fiftieths of a second."""
    return row.recording, round(row.start * 50)


def nested_share(
    trials: Sequence[Row], train: Sequence[int], share: float, *, seed: int
) -> tuple[int, ...]:
    """A share of the training windows, the same share of each class of each person.

    Smaller shares are contained in larger ones of the same seed. Of each class of each person at
    least one window stays, so that the smallest shares are larger than they say. Which trials are
    taken depends on the events, not on where windows begin, so all methods meet the same draws.

    Args:
        trials: As in `window_hash`.
        share: 0 to 1; numbers of windows are rounded to the nearest.
        seed: Of the order in which windows are taken.

    Raises:
        ValueError: A person lacks one of the classes.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i in train:
        groups.setdefault((trials[i].subject, str(trials[i].label)), []).append(i)
    classes = sorted({label for _, label in groups})
    chosen: list[int] = []
    for subject in sorted({name for name, _ in groups}):
        for label in classes:
            own = groups.get((subject, label), [])
            if not own or len(classes) < 2:
                raise ValueError(
                    f"person {subject} has {len(own)} training windows of class {label!r} (classes:"
                    f" {', '.join(classes)}); expected two or more classes and windows of each. "
                    "Choose other runs, or leave the person out."
                )
            own = sorted(own, key=lambda i: digest([seed, *_trial(trials[i])]))
            chosen += own[: max(1, int(share * len(own) + 0.5))]
    return tuple(sorted(chosen))
