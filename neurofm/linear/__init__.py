"""Linear maps from stimuli to brains and back."""

from neurofm.linear.banded import BandedRidge, KernelRidge
from neurofm.linear.cross_validation import (
    CrossValidated,
    Significance,
    cross_validated,
    refuse_copies,
    significance,
)
from neurofm.linear.folds import make_folds
from neurofm.linear.in_context import InContextRidge, in_context_ridge
from neurofm.linear.leave_one_out import LeaveOneOutRidge
from neurofm.linear.over_time import DecodedOverTime, decode_over_time
from neurofm.linear.partition import VariancePartition, partition_scores, variance_partition
from neurofm.linear.ridge import VoxelwiseRidge
from neurofm.linear.stimulus_encoding import MLPHead, StimulusEncoding, encode_stimuli
from neurofm.linear.tokenwise import TokenwiseRidge

__all__ = [
    "BandedRidge",
    "CrossValidated",
    "DecodedOverTime",
    "InContextRidge",
    "KernelRidge",
    "LeaveOneOutRidge",
    "MLPHead",
    "Significance",
    "StimulusEncoding",
    "TokenwiseRidge",
    "VariancePartition",
    "VoxelwiseRidge",
    "cross_validated",
    "decode_over_time",
    "encode_stimuli",
    "in_context_ridge",
    "make_folds",
    "partition_scores",
    "refuse_copies",
    "significance",
    "variance_partition",
]
