"""Networks and decoders of this folder on disk: one safetensors file that says what it holds.

Axes: none.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from neurofm import cards
from neurofm.io.checkpoint import read_card, save_model
from neurofm.io.model_card import check_fields, digest
from neurofm.io.tensors import load_state, read_tensors


def save_part(part: nn.Module, path: str | Path) -> Path:
    """Write a generator, prior, encoder or decoder; as `neurofm.save_model`, nothing is pickled.

    Args:
        path: Ends in `.safetensors`.
    """
    return save_model(part, path)


def load_part(path: str | Path, *, trusted: tuple[str, ...] = ("neurofm",)) -> nn.Module:
    """What `save_part` wrote, in evaluation mode.

    Args:
        trusted: Packages whose classes the file may name.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, another kind of file, or a class that is not trusted.
    """
    path = Path(path)
    card = read_card(path)
    check_fields(card, path)
    spec = {"class_path": card["class_path"], "init_args": card["init_args"]}
    part = cards.build(spec, trusted=trusted, written=True)
    tensors = read_tensors(path)
    if digest(card, tensors) != card["digest"]:
        raise ValueError(
            f"{path}: its digest does not match: a byte of the weights or of the description was "
            "changed after it was saved. Copy the file again."
        )
    load_state(part, tensors, where=str(path))
    return part.eval().requires_grad_(False)
