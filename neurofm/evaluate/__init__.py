"""Protocols and classical baselines."""

from neurofm.evaluate.baselines import BraindecodeClassifier, csp_lda, tangent_lr
from neurofm.evaluate.protocol import (
    FoldScores,
    compare,
    cross_validate,
    per_subject,
    summarize,
    within_subject,
)

__all__ = [
    "BraindecodeClassifier",
    "FoldScores",
    "compare",
    "cross_validate",
    "csp_lda",
    "per_subject",
    "summarize",
    "tangent_lr",
    "within_subject",
]
