"""Change what passes through a network and see what becomes of its answer."""

from neurofm.interpret.causal.ablation import (
    Ablation,
    Circuit,
    ablation,
    circuit,
    constant,
    mean_value,
    without_direction,
)
from neurofm.interpret.causal.activation_patching import Patching, activation_patching, each
from neurofm.interpret.causal.attribution_patching import AttributionPatching, attribution_patching
from neurofm.interpret.causal.corruptions import (
    band_stopped,
    difference,
    noisy,
    other_class,
    other_subject,
    phase_randomised,
    shuffled_patches,
    taken,
)
from neurofm.interpret.causal.function_vectors import FunctionVector, function_vector
from neurofm.interpret.causal.lesions import Lesions, lesion_bands, lesion_channels
from neurofm.interpret.causal.neuron_paths import NeuronPath, neuron_path
from neurofm.interpret.causal.path_patching import path_patching
from neurofm.interpret.causal.runs import (
    Edit,
    gradients_at,
    inserted,
    logit_difference,
    probability,
    values_at,
)
from neurofm.interpret.causal.steering import Steering, added, contrast_vector, steering
from neurofm.interpret.causal.subspace import (
    SubspaceCheck,
    along,
    check_subspace,
    directions,
    latents,
)
from neurofm.interpret.patching import Context, patched

__all__ = [
    "Ablation",
    "AttributionPatching",
    "Circuit",
    "Context",
    "Edit",
    "FunctionVector",
    "Lesions",
    "NeuronPath",
    "Patching",
    "Steering",
    "SubspaceCheck",
    "ablation",
    "activation_patching",
    "added",
    "along",
    "attribution_patching",
    "band_stopped",
    "check_subspace",
    "circuit",
    "constant",
    "contrast_vector",
    "difference",
    "directions",
    "each",
    "function_vector",
    "gradients_at",
    "inserted",
    "latents",
    "lesion_bands",
    "lesion_channels",
    "logit_difference",
    "mean_value",
    "neuron_path",
    "noisy",
    "other_class",
    "other_subject",
    "patched",
    "path_patching",
    "phase_randomised",
    "probability",
    "shuffled_patches",
    "steering",
    "taken",
    "values_at",
    "without_direction",
]
