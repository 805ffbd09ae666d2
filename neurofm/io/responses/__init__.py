"""Corpora of responses to stimuli, a value per trial and channel."""

from neurofm.io.responses.bold5000 import BOLD5000Reader
from neurofm.io.responses.nsd import NSDReader
from neurofm.io.responses.things import ThingsFMRIReader, ThingsMEGReader
from neurofm.io.responses.trials import ResponseReader

__all__ = [
    "BOLD5000Reader",
    "NSDReader",
    "ResponseReader",
    "ThingsFMRIReader",
    "ThingsMEGReader",
]
