"""Figures that results of any kind share: one style, maps of the scalp, matrices, courses.

Below everything that computes results, so that a result can draw itself; figures of whole reports
are in `neurofm.report`.
"""

from neurofm.figures.style import styled
from neurofm.figures.topography import plot_topographies, plot_topography

__all__ = ["plot_topographies", "plot_topography", "styled"]
