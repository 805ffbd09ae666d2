"""Recurrent cells over maps: every place of a map has a state, and sees its neighbours'.

A cell takes what drives it and its state, and gives an output and the next state.

Source: Cho et al. 2014 (GRU); Hochreiter & Schmidhuber 1997 (LSTM); Collins et al. 2017 (update
gate and intersection cells); Nayebi et al. 2018 (cells in convolutional networks).
Axes: batch channel height width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.shapes import Float

Maps = Float[Tensor, "batch channel height width"]


class _Gated(nn.Module):
    """Maps of the drive and the state, normalised together if asked for."""

    def __init__(self, channels: int, *, n_maps: int, kernel: int, layer_norm: bool) -> None:
        super().__init__()
        self.n_maps, self.n_states = n_maps, 1
        self.map = nn.Conv2d(2 * channels, n_maps * channels, kernel, padding="same")
        # Over channels and places of each map by itself.
        self.norm = nn.GroupNorm(n_maps, n_maps * channels) if layer_norm else nn.Identity()

    def maps(self, drive: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """One tensor for each gate or candidate."""
        return self.norm(self.map(torch.cat([drive, state], 1))).chunk(self.n_maps, 1)


class TimeDecayCell(nn.Module):
    """A leaky sum: the state decays by a learned share, and the drive is added."""

    n_states = 1

    def __init__(self, channels: int, *, layer_norm: bool = False) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.zeros(channels, 1, 1))  # through a sigmoid: a half
        self.norm = nn.GroupNorm(1, channels) if layer_norm else nn.Identity()

    def forward(self, drive: Maps, state: Float[Tensor, "1 batch channel height width"]) -> Any:
        """Output and next state."""
        following = self.decay.sigmoid() * state[0] + self.norm(drive)
        return following, following.unsqueeze(0)


class GRUCell(_Gated):
    """Update and reset gates; the candidate sees the state through the reset gate."""

    def __init__(self, channels: int, *, kernel: int = 3, layer_norm: bool = False) -> None:
        super().__init__(channels, n_maps=2, kernel=kernel, layer_norm=layer_norm)
        self.candidate = nn.Conv2d(2 * channels, channels, kernel, padding="same")
        self.candidate_norm = nn.GroupNorm(1, channels) if layer_norm else nn.Identity()

    def forward(self, drive: Maps, state: Float[Tensor, "1 batch channel height width"]) -> Any:
        """Output and next state."""
        h = state[0]
        update, reset = (gate.sigmoid() for gate in self.maps(drive, h))
        new = self.candidate_norm(self.candidate(torch.cat([drive, reset * h], 1))).tanh()
        h = update * h + (1 - update) * new
        return h, h.unsqueeze(0)


class LSTMCell(_Gated):
    """Input, forget and output gates; the forget gate starts nearly open."""

    def __init__(self, channels: int, *, kernel: int = 3, layer_norm: bool = False) -> None:
        super().__init__(channels, n_maps=4, kernel=kernel, layer_norm=layer_norm)
        self.n_states = 2

    def forward(self, drive: Maps, state: Float[Tensor, "2 batch channel height width"]) -> Any:
        """Output and next state."""
        h, c = state
        into, forget, out, new = self.maps(drive, h)
        c = (forget + 1).sigmoid() * c + into.sigmoid() * new.tanh()
        h = out.sigmoid() * c.tanh()
        return h, torch.stack([h, c])


class UGRNNCell(_Gated):
    """One gate between the state and a candidate."""

    def __init__(self, channels: int, *, kernel: int = 3, layer_norm: bool = False) -> None:
        super().__init__(channels, n_maps=2, kernel=kernel, layer_norm=layer_norm)

    def forward(self, drive: Maps, state: Float[Tensor, "1 batch channel height width"]) -> Any:
        """Output and next state."""
        gate, new = self.maps(drive, state[0])
        h = gate.sigmoid() * state[0] + (1 - gate.sigmoid()) * new.tanh()
        return h, h.unsqueeze(0)


class IntersectionCell(_Gated):
    """Two gates: one lets the drive pass by in depth, the other the state in time."""

    def __init__(self, channels: int, *, kernel: int = 3, layer_norm: bool = False) -> None:
        super().__init__(channels, n_maps=4, kernel=kernel, layer_norm=layer_norm)

    def forward(self, drive: Maps, state: Float[Tensor, "1 batch channel height width"]) -> Any:
        """Output and next state."""
        deep, late, depth, time = self.maps(drive, state[0])
        depth, time = depth.sigmoid(), time.sigmoid()
        y = depth * drive + (1 - depth) * F.relu(deep)
        h = time * state[0] + (1 - time) * late.tanh()
        return y, h.unsqueeze(0)


_GATED = {"gru": GRUCell, "lstm": LSTMCell, "ugrnn": UGRNNCell, "intersection": IntersectionCell}


def cell_of(name: str, channels: int, *, kernel: int, layer_norm: bool) -> Any:
    """A cell by name.

    Raises:
        ValueError: No such cell.
    """
    if name == "time_decay":
        return TimeDecayCell(channels, layer_norm=layer_norm)
    if name not in _GATED:
        raise ValueError(f"cell {name!r} is not one of {', '.join(('time_decay', *_GATED))}.")
    return _GATED[name](channels, kernel=kernel, layer_norm=layer_norm)
