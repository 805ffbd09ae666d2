"""Features on disk, found again by content: what was shown, to which weights, at which site.

A folder holds one safetensors file per batch, written whole, so that a run which was killed goes on
where it stopped. Every file carries the hashes of its stimuli and of its own numbers; a file that
was damaged is thrown away with a warning, and its features are computed again.

Axes: stimulus first; what follows is the site's own.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from neurofm.io.tensors import write_tensors

_KEY = "neurofm.features"


def content_hash(*parts: Any) -> str:
    """A hash of arrays, tensors, texts and plain values, in order; shape and type count."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            text = json.dumps(part, sort_keys=True, default=str)
            digest.update(f"{type(part).__name__}{text}".encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def weights_hash(model: nn.Module) -> str:
    """A hash of a network: its class, parameters, buffers and the names of its modules."""
    digest = hashlib.sha256(repr(model).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()[:32]


class FeatureCache:
    """Features in a folder.

    Args:
        folder: Made when the first features are written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._rows: dict[tuple[str, str, str], tuple[Path, int]] = {}
        self._open: dict[Path, dict[str, np.ndarray]] = {}
        for path in sorted(self.folder.glob("*/*.safetensors")):
            self._index(path)

    def missing(self, key: str, sites: Sequence[str], stimuli: Sequence[str]) -> list[int]:
        """Which stimuli (by hash) lack features of one of the sites.

        A damaged file is found out here.
        """
        for path in {
            self._rows[(key, site, stimulus)][0]
            for site in sites
            for stimulus in stimuli
            if (key, site, stimulus) in self._rows
        }:
            self._read(path)
        return [
            i
            for i, stimulus in enumerate(stimuli)
            if any((key, site, stimulus) not in self._rows for site in sites)
        ]

    def get(self, key: str, site: str, stimuli: Sequence[str]) -> np.ndarray:
        """Features of stimuli, in their order.

        Raises:
            KeyError: One is not there; `missing` tells.
        """
        rows = [self._rows[(key, site, stimulus)] for stimulus in stimuli]
        found = [self._read(path)[site][row] for path, row in rows]
        self._open.clear()
        shapes = {row.shape for row in found}
        if len(shapes) > 1:
            raise ValueError(
                f"FeatureCache: features at {site!r} have shapes {sorted(shapes)}: stimuli differ "
                "in length. Pool over tokens."
            )
        return np.stack(found)

    def put(self, key: str, stimuli: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Keep features of some stimuli at some sites, as one file."""
        arrays = {site: np.ascontiguousarray(value) for site, value in values.items()}
        for site, value in arrays.items():
            if len(value) != len(stimuli):
                raise ValueError(
                    f"FeatureCache: {len(value)} rows at {site!r} for {len(stimuli)} stimuli."
                )
        about = {"key": key, "stimuli": list(stimuli), "digest": _digest(arrays)}
        name = content_hash(key, sorted(arrays), list(stimuli))
        path = self.folder / key / f"{name}.safetensors"
        tensors = {site: torch.from_numpy(value) for site, value in arrays.items()}
        write_tensors(path, tensors, {_KEY: json.dumps(about)})
        self._index(path)

    def _index(self, path: Path) -> None:
        try:
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                sites = list(file.keys())
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            self._discard(path, error)
            return
        for site in sites:
            for row, stimulus in enumerate(about["stimuli"]):
                self._rows[(about["key"], site, stimulus)] = (path, row)

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        if path in self._open:
            return self._open[path]
        try:
            with safe_open(path, framework="np") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                arrays = {site: file.get_tensor(site) for site in file.keys()}  # noqa: SIM118
            if _digest(arrays) != about["digest"]:
                raise ValueError("its numbers do not fit their checksum")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            self._discard(path, error)
            return {}
        self._open[path] = arrays
        return arrays

    def _discard(self, path: Path, error: Exception) -> None:
        warnings.warn(
            f"{path}: damaged ({error}); it is removed and its features are computed again.",
            stacklevel=4,
        )
        path.unlink(missing_ok=True)
        self._rows = {k: v for k, v in self._rows.items() if v[0] != path}
        self._open.pop(path, None)


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    return content_hash(*[part for site in sorted(arrays) for part in (site, arrays[site])])
