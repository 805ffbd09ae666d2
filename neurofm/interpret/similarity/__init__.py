"""Are two representations alike, and how are they laid out: networks, layers, brains."""

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
    "Return",
    "Trajectory",
    "binned_information",
    "describe_trajectory",
    "discretise",
    "distance_from_path",
    "information_plane",
    "kde_information",
    "quantile_edges",
    "uniform_edges",
]
