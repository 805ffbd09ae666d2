"""Reasons to train a model without labels. Each returns a dict with "loss" and what to log."""

from neurofm.objectives.codes import (
    ComplementaryCodes,
    MaskedCodes,
    NextCodes,
    PredictsCodes,
    PredictsNext,
    PredictsViews,
    masked_code_losses,
    next_code_losses,
)
from neurofm.objectives.signals import (
    Contrastive,
    HasViews,
    MaskedSignal,
    MaskedTokensAndClasses,
    ReconstructsSignal,
    ReconstructsTokens,
)
from neurofm.objectives.volumes import (
    HiddenLatents,
    NextVolume,
    PredictsLatents,
    PredictsVolume,
)

__all__ = [
    "ComplementaryCodes",
    "Contrastive",
    "HasViews",
    "HiddenLatents",
    "MaskedCodes",
    "MaskedSignal",
    "MaskedTokensAndClasses",
    "NextCodes",
    "NextVolume",
    "PredictsCodes",
    "PredictsLatents",
    "PredictsNext",
    "PredictsViews",
    "PredictsVolume",
    "ReconstructsSignal",
    "ReconstructsTokens",
    "masked_code_losses",
    "next_code_losses",
]
