"""ConvRNN: a convolutional network that is stepped through time, with feedback and skips.

A graph of nodes. In every step each node is computed once, from what its inputs gave in the step
before; only the first one sees the input of the same step. So what enters needs a step per layer
to reach the top, and feedback is an input like any other: resized to the grid of the node's first
input and concatenated.

Source: neuroagents-lab/2025-tactile-whisking (MIT), arXiv 2505.18361. The kernel of the cells' maps
is not known; 3 here.
Axes: batch time channel height width; node = layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models.recurrent_cells import cell_of
from neurofm.nn.linear import Linear
from neurofm.shapes import Float

CHANNELS = (96, 128, 256, 384, 384, 256)
FEEDBACK = ((3, 2), (4, 2), (4, 3), (5, 3), (5, 4), (6, 4), (6, 5))  # from, to; counted from 1
SKIPS = (4, 2)


class ConvNode(nn.Module):
    """Convolution of everything that comes in, a recurrent cell, a rectifier."""

    def __init__(
        self, n_in: int, n_out: int, *, same: bool, cell: str, cell_kernel: int, layer_norm: bool
    ) -> None:
        super().__init__()
        self.n_out, self.same = n_out, same
        self.conv = nn.Conv2d(n_in, n_out, 2)
        self.cell: Any = cell_of(cell, n_out, kernel=cell_kernel, layer_norm=layer_norm)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the maps it gives."""
        return (height, width) if self.same else (height - 1, width - 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Output and next state."""
        y, following = self.cell(self.conv(F.pad(x, (0, 1, 0, 1)) if self.same else x), state)
        return F.relu(y), following


@configured
class ConvRNNEncoder(nn.Module):
    """From clips of maps to a vector per step. Defaults: the published size.

    Args:
        in_shape: Channels (force and torque components of a whisker), height and width of a map
            (the array of whiskers).
        channels: Of each convolutional node.
        hidden: Units of the first of two linear nodes.
        dim: Of the vector.
        cell: Of all convolutional nodes: "time_decay", "gru", "lstm", "ugrnn" or
            "intersection".
        layer_norm: In the cells.
        feedback: Pairs of nodes, from and to, counted from 1.
        skips: Nodes that the linear node sees besides the last one.
        cell_kernel: Of the cells' maps.
        return_all: A vector for every step; else that of the last one alone.
    """

    def __init__(
        self,
        in_shape: Sequence[int] = (6, 5, 7),
        *,
        channels: Sequence[int] = CHANNELS,
        hidden: int = 1024,
        dim: int = 512,
        cell: str = "time_decay",
        layer_norm: bool = False,
        feedback: Sequence[Sequence[int]] = FEEDBACK,
        skips: Sequence[int] = SKIPS,
        cell_kernel: int = 3,
        return_all: bool = True,
    ) -> None:
        super().__init__()
        n = len(channels)
        wrong = [pair for pair in feedback if len(pair) != 2 or not 1 <= pair[1] < pair[0] <= n]
        if wrong or not all(1 <= node < n for node in skips):
            raise ValueError(
                f"ConvRNNEncoder: feedback {wrong or list(feedback)} or skips {list(skips)} that "
                f"do not fit {n} nodes; expected pairs of a later and an earlier node, counted "
                "from 1, and nodes before the last."
            )
        if min(in_shape[1:]) < 2:
            raise ValueError(f"ConvRNNEncoder: maps of {in_shape[1:]}, expected at least 2 x 2.")
        self.in_shape, self.dim, self.return_all = tuple(in_shape), dim, return_all
        # Inputs of each node, the one whose grid is used first; 0 is the input of the network.
        self.inputs = [[i, *(a for a, b in feedback if b == i + 1)] for i in range(n)]
        widths = [in_shape[0], *channels]
        options = {"cell": cell, "cell_kernel": cell_kernel, "layer_norm": layer_norm}
        self.nodes = nn.ModuleList(
            ConvNode(sum(widths[k] for k in inputs), channels[i], same=i > 0, **options)  # type: ignore[arg-type]
            for i, inputs in enumerate(self.inputs)
        )
        self.skips = list(skips)
        height, width = in_shape[1] - 1, in_shape[2] - 1
        read = sum(widths[k] for k in (n, *self.skips)) * height * width
        self.fc7, self.fc8 = Linear(read, hidden), Linear(hidden, dim)

    def start(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Outputs and states of the nodes, and the output of the linear node, all zero."""
        size, outputs, states = tuple(self.in_shape[1:]), [], []
        for node in self.nodes:
            assert isinstance(node, ConvNode)
            size = node.size(*size)
            shape = (len(x), node.n_out, *size)
            outputs.append(x.new_zeros(shape))
            states.append(x.new_zeros((node.cell.n_states, *shape)))
        return outputs, states, x.new_zeros(len(x), self.fc7.out_features)

    def forward(
        self, x: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch step dim"]:
        """A vector for every step, or for the last.

        Raises:
            ValueError: Maps of another shape.
        """
        if tuple(x.shape[2:]) != self.in_shape or not x.shape[1]:
            raise ValueError(
                f"ConvRNNEncoder: {x.shape[1]} maps of {tuple(x.shape[2:])}, expected one or more "
                f"of {self.in_shape} (channel, height, width)."
            )
        outputs, states, seventh = self.start(x)
        vectors = []
        for now in x.unbind(1):
            # All from the outputs of the step before, so none may be replaced until all are made.
            vectors.append(self.fc8(seventh))
            top = [outputs[-1], *(outputs[k - 1] for k in self.skips)]
            seventh = F.relu(self.fc7(_side_by_side(top).flatten(1)))
            seen = [now, *outputs]
            made = [
                node(_side_by_side([seen[k] for k in inputs]), state)
                for node, inputs, state in zip(self.nodes, self.inputs, states, strict=True)
            ]
            outputs, states = ([pair[i] for pair in made] for i in (0, 1))
        kept = vectors if self.return_all else vectors[-1:]
        return torch.stack(kept, 1)


def _side_by_side(maps: Sequence[Tensor]) -> Tensor:
    """Concatenated on the grid of the first."""
    size = maps[0].shape[-2:]
    resized = (
        m if m.shape[-2:] == size else F.interpolate(m, size=size, mode="bilinear") for m in maps
    )
    return torch.cat(list(resized), 1)
