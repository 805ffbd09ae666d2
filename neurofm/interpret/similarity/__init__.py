"""Are two representations alike, and how are they laid out: networks, layers, brains."""

from neurofm.interpret.similarity.cka import (
    PreparedKernel,
    batched_cka,
    hsic,
    kernel_cka,
    linear_cka,
    linear_kernel,
    median_distance,
    prepare_kernel,
    prepared_cka,
    rbf_cka,
)
from neurofm.interpret.similarity.information import (
    Information,
    InformationPlane,
    binned_information,
    discretise,
    information_plane,
    kde_information,
    quantile_edges,
    uniform_edges,
)
from neurofm.interpret.similarity.trajectory import (
    Return,
    Trajectory,
    describe_trajectory,
    distance_from_path,
)

__all__ = [
    "Information",
    "InformationPlane",
    "PreparedKernel",
    "Return",
    "Trajectory",
    "batched_cka",
    "binned_information",
    "describe_trajectory",
    "discretise",
    "distance_from_path",
    "hsic",
    "information_plane",
    "kde_information",
    "kernel_cka",
    "linear_cka",
    "linear_kernel",
    "median_distance",
    "prepare_kernel",
    "prepared_cka",
    "quantile_edges",
    "rbf_cka",
    "uniform_edges",
]
