"""Representational similarity: RDMs, their comparison, and how sure it is."""

from neurofm.interpret.rsa.bootstrap import (
    Resampled,
    dual_variance,
    resample,
    single_variance,
)
from neurofm.interpret.rsa.clusters import (
    MapTest,
    cluster_test,
    max_t,
    sign_flips,
    tfce,
    tfce_test,
)
from neurofm.interpret.rsa.comparators import compare, compare_rdms, same_conditions
from neurofm.interpret.rsa.comparison import ModelComparison, compare_models
from neurofm.interpret.rsa.crossnobis import crossnobis, crossnobis_distances
from neurofm.interpret.rsa.layers import Bootstrap, bootstrap_conditions, layer_rsa
from neurofm.interpret.rsa.measures import condition_means, dissimilarities, rdm
from neurofm.interpret.rsa.models import class_rdm, within
from neurofm.interpret.rsa.noise import baseline_covariance, noise_covariance, whiten
from neurofm.interpret.rsa.permutations import (
    PermutationTest,
    draw_permutations,
    permutation_test,
    permuted,
)
from neurofm.interpret.rsa.whitened import rdm_covariance

__all__ = [
    "Bootstrap",
    "MapTest",
    "ModelComparison",
    "PermutationTest",
    "Resampled",
    "baseline_covariance",
    "bootstrap_conditions",
    "class_rdm",
    "cluster_test",
    "compare",
    "compare_models",
    "compare_rdms",
    "condition_means",
    "crossnobis",
    "crossnobis_distances",
    "dissimilarities",
    "draw_permutations",
    "dual_variance",
    "layer_rsa",
    "max_t",
    "noise_covariance",
    "permutation_test",
    "permuted",
    "rdm",
    "rdm_covariance",
    "resample",
    "same_conditions",
    "sign_flips",
    "single_variance",
    "tfce",
    "tfce_test",
    "whiten",
    "within",
]
