"""Files of tensors: safetensors, and torch files that hold nothing but tensors and plain data.

What a model has seen (`neurofm.io.seen`) lies beside its weights, as a tensor of bytes in a
safetensors file and under its own key in a training checkpoint.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neurofm.io.seen import Seen

SEEN = "neurofm.seen"


def existing(path: str | Path) -> Path:
    """The path, if there is a file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    return path


def damaged(path: Path, error: Exception) -> ValueError:
    """What to raise for a broken safetensors file."""
    return ValueError(
        f"{path}: not a complete safetensors file ({error}). {path.stat().st_size} bytes are "
        "there; copy or download it again."
    )


def read_checkpoint(path: str | Path) -> dict[Any, Any]:
    """Contents of a training checkpoint, if they are tensors and plain data.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, or it needs more than plain data, which could run code.
    """
    path = existing(path)
    try:
        _check_sums(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        raise ValueError(
            f"{path}: needs more than tensors and plain data to be read, which could run code"
            f"{f' ({named[1]})' if named else ''}. Save its state dict alone, or as safetensors."
        ) from error
    except Exception as error:  # whatever a changed byte makes the unpickler do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{path}: not a readable torch file ({reason}). "
            f"{path.stat().st_size} bytes are there; copy or download it again."
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: holds a {type(loaded).__name__}, expected a dict of tensors.")
    return loaded


def _check_sums(path: Path) -> None:
    """Compare the parts of a torch file with their checksums, which torch itself does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
        if bad is not None:
            raise OSError(f"the checksum of {bad} does not match")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A flat dict of tensors from safetensors or a torch pickle."""
    if path.suffix == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise damaged(path, error) from error
        tensors.pop(SEEN, None)
        return tensors
    loaded = read_checkpoint(path)
    for wrapper in ("state_dict", "module", "model"):
        if isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    return check_tensors(loaded, where=str(path))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(dict(tensors), partial, metadata={"format": "pt", **metadata})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def check_tensors(found: Any, *, where: str) -> dict[str, Tensor]:
    """The same, if it is a flat dict of tensors.

    Raises:
        ValueError: It is not.
    """
    given = found if isinstance(found, dict) else {type(found).__name__: found}
    others = [k for k, v in given.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others or not given:
        raise ValueError(
            f"{where}: expected a flat dict of tensors, found other values under "
            f"{some(map(str, others))}."
        )
    return given


def load_state(model: nn.Module, state: dict[str, Tensor], *, where: str) -> None:
    """Load strictly; the error lists what does not fit before anything is changed."""
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or unknown or misshapen:
        raise ValueError(
            f"{where}: does not fit {type(model).__name__} ({len(own)} tensors). "
            f"Missing {len(missing)}: {some(missing)}. Unknown {len(unknown)}: {some(unknown)}. "
            f"Other shape {len(misshapen)}: {some(misshapen)}. It belongs to another model or "
            "size."
        )
    model.load_state_dict(state)


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) or "none") + more


def seen_tensor(seen: Seen) -> Tensor:
    """uint8, for a file of tensors."""
    return torch.frombuffer(bytearray(seen.to_bytes()), dtype=torch.uint8)


def seen_from(value: Any, *, where: str) -> Seen:
    """What `seen_tensor` made; nothing seen for None.

    Raises:
        ValueError: Anything else.
    """
    if value is None:
        return Seen()
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.ndim != 1:
        raise ValueError(f"{where}: the record of training recordings is no tensor of bytes.")
    return Seen.from_bytes(value.numpy().tobytes(), where=where)


def read_seen(path: str | Path) -> Seen:
    """Recordings that the model in a file was trained on, without reading its weights.

    Args:
        path: `.safetensors` of `save_model`, or `.ckpt` of a training run. Files written by others
            do not say: they come back as having seen nothing.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged.
    """
    path = existing(path)
    if path.suffix != ".safetensors":
        return seen_from(read_checkpoint(path).get("seen"), where=str(path))
    try:
        with safe_open(path, framework="pt") as file:
            value = file.get_tensor(SEEN) if SEEN in file.keys() else None  # noqa: SIM118
    except SafetensorError as error:
        raise damaged(path, error) from error
    return seen_from(value, where=str(path))
