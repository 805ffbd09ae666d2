"""neurofm: any brain recording becomes tokens, feeds foundation models, and is explained."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from neurofm.batch import Batch, Embedding, Tokens
    from neurofm.data import BrainData
    from neurofm.io import load_model, save_model
    from neurofm.types import Event, Recording, Result, Sensors, Signal
    from neurofm.units import Kind

_PUBLIC = {
    "Batch": "neurofm.batch",
    "BrainData": "neurofm.data",
    "Embedding": "neurofm.batch",
    "Event": "neurofm.types",
    "Kind": "neurofm.units",
    "Recording": "neurofm.types",
    "Result": "neurofm.types",
    "Sensors": "neurofm.types",
    "Signal": "neurofm.types",
    "Tokens": "neurofm.batch",
    "load_model": "neurofm.io",
    "save_model": "neurofm.io",
}
__all__ = [
    "Batch", "BrainData", "Embedding", "Event", "Kind", "Recording", "Result", "Sensors", "Signal",
    "Tokens", "load_model", "save_model",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'neurofm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
