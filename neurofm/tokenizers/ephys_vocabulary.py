"""Vocabularies of EphysTokenizer: which tokens are used, and the published file that says so.

Source: OHBA-analysis/EphysTokenizer (MIT); its vocabulary is a pickle of numpy arrays.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.shapes import Int

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("_codecs", "encode"),
}


def vocabulary_of(counts: Int[Tensor, " token"]) -> tuple[Tensor, Tensor]:
    """Used tokens by falling frequency, and the label of every token (0 = not used)."""
    order = counts.argsort(descending=True, stable=True)
    order = order[: int((counts > 0).sum())]
    labels = torch.zeros_like(counts, dtype=torch.int64)
    labels[order] = torch.arange(1, len(order) + 1, device=counts.device)
    return order, labels


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(
                f"the pickle asks for {module}.{name}, which a vocabulary does not need. The file "
                "was not opened."
            )
        return super().find_class(module, name)


def read_vocabulary(path: str | Path) -> dict[str, Tensor]:
    """The published `vocab.pkl` as tensors that `EphysTokenizer.rename_keys` takes.

    Returns:
        "token_order" (tokens by falling frequency) and "total_token_counts" (in that order).

    Raises:
        ValueError: The file asks for more than arrays, or lacks one of the two.
    """
    with open(path, "rb") as file:
        try:
            content = _Arrays(file).load()
        except (ValueError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path}: {error}") from error
    names = ("token_order", "total_token_counts")
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path}: no {' and no '.join(missing)}; is it a vocabulary?")
    return {name: torch.as_tensor(np.asarray(content[name]).astype(np.int64)) for name in names}
