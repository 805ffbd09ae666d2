"""Protocols, classical baselines, probes, and suites that compare many methods."""

from neurofm.evaluate.baselines import BraindecodeClassifier, csp_lda, tangent_lr
from neurofm.evaluate.erp_features import FeatureClassifier, WindowFeatures
from neurofm.evaluate.fold import predict_fold, refuse_seen_people
from neurofm.evaluate.probing import LinearProbe
from neurofm.evaluate.protocol import (
    FoldScores,
    compare,
    cross_validate,
    per_subject,
    summarize,
    within_subject,
)
from neurofm.evaluate.suite_cards import read_suite
from neurofm.evaluate.suites import Suite, nested_share

__all__ = [
    "BraindecodeClassifier",
    "FeatureClassifier",
    "FoldScores",
    "LinearProbe",
    "Suite",
    "WindowFeatures",
    "compare",
    "cross_validate",
    "csp_lda",
    "nested_share",
    "per_subject",
    "predict_fold",
    "read_suite",
    "refuse_seen_people",
    "summarize",
    "tangent_lr",
    "within_subject",
]
