"""FLEEG: one small convolutional network for each dataset, whose last layers all datasets share.

Datasets differ in channels, rate and length of trials. The first layers of a client belong to its
dataset and bring its windows to a common shape; the last convolutions may then be averaged over
clients (`neurofm.tasks.Federated`). Batch norms are never shared.

The norm of every filter is limited. Limits hold for the weights as they are used; in training the
weights themselves are cut to them, in evaluation they are left as they are.

The first two convolutions have nothing between them, so their kernels are multiplied beforehand.

Source: RuiLiu-cc/FLEEG, Neural Networks 172:106100 (arXiv 2308.11636).
Axes: batch channel time; feature = filter of a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Embedding
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.models.fixed_input import fixed_channels
from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.shapes import Float


class Limit(nn.Module):
    """Filters of a layer with their norm limited.

    Args:
        maximum: Of the L2 norm of each filter, its bias not counted.
        in_evaluation: Cut the weights themselves in evaluation too, as the original does: testing
            a model then changes it.
    """

    def __init__(self, maximum: float, *, in_evaluation: bool) -> None:
        super().__init__()
        self.maximum, self.in_evaluation = maximum, in_evaluation

    def forward(self, weight: Tensor) -> Tensor:
        """The weight to compute with, of the same shape."""
        limited = torch.renorm(weight, 2, 0, self.maximum)
        if not (self.training or self.in_evaluation):
            return limited
        # Not a step of the computation: the gradient is that of the limited weight.
        weight.data.copy_(limited.detach())
        return weight


class Block(nn.Module):
    """Dropout, convolution over time, batch norm, ELU, maximum of neighbours."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, pool: int, *, dropout: float, limit: Limit
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv1d(n_in, n_out, kernel, bias=False)
        self.norm = BatchNorm1d(n_out)
        self.pool, self.limit = pool, limit

    def forward(self, x: Float[Tensor, "batch feature time"]) -> Float[Tensor, "batch out less"]:
        """Fewer moments of more features."""
        x = F.conv1d(self.dropout(x), self.limit(self.conv.weight))
        return F.max_pool1d(F.elu(self.norm(x)), self.pool)


@configured
class FLEEG(nn.Module):
    """The network of one client. Defaults: the published one of BCI Competition IV 2a.

    Args:
        n_channels: In one order in all windows.
        n_times: Samples of a window.
        sfreq: Hz.
        filters: Of the four blocks.
        kernels: Samples, of the first three blocks.
        pools: Samples, of the first three blocks. With the kernels they decide how many moments
            reach the head (`n_moments`), which must be the same in all clients that share it.
        shared_kernel: Of the fourth block.
        shared_pool: Of the fourth block.
        private: How many of the five groups of convolutions, from the input on, stay with the
            client: the blocks, then the head. 0 shares all, 5 none.
        max_norm: Of a filter.
        head_max_norm: Of the weights of one class.
        limit_in_evaluation: See `Limit`.
    """

    def __init__(
        self,
        n_channels: int = 22,
        n_times: int = 1000,
        *,
        sfreq: float = 250.0,
        n_classes: int = 2,
        filters: Sequence[int] = (25, 50, 100, 200),
        kernels: Sequence[int] = (10, 10, 10),
        pools: Sequence[int] = (3, 3, 3),
        shared_kernel: int = 10,
        shared_pool: int = 3,
        private: int = 3,
        dropout: float = 0.5,
        max_norm: float = 2.0,
        head_max_norm: float = 0.5,
        limit_in_evaluation: bool = False,
    ) -> None:
        super().__init__()
        if len(filters) != 4 or len(kernels) != 3 or len(pools) != 3 or not 0 <= private <= 5:
            raise ValueError(
                f"FLEEG: filters {filters}, kernels {kernels}, pools {pools}, private {private}; "
                "expected four filters, three kernels, three pools and 0 to 5 private groups."
            )
        kernel, *later = (*kernels, shared_kernel)
        pool, *pools_later = (*pools, shared_pool)
        self.n_moments = n_times
        for length, step in zip((kernel, *later), (pool, *pools_later), strict=True):
            self.n_moments = max(self.n_moments - length + 1, 0) // step
        if self.n_moments < 1:
            raise ValueError(
                f"FLEEG: a window of {n_times} samples is used up by kernels {(kernel, *later)} "
                f"and pools {(pool, *pools_later)}. Use longer windows or smaller pools."
            )
        self.contract = Contract(
            kinds=("eeg",), n_channels=n_channels, n_times=n_times, sfreq=float(sfreq)
        )
        self.private, self.pool = private, pool
        self.dim, self.n_classes = filters[-1] * self.n_moments, n_classes
        self.limit = Limit(max_norm, in_evaluation=limit_in_evaluation)
        self.head_limit = Limit(head_max_norm, in_evaluation=limit_in_evaluation)
        self.temporal = nn.Conv2d(1, filters[0], (1, kernel))
        self.spatial = nn.Conv2d(filters[0], filters[0], (n_channels, 1), bias=False)
        self.norm = BatchNorm1d(filters[0])
        sizes = zip(filters, filters[1:], later, pools_later, strict=False)
        self.blocks = nn.Sequential(
            *(Block(*size, dropout=dropout, limit=self.limit) for size in sizes)
        )
        self.head = nn.Linear(self.dim, n_classes)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    parameter.copy_(self._limited(name, parameter))

    def _limited(self, name: str, value: Tensor) -> Tensor:
        limit = self.head_limit if name == "head.weight" else self.limit
        return torch.renorm(value, 2, 0, limit.maximum)

    # Plain tensors

    def fused(self) -> tuple[Float[Tensor, "feature channel kernel"], Float[Tensor, " feature"]]:
        """Kernel and bias of the first two convolutions in one."""
        spatial = self.limit(self.spatial.weight).squeeze(-1)  # feature temporal channel
        temporal = self.limit(self.temporal.weight).flatten(1)
        bias = spatial.sum(2) @ cast(Tensor, self.temporal.bias)
        return torch.einsum("ftc,tk->fck", spatial, temporal), bias

    def features(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch feature"]:
        """What the head reads: the moments of each filter of the last block."""
        first = F.elu(self.norm(F.conv1d(x, *self.fused())))
        return self.blocks(F.max_pool1d(first, self.pool)).flatten(1)

    def classify(self, features: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch class"]:
        """Logits; their log-softmax is the original's output."""
        return F.linear(features, self.head_limit(self.head.weight), self.head.bias)

    # Batches

    def encode(self, batch: Batch) -> Embedding:
        """One token of all features of a window; through `forward`, where cards are compared."""
        return self(batch)

    def forward(self, batch: Batch) -> Embedding:
        """One token of all features of a window.

        Raises:
            ValueError: Channels, rate, length or values are not those the client was built for.
        """
        x = fixed_channels(batch, self.contract, model="FLEEG").float()
        tokens = self.features(x).unsqueeze(1)
        return Embedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=x.device))

    def logits(self, batch: Batch) -> Float[Tensor, "batch class"]:
        """Of the client's own head."""
        return self.classify(self.encode(batch).tokens.squeeze(1))

    # What clients share

    def shared_names(self) -> list[str]:
        """Parameters that are averaged over clients."""
        groups = [["temporal.weight", "temporal.bias", "spatial.weight"]]
        groups += [[f"blocks.{i}.conv.weight"] for i in range(3)]
        groups += [["head.weight", "head.bias"]]
        return [name for group in groups[self.private :] for name in group]

    def shared(self) -> dict[str, Tensor]:
        """Copies of what the client sends; filters as they are used, inside their limits."""
        mine = dict(self.named_parameters())
        sent = {}
        for name in self.shared_names():
            value = mine[name].detach()
            sent[name] = self._limited(name, value) if value.ndim > 1 else value.clone()
        return sent

    @torch.no_grad()
    def receive(self, shared: dict[str, Tensor]) -> None:
        """Take over what the server sends.

        Raises:
            ValueError: Not the tensors that this client shares.
        """
        mine = {name: self.get_parameter(name) for name in self.shared_names()}
        shapes = [
            {name: tuple(value.shape) for name, value in tensors.items()}
            for tensors in (shared, mine)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"FLEEG: received {shapes[0]}, but the client shares {shapes[1]}.")
        for name, value in shared.items():
            mine[name].copy_(value)

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original as ours; unknown keys come back unchanged."""
        renamed = {}
        for key, value in state_dict.items():
            for old, new in _RENAMED:
                if key.startswith(old):
                    key = key.replace(old, new, 1)
                    break
            if key.startswith("blocks.") and value.ndim == 4:
                value = value.squeeze(2)
            elif key == "head.weight":
                value = value.flatten(1)
            renamed[key] = value
        return renamed


_RENAMED = (
    ("allButLastLayers.0.0.", "temporal."),
    ("allButLastLayers.0.1.", "spatial."),
    ("allButLastLayers.0.2.", "norm."),
    ("allButLastLayers.1.0.1.", "blocks.0.conv."),
    ("allButLastLayers.1.0.2.", "blocks.0.norm."),
    ("allButLastLayers.1.1.1.", "blocks.1.conv."),
    ("allButLastLayers.1.1.2.", "blocks.1.norm."),
    ("allButLastLayers.2.1.", "blocks.2.conv."),
    ("allButLastLayers.2.2.", "blocks.2.norm."),
    ("lastLayer.0.", "head."),
)


@configured
class FLEEGClients(nn.Module):
    """The networks of several datasets, one client each, that share their last layers.

    Args:
        clients: They must share the same tensors.
        names: Of their datasets, in this order.
    """

    def __init__(self, clients: list[FLEEG], *, names: list[str]) -> None:
        super().__init__()
        if not clients or len(names) != len(clients) or len(set(names)) < len(names):
            raise ValueError(
                f"FLEEGClients: {len(clients)} clients for {names}; expected one for each dataset."
            )
        sent = [{k: tuple(v.shape) for k, v in client.shared().items()} for client in clients]
        unlike = [name for name, own in zip(names, sent, strict=True) if own != sent[0]]
        if unlike:
            lengths = {n: c.n_moments for n, c in zip(names, clients, strict=True)}
            raise ValueError(
                f"FLEEGClients: {', '.join(unlike)} and {names[0]} do not share tensors of the "
                "same shapes. Their `filters`, `private` and `n_moments` must agree, and the "
                f"latter are {lengths}: choose pools and kernels accordingly."
            )
        if len({client.dim for client in clients}) > 1:
            raise ValueError(
                f"FLEEGClients: the clients have {[client.dim for client in clients]} features; "
                "they must have as many."
            )
        self.names, self.dim = tuple(names), clients[0].dim
        self.clients = nn.ModuleList(clients)

    def __getitem__(self, name: str) -> FLEEG:
        """The client of a dataset, a model by itself."""
        if name not in self.names:
            raise ValueError(f"FLEEGClients: no client for {name!r}; there are {self.names}.")
        return cast(FLEEG, self.clients[self.names.index(name)])

    def encode(self, batch: Batch) -> Embedding:
        """By the one client whose channels, rate and length of window these are.

        Raises:
            ValueError: No client has that format, or several have: use `clients[name]`.
        """
        real = int(batch.channel_mask[0].sum()) if len(batch) else 0
        found = []
        for name in self.names:
            asked = self[name].contract
            same = (real, batch.x.shape[-1]) == (asked.n_channels, asked.n_times)
            if same and abs(batch.sfreq - (asked.sfreq or 0)) < 1e-3 * batch.sfreq:
                found.append(name)
        if len(found) != 1:
            raise ValueError(
                f"FLEEGClients: {real} channels of {batch.x.shape[-1]} samples at {batch.sfreq:g} "
                f"Hz fit {found or 'no client'}, of {list(self.names)}. Name the client whose "
                "dataset it is: `clients[name].encode(batch)`."
            )
        return self[found[0]].encode(batch)
