"""What can be read off a layer: linear probes with their controls, sparse probes, depth."""

from neurofm.interpret.probing.depth import (
    ConceptDepth,
    concept_depth,
    depth_under,
    noisy,
    plot_depths,
    quantised,
)
from neurofm.interpret.probing.layers import LayerProbes, probe_layers, signal_baselines
from neurofm.interpret.probing.linear import (
    Probe,
    control_labels,
    linear_probe,
    ridge_predictions,
    ridge_weights,
)
from neurofm.interpret.probing.sparse import (
    SparseFit,
    SparseProbe,
    f_statistic,
    fit_sparse,
    mean_difference,
    rank_units,
    sparse_probe,
)

__all__ = [
    "ConceptDepth",
    "LayerProbes",
    "Probe",
    "SparseFit",
    "SparseProbe",
    "concept_depth",
    "control_labels",
    "depth_under",
    "f_statistic",
    "fit_sparse",
    "linear_probe",
    "mean_difference",
    "noisy",
    "plot_depths",
    "probe_layers",
    "quantised",
    "rank_units",
    "ridge_predictions",
    "ridge_weights",
    "signal_baselines",
    "sparse_probe",
]
