"""What of a pretrained model learns for a new task."""

from neurofm.tasks.adaptations.base import Adaptation, Full, Partial, trained_parameters
from neurofm.tasks.adaptations.low_rank import IA3, DoRA, LoRA
from neurofm.tasks.adaptations.merging import plain_model
from neurofm.tasks.adaptations.modes import Modes, fraction_on, overlap, units
from neurofm.tasks.adaptations.probe import Probe
from neurofm.tasks.adaptations.stages import LayerwiseDecay, TwoStage

__all__ = [
    "Adaptation",
    "DoRA",
    "Full",
    "IA3",
    "LayerwiseDecay",
    "LoRA",
    "Modes",
    "Partial",
    "Probe",
    "TwoStage",
    "fraction_on",
    "overlap",
    "plain_model",
    "trained_parameters",
    "units",
]
