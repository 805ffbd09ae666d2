"""What a file of a model must say of it, and the check that it says so and does not contradict.

Every file carries all fields of `REQUIRED` and, in `expects`, all of `EXPECTS`; null means that
nobody stated it. A field that is missing, has an impossible value, or disagrees with another one
or with the card of that name is an error that names it. A digest covers the description and the
weights, so that a changed byte in either is found.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurofm import cards
from neurofm.amplitudes import check_statistics
from neurofm.contract import Contract

FORMAT = 2
EXPECTS = ("kinds", "channels", "unit", "sfreq", "band", "window_s")
REQUIRED = (
    "class_path",
    "init_args",
    "expects",
    "statistics",
    "trained_on",
    "seen",
    "license",
    "citation",
    "versions",
    "format",
    "digest",
)
# Fields of a file about this file, not about the model wherever it goes.
_OF_A_FILE = ("class_path", "init_args", "weights", "format", "versions", "seen", "digest")


def about(card: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a card that describe a model wherever it goes; nulls of `expects` left out."""
    kept = {key: value for key, value in card.items() if key not in _OF_A_FILE}
    if isinstance(kept.get("expects"), dict):
        kept["expects"] = {k: v for k, v in kept["expects"].items() if v is not None}
    return kept


def described(
    card: Mapping[str, Any], spec: Mapping[str, Any], tensors: Mapping[str, Tensor], *, seen: int
) -> dict[str, Any]:
    """The description of a file, complete.

    Args:
        card: What is known of the model.
        spec: Its `class_path` and `init_args`.
        seen: Number of recordings it was trained on.
    """
    expects = dict(card.get("expects") or {})
    Contract.of({k: v for k, v in expects.items() if v is not None}, where="save_model")
    whole = {
        "license": None,
        "citation": None,
        "statistics": {"amplitude": {}},
        "trained_on": None,
        **card,
        "expects": {**dict.fromkeys(EXPECTS), **expects},
        **spec,
        "seen": seen,
        "format": FORMAT,
        "versions": {name: version(name) for name in ("neurofm", "torch")},
    }
    whole = json.loads(json.dumps(whole))  # as it will be read: tuples are lists
    return {**whole, "digest": digest(whole, tensors)}


def digest(card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description (without its digest) and of names, types, shapes and numbers."""
    text = {key: value for key, value in card.items() if key != "digest"}
    found = hashlib.sha256(json.dumps(text, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def parsed(text: str, path: Path) -> dict[str, Any]:
    """The description in a file, if it is one of this version.

    Raises:
        ValueError: Damaged, of another version, or a field is missing.
    """
    try:
        card = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: its description cannot be read ({error}). Copy or download the file again."
        ) from error
    found = card.get("format") if isinstance(card, dict) else None
    if found == 1:
        raise ValueError(
            f"{path}: format 1, this version of neurofm reads {FORMAT}. The weights are fine, but "
            "nothing says what data they were trained on. Load them by card, `load_model(NAME, "
            f"weights={str(path)!r})`, and save the model again."
        )
    if found != FORMAT:
        raise ValueError(
            f"{path}: format {found}, this version of neurofm reads {FORMAT}. Update neurofm."
        )
    missing = [name for name in REQUIRED if name not in card]
    if not missing:
        expects = card["expects"] if isinstance(card["expects"], dict) else {}
        missing = [f"expects.{name}" for name in EXPECTS if name not in expects]
    if missing:
        raise ValueError(
            f"{path}: the description lacks {', '.join(missing)}. Save the model again with "
            "save_model, which writes every field (null where nothing is known)."
        )
    return card


def check_fields(card: Mapping[str, Any], path: str | Path, *, training: bool = False) -> None:
    """Stop if fields of a description are impossible, or disagree with the card of that name.

    Args:
        training: It is that of a training checkpoint, which has not all fields.

    Raises:
        ValueError: With the field and both values.
    """
    where = str(path)
    expects = about(card).get("expects") or {}
    if not isinstance(expects, dict):
        raise ValueError(f"{where}: expects is {expects!r}, expected a mapping.")
    Contract.of(expects, where=where)
    if card.get("statistics") or not training:
        check_statistics(card["statistics"], where=where)
    if not isinstance(card.get("trained_on") or [], list):
        raise ValueError(f"{where}: trained_on is {card['trained_on']!r}, expected a list.")
    if training:
        return
    if not isinstance(card["class_path"], str) or not isinstance(card["init_args"], dict):
        raise ValueError(
            f"{where}: class_path {card['class_path']!r} and init_args {card['init_args']!r}, "
            "expected a name and a mapping."
        )
    if not isinstance(card["seen"], int) or card["seen"] < 0:
        raise ValueError(f"{where}: seen is {card['seen']!r}, expected a number of recordings.")
    versions = card["versions"]
    if not isinstance(versions, dict) or "neurofm" not in versions:
        raise ValueError(f"{where}: versions is {versions!r}, expected a mapping with neurofm.")
    agree(card, where=where)


def agree(card: Mapping[str, Any], *, where: str) -> None:
    """Stop if a file contradicts the model card it was made from, where that is still there."""
    name = card.get("card")
    if not isinstance(name, str) or name not in cards.names("models"):
        return
    other = cards.read("models", name)
    if other["class_path"] != card["class_path"]:
        raise ValueError(
            f"{where}: class_path is {card['class_path']}, but the card {name} says "
            f"{other['class_path']}. Correct `card`, or save the model without it."
        )
    same_expectations(about(card)["expects"], other.get("expects") or {}, f"{where}: expects", name)


def same_expectations(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], where: str, name: str
) -> None:
    """Stop if a file and a card disagree about what makes results wrong: rate, unit and kinds."""
    for field in ("sfreq", "unit", "channels"):
        a, b = mine.get(field), theirs.get(field)
        if field == "channels" and a and b and len(a) == len(b):
            continue  # names are compared with the data
        if a is not None and b is not None and a != b and field != "unit":
            a, b = (f"{len(v)} names" if isinstance(v, list) else v for v in (a, b))
            raise ValueError(
                f"{where}.{field} is {a}, but the card {name} says {b}. One of the two is wrong: "
                "load the file under the card it belongs to, or correct the card."
            )
    a, b = set(mine.get("kinds") or ()), set(theirs.get("kinds") or ())
    if a and b and not a & b:
        raise ValueError(
            f"{where}.kinds is {sorted(a)}, but the card {name} says {sorted(b)}. One of the two "
            "is wrong."
        )


def version(name: str) -> str:
    """Of an installed package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
