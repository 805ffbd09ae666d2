"""Feature synthesis: signals and images that a network, or a part of it, answers to most."""

from neurofm.interpret.synthesis.generator import GeneratorPrior, tokenizer_prior
from neurofm.interpret.synthesis.images import ImagePrior, image_variation, jitter
from neurofm.interpret.synthesis.inversion import invert, pattern_of
from neurofm.interpret.synthesis.maximise import maximise, random_weights
from neurofm.interpret.synthesis.multifaceted import Facets, multifaceted
from neurofm.interpret.synthesis.objectives import (
    Direction,
    Latent,
    Logit,
    Objective,
    Pattern,
    Unit,
    Weighted,
)
from neurofm.interpret.synthesis.regularisers import (
    Amplitude,
    Covariance,
    LogSpectrum,
    Transforms,
    Variation,
)
from neurofm.interpret.synthesis.result import Synthesis, Tuning
from neurofm.interpret.synthesis.signals import (
    Prior,
    SpatialPrior,
    SpectralPrior,
    TimePrior,
    gaussian_volume,
)

__all__ = [
    "Amplitude",
    "Covariance",
    "Direction",
    "Facets",
    "GeneratorPrior",
    "ImagePrior",
    "Latent",
    "LogSpectrum",
    "Logit",
    "Objective",
    "Pattern",
    "Prior",
    "SpatialPrior",
    "SpectralPrior",
    "Synthesis",
    "TimePrior",
    "Transforms",
    "Tuning",
    "Unit",
    "Variation",
    "Weighted",
    "gaussian_volume",
    "image_variation",
    "invert",
    "jitter",
    "maximise",
    "multifaceted",
    "pattern_of",
    "random_weights",
    "tokenizer_prior",
]
