"""Which model cards are of what."""

from __future__ import annotations

from neurofm import cards


def reads_batches(name: str) -> bool:
    """Whether a card is of a brain model or a tokenizer; others go from stimuli to responses."""
    path = cards.read("models", name)["class_path"]
    return path.startswith("neurofm.tokenizers.") or hasattr(cards.load_class(path), "encode")
