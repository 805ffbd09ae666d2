"""Classical decoders, as scikit-learn estimators on windows."""

from neurofm.evaluate.classical.evoked import (
    erp_tangent_lr,
    samples_lda,
    trca,
    xdawn_lda,
    xdawn_tangent_lr,
)
from neurofm.evaluate.classical.motor import csp_lda, filter_bank_csp, mdm, tangent_lr
from neurofm.evaluate.classical.pipeline import WindowPipeline
from neurofm.evaluate.classical.spectral import (
    band_power_svm,
    entropy_lda,
    snr_lda,
    spectrum_lda,
    spectrum_ridge,
)

__all__ = [
    "WindowPipeline",
    "band_power_svm",
    "csp_lda",
    "entropy_lda",
    "erp_tangent_lr",
    "filter_bank_csp",
    "mdm",
    "samples_lda",
    "snr_lda",
    "spectrum_lda",
    "spectrum_ridge",
    "tangent_lr",
    "trca",
    "xdawn_lda",
    "xdawn_tangent_lr",
]
