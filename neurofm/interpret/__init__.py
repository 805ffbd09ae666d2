"""Look inside any nn.Module, and compare it with brains.

`record` reads what passes through named places of a network, `patched` changes it; brain data enter
as the same `Activations`. On these two stand folders, each with its own list of names:

* `rsa`: dissimilarities, their comparison, ceilings, inference, movies, searchlights
* `similarity`: CKA, CCA, shape distances, geometry, units, trajectories, information
* `attribution`: what of the input a decision rests on, with checks of the answer
* `causal`: what happens if a part is changed
* `decomposition`: directions that a layer is made of, sparse ones above all
* `probing`: what can be read from a layer; `monitoring`: what goes wrong in one
* `synthesis`: signals and pictures that a unit answers to most
* `brain_network`: the default comparison of a brain with the layers of a network
"""

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
from neurofm.interpret.moments import RunningMoments
from neurofm.interpret.patching import patched
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
from neurofm.interpret.recorder import Recorder, record, recorded, sites
from neurofm.interpret.rsa import (
    Bootstrap,
    PermutationTest,
    bootstrap_conditions,
    class_rdm,
    compare,
    compare_rdms,
    condition_means,
    crossnobis,
    draw_permutations,
    layer_rsa,
    permutation_test,
    rdm,
    within,
)
from neurofm.interpret.shards import open_shards, write_shards
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
    "RunningMoments",
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
    "open_shards",
    "patched",
    "permutation_test",
    "pls_map",
    "randomized_copy",
    "rdm",
    "record",
    "recorded",
    "remove_band",
    "ridge_map",
    "rsa_predictivity",
    "sites",
    "spectrum",
    "stimulus_splits",
    "within",
    "write_shards",
]
