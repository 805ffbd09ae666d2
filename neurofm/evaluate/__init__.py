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
from neurofm.evaluate.network_ablation import (
    NetworkAblation,
    ablate_networks,
    networks_of,
    read_networks,
)
from neurofm.evaluate.patterns import decode_patterns, trial_patterns, weight_map
from neurofm.evaluate.probing import LinearProbe, RidgeProbe
from neurofm.evaluate.protocol import (
    FoldScores,
    compare,
    cross_validate,
    per_subject,
    summarize,
    within_subject,
)
from neurofm.evaluate.retrieval_over_time import (
    NetworkRetriever,
    RetrievalOverTime,
    RidgeRetriever,
    of_subject,
    retrieve_over_time,
)
from neurofm.evaluate.searchlight import SearchlightMap, searchlight
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
    "NetworkAblation",
    "NetworkRetriever",
    "RetrievalOverTime",
    "RidgeProbe",
    "RidgeRetriever",
    "SPDNetClassifier",
    "SearchlightMap",
    "Suite",
    "WindowFeatures",
    "WindowPipeline",
    "ablate_networks",
    "band_power_svm",
    "compare",
    "context_curve",
    "cross_validate",
    "csp_lda",
    "decode_patterns",
    "entropy_lda",
    "erp_tangent_lr",
    "filter_bank_csp",
    "mdm",
    "nested_share",
    "networks_of",
    "of_subject",
    "per_subject",
    "predict_fold",
    "read_behaviour",
    "read_networks",
    "read_suite",
    "refuse_seen_people",
    "retrieve_over_time",
    "samples_lda",
    "score_encoding",
    "score_weights",
    "searchlight",
    "snr_lda",
    "spectrum_lda",
    "spectrum_ridge",
    "summarize",
    "tangent_lr",
    "trca",
    "trial_patterns",
    "weight_map",
    "within_subject",
    "xdawn_lda",
    "xdawn_tangent_lr",
]
