"""Representational similarity: RDMs, their comparison, and how sure it is."""

from neurofm.interpret.rsa.bootstrap import (
    Resampled,
    dual_variance,
    resample,
    single_variance,
)
from neurofm.interpret.rsa.ceilings import NoiseCeiling, noise_ceiling
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
from neurofm.interpret.rsa.embedding import patterns_of
from neurofm.interpret.rsa.layer_time import LayerTime, compare_over_time
from neurofm.interpret.rsa.layers import Bootstrap, bootstrap_conditions, layer_rsa
from neurofm.interpret.rsa.measures import condition_means, dissimilarities, rdm
from neurofm.interpret.rsa.models import class_rdm, within
from neurofm.interpret.rsa.movies import Movie, generalised_crossnobis, latency, movie
from neurofm.interpret.rsa.neighbourhoods import (
    Neighbourhoods,
    point_spheres,
    sensor_neighbours,
    surface_discs,
    volume_spheres,
)
from neurofm.interpret.rsa.noise import baseline_covariance, noise_covariance, whiten
from neurofm.interpret.rsa.partial import (
    PartialComparison,
    compare_beyond,
    partial_similarity,
)
from neurofm.interpret.rsa.permutations import (
    PermutationTest,
    draw_permutations,
    permutation_test,
    permuted,
)
from neurofm.interpret.rsa.pooling import pool
from neurofm.interpret.rsa.searchlight import (
    SearchlightScores,
    searchlight_rdms,
    searchlight_rsa,
)
from neurofm.interpret.rsa.weighted import WeightedModel, cross_validate_weights, fit_weights
from neurofm.interpret.rsa.whitened import rdm_covariance

__all__ = [
    "Bootstrap",
    "LayerTime",
    "MapTest",
    "ModelComparison",
    "Movie",
    "Neighbourhoods",
    "NoiseCeiling",
    "PartialComparison",
    "PermutationTest",
    "Resampled",
    "SearchlightScores",
    "WeightedModel",
    "baseline_covariance",
    "bootstrap_conditions",
    "class_rdm",
    "cluster_test",
    "compare",
    "compare_beyond",
    "compare_models",
    "compare_over_time",
    "compare_rdms",
    "condition_means",
    "cross_validate_weights",
    "crossnobis",
    "crossnobis_distances",
    "dissimilarities",
    "draw_permutations",
    "dual_variance",
    "fit_weights",
    "generalised_crossnobis",
    "latency",
    "layer_rsa",
    "max_t",
    "movie",
    "noise_ceiling",
    "noise_covariance",
    "partial_similarity",
    "patterns_of",
    "permutation_test",
    "permuted",
    "point_spheres",
    "pool",
    "rdm",
    "rdm_covariance",
    "resample",
    "same_conditions",
    "searchlight_rdms",
    "searchlight_rsa",
    "sensor_neighbours",
    "sign_flips",
    "single_variance",
    "surface_discs",
    "tfce",
    "tfce_test",
    "volume_spheres",
    "whiten",
    "within",
]
