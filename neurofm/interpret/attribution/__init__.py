"""What in a window made the network say so, with the checks that tell whether a map means it."""

from neurofm.interpret.attribution.aggregation import by_band, by_region, in_bins
from neurofm.interpret.attribution.attention import (
    TokenRelevance,
    attention_rollout,
    weighted_attention,
)
from neurofm.interpret.attribution.evidence import Attribution
from neurofm.interpret.attribution.examined import Examined, examine
from neurofm.interpret.attribution.extremal import Extremal, extremal_perturbation
from neurofm.interpret.attribution.gradcam import grad_cam
from neurofm.interpret.attribution.gradients import (
    expected_gradients,
    gradient_x_input,
    saliency,
    smooth_gradient,
)
from neurofm.interpret.attribution.integrated import (
    channel_mean,
    integrated_gradients,
    integrated_gradients_over,
    surrogates,
)
from neurofm.interpret.attribution.laterality import lateralisation
from neurofm.interpret.attribution.layer_masking import layer_masking, with_mask
from neurofm.interpret.attribution.masks import (
    fade,
    fade_bands,
    interpolated,
    low_pass,
    phase_randomised,
    smooth_mask,
)
from neurofm.interpret.attribution.occlusion import (
    occlude,
    occlude_bands,
    occlude_channels,
    occlude_time,
)
from neurofm.interpret.attribution.planted import PlantedEvidence, planted_evidence, planted_windows
from neurofm.interpret.attribution.relevance import (
    AlphaBeta,
    Box,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    relevance,
)
from neurofm.interpret.attribution.rules import relevance_rules
from neurofm.interpret.attribution.sanity import (
    DeletionCurve,
    attribution_similarity,
    deletion_curve,
    randomized_copy,
)
from neurofm.interpret.attribution.sharing import sharing_ratios

__all__ = [
    "by_band",
    "by_region",
    "in_bins",
    "TokenRelevance",
    "attention_rollout",
    "weighted_attention",
    "Attribution",
    "Examined",
    "examine",
    "Extremal",
    "extremal_perturbation",
    "grad_cam",
    "gradient_x_input",
    "saliency",
    "channel_mean",
    "integrated_gradients",
    "integrated_gradients_over",
    "surrogates",
    "lateralisation",
    "layer_masking",
    "with_mask",
    "fade",
    "fade_bands",
    "interpolated",
    "low_pass",
    "phase_randomised",
    "smooth_mask",
    "occlude",
    "occlude_bands",
    "occlude_channels",
    "occlude_time",
    "PlantedEvidence",
    "planted_evidence",
    "planted_windows",
    "AlphaBeta",
    "Box",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "relevance",
    "relevance_rules",
    "DeletionCurve",
    "attribution_similarity",
    "deletion_curve",
    "randomized_copy",
    "sharing_ratios",
    "expected_gradients",
    "smooth_gradient",
]
