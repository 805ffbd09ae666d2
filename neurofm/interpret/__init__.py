"""Explain any nn.Module: activations, similarity, attribution."""

from neurofm.interpret.activations import Activations
from neurofm.interpret.attribution import (
    Attribution,
    gradient_x_input,
    integrated_gradients,
    lateralisation,
    occlude_bands,
    occlude_channels,
    occlude_time,
)
from neurofm.interpret.attribution.sanity import (
    DeletionCurve,
    attribution_similarity,
    deletion_curve,
    randomized_copy,
)
from neurofm.interpret.bands import BANDS, band_power, remove_band
from neurofm.interpret.generated import Bursts, bursts, compare_signals, covariance, spectrum
from neurofm.interpret.inference import (
    Bootstrap,
    PermutationTest,
    bootstrap_conditions,
    draw_permutations,
    layer_rsa,
    permutation_test,
)
from neurofm.interpret.predictivity import (
    Mapping,
    Predictivity,
    inter_animal_consistency,
    neural_predictivity,
    one_to_one_map,
    pls_map,
    ridge_map,
    rsa_predictivity,
    stimulus_splits,
)
from neurofm.interpret.recorder import Recorder, record, sites
from neurofm.interpret.rsa import (
    class_rdm,
    compare,
    compare_rdms,
    condition_means,
    crossnobis,
    rdm,
    within,
)
from neurofm.interpret.similarity.cka import hsic, linear_cka

__all__ = [
    "BANDS",
    "Activations",
    "Attribution",
    "Bootstrap",
    "Bursts",
    "DeletionCurve",
    "Mapping",
    "PermutationTest",
    "Predictivity",
    "Recorder",
    "attribution_similarity",
    "band_power",
    "bootstrap_conditions",
    "bursts",
    "class_rdm",
    "compare",
    "compare_rdms",
    "compare_signals",
    "condition_means",
    "covariance",
    "crossnobis",
    "deletion_curve",
    "draw_permutations",
    "gradient_x_input",
    "hsic",
    "integrated_gradients",
    "inter_animal_consistency",
    "lateralisation",
    "layer_rsa",
    "linear_cka",
    "neural_predictivity",
    "occlude_bands",
    "occlude_channels",
    "occlude_time",
    "one_to_one_map",
    "permutation_test",
    "pls_map",
    "randomized_copy",
    "rdm",
    "record",
    "remove_band",
    "ridge_map",
    "rsa_predictivity",
    "sites",
    "spectrum",
    "stimulus_splits",
    "within",
]
