"""From windows to tokens."""

from neurofm.tokenizers.brain_tokenizer import BrainTokenizer

__all__ = ["BrainTokenizer"]
