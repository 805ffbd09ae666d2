"""Models on disk: one safetensors file that says what it holds.

A file written by `save_model` carries, in its header, the `class_path`/`init_args` that rebuild the
model and the fields of its card (licence, citation, what it expects, what it was trained on,
versions). Loading is strict: a missing, unknown or misshapen tensor is an error that names it, and
so is a field that is missing or contradicts another (`model_card`). Nothing that needs more than
tensors is unpickled. The recordings that a model was trained on (`Seen`) stay with it: in its
attribute `seen` and in the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from neurofm import cards
from neurofm.batch import BrainModel, ContextEncoder, ResponseModel, Tokenizer
from neurofm.contract import Contract
from neurofm.io.adapters import BASE, plain_state
from neurofm.io.expectations import built_for, contract_of, expect
from neurofm.io.model_card import (
    about,
    check_fields,
    described,
    digest,
    parsed,
    same_expectations,
)
from neurofm.io.seen import Seen
from neurofm.io.tensors import (
    SEEN,
    check_tensors,
    damaged,
    existing,
    load_state,
    read_checkpoint,
    read_seen,
    read_tensors,
    seen_from,
    seen_tensor,
    write_tensors,
)

log = logging.getLogger(__name__)
_HEADER = "neurofm"


def save_model(model: nn.Module, path: str | Path, **fields: Any) -> Path:
    """Write a model to one safetensors file, all or nothing.

    Args:
        model: Of a class decorated with `cards.configured`. What it and its parts have `seen` is
            written with it; the card says how many recordings.
        path: Ends in `.safetensors`.
        fields: What else the file should say, such as `expects` or `license`; plain data. Fields of
            the card the model was loaded from, and what a training added to them, are passed on.

    Returns:
        The path.

    Raises:
        ValueError: Another ending, adapters in the model, or `expects` that are unknown or
            contradict the network.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_model: {path} must end in .safetensors.")
    seen = Seen.of(model)
    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for key, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        # A layer used in two places has its tensors under two names: the file wants a copy of each.
        tensors[key] = value.clone() if value.data_ptr() in memory else value
        memory.add(value.data_ptr())
    if any(f".{BASE}." in key for key in tensors):
        raise ValueError(
            f"save_model: this {type(model).__name__} has adapters. Save "
            "neurofm.tasks.plain_model(task), which has them in its weights, or the adapters alone "
            "with neurofm.tasks.save_adapters."
        )
    card = {**getattr(model, "card", {}), **fields}
    said = Contract.of(about(card).get("expects") or {}, where="save_model")
    said.joined(built_for(model), where="save_model: `expects` and the model's arguments")
    card = described(card, cards.spec_of(model), tensors, seen=len(seen))
    if len(seen):
        tensors[SEEN] = seen_tensor(seen)
    write_tensors(path, tensors, {_HEADER: json.dumps(card)})
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
    return parsed(header, path)


@cards.callable_from_cards
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


@cards.callable_from_cards
def load_tokenizer(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> Tokenizer:
    """A tokenizer by card, file or run, as `load_model`; of a whole model, its tokenizer."""
    found = _load(name, weights=weights, tokenizer=None, trusted=trusted)
    whole, seen = found, Seen.of(found)
    found = getattr(whole, "tokenizer", whole)
    if found is not whole and isinstance(found, nn.Module):
        found.seen = seen  # type: ignore[assignment]
        _inherit(found, whole, where=str(name))
    if not isinstance(found, Tokenizer):
        raise ValueError(f"{name}: holds a {type(found).__name__}, which has no tokenizer.")
    return found


@cards.callable_from_cards
def load_context_encoder(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> ContextEncoder:
    """An in-context encoder of voxels by card, file or run, as `load_model`."""
    found = _load(name, weights=weights, tokenizer=None, trusted=trusted)
    if not hasattr(found, "read_voxels"):
        raise ValueError(
            f"{name}: holds a {type(found).__name__}, which reads no encoding models from contexts "
            "(it cannot `read_voxels`). Load a brain model with load_model."
        )
    return cast(ContextEncoder, found)


@cards.callable_from_cards
def load_response_model(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    trusted: tuple[str, ...] = ("neurofm",),
) -> ResponseModel:
    """An encoding model, from stimuli to responses, by card, file or run, as `load_model`."""
    found = _load(name, weights=weights, tokenizer=None, trusted=trusted)
    if not isinstance(found, ResponseModel):
        raise ValueError(
            f"{name}: holds a {type(found).__name__}, which is no response model (it cannot "
            "`respond` to stimuli). Load models of recordings with load_model."
        )
    return found


def _inherit(tokenizer: nn.Module, model: nn.Module, *, where: str) -> None:
    """Let a tokenizer taken out of a model keep what is known of the signal it was trained on."""
    card = dict(getattr(model, "card", {}))
    card.pop("card", None)
    # Which channels there are, and in which order, is the model's affair.
    said = replace(contract_of(model), channels=(), n_channels=None, max_channels=None)
    expect(tokenizer, {**card, "expects": said.expects()}, where=where)


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
    if (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no run. Load it with neurofm.from_pretrained.")
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
    expect(model, about(card) | {"card": Path(str(name)).stem}, where=f"card {name}")
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
        _take_over(model, Path(file), card, name=str(name))
    elif card.get("source"):
        log.warning("%s: random weights. models/README.md says how to get the published ones", name)
    return model.eval()


def _take_over(model: nn.Module, file: Path, card: dict[str, Any], *, name: str) -> None:
    """Let a model built by card know what the file of its weights says of their training.

    Raises:
        ValueError: File and card contradict each other.
    """
    if file.suffix != ".safetensors":
        return
    with safe_open(file, framework="pt") as opened:
        header = json.loads((opened.metadata() or {}).get(_HEADER, "{}"))
    if header.get("format") in (None, 1):  # nothing but weights is known
        return
    said = read_card(file)
    check_fields(said, file)
    expects = about(said)["expects"]
    same_expectations(expects, card.get("expects") or {}, f"{file}: expects", name)
    known = {key: said[key] for key in ("statistics", "trained_on") if said[key]}
    own = getattr(model, "card", {})
    expect(model, {**own, **known, "expects": {**own.get("expects", {}), **expects}}, where=name)


def sha256(path: str | Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load_safetensors(path: Path, trusted: tuple[str, ...]) -> nn.Module:
    card = read_card(path)
    check_fields(card, path)
    model: nn.Module = cards.build(_spec(card), trusted=trusted, written=True)
    expect(model, about(card), where=str(path))
    tensors = read_tensors(path)
    load_state(model, tensors, where=str(path))
    if digest(card, tensors) != card["digest"]:
        raise ValueError(
            f"{path}: its digest does not match: a byte of the weights or of the description was "
            "changed after it was saved. Copy or download the file again."
        )
    model.seen = read_seen(path)  # type: ignore[assignment]
    if len(cast(Any, model.seen)) != card["seen"]:
        raise ValueError(
            f"{path}: the description says that {card['seen']} recordings were seen in training, "
            f"the file names {len(cast(Any, model.seen))}. Save the model again."
        )
    return model.eval()


def _load_lightning(path: Path, trusted: tuple[str, ...]) -> nn.Module:
    checkpoint = read_checkpoint(path)
    parameters = checkpoint.get("hyper_parameters")
    for role in ("model", "tokenizer"):
        spec = parameters.get(role) if isinstance(parameters, dict) else None
        if isinstance(spec, dict) and "class_path" in spec and "state_dict" in checkpoint:
            break
    else:
        raise ValueError(
            f"{path}: does not say which model it holds (hyper_parameters has no model with a "
            "class_path). Only checkpoints of neurofm's tasks can be loaded by name; for others "
            "build the model and load its state dict."
        )
    model: nn.Module = cards.build(spec, trusted=trusted, written=True)
    prefix = f"{role}."
    state = {
        key.removeprefix(prefix): value
        for key, value in check_tensors(checkpoint["state_dict"], where=str(path)).items()
        if key.startswith(prefix)
    }
    try:
        state = plain_state(state, checkpoint.get("adapted"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    load_state(model, state, where=str(path))
    card = checkpoint.get("card")
    if isinstance(card, dict):
        check_fields(card, path, training=True)
        expect(model, about(card), where=str(path))
    else:
        log.warning("%s was written before checkpoints said what data they were trained on", path)
    model.seen = seen_from(checkpoint.get("seen"), where=str(path))  # type: ignore[assignment]
    return model.eval()


def _spec(card: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": card["class_path"], "init_args": dict(card["init_args"])}


def _check_sha256(path: Path, expected: str | None) -> None:
    if expected is not None and (found := sha256(path)) != expected:
        raise ValueError(f"{path}: sha256 is {found}, the model card says {expected}.")
