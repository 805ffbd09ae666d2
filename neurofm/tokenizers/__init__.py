"""From windows to tokens."""

from neurofm.tokenizers.brain_tokenizer import BrainTokenizer
from neurofm.tokenizers.coded_patches import CodedPatches
from neurofm.tokenizers.du_in import DuInTokenizer
from neurofm.tokenizers.du_in_encoder import DuInEncoder
from neurofm.tokenizers.ephys_tokenizer import EphysTokenizer
from neurofm.tokenizers.ephys_vocabulary import read_vocabulary
from neurofm.tokenizers.mirepnet import MIRepNetTokenizer
from neurofm.tokenizers.patch import PatchTokenizer
from neurofm.tokenizers.quantile import QuantileTokenizer
from neurofm.tokenizers.spectral import SpectralTokenizer
from neurofm.tokenizers.tfm import TFMTokenizer
from neurofm.tokenizers.trial_patches import TrialPatches

__all__ = [
    "BrainTokenizer",
    "CodedPatches",
    "DuInEncoder",
    "DuInTokenizer",
    "EphysTokenizer",
    "MIRepNetTokenizer",
    "PatchTokenizer",
    "QuantileTokenizer",
    "SpectralTokenizer",
    "TFMTokenizer",
    "TrialPatches",
    "read_vocabulary",
]
