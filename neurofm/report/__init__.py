"""Results as tables, figures and one self-contained HTML page."""

from neurofm.report.codebook import plot_explained
from neurofm.report.plots import (
    plot_band_error,
    plot_code_usage,
    plot_confusion,
    plot_curves,
    plot_reconstruction,
    plot_scores,
    plot_spectrum,
)
from neurofm.report.report import Picture, Report, Section, Table, load_report
from neurofm.report.runs import read_run
from neurofm.report.share_curves import ShareCurve, plot_share_curves
from neurofm.report.similarity import plot_layer_scores, plot_rdm
from neurofm.report.topography import plot_topographies, plot_topography

__all__ = [
    "Picture",
    "Report",
    "Section",
    "ShareCurve",
    "Table",
    "load_report",
    "plot_band_error",
    "plot_code_usage",
    "plot_confusion",
    "plot_curves",
    "plot_explained",
    "plot_layer_scores",
    "plot_rdm",
    "plot_reconstruction",
    "plot_scores",
    "plot_share_curves",
    "plot_spectrum",
    "plot_topographies",
    "plot_topography",
    "read_run",
]
