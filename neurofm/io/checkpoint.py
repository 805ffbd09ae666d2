"""Models on disk: one safetensors file that says what it holds; published checkpoints into that.

A file written by `save_model` carries, in its header, the `class_path`/`init_args` that rebuild the
model and the fields of its card (licence, citation, what the model expects, versions). Loading is
strict: a missing, unknown or misshapen tensor is an error that names it. Nothing that needs more
than tensors is unpickled. The recordings that a model was trained on (`Seen`) stay with it: in its
attribute `seen` and in the file.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from neurofm import cards
from neurofm.batch import BrainModel, Tokenizer
from neurofm.io.seen import Seen
from neurofm.io.tensors import (
    SEEN,
    damaged,
    existing,
    load_state,
    read_checkpoint,
    read_seen,
    read_tensors,
    seen_from,
    seen_tensor,
)

FORMAT = 1
_HEADER = "neurofm"


def save_model(model: nn.Module, path: str | Path, **fields: Any) -> Path:
    """Write a model to one safetensors file, all or nothing.

    Args:
        model: Of a class decorated with `cards.configured`. What it and its parts have `seen` is
            written with it; the card says how many recordings.
        path: Ends in `.safetensors`.
        fields: What else the file should say, such as `expects` or `license`; plain data. Fields of
            the card the model was loaded from are passed on.

    Returns:
        The path.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_model: {path} must end in .safetensors.")
    seen = Seen.of(model)
    card = {
        **getattr(model, "card", {}),
        **fields,
        "seen": len(seen),
        **cards.spec_of(model),
        "format": FORMAT,
        "versions": {name: _version(name) for name in ("neurofm", "torch")},
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    if len(seen):
        tensors[SEEN] = seen_tensor(seen)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, partial, metadata={"format": "pt", _HEADER: json.dumps(card)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_card(path: str | Path) -> dict[str, Any]:
    """What a file written by `save_model` says about itself, without reading its tensors.

    Raises:
        ValueError: Damaged, or not written by `save_model`.
    """
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except SafetensorError as error:
        raise damaged(path, error) from error
    if header is None:
        raise ValueError(
            f"{path}: holds tensors but no description of a model. If it is a published "
            f"checkpoint, run `neurofm convert {path.name} --model NAME --out FILE.safetensors`."
        )
    card = json.loads(header)
    if card.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {card.get('format')}, this version of neurofm reads {FORMAT}. Update "
            "neurofm."
        )
    return card


def load_model(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    tokenizer: str | Path | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> BrainModel:
    """A model by card, from a file, or from the folder of a training run.

    Args:
        name: A model card (`neurofm list models`), a `.safetensors` file of `save_model`, or a
            `.ckpt` file of a training run, from which the model (or tokenizer) is taken; or the
            folder of a run, whose newest best checkpoint is meant.
        weights: With a card: a file of `save_model` to take the weights from, not the card's.
        tokenizer: With a card: the trained tokenizer to build the model on, by any such name. It
            keeps its weights where `weights` holds none for a tokenizer.
        trusted: Packages whose classes a file may name.

    Returns:
        The model in evaluation mode; its `card` attribute holds the fields of the card or file,
        its `seen` attribute the recordings it was trained on, where the file says so.

    Raises:
        FileNotFoundError: No such card or file.
        ValueError: Damaged file, another model's weights, a tokenizer, or a class outside
            `trusted`.
    """
    found = _load(name, weights=weights, tokenizer=tokenizer, trusted=trusted)
    if not hasattr(found, "encode"):
        raise ValueError(
            f"{name}: holds a {type(found).__name__}, which is no brain model (it cannot `encode`)."
            " Load a tokenizer with load_tokenizer."
        )
    return cast(BrainModel, found)


def load_tokenizer(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> Tokenizer:
    """A tokenizer by card, file or run, as `load_model`; of a whole model, its tokenizer."""
    found = _load(name, weights=weights, tokenizer=None, trusted=trusted)
    seen, found = Seen.of(found), getattr(found, "tokenizer", found)
    found.seen = seen
    if not isinstance(found, Tokenizer):
        raise ValueError(f"{name}: holds a {type(found).__name__}, which has no tokenizer.")
    return found


def newest_checkpoint(folder: str | Path) -> Path:
    """The best checkpoint of the newest version of a run, or its last if none was the best.

    Raises:
        FileNotFoundError: The folder is no run, or holds no finished checkpoint.
    """
    folder = Path(folder)
    files = [file for name in ("best", "last") for file in folder.glob(f"**/{name}*.ckpt")]
    if files:
        # All checkpoints of the folder that was written last; in it the best before the last.
        newest = max(files, key=lambda file: file.stat().st_mtime_ns).parent
        return max(
            (file for file in files if file.parent == newest),
            key=lambda file: (file.name.startswith("best"), file.stat().st_mtime_ns),
        )
    raise FileNotFoundError(
        f"{folder}: no checkpoint there yet. Run the recipe of that name first: "
        f"`neurofm fit --config {folder.name}`."
    )


def _load(
    name: str | Path,
    *,
    weights: str | Path | None,
    tokenizer: str | Path | None,
    trusted: tuple[str, ...],
) -> nn.Module:
    path = Path(name)
    if str(name) not in cards.names("models") and (
        path.is_dir() or (path.suffix == "" and len(path.parts) > 1)
    ):
        path = newest_checkpoint(path)
    suffix = path.suffix
    if suffix in (".safetensors", ".ckpt") and (weights is not None or tokenizer is not None):
        raise ValueError(
            f"load_model: {name} brings its own weights; `weights` and `tokenizer` are for cards."
        )
    if suffix == ".safetensors":
        return _load_safetensors(path, trusted)
    if suffix == ".ckpt":
        return _load_lightning(path, trusted)
    if suffix in (".pt", ".pth", ".bin"):
        raise ValueError(
            f"{name}: load_model reads .safetensors and .ckpt files. Convert a published "
            f"checkpoint first: `neurofm convert {Path(name).name} --model NAME --out "
            "FILE.safetensors`."
        )
    card = cards.read("models", str(name))
    spec = _spec(card)
    if tokenizer is not None:
        spec["init_args"]["tokenizer"] = load_tokenizer(tokenizer, trusted=trusted)
    model: nn.Module = cards.build(spec, trusted=trusted)
    model.card = _about(card)  # type: ignore[assignment]
    file = weights if weights is not None else card.get("weights")
    if isinstance(file, dict):
        _check_sha256(existing(file["file"]), file.get("sha256"))
        file = file["file"]
    if file is not None:
        state = read_tensors(existing(file))
        if tokenizer is not None and not any(key.startswith("tokenizer.") for key in state):
            # Published apart from its tokenizer, which came by name.
            own = model.state_dict()
            state |= {key: value for key, value in own.items() if key.startswith("tokenizer.")}
        load_state(model, state, where=str(file))
        model.seen = read_seen(file)  # type: ignore[assignment]
    return model.eval()


@dataclass(frozen=True)
class Conversion:
    """What became of the tensors of a published checkpoint.

    Args:
        path: File written.
        used: Our names of the tensors taken over.
        unused: Names in the checkpoint that the model computes itself.
    """

    path: Path
    used: tuple[str, ...]
    unused: tuple[str, ...]


def convert_checkpoint(path: str | Path, model: str, out: str | Path) -> Conversion:
    """Turn a published checkpoint into a file of ours.

    Args:
        path: A flat state dict, as torch pickle (tensors only) or safetensors.
        model: Name of the model card it belongs to.
        out: Ends in `.safetensors`.

    Raises:
        ValueError: A tensor is missing, unknown or has another shape; the message lists them.
    """
    source = existing(path)
    card = cards.read("models", model)
    built: nn.Module = cards.build(_spec(card))
    rename = getattr(built, "rename_keys", None)
    if rename is None:
        raise ValueError(f"Model {model}: {type(built).__name__} knows no published checkpoint.")
    tensors = read_tensors(source)
    renamed = rename(tensors)
    kept = {id(tensor) for tensor in renamed.values()}
    unused = tuple(key for key, tensor in tensors.items() if id(tensor) not in kept)
    load_state(built, renamed, where=f"{source} as {model}")
    built.card = _about(card)  # type: ignore[assignment]
    saved = save_model(built, out, converted_from={"file": source.name, "sha256": sha256(source)})
    return Conversion(saved, tuple(sorted(renamed)), unused)


def sha256(path: str | Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_safetensors(path: Path, trusted: tuple[str, ...]) -> nn.Module:
    card = read_card(path)
    model: nn.Module = cards.build(_spec(card), trusted=trusted)
    load_state(model, read_tensors(path), where=str(path))
    model.card = _about(card)  # type: ignore[assignment]
    model.seen = read_seen(path)  # type: ignore[assignment]
    return model.eval()


def _load_lightning(path: Path, trusted: tuple[str, ...]) -> nn.Module:
    checkpoint = read_checkpoint(path)
    parameters = checkpoint.get("hyper_parameters") or {}
    for role in ("model", "tokenizer"):
        spec = parameters.get(role)
        if isinstance(spec, dict) and "class_path" in spec and "state_dict" in checkpoint:
            break
    else:
        raise ValueError(
            f"{path}: does not say which model it holds (hyper_parameters has no model with a "
            "class_path). Only checkpoints of neurofm's tasks can be loaded by name; for others "
            "build the model and load its state dict."
        )
    model: nn.Module = cards.build(spec, trusted=trusted)
    prefix = f"{role}."
    state = {
        key.removeprefix(prefix): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(prefix)
    }
    load_state(model, state, where=str(path))
    model.seen = seen_from(checkpoint.get("seen"), where=str(path))  # type: ignore[assignment]
    return model.eval()


def _spec(card: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": card["class_path"], "init_args": dict(card["init_args"])}


def _about(card: dict[str, Any]) -> dict[str, Any]:
    """The fields of a card that describe a model wherever it goes."""
    skip = ("class_path", "init_args", "weights", "format", "versions", "seen")
    return {key: value for key, value in card.items() if key not in skip}


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is not None and (found := sha256(path)) != expected:
        raise ValueError(f"{path}: sha256 is {found}, the model card says {expected}.")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
