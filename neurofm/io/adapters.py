"""Adapters in files: beside a model in a training checkpoint, and alone.

A file of adapters holds what a fine-tuning learned, the readout included, and not the model: a few
per cent of its size. It names the base by the digest of its weights, and is refused on another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neurofm.io.seen import Seen
from neurofm.io.tensors import (
    SEEN,
    damaged,
    existing,
    read_seen,
    read_tensors,
    seen_tensor,
    write_tensors,
)

BASE = "base_layer"
_HEADER = "neurofm.adapters"
_FIELDS = ("adapt", "base", "base_digest", "readout", "n_outputs")


def plain_state(
    state: Mapping[str, Tensor], adapted: Mapping[str, Any] | None
) -> dict[str, Tensor]:
    """State of the plain model that an adapted one amounts to.

    Args:
        state: Of the adapted model.
        adapted: "merged" weights by plain names, and the names of "adapters"; None without any.

    Raises:
        ValueError: The two are no such things.
    """
    if adapted is None:
        return dict(state)
    merged, adapters = adapted.get("merged"), adapted.get("adapters")
    if not isinstance(merged, dict) or not isinstance(adapters, list):
        raise ValueError("the part `adapted` of a checkpoint lacks `merged` or `adapters`.")
    return base_state(state, adapters) | merged


def base_state(state: Mapping[str, Tensor], adapters: list[str]) -> dict[str, Tensor]:
    """State of the model as it was before adapters, which do not move its weights."""
    left_out = set(adapters)
    return {
        key.replace(f"{BASE}.", ""): value for key, value in state.items() if key not in left_out
    }


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write_adapters(
    path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any], seen: Seen
) -> Path:
    """One safetensors file, all or nothing.

    Raises:
        ValueError: Another ending.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_adapters: {path} must end in .safetensors.")
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    if len(seen):
        whole[SEEN] = seen_tensor(seen)
    write_tensors(path, whole, {_HEADER: json.dumps(dict(card))})
    return path


def read_adapters(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any], Seen]:
    """Tensors, description, and the recordings that base and fine-tuning saw.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, or no file of adapters.
    """
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
    except SafetensorError as error:
        raise damaged(path, error) from error
    try:
        card = json.loads(header or "null")
    except ValueError as error:
        raise ValueError(f"{path}: its description cannot be read ({error}).") from error
    missing = [name for name in _FIELDS if not isinstance(card, dict) or name not in card]
    if missing:
        raise ValueError(
            f"{path}: no file of adapters (it lacks {', '.join(missing)}). A whole model is loaded "
            "with load_model."
        )
    return read_tensors(path), card, read_seen(path)
