"""What in a window made the network say so, with the checks that tell whether a map means it."""

from neurofm.interpret.attribution.evidence import Attribution
from neurofm.interpret.attribution.gradients import gradient_x_input, saliency
from neurofm.interpret.attribution.integrated import integrated_gradients
from neurofm.interpret.attribution.laterality import lateralisation
from neurofm.interpret.attribution.occlusion import (
    occlude_bands,
    occlude_channels,
    occlude_time,
)
from neurofm.interpret.attribution.rules import relevance_rules
from neurofm.interpret.attribution.sanity import (
    DeletionCurve,
    attribution_similarity,
    deletion_curve,
    randomized_copy,
)

__all__ = [
    "Attribution",
    "DeletionCurve",
    "attribution_similarity",
    "deletion_curve",
    "gradient_x_input",
    "integrated_gradients",
    "lateralisation",
    "occlude_bands",
    "occlude_channels",
    "occlude_time",
    "randomized_copy",
    "relevance_rules",
    "saliency",
]
