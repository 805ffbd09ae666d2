"""Linear maps from stimuli to brains and back."""

from neurofm.linear.folds import make_folds
from neurofm.linear.in_context import InContextRidge, in_context_ridge
from neurofm.linear.leave_one_out import LeaveOneOutRidge
from neurofm.linear.ridge import VoxelwiseRidge
from neurofm.linear.tokenwise import TokenwiseRidge

__all__ = [
    "InContextRidge",
    "LeaveOneOutRidge",
    "TokenwiseRidge",
    "VoxelwiseRidge",
    "in_context_ridge",
    "make_folds",
]
