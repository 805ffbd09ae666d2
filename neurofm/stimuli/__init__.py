"""Features of stimuli: pictures, sounds, words, layers of networks; and their timing."""

from neurofm.stimuli.cache import FeatureCache, content_hash, weights_hash
from neurofm.stimuli.fields import ReceptiveFields, receptive_fields
from neurofm.stimuli.layers import layer_features, layer_sites
from neurofm.stimuli.networks import random_network
from neurofm.stimuli.pictures import (
    GaborLayout,
    as_pictures,
    colour,
    fourier_energy,
    gabor_layout,
    gabor_pyramid,
    load_pictures,
    luminance,
)
from neurofm.stimuli.preprocessing import Preparation
from neurofm.stimuli.pretrained import Network, load_network
from neurofm.stimuli.sounds import envelope, mel_spectrogram
from neurofm.stimuli.timing import (
    at_samples,
    at_volumes,
    delayed,
    downsample,
    require_same_length,
    with_lags,
)
from neurofm.stimuli.words import (
    Embedded,
    contexts,
    embed_words,
    hashed_words,
    read_embeddings,
    word_lengths,
    word_rate,
)

__all__ = [
    "Embedded",
    "FeatureCache",
    "GaborLayout",
    "Network",
    "Preparation",
    "ReceptiveFields",
    "as_pictures",
    "at_samples",
    "at_volumes",
    "colour",
    "content_hash",
    "contexts",
    "delayed",
    "downsample",
    "embed_words",
    "envelope",
    "fourier_energy",
    "gabor_layout",
    "gabor_pyramid",
    "hashed_words",
    "layer_features",
    "layer_sites",
    "load_network",
    "load_pictures",
    "luminance",
    "mel_spectrogram",
    "random_network",
    "read_embeddings",
    "receptive_fields",
    "require_same_length",
    "weights_hash",
    "with_lags",
    "word_lengths",
    "word_rate",
]
