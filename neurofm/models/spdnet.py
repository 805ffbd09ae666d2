"""SPDNet on windows: covariance, a few mixtures of channels, matrix logarithm.

Imagined movement shows in how strong the rhythms of places are and how they go together: in
covariances. The matrix logarithm makes them features in which a linear readout is a classifier in
the tangent space, with learned mixtures in front of it.

Windows should be band-passed to the rhythms of interest and whitened by Euclidean alignment
(`neurofm.data.AlignRecording`), which puts the mean of every recording at the identity.

Source: Huang & Van Gool 2017 (BiMap, ReEig, LogEig; arXiv 1608.04233); covariances of windows in
front, as in TSMNet (Kobler et al. 2022, arXiv 2206.01323).
Axes: batch channel time; one token, dim = upper triangle of a symmetric matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.spd import BiMap, LogEig, ReEig, half, shrunk_covariance
from neurofm.shapes import Float


@configured
class SPDNet(nn.Module):
    """Encoder of windows of one montage, of any rate and length.

    Args:
        n_channels: Of every window.
        widths: Mixtures of channels, then mixtures of these, and so on; rows of the matrices.
        shrinkage: Share of white noise in a covariance; windows of fewer samples than channels
            need some.
        floor: Of eigenvalues, in the square of the input's unit.
        kinds: Kinds of channels it accepts.
    """

    def __init__(
        self,
        *,
        n_channels: int = 64,
        widths: Sequence[int] = (32,),
        shrinkage: float = 0.05,
        floor: float = 1e-4,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("SPDNet: widths is empty; expected at least one width.")
        if not 0 <= shrinkage < 1 or not floor > 0:
            raise ValueError(
                f"SPDNet: shrinkage {shrinkage} and floor {floor}; expected 0 or more and below 1, "
                "and above 0."
            )
        self.shrinkage = shrinkage
        self.contract = Contract(kinds=tuple(kinds), n_channels=n_channels)
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(pairwise((n_channels, *widths))):
            layers += [ReEig(floor)] * (i > 0)
            layers.append(BiMap(n_in, n_out))
        self.layers = nn.Sequential(*layers, LogEig(floor))
        self.dim = widths[-1] * (widths[-1] + 1) // 2

    def no_decay(self) -> list[nn.Parameter]:
        """The mixtures: only what they span counts, not how long they are."""
        return list(self.parameters())

    def of_covariances(
        self, matrix: Float[Tensor, "batch channel channel"]
    ) -> Float[Tensor, "batch dim"]:
        """Upper triangles of the logarithms of what the mixtures make of covariances."""
        return half(self.layers(matrix))

    def features(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch dim"]:
        """Those of the covariances of windows."""
        return self.of_covariances(shrunk_covariance(x.float(), self.shrinkage))

    def encode(self, batch: Batch) -> Embedding:
        """One token for each window; through `forward`, where cards are compared."""
        return self(batch)

    def forward(self, batch: Batch) -> Embedding:
        """One token for each window.

        Raises:
            ValueError: The channels or values are not what the model was built for, or a window has
                a single sample.
        """
        x = fixed_channels(batch, self.contract, model="SPDNet")
        if x.shape[-1] < 2:
            raise ValueError("SPDNet: a window of 1 sample has no covariance. Use longer windows.")
        features = self.features(x)
        mask = torch.ones(len(features), 1, dtype=torch.bool, device=features.device)
        return Embedding(features.unsqueeze(1), mask, summary=features)
