"""FunctionalNetwork: convolutions and dense layers whose weights are smooth functions of time.

A curve per channel is standardized over the window, filtered by a few smooth kernels, and mapped to
classes by weights that vary smoothly over the window. With a constant last weight (one basis
function) the answer does not depend on when in the window something happens.

Source: Heinrichs, Heim & Weber 2023 (ICML, arXiv 2301.05869); FlorianHeinrichs/
functional_neural_networks. The paper smooths curves before it standardizes them, its code does not,
and neither does this.
Axes: batch channel time; token = moment, dim = channel of the last layer.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.functional_layers import FunctionalConv, FunctionalDense
from neurofm.shapes import Float

_EPSILON = 1e-10  # of the variance, in the square of the input's unit


@configured
class FunctionalNetwork(nn.Module):
    """Functional layers, one after the other.

    Args:
        layers: The first one takes the channels of the recording, each next one those of the one
            before. What the last one gives is the embedding.
        head: Pooled, from there to classes; `readouts.FunctionalReadout` makes one for a task.
        sfreq: Hz; kernels are in samples of it.
        standardize: Each channel of each window to mean 0 and variance 1, as published. Without it
            the network sees how strong a rhythm is beside the same one elsewhere.
    """

    def __init__(
        self,
        layers: list[FunctionalConv | FunctionalDense],
        *,
        head: FunctionalDense | None = None,
        sfreq: float = 128.0,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        everything = [*layers, *([] if head is None else [head])]
        for before, after in pairwise(everything):
            if before.n_out != after.n_in or before.pooling:
                raise ValueError(
                    f"FunctionalNetwork: a layer of {after.n_in} channels follows one that gives "
                    f"{before.n_out}{', pooled' * before.pooling}. Numbers must agree, and only "
                    "the last layer may be pooled."
                )
        if not layers or (head is not None and not head.pooling):
            raise ValueError(
                "FunctionalNetwork: expected at least one layer, and `pooling: true` of the head."
            )
        self.layers = nn.Sequential(*layers)
        self.head = head
        self.standardize = standardize
        self.dim = layers[-1].n_out
        self.lost = sum(layer.lost for layer in layers)
        self.contract = Contract(
            kinds=("eeg",),
            n_channels=layers[0].n_in,
            sfreq=float(sfreq),
            min_window_s=(self.lost + 1) / float(sfreq),
        )

    def normalized(
        self, x: Float[Tensor, "batch channel time"]
    ) -> Float[Tensor, "batch channel time"]:
        """Curves as the first layer sees them."""
        if not self.standardize:
            return x
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) / (variance + _EPSILON).sqrt()

    def curves(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch dim later"]:
        """Output of the last layer; one moment if it is pooled."""
        y = self.layers(self.normalized(x))
        return y.unsqueeze(-1) if y.ndim == 2 else y

    def encode(self, batch: Batch) -> Embedding:
        """One token for each moment; through `forward`, where cards are compared."""
        return self(batch)

    def forward(self, batch: Batch) -> Embedding:
        """One token for each moment.

        Raises:
            ValueError: Channels, rate, length or values are not those it was built for.
        """
        x = fixed_channels(batch, self.contract, model="FunctionalNetwork").float()
        tokens = self.curves(x).transpose(1, 2)
        return Embedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device))

    def logits(self, batch: Batch) -> Float[Tensor, "batch class"]:
        """Of the network's own head, before its activation.

        Raises:
            ValueError: It has none.
        """
        if self.head is None:
            raise ValueError("FunctionalNetwork: built without a head; use a readout or give one.")
        return self.head.linear(self.encode(batch).tokens.transpose(1, 2))

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original, conv0, conv1, ..., dense0, ..., as ours; the last one is the head.

        Unknown keys come back unchanged.
        """
        ending = ".scalar_weights"
        known = [key for kind in ("conv", "dense") for key in _numbered(state_dict, kind, ending)]
        new = {key: f"layers.{i}.coefficients" for i, key in enumerate(known)}
        if known and known[-1].startswith("dense"):
            new[known[-1]] = "head.coefficients"
        return {new.get(key, key): value for key, value in state_dict.items()}


def _numbered(state: dict[str, Tensor], kind: str, ending: str) -> list[str]:
    names = {key: key.removeprefix(kind).removesuffix(ending) for key in state}
    found = [
        key
        for key, number in names.items()
        if key.startswith(kind) and key.endswith(ending) and number.isdigit()
    ]
    return cast(list[str], sorted(found, key=lambda key: int(names[key])))
