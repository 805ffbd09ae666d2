"""Linear encoding models of many voxels over unit-norm features of stimuli.

Axes: voxel = voxel, vertex or any other channel; feature of a stimulus; weight = one per feature,
then the bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurofm.shapes import Float

_UNIT = 0.01  # deviation of a norm from 1 that half precision may leave


def check_unit_norm(features: Float[Tensor, "*batch feature"], *, what: str) -> None:
    """Stop unless every row has length 1, which the weights of the network presume.

    Raises:
        ValueError: With the lengths found.
    """
    norms = torch.linalg.vector_norm(features.float(), dim=-1)
    if norms.numel() and not bool(((norms - 1).abs() <= _UNIT).all()):
        raise ValueError(
            f"{what}: features have lengths of {float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}, expected 1. Divide each by its length, in training as "
            "later: torch.nn.functional.normalize(features, dim=-1)."
        )


@dataclass(frozen=True)
class VoxelWeights:
    """Linear encoding models of voxels: a `ResponseModel` without a network.

    Args:
        weights: Of unit-norm features, in the unit of the responses.
        bias: Response where all features are 0.
    """

    weights: Float[Tensor, "voxel feature"]
    bias: Float[Tensor, " voxel"]

    @property
    def n_channels(self) -> int:
        """Voxels."""
        return len(self.weights)

    def respond(
        self, stimulus: Float[Tensor, "stimulus feature"], *, subject: Tensor | None = None
    ) -> Float[Tensor, "stimulus voxel"]:
        """Predicted responses to stimuli, from their unit-norm features.

        Raises:
            ValueError: Features not of unit norm, or of another number.
        """
        self._agree(stimulus, what="VoxelWeights.respond")
        return stimulus @ self.weights.T + self.bias

    def selectivity(
        self, direction: Float[Tensor, "query feature"]
    ) -> Float[Tensor, "query voxel"]:
        """How far each voxel follows a direction among the features, without its bias.

        With features of CLIP a direction is the unit-norm embedding of a phrase: which voxels
        answer to "a photo of food".

        Raises:
            ValueError: Directions not of unit norm, or of another number of features.
        """
        self._agree(direction, what="VoxelWeights.selectivity")
        return direction @ self.weights.T

    def _agree(self, features: Tensor, *, what: str) -> None:
        if features.shape[-1] != self.weights.shape[1]:
            raise ValueError(
                f"{what}: {features.shape[-1]} features, the weights are of "
                f"{self.weights.shape[1]}. Use the embedding that they were made for."
            )
        check_unit_norm(features, what=what)


def predict_each(
    weights: Float[Tensor, "batch weight"], query: Float[Tensor, "batch item feature"]
) -> Float[Tensor, "batch item"]:
    """Response of each voxel to stimuli of its own; `VoxelWeights.respond` is for shared ones."""
    return (query @ weights[:, :-1, None]).squeeze(-1) + weights[:, -1:]
