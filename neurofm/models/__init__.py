"""Networks: from a batch to an embedding."""

from neurofm.models.braindecode import BraindecodeModel
from neurofm.models.brainomni import BrainOmni

__all__ = ["BraindecodeModel", "BrainOmni"]
