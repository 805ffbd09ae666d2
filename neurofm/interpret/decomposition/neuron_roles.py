"""What neurons of an MLP do to the stream they read: write more of it, take it away, or add else.

The cosine between a neuron's input and output weights says it without any data: near 1 a neuron
strengthens the direction it answers to, near -1 it weakens it, near 0 it writes something new.

Source: Gerstner & Schütze 2025, "Understanding gated neurons from their weights".
Axes: neuron dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGE = 0.5
ENRICHMENT, ORTHOGONAL, DEPLETION = "enrichment", "orthogonal", "depletion"


@takes_either
def cosines(
    a: Float[np.ndarray, "neuron dim"], b: Float[np.ndarray, "other out"]
) -> Float[np.ndarray, " neuron"]:
    """Of rows with rows; NaN where one is zero."""
    if a.shape != b.shape:
        raise ValueError(
            f"neuron roles: weights of shapes {a.shape} and {b.shape}; both must be neuron x dim. "
            "The output weight of a Linear is dim x neuron: transpose it."
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@dataclass(frozen=True)
class NeuronRoles:
    """Cosines of the weights of every neuron of a layer.

    Args:
        in_out: Of input and output weights: which role a neuron has.
        gate_out: Of gate and output weights, of gated units.
        gate_in: Of gate and input weights, of gated units.
        spread: Standard deviation of the cosine of random directions of this length: what counts
            as zero.
    """

    in_out: Float[np.ndarray, " neuron"]
    gate_out: Float[np.ndarray, " neuron"] | None
    gate_in: Float[np.ndarray, " neuron"] | None
    spread: float

    @property
    def roles(self) -> tuple[str, ...]:
        """ "enrichment", "depletion" or "orthogonal", for every neuron."""
        names = np.where(self.in_out > EDGE, ENRICHMENT, ORTHOGONAL)
        return tuple(np.where(self.in_out < -EDGE, DEPLETION, names).tolist())

    @property
    def counts(self) -> dict[str, int]:
        """How many neurons have each role."""
        return {name: self.roles.count(name) for name in (ENRICHMENT, ORTHOGONAL, DEPLETION)}

    def plot(self) -> Figure:
        """Histogram of the cosines, with what random weights would give."""
        from neurofm.interpret.decomposition.drawings import plot_roles

        return plot_roles(self)


def neuron_roles(
    weights_in: Float[np.ndarray, "neuron dim"],
    weights_out: Float[np.ndarray, "other out"],
    *,
    gate: Float[np.ndarray, "neuron dim"] | None = None,
) -> NeuronRoles:
    """Roles of the neurons of one MLP.

    Args:
        weights_in: Rows of the layer that reads (`Linear.weight`).
        weights_out: Columns of the layer that writes (`Linear.weight.T`).
        gate: Rows of the gate of gated units.
    """
    return NeuronRoles(
        in_out=cosines(weights_in, weights_out),
        gate_out=None if gate is None else cosines(gate, weights_out),
        gate_in=None if gate is None else cosines(gate, weights_in),
        spread=float(weights_in.shape[1] ** -0.5),
    )
