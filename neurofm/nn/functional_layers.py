"""Layers for smooth curves: weights are functions of time, expanded in a few basis functions.

The number of parameters does not depend on how finely time is sampled. A convolution is a sum over
its kernel, not a mean: more samples make a larger output.

Source: Heinrichs, Heim & Weber 2023 (ICML, arXiv 2301.05869); FlorianHeinrichs/
functional_neural_networks, whose layers have no bias.
Axes: batch channel time; function = basis function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.shapes import Float

Basis = Literal["legendre", "fourier"]
Activation = Literal["linear", "elu", "relu", "selu", "gelu", "tanh", "sigmoid", "softmax"]
_START = 0.05  # standard deviation of fresh coefficients
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "elu": F.elu,
    "relu": F.relu,
    "selu": F.selu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softmax": lambda x: x.softmax(1),  # over channels
}


def sample_basis(basis: Basis, resolution: int, n_functions: int) -> Float[Tensor, "time function"]:
    """Basis functions at equidistant moments, both ends included.

    Args:
        basis: "legendre", polynomials on -1 to 1 that are not normalized; "fourier", on 0 to 1: a
            constant, then pairs of sine and cosine of 1, 2, ... periods with variance 1.
        resolution: Moments.
        n_functions: Degree of the polynomials plus one, or sines and cosines plus one.
    """
    if basis not in ("legendre", "fourier") or resolution < 1 or n_functions < 1:
        raise ValueError(
            f"sample_basis: basis {basis!r}, resolution {resolution}, n_functions {n_functions}; "
            "expected 'legendre' or 'fourier', and at least one moment and one function."
        )
    if basis == "legendre":
        values = np.polynomial.legendre.legvander(np.linspace(-1, 1, resolution), n_functions - 1)
        return torch.from_numpy(values).float()
    s = np.linspace(0, 1, resolution)
    columns = [np.ones(resolution)]
    for i in range(1, n_functions):
        turn = np.sin if i % 2 else np.cos
        columns.append(math.sqrt(2) * turn(2 * math.pi * ((i + 1) // 2) * s))
    return torch.from_numpy(np.stack(columns, 1)).float()


class _Functional(nn.Module):
    """Coefficients of weight functions, and what both layers do with their output."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_functions: int,
        basis: Basis,
        pooling: bool,
        activation: Activation,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"{type(self).__name__}: activation {activation!r} is not one of "
                f"{', '.join(_ACTIVATIONS)}."
            )
        self.n_in, self.n_out = n_in, n_out
        self.n_functions, self.basis = n_functions, basis
        self.pooling, self.activation = pooling, activation
        self.coefficients = nn.Parameter(_START * torch.randn(n_functions, n_in, n_out))
        self._sampled: dict[int, Tensor] = {}

    def sampled(self, resolution: int) -> Float[Tensor, "time function"]:
        """The basis at so many moments; kept for the next call."""
        if resolution not in self._sampled:
            self._sampled = {resolution: sample_basis(self.basis, resolution, self.n_functions)}
        return self._sampled[resolution].to(self.coefficients)

    def sampled_weight(self, resolution: int) -> Float[Tensor, "time n_in n_out"]:
        """The weight functions at so many moments."""
        return torch.einsum("tf,fio->tio", self.sampled(resolution), self.coefficients)

    def linear(self, x: Float[Tensor, "batch n_in time"]) -> Tensor:
        """batch n_out time, or, pooled, batch n_out: before the activation."""
        y = self.mapped(x)
        return y.mean(-1) if self.pooling else y

    def mapped(self, x: Float[Tensor, "batch n_in time"]) -> Float[Tensor, "batch n_out later"]:
        """Curves of the output channels."""
        raise TypeError(f"{type(self).__name__} must define mapped(x).")

    def forward(self, x: Float[Tensor, "batch n_in time"]) -> Tensor:
        """batch n_out time, or, pooled, batch n_out."""
        if x.shape[1] != self.n_in:
            raise ValueError(
                f"{type(self).__name__}: {x.shape[1]} channels of input, built for {self.n_in}."
            )
        return _ACTIVATIONS[self.activation](self.linear(x))


@configured
class FunctionalConv(_Functional):
    """Cross-correlation along time with a smooth kernel.

    Args:
        n_in: Channels.
        n_out: Filters.
        n_functions: Of the basis; few make a smooth kernel.
        resolution: Samples of the kernel.
        padding: "valid" shortens by `resolution - 1`; "same" adds zeros, where they do not divide
            evenly one more at the end.
        pooling: Mean over time, before the activation.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_functions: int,
        resolution: int,
        basis: Basis = "legendre",
        padding: Literal["valid", "same"] = "valid",
        pooling: bool = False,
        activation: Activation = "elu",
    ) -> None:
        super().__init__(
            n_in,
            n_out,
            n_functions=n_functions,
            basis=basis,
            pooling=pooling,
            activation=activation,
        )
        if padding not in ("valid", "same"):
            raise ValueError(f"FunctionalConv: padding {padding!r} is not 'valid' or 'same'.")
        self.resolution, self.padding = resolution, padding

    @property
    def lost(self) -> int:
        """Samples by which the output is shorter."""
        return self.resolution - 1 if self.padding == "valid" else 0

    def mapped(self, x: Float[Tensor, "batch n_in time"]) -> Float[Tensor, "batch n_out later"]:
        """Curves of the filters."""
        if self.padding == "same":
            left = (self.resolution - 1) // 2
            x = F.pad(x, (left, self.resolution - 1 - left))
        if x.shape[-1] < self.resolution:
            raise ValueError(
                f"FunctionalConv: {x.shape[-1]} samples are fewer than the {self.resolution} of "
                "the kernel. Use longer windows."
            )
        return F.conv1d(x, self.sampled_weight(self.resolution).permute(2, 1, 0))


@configured
class FunctionalDense(_Functional):
    """At every moment a linear map of channels, which changes smoothly over the window.

    Pooled, it is the integral of curves times weight functions. The weights are sampled at as many
    moments as there come, so that the same coefficients serve any sampling of the window.

    Args:
        n_in: Channels.
        n_out: Neurons.
        n_functions: Of the basis.
        resolution: Samples it insists on; None takes any number.
        pooling: Mean over time, before the activation.
    """

    lost = 0

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_functions: int,
        basis: Basis = "fourier",
        resolution: int | None = None,
        pooling: bool = False,
        activation: Activation = "elu",
    ) -> None:
        super().__init__(
            n_in,
            n_out,
            n_functions=n_functions,
            basis=basis,
            pooling=pooling,
            activation=activation,
        )
        self.resolution = resolution

    def mapped(self, x: Float[Tensor, "batch n_in time"]) -> Float[Tensor, "batch n_out later"]:
        """Curves of the neurons; pooled, their mean as the one moment."""
        n = x.shape[-1]
        if self.resolution not in (None, n):
            raise ValueError(
                f"FunctionalDense: {n} samples of input, built for {self.resolution}. Leave "
                "`resolution` out to take any number."
            )
        if not self.pooling:
            return torch.einsum("bit,tio->bot", x, self.sampled_weight(n))
        # The mean follows and is linear: first what each basis function sees, then coefficients.
        seen = torch.einsum("bit,tf->bif", x, self.sampled(n)) / n
        return torch.einsum("bif,fio->bo", seen, self.coefficients).unsqueeze(-1)
