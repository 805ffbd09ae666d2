"""Is this recording familiar, and is this network healthy: coverage, massive activations, drift."""

from neurofm.interpret.monitoring.coverage import (
    Coverage,
    CoverageDetector,
    Influence,
    choose_coverage,
    coverage,
    neuron_states,
)
from neurofm.interpret.monitoring.detection import Detection, Detections, detection
from neurofm.interpret.monitoring.distances import mahalanobis_familiarity, neighbour_familiarity
from neurofm.interpret.monitoring.drift import (
    Drift,
    History,
    attention_entropy,
    dead_units,
    effective_rank,
    not_finite,
)
from neurofm.interpret.monitoring.effect import MassiveEffect, massive_effect
from neurofm.interpret.monitoring.familiarity import compare_familiarity
from neurofm.interpret.monitoring.influence import influences, output_power, uniform_divergence
from neurofm.interpret.monitoring.massive import (
    MassiveActivations,
    attention_mass,
    massive_activations,
)

__all__ = [
    "Coverage",
    "CoverageDetector",
    "Detection",
    "Detections",
    "Drift",
    "History",
    "Influence",
    "MassiveActivations",
    "MassiveEffect",
    "attention_entropy",
    "attention_mass",
    "choose_coverage",
    "compare_familiarity",
    "coverage",
    "dead_units",
    "detection",
    "effective_rank",
    "influences",
    "mahalanobis_familiarity",
    "massive_activations",
    "massive_effect",
    "neighbour_familiarity",
    "neuron_states",
    "not_finite",
    "output_power",
    "uniform_divergence",
]
