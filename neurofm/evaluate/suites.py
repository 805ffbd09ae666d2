"""Suites: which methods are compared on which people, windows, shares of labels and seeds.

A suite is one card, `recipes/benchmarks/NAME.yaml`. It unfolds into cells: one method with one kind
of weights and one way of reading them, on one fold, share of the labels and seed. A cell is known
by a hash of all that decides its numbers, so that a record of it is found again and never used for
something else.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neurofm import cards
from neurofm.data.rows import Row

CODE_VERSION = 1  # raise it when code changes the numbers of a cell
WEIGHTS = ("pretrained", "random")
READINGS = ("linear probe", "fine-tuned")
_FIELDS = ("description", "version", "data", "people", "train", "test", "shares", "seeds")
_METHOD = {"title", "data", "labels_in_pretraining", "estimator", "model", "readout", "stages"}
_METHOD |= {"weights", "finetune", "about", "standardize_features"}


@dataclass(frozen=True)
class Cell:
    """One number per person to be found.

    Args:
        method: Name in the suite.
        weights: "pretrained", "random", or "none" for a method that has no pretraining.
        reading: "linear probe", "fine-tuned", or "trained" for a method that has no pretraining.
        fold: Position of the group of people who are decoded.
        share: Of the training labels, 0 to 1.
        seed: Of weights, pretraining and the choice of labels.
    """

    method: str
    weights: str
    reading: str
    fold: int
    share: float
    seed: int


@dataclass(frozen=True)
class Suite:
    """A suite card, checked.

    Args:
        name: Of the card.
        card: Its content.
        runs: Which runs train and which test; those of the card, or of its `validation`.
    """

    name: str
    card: Mapping[str, Any]
    runs: Mapping[str, Sequence[str]]

    @property
    def methods(self) -> Mapping[str, Mapping[str, Any]]:
        """Name to what the card says of it."""
        return self.card["methods"]

    @property
    def people(self) -> list[list[str]]:
        """Groups of people; each is decoded once, by models that saw only the others."""
        return [list(map(str, group)) for group in self.card["people"]]

    def others(self, fold: int) -> list[str]:
        """The people that models decoding a group may be pretrained on."""
        return [name for i, group in enumerate(self.people) if i != fold for name in group]

    def cells(self) -> list[Cell]:
        """All cells, those of one pretraining together."""
        found = []
        for name, method in self.methods.items():
            neural = "model" in method
            for fold in range(len(self.people)):
                for seed in self.card["seeds"]:
                    for weights in method.get("weights", WEIGHTS) if neural else ("none",):
                        found += [
                            Cell(name, weights, reading, fold, float(share), int(seed))
                            for reading in (READINGS if neural else ("trained",))
                            for share in self.card["shares"]
                        ]
        return found

    def config(self, cell: Cell, windows: str) -> dict[str, Any]:
        """All that decides the numbers of a cell.

        Args:
            windows: Hash of its training and test windows.
        """
        method = {k: v for k, v in self.methods[cell.method].items() if k not in ("title", "about")}
        if cell.weights != "pretrained":
            method.pop("stages", None)
        if cell.reading != "fine-tuned":
            method.pop("finetune", None)
        elif "finetune" in method:
            method["finetune"] = schedule(method["finetune"], cell.weights)
        return {
            "code": CODE_VERSION,
            "version": self.card["version"],
            "data": self.card["data"],
            "pretraining": self.others(cell.fold) if cell.weights == "pretrained" else [],
            "weights": cell.weights,
            "reading": cell.reading,
            "seed": cell.seed,
            "share": cell.share,
            "windows": windows,
            "method": method,
        }


def schedule(finetune: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """How a model with these weights is fine-tuned: `task` with its `pretrained` or `random` part.

    Rates that suit pretrained weights need not suit random ones, so each may have its own.
    """
    rest = {key: value for key, value in finetune.items() if key not in WEIGHTS}
    return rest | {"task": {**finetune.get("task", {}), **finetune.get(weights, {})}}


def suites() -> list[str]:
    """Names of the suite cards."""
    return sorted(path.stem for path in (cards.root("recipes") / "benchmarks").glob("*.yaml"))


def read_suite(
    name: str,
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    validation: bool = False,
) -> Suite:
    """A suite by name, or from a YAML file of the user's own.

    Args:
        methods: Only these.
        seeds: Only the first so many.
        validation: Train and test on the runs that the card keeps for choosing settings, so that
            its test runs are not looked at.

    Raises:
        FileNotFoundError: No such suite; the message names near misses.
        ValueError: The card lacks a field, or a method it does not have was asked for.
    """
    own = Path(name)
    file = own if own.suffix in {".yaml", ".yml"} else _file(name)
    if not file.is_file():
        raise FileNotFoundError(f"suite {name}: no such file.")
    try:
        card = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not plain YAML ({error}).") from error
    missing = [key for key in (*_FIELDS, "methods") if key not in (card or {})]
    if missing:
        raise ValueError(f"{file}: a suite needs {', '.join(missing)}.")
    _check(file, card)
    if methods is not None:
        card["methods"] = {chosen: card["methods"][chosen] for chosen in _known(card, methods)}
    if seeds is not None:
        card["seeds"] = card["seeds"][:seeds]
    if validation and "validation" not in card:
        raise ValueError(f"{file}: no `validation` runs; its settings cannot be chosen by it.")
    runs = card["validation"] if validation else {key: card[key] for key in ("train", "test")}
    return Suite(file.stem, card, {side: [*map(str, runs[side])] for side in ("train", "test")})


def _file(name: str) -> Path:
    file = cards.root("recipes") / "benchmarks" / f"{name}.yaml"
    if not file.is_file():
        near = difflib.get_close_matches(name, suites(), n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are {', '.join(suites())}."
        raise FileNotFoundError(f"There is no suite called {name!r}. {hint}")
    return file


def _check(file: Path, card: Mapping[str, Any]) -> None:
    groups = [list(map(str, group)) for group in card["people"]]
    everyone = [name for group in groups for name in group]
    if len(groups) < 2 or len(set(everyone)) < len(everyone):
        raise ValueError(
            f"{file}: `people` are {groups}; expected two or more groups without a common person."
        )
    shares = [float(share) for share in card["shares"]]
    if not all(0 < share <= 1 for share in shares) or sorted(set(shares)) != shares:
        raise ValueError(f"{file}: `shares` are {shares}; expected increasing, above 0, up to 1.")
    for name, method in card["methods"].items():
        unknown = set(method) - _METHOD
        if unknown or ("model" in method) == ("estimator" in method):
            raise ValueError(
                f"{file}: method {name} has {sorted(method)}; expected an `estimator`, or a "
                f"`model`, and among the other fields only {sorted(_METHOD)}."
            )


def _known(card: Mapping[str, Any], methods: Sequence[str]) -> list[str]:
    for name in methods:
        if name not in card["methods"]:
            near = difflib.get_close_matches(name, card["methods"], n=3, cutoff=0.4)
            hint = f"Did you mean {', '.join(near)}? " if near else ""
            raise ValueError(
                f"the suite has no method {name!r}. {hint}It has {', '.join(card['methods'])}."
            )
    return list(dict.fromkeys(methods))


def digest(value: Any) -> str:
    """Short hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def window_hash(
    rows: Sequence[Row], train: Iterable[int], test: Iterable[int], *, offset_s: float = 0.0
) -> str:
    """Hash of the trials on both sides, the same for windows of any length and rate.

    Args:
        offset_s: Of the windows after their events.
    """

    def side(members: Iterable[int]) -> list[list[Any]]:
        chosen = [rows[i] for i in members]
        # Hundredths of a second: the onset of an event moves by less when the rate is changed.
        return sorted(
            [row.recording, round((row.start - offset_s) * 50), str(row.label)] for row in chosen
        )

    return digest([side(train), side(test)])


def nested_share(
    rows: Sequence[Row], train: Sequence[int], share: float, *, seed: int
) -> tuple[int, ...]:
    """A share of the training windows, the same share of each class of each person.

    Smaller shares are contained in larger ones of the same seed. Of each class of each person at
    least one window stays, so that the smallest shares are larger than they say.

    Args:
        share: 0 to 1; numbers of windows are rounded to the nearest.
        seed: Of the order in which windows are taken.

    Raises:
        ValueError: A person lacks one of the classes.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for i in train:
        groups.setdefault((rows[i].subject, str(rows[i].label)), []).append(i)
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
            own = sorted(own, key=lambda i: digest([seed, rows[i].recording, rows[i].start]))
            chosen += own[: max(1, int(share * len(own) + 0.5))]
    return tuple(sorted(chosen))
