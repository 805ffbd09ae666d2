"""Reading suite cards, shipped or of the user's own; what is wrong with one is said by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neurofm import cards
from neurofm.evaluate.folds import check_protocol
from neurofm.evaluate.suites import READINGS, WEIGHTS, Suite

_FIELDS = ["description", "version", "metrics", "reference", "seeds", "shares"]
_FIELDS += ["datasets", "protocols", "methods"]
_DATASET = {"title", "data", "protocols", "groups", "cue_s", "changes"}
_METHOD = {"title", "about", "data", "estimator", "model", "readout", "stages", "weights"}
_METHOD |= {"readings", "finetune", "choose", "seeds", "labels_in_pretraining"}
_METHOD |= {"standardize_features", "protocols"}


def suites() -> list[str]:
    """Names of the suite cards."""
    return sorted(path.stem for path in (cards.root("recipes") / "benchmarks").glob("*.yaml"))


def read_suite(
    name: str,
    *,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    protocols: Sequence[str] | None = None,
    seeds: int | None = None,
    validation: bool = False,
) -> Suite:
    """A suite by name, or from a YAML file of the user's own.

    Args:
        methods: Only these.
        datasets: Only these.
        protocols: Only these, and with every method.
        seeds: Only the first so many.
        validation: Train and test on what protocols keep for choosing settings, so that their test
            windows are not looked at.

    Raises:
        FileNotFoundError: No such suite; the message names near misses.
        ValueError: The card lacks a field, or something it does not have was asked for.
    """
    own = Path(name)
    file = own if own.suffix in {".yaml", ".yml"} else _file(name)
    if not file.is_file():
        raise FileNotFoundError(f"suite {name}: no such file.")
    try:
        card = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not plain YAML ({error}).") from error
    missing = [key for key in _FIELDS if not (card or {}).get(key)]
    if missing:
        raise ValueError(f"{file}: a suite needs {', '.join(missing)}.")
    _check(file, card)
    for kind, chosen in (("methods", methods), ("datasets", datasets), ("protocols", protocols)):
        if chosen is not None:
            card[kind] = {key: card[kind][key] for key in _known(kind, card[kind], chosen)}
    if protocols is not None:
        for method in card["methods"].values():
            method.pop("protocols", None)
    for spec in card["datasets"].values():
        spec["protocols"] = [p for p in spec["protocols"] if p in card["protocols"]]
    if seeds is not None:
        if not 1 <= seeds <= len(card["seeds"]):
            raise ValueError(
                f"{seeds} seeds were asked for; expected 1 to {len(card['seeds'])}, those of the "
                f"suite ({', '.join(map(str, card['seeds']))}). A card of your own can have more."
            )
        card["seeds"] = card["seeds"][:seeds]
    lacking = [p for p, spec in card["protocols"].items() if "validation" not in spec]
    if validation and lacking:
        raise ValueError(
            f"{file}: no `validation` for {', '.join(lacking)}, so that nothing is kept to choose "
            "settings by."
        )
    return Suite(file.stem, card, validation)


def _file(name: str) -> Path:
    file = cards.root("recipes") / "benchmarks" / f"{name}.yaml"
    if not file.is_file():
        near = difflib.get_close_matches(name, suites(), n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}?" if near else f"There are {', '.join(suites())}."
        raise FileNotFoundError(f"There is no suite called {name!r}. {hint}")
    return file


def _known(kind: str, there: Mapping[str, Any], chosen: Sequence[str]) -> list[str]:
    for name in chosen:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=3, cutoff=0.4)
            hint = f"Did you mean {', '.join(near)}? " if near else ""
            raise ValueError(
                f"the suite has no {kind[:-1]} {name!r}. {hint}It has {', '.join(there)}."
            )
    return list(dict.fromkeys(chosen))


def _check(file: Path, card: Mapping[str, Any]) -> None:
    shares = [float(share) for share in card["shares"]]
    if not all(0 < share <= 1 for share in shares) or sorted(set(shares)) != shares:
        raise ValueError(f"{file}: `shares` are {shares}; expected increasing, above 0, up to 1.")
    for name, protocol in card["protocols"].items():
        check_protocol(name, protocol, where=str(file))
    for name, dataset in card["datasets"].items():
        _check_dataset(file, card, name, dataset)
    for name, method in card["methods"].items():
        _check_method(file, name, method)
        lost = [p for p in method.get("protocols", ()) if p not in card["protocols"]]
        if lost:
            raise ValueError(
                f"{file}: method {name} names the protocols {lost}; the suite has "
                f"{list(card['protocols'])}."
            )


def _check_dataset(
    file: Path, card: Mapping[str, Any], name: str, dataset: Mapping[str, Any]
) -> None:
    unknown = sorted(set(dataset) - _DATASET)
    data = dataset.get("data", {})
    if unknown or not data.get("datasets") or len(data.get("labels", ())) < 2:
        raise ValueError(
            f"{file}: dataset {name} has {sorted(dataset)}; expected among {sorted(_DATASET)}, and "
            "in `data` the `datasets` and two or more `labels`."
        )
    named = {"protocols": dataset.get("protocols"), "methods": dataset.get("changes")}
    for kind, names in named.items():
        lost = [n for n in names or () if n not in card[kind]]
        if lost or (kind == "protocols" and not names):
            raise ValueError(
                f"{file}: dataset {name} names the {kind} {lost}; the suite has {list(card[kind])}."
            )


def _check_method(file: Path, name: str, method: Mapping[str, Any]) -> None:
    unknown = set(method) - _METHOD
    if unknown or ("model" in method) == ("estimator" in method):
        raise ValueError(
            f"{file}: method {name} has {sorted(method)}; expected an `estimator`, or a "
            f"`model`, and among the other fields only {sorted(_METHOD)}."
        )
    weights = method.get("weights", WEIGHTS)
    readings = method.get("readings", READINGS)
    if not set(weights) <= {*WEIGHTS, "none"} or not set(readings) <= set(READINGS):
        raise ValueError(
            f"{file}: method {name} has weights {list(weights)} and readings {list(readings)}; "
            f"expected some of {[*WEIGHTS, 'none']} and of {list(READINGS)}."
        )
    if "model" not in method:
        return
    needed = ["readout", *(["stages"] if "pretrained" in weights else [])]
    needed += ["finetune"] if "none" in weights or "fine-tuned" in readings else []
    lacking = [field for field in needed if field not in method]
    if lacking:
        raise ValueError(f"{file}: method {name} with weights {list(weights)} needs {lacking}.")
