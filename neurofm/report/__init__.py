"""Results as tables, figures and one self-contained HTML page."""

from neurofm.figures import (
    plot_curves,
    plot_layer_scores,
    plot_rdm,
    plot_scores,
    plot_spectrum,
    plot_topographies,
    plot_topography,
)
from neurofm.report.brains import plot_glass, plot_slices, plot_surface
from neurofm.report.codebook import plot_explained
from neurofm.report.encoding import (
    plot_against_ceiling,
    plot_fields,
    plot_pictures,
    plot_region_scores,
    plot_shares,
)
from neurofm.report.erp import Evoked, average_evoked, plot_evoked
from neurofm.report.in_context import (
    plot_context_curve,
    plot_defining_stimuli,
    plot_sheets,
)
from neurofm.report.people import Pairs, plot_differences, plot_people
from neurofm.report.plots import (
    plot_band_error,
    plot_code_usage,
    plot_confusion,
    plot_reconstruction,
)
from neurofm.report.predictions import plot_confusions, plot_reliability
from neurofm.report.ranks import plot_critical_difference, plot_rank_table
from neurofm.report.report import Picture, Report, Section, Table, load_report
from neurofm.report.retrieval import plot_retrieval_over_time, plot_search_scores
from neurofm.report.runs import read_run
from neurofm.report.share_curves import ShareCurve, plot_share_curves
from neurofm.report.trends import Trend, plot_cost, plot_learning_curves

__all__ = [
    "Evoked",
    "Pairs",
    "Picture",
    "Report",
    "Section",
    "ShareCurve",
    "Table",
    "Trend",
    "average_evoked",
    "load_report",
    "plot_against_ceiling",
    "plot_band_error",
    "plot_code_usage",
    "plot_confusion",
    "plot_confusions",
    "plot_context_curve",
    "plot_cost",
    "plot_critical_difference",
    "plot_curves",
    "plot_defining_stimuli",
    "plot_differences",
    "plot_evoked",
    "plot_explained",
    "plot_fields",
    "plot_glass",
    "plot_layer_scores",
    "plot_learning_curves",
    "plot_people",
    "plot_pictures",
    "plot_rank_table",
    "plot_rdm",
    "plot_reconstruction",
    "plot_region_scores",
    "plot_reliability",
    "plot_retrieval_over_time",
    "plot_scores",
    "plot_search_scores",
    "plot_share_curves",
    "plot_shares",
    "plot_sheets",
    "plot_slices",
    "plot_spectrum",
    "plot_surface",
    "plot_topographies",
    "plot_topography",
    "read_run",
]
