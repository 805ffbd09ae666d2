"""Linear maps from stimuli to brains and back."""

from neurofm.linear.in_context import InContextRidge, in_context_ridge

__all__ = ["InContextRidge", "in_context_ridge"]
