"""Mental simulation: what comes next, predicted in the features of a frozen image encoder.

Each frame of a video becomes one vector by a network that never learns here. Dynamics see the last
seven vectors and give the next one; a rollout appends what was predicted and drops the oldest. The
vectors of the seven frames and those simulated after them are the features that brains and
behaviour are predicted from.

Source: anayebi/mental-sim, arXiv 2305.11772. Published: Adam 1e-4, batches of 32, 25 frames of
every sixth, 100 epochs on Physion.
Axes: batch time feature; time = frame.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.linear import Linear
from neurofm.shapes import Float


@runtime_checkable
class Dynamics(Protocol):
    """From the vectors of the last frames to the next one."""

    dim: int

    def forward(self, past: Tensor) -> Tensor:
        """batch feature, from batch time feature"""
        ...


class FrozenFrames(nn.Module):
    """One flat vector per frame by a network that does not learn.

    Args:
        encoder: Any module from images, `batch channel height width`, to one tensor per image.
        n_images: Encoded at once.
    """

    def __init__(self, encoder: nn.Module, *, n_images: int = 64) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.n_images = n_images

    def train(self, mode: bool = True) -> FrozenFrames:
        """Dropout and running statistics stay as in evaluation."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def forward(
        self, video: Float[Tensor, "batch time channel height width"]
    ) -> Float[Tensor, "batch time feature"]:
        """Vectors of all frames."""
        frames = video.flatten(0, 1).split(self.n_images)
        vectors = torch.cat([self.encoder(part).flatten(1) for part in frames])
        return vectors.unflatten(0, video.shape[:2])


@configured
class LSTMDynamics(nn.Module):
    """One LSTM layer; the next vector is a linear map of its last state.

    Args:
        dim: Of a vector.
        hidden: Units.
    """

    def __init__(self, dim: int, *, hidden: int = 1024) -> None:
        super().__init__()
        self.dim = dim
        self.lstm = nn.LSTM(dim, hidden, batch_first=True)
        self.out = Linear(hidden, dim)

    def forward(self, past: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch feature"]:
        """The next vector."""
        return self.out(self.lstm(past)[1][0][-1])


@configured
class CTRNNDynamics(nn.Module):
    """A continuous-time recurrent network, stepped by Euler's method.

    `a += dt / tau (-a + W_hh h + W_x x + b)`, `h = max(0, tanh(a))`, all zero at first.

    Args:
        dim: Of a vector.
        hidden: Units.
        dt: Step, in the unit of `tau`.
        tau: Time constant, in steps if `dt` is 1.
    """

    def __init__(
        self, dim: int, *, hidden: int = 1024, dt: float | int = 1.0, tau: float | int = 10.0
    ) -> None:
        super().__init__()
        if not 0 < dt <= tau:
            raise ValueError(f"CTRNNDynamics: dt {dt} and tau {tau}, expected 0 < dt <= tau.")
        self.dim, self.rate = dim, dt / tau
        self.input = Linear(dim, hidden)
        self.recurrent = Linear(hidden, hidden, bias=False)
        self.output = Linear(hidden, hidden)
        self.out = Linear(hidden, dim)

    def states(self, past: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch time unit"]:
        """Rates of all units at each step."""
        driven = self.input(past)
        a = torch.zeros_like(driven[:, 0])
        h, states = a, []
        for x in driven.unbind(1):
            a = a + self.rate * (-a + self.recurrent(h) + x)
            h = F.relu(a.tanh())
            states.append(h)
        return torch.stack(states, 1)

    def forward(self, past: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch feature"]:
        """The next vector."""
        return self.out(self.output(self.states(past)[:, -1]))


@configured
class CopyDynamics(nn.Module):
    """The control: nothing changes. The last vector comes again."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, past: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch feature"]:
        """The last vector."""
        return past[:, -1]


@configured
class MLPDynamics(nn.Module):
    """The control without time: a perceptron of all past vectors side by side.

    Args:
        dim: Of a vector.
        n_past: Vectors it is given, no more and no less.
        hidden: Units of its one hidden layer.
    """

    def __init__(self, dim: int, *, n_past: int = 7, hidden: int = 1024) -> None:
        super().__init__()
        self.dim, self.n_past = dim, n_past
        self.inner = Linear(dim * n_past, hidden)
        self.out = Linear(hidden, dim)

    def forward(self, past: Float[Tensor, "batch time feature"]) -> Float[Tensor, "batch feature"]:
        """The next vector."""
        if past.shape[1] != self.n_past:
            raise ValueError(f"MLPDynamics: {past.shape[1]} past vectors, built for {self.n_past}.")
        return self.out(F.relu(self.inner(past.flatten(1))))


@configured
class LatentSimulator(nn.Module):
    """Dynamics with a window of past vectors: losses and rollouts.

    Args:
        dynamics: From past vectors to the next.
        n_past: Vectors it is given.
    """

    def __init__(self, dynamics: Dynamics, *, n_past: int = 7) -> None:
        super().__init__()
        if n_past < 1:
            raise ValueError(f"LatentSimulator: n_past is {n_past}, expected at least 1.")
        self.dynamics, self.n_past = dynamics, n_past

    def one_step(
        self, latents: Float[Tensor, "batch time feature"]
    ) -> Float[Tensor, "batch step feature"]:
        """The vector after each stretch of `n_past` observed ones, those behind the first stretch.

        Raises:
            ValueError: Not more vectors than `n_past`, or of another size.
        """
        self._check(latents, more=1)
        windows = latents[:, :-1].unfold(1, self.n_past, 1).transpose(2, 3)
        found = self.dynamics(windows.flatten(0, 1))  # type: ignore[operator]
        return found.unflatten(0, windows.shape[:2])

    def loss(self, latents: Float[Tensor, "batch time feature"]) -> Float[Tensor, ""]:
        """Squared error of every one-step prediction: what is trained."""
        return F.mse_loss(self.one_step(latents), latents[:, self.n_past :])

    def roll_out(
        self, latents: Float[Tensor, "batch time feature"], steps: int
    ) -> Float[Tensor, "batch step feature"]:
        """Vectors simulated after the first `n_past` observed ones, without those that follow."""
        self._check(latents, more=0)
        past, made = latents[:, : self.n_past], []
        for _ in range(steps):
            following = self.dynamics(past).unsqueeze(1)  # type: ignore[operator]
            past = torch.cat([past[:, 1:], following], 1)
            made.append(following)
        return torch.cat(made, 1) if made else latents[:, :0]

    @torch.no_grad()
    def features(
        self, latents: Float[Tensor, "batch time feature"], steps: int
    ) -> Float[Tensor, "batch frame feature"]:
        """The observed vectors, then the simulated ones: what brain and behaviour are read from."""
        return torch.cat([latents[:, : self.n_past], self.roll_out(latents, steps)], 1)

    def _check(self, latents: Tensor, *, more: int) -> None:
        dim = int(self.dynamics.dim)
        if latents.shape[1] < self.n_past + more or latents.shape[2] != dim:
            raise ValueError(
                f"LatentSimulator: {latents.shape[1]} vectors of {latents.shape[2]} features, "
                f"expected at least {self.n_past + more} of {dim}."
            )
