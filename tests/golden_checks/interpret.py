"""Interpretability functions against tests/golden/interpret, one file of tensors per topic.

A topic is a module of `interpretation/` with `INPUTS`, patterns of the names that are given, and
`check(tensors) -> got`. Every other tensor of the file has to be computed. `index.json` says the
tolerances.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

Tensors = dict[str, Tensor]
TOPICS = Path(__file__).parent / "interpretation"


def topic(name: str) -> ModuleType:
    """The check of one file."""
    spec = importlib.util.spec_from_file_location(f"interpretation_{name}", TOPICS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def tolerance(fixture: Any, name: str) -> tuple[float, float]:
    """As the index says: a default, and what differs by topic and pattern."""
    said = json.loads((fixture.folder / "index.json").read_text())["tolerances"]
    allowed = dict(said["default"])
    where, _, key = name.partition("/")
    for pattern, change in said["overrides"].items():
        about, _, wanted = pattern.partition(": ")
        if about == where and isinstance(change, dict) and fnmatch.fnmatch(key, wanted):
            allowed.update({k: v for k, v in change.items() if k in allowed})
    return allowed["atol"], allowed["rtol"]


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every tensor that is not an input, by `topic/name`."""
    expected: Tensors = {}
    got: Tensors = {}
    for file in sorted(fixture.folder.glob("*.safetensors")):
        tensors, ours = fixture.tensors(file.stem), topic(file.stem)
        for key, value in tensors.items():
            if not any(fnmatch.fnmatch(key, pattern) for pattern in ours.INPUTS):
                expected[f"{file.stem}/{key}"] = value
        try:
            found = ours.check(tensors)
        except Exception:  # all of this topic are misses; the others still count
            traceback.print_exc()
            continue
        got |= {f"{file.stem}/{key}": value for key, value in found.items()}
    return expected, got
