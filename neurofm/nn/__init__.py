"""Layers with no knowledge of brains."""

from neurofm.nn.conv import SEANetDecoder, SEANetEncoder
from neurofm.nn.cosine_quantizer import CosineQuantizer
from neurofm.nn.fsq import FSQ
from neurofm.nn.functional_layers import FunctionalConv, FunctionalDense, sample_basis
from neurofm.nn.linear import Linear
from neurofm.nn.positions import Rotary
from neurofm.nn.quantize import (
    Quantized,
    ResidualVQ,
    VectorQuantizer,
    codebook_health,
    count_codes,
    health_of_counts,
    kmeans,
)
from neurofm.nn.retrieval import ClipLoss, SigLipLoss
from neurofm.nn.sampling import Sampling
from neurofm.nn.transformer import CrissCrossBlock, FeedForward, RMSNorm, SelfAttention

__all__ = [
    "SEANetEncoder",
    "SEANetDecoder",
    "Linear",
    "Rotary",
    "CosineQuantizer",
    "FSQ",
    "FunctionalConv",
    "FunctionalDense",
    "sample_basis",
    "ResidualVQ",
    "VectorQuantizer",
    "Quantized",
    "codebook_health",
    "count_codes",
    "health_of_counts",
    "kmeans",
    "ClipLoss",
    "SigLipLoss",
    "Sampling",
    "CrissCrossBlock",
    "FeedForward",
    "RMSNorm",
    "SelfAttention",
]
