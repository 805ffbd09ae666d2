"""Protocols, classical baselines, probes, and suites that compare many methods."""

from neurofm.evaluate.aligned import Aligned
from neurofm.evaluate.braindecode_classifier import BraindecodeClassifier
from neurofm.evaluate.classical import (
    WindowPipeline,
    band_power_svm,
    csp_lda,
    entropy_lda,
    erp_tangent_lr,
    filter_bank_csp,
    mdm,
    samples_lda,
    snr_lda,
    spectrum_lda,
    spectrum_ridge,
    tangent_lr,
    trca,
    xdawn_lda,
    xdawn_tangent_lr,
)
from neurofm.evaluate.encoding import EncodingScores, score_encoding
from neurofm.evaluate.equal_priors import EqualPriors
from neurofm.evaluate.erp_features import FeatureClassifier, WindowFeatures
from neurofm.evaluate.fold import predict_fold, refuse_seen_people
from neurofm.evaluate.in_context import ContextScore, context_curve, score_weights
from neurofm.evaluate.model_classifier import ModelClassifier
from neurofm.evaluate.probing import LinearProbe, RidgeProbe
from neurofm.evaluate.protocol import (
    FoldScores,
    compare,
    cross_validate,
    per_subject,
    summarize,
    within_subject,
)
from neurofm.evaluate.simulated_futures import Behaviour, read_behaviour
from neurofm.evaluate.spdnet_classifier import SPDNetClassifier
from neurofm.evaluate.suite_cards import read_suite
from neurofm.evaluate.suites import Suite, nested_share

__all__ = [
    "Aligned",
    "BraindecodeClassifier",
    "Behaviour",
    "ContextScore",
    "EncodingScores",
    "EqualPriors",
    "FeatureClassifier",
    "FoldScores",
    "LinearProbe",
    "ModelClassifier",
    "RidgeProbe",
    "SPDNetClassifier",
    "Suite",
    "WindowFeatures",
    "WindowPipeline",
    "band_power_svm",
    "compare",
    "context_curve",
    "cross_validate",
    "csp_lda",
    "entropy_lda",
    "erp_tangent_lr",
    "filter_bank_csp",
    "mdm",
    "nested_share",
    "per_subject",
    "predict_fold",
    "read_behaviour",
    "read_suite",
    "refuse_seen_people",
    "samples_lda",
    "score_encoding",
    "score_weights",
    "snr_lda",
    "spectrum_lda",
    "spectrum_ridge",
    "summarize",
    "tangent_lr",
    "trca",
    "within_subject",
    "xdawn_lda",
    "xdawn_tangent_lr",
]
