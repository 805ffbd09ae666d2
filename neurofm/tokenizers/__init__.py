"""From windows to tokens."""

from neurofm.tokenizers.brain_tokenizer import BrainTokenizer
from neurofm.tokenizers.du_in import DuInTokenizer
from neurofm.tokenizers.du_in_encoder import DuInEncoder
from neurofm.tokenizers.ephys_tokenizer import EphysTokenizer
from neurofm.tokenizers.ephys_vocabulary import read_vocabulary
from neurofm.tokenizers.mirepnet import MIRepNetTokenizer
from neurofm.tokenizers.patch import PatchTokenizer
from neurofm.tokenizers.tfm import TFMTokenizer

__all__ = [
    "BrainTokenizer",
    "DuInEncoder",
    "DuInTokenizer",
    "EphysTokenizer",
    "MIRepNetTokenizer",
    "PatchTokenizer",
    "TFMTokenizer",
    "read_vocabulary",
]
