"""Activations of a network together with how much they matter to its output.

Axes: sample unit; the first axis of a layer is sample, the last or second one unit.
"""

from __future__ import annotations

import math

from torch import Tensor

from neurofm.shapes import Float


def uniform_divergence(logits: Float[Tensor, "sample output"]) -> Float[Tensor, " sample"]:
    """Divergence of softmax from the uniform distribution, nats: 0 where all is undecided."""
    return -logits.log_softmax(-1).mean(-1) - math.log(logits.shape[-1])


def output_power(outputs: Float[Tensor, "sample ..."]) -> Float[Tensor, " sample"]:
    """Squared length of the output: the objective for networks without classes."""
    return outputs.flatten(1).square().sum(1)
