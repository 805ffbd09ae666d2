"""Figures that results of any kind share: one style, maps of the scalp, matrices, courses, scores.

Below everything that computes results, so that a result can draw itself; figures of whole reports
are in `neurofm.report`. All take plain arrays with their labels and units.
"""

from neurofm.figures.arrangements import plot_arrangement
from neurofm.figures.courses import plot_curves, plot_spectra, plot_spectrum, plot_traces
from neurofm.figures.heat_maps import plot_matrix, plot_rdm, plot_score_map
from neurofm.figures.scores import plot_bars, plot_layer_scores, plot_scores
from neurofm.figures.style import styled
from neurofm.figures.topography import plot_topographies, plot_topography

__all__ = [
    "plot_arrangement",
    "plot_bars",
    "plot_curves",
    "plot_layer_scores",
    "plot_matrix",
    "plot_rdm",
    "plot_score_map",
    "plot_scores",
    "plot_spectra",
    "plot_spectrum",
    "plot_topographies",
    "plot_topography",
    "plot_traces",
    "styled",
]
