"""Activations on disk: one safetensors file per batch, for recordings that memory does not hold.

    stored = write_shards(folder, recorded(model, sites, run=model.encode, batches=batches))
    for part in stored:                 # Activations, one batch at a time
        moments.update(part)

Files are written whole and then renamed, the table of contents last: a folder without it is of a
run that did not finish, and is refused.
Axes: as in `Activations`, window first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from neurofm.interpret.activations import Activations, near_misses
from neurofm.interpret.recorder import join_batches

CONTENTS = "contents.json"
_ABOUT = ("labels", "subject", "run")


@dataclass(frozen=True)
class Shards:
    """Activations in a folder.

    Args:
        folder: Where.
        windows: In each file.
        names: Of the sites.
    """

    folder: Path
    windows: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return sum(self.windows)

    def __iter__(self) -> Iterator[Activations]:
        return self.parts()

    def parts(self, names: Sequence[str] | None = None) -> Iterator[Activations]:
        """One file after the other, some sites or all; others are not read."""
        wanted = self.names if names is None else tuple(names)
        for name in wanted:
            if name not in self.names:
                raise KeyError(f"Shards: no {name!r}.{near_misses(name, list(self.names))}")
        for k in range(len(self.windows)):
            with safe_open(self.folder / _file(k), framework="numpy") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                masks = {key.removeprefix("mask/") for key in file.keys() if key[:5] == "mask/"}  # noqa: SIM118
                yield Activations(
                    data={name: file.get_tensor(f"data/{name}") for name in wanted},
                    mask={n: file.get_tensor(f"mask/{n}") for n in wanted if n in masks},
                    **about,
                )

    def load(self, names: Sequence[str] | None = None) -> Activations:
        """Everything, or some sites, in memory."""
        parts = list(self.parts(names))
        data, masks = {}, {}
        for name in parts[0].names:
            data[name], mask = join_batches(name, [(p[name], p.mask.get(name)) for p in parts])
            if mask is not None:
                masks[name] = mask
        about: dict[str, Any] = {}
        for key in _ABOUT:
            values = [getattr(part, key) for part in parts]
            if all(value is not None for value in values):
                about[key] = [entry for value in values for entry in value]
        return Activations(data=data, mask=masks, **about)


def write_shards(folder: str | Path, parts: Iterable[Activations]) -> Shards:
    """Write activations to an empty or new folder, one file per part, as they come.

    Raises:
        FileExistsError: The folder holds something.
        ValueError: No parts, or parts of other sites.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"write_shards: {folder} is not empty; give a new folder.")
    names: tuple[str, ...] | None = None
    windows: list[int] = []
    for part in parts:
        names = part.names if names is None else names
        if part.names != names:
            raise ValueError(f"write_shards: sites {part.names} after {names}; give the same.")
        tensors = {f"data/{name}": np.ascontiguousarray(part[name]) for name in names}
        tensors |= {f"mask/{name}": np.ascontiguousarray(m) for name, m in part.mask.items()}
        about = {k: np.asarray(getattr(part, k)).tolist() for k in _ABOUT if _has(part, k)}
        path = folder / _file(len(windows))
        save_file(tensors, path.with_suffix(".part"), {"about": json.dumps(about)})
        os.replace(path.with_suffix(".part"), path)
        windows.append(len(part))
    if names is None:
        raise ValueError("write_shards: no activations came; were there batches?")
    text = json.dumps({"names": names, "windows": windows})
    (folder / "contents.part").write_text(text, encoding="utf-8")
    os.replace(folder / "contents.part", folder / CONTENTS)
    return Shards(folder, tuple(windows), names)


def open_shards(folder: str | Path) -> Shards:
    """What `write_shards` wrote.

    Raises:
        FileNotFoundError: Nothing there, or a run that did not finish.
    """
    folder = Path(folder)
    if not (folder / CONTENTS).is_file():
        raise FileNotFoundError(
            f"open_shards: no {CONTENTS} in {folder}: not activations, or the recording did not "
            "finish. Record again into a new folder."
        )
    found = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
    return Shards(folder, tuple(found["windows"]), tuple(found["names"]))


def _has(part: Activations, key: str) -> bool:
    return getattr(part, key) is not None


def _file(k: int) -> str:
    return f"{k:06d}.safetensors"
