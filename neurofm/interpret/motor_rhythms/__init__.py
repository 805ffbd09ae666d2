"""Does a network that tells hands apart use the mu and beta rhythms opposite to the hand?

When a hand is moved or imagined, mu and beta weaken over the hemisphere opposite to it. A network
that uses this takes a rhythm over the right hemisphere as a sign of the right hand, since the left
hand would have weakened it, and likewise on the left. Different methods are brought to the same
table: for each place and rhythm, how much what is there speaks for the hand on its own side. The
question is then asked of one cell, motor x mu/beta, and the strongest other cell is its control.

Source: Pfurtscheller & Lopes da Silva 1999 (desynchronisation opposite to the hand).
"""

from neurofm.interpret.motor_rhythms.methods import (
    attributed_rhythms,
    exchanged_rhythms,
    generated_rhythms,
    latent_rhythms,
    lesioned_rhythms,
)
from neurofm.interpret.motor_rhythms.use import (
    ASKED,
    CHANNELS,
    PLACES,
    RHYTHMS,
    Finding,
    RhythmUse,
    agreement,
    plot_findings,
    sides,
)

__all__ = [
    "ASKED",
    "CHANNELS",
    "PLACES",
    "RHYTHMS",
    "Finding",
    "RhythmUse",
    "agreement",
    "attributed_rhythms",
    "exchanged_rhythms",
    "generated_rhythms",
    "latent_rhythms",
    "lesioned_rhythms",
    "plot_findings",
    "sides",
]
