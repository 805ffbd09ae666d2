"""Networks: from a batch to an embedding."""

from neurofm.models.brainomni import BrainOmni

__all__ = ["BrainOmni"]
