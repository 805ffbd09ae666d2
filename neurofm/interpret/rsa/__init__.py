"""Representational similarity: RDMs, their comparison, and how sure it is."""

from neurofm.interpret.rsa.comparators import compare, compare_rdms, same_conditions
from neurofm.interpret.rsa.crossnobis import crossnobis
from neurofm.interpret.rsa.measures import condition_means, rdm
from neurofm.interpret.rsa.models import class_rdm, within

__all__ = [
    "class_rdm",
    "compare",
    "compare_rdms",
    "condition_means",
    "crossnobis",
    "rdm",
    "same_conditions",
    "within",
]
