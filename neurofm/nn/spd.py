"""Layers for covariance matrices, which are symmetric and positive definite (SPD).

The matrix logarithm takes them to a flat space in which means and linear maps make sense: the
tangent space at the identity, where Euclidean alignment puts the mean of a recording.

Source: Huang & Van Gool 2017 (SPDNet: BiMap, ReEig, LogEig).
Axes: ... row column, of a symmetric matrix.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.shapes import Float


def shrunk_covariance(
    x: Float[Tensor, "... channel time"], shrinkage: float
) -> Float[Tensor, "... channel channel"]:
    """Covariance over time, a share of it replaced by that of as much white noise.

    Args:
        shrinkage: Between 0 and 1.
    """
    x = x - x.mean(-1, keepdim=True)
    found = x @ x.transpose(-1, -2) / (x.shape[-1] - 1)
    n = found.shape[-1]
    power = torch.einsum("...cc->...", found)[..., None, None] / n
    return (1 - shrinkage) * found + shrinkage * power * torch.eye(n, device=x.device)


class BiMap(nn.Module):
    """Covariance of a few orthonormal mixtures of channels.

    Args:
        n_in: Rows of the matrices.
        n_out: Mixtures, at most as many.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        if not 0 < n_out <= n_in:
            raise ValueError(f"BiMap: {n_out} mixtures of {n_in} rows; expected 1 to {n_in}.")
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(n_in, n_out)).Q)

    def mixtures(self) -> Float[Tensor, "in out"]:
        """Orthonormal columns: the nearest that Gram and Schmidt find to the weights."""
        return torch.linalg.qr(self.weight).Q

    def forward(self, matrix: Float[Tensor, "... in in"]) -> Float[Tensor, "... out out"]:
        """Smaller matrices, still positive definite."""
        mixtures = self.mixtures()
        return mixtures.T @ matrix @ mixtures


class ReEig(nn.Module):
    """Eigenvalues below a floor are raised to it: the rectifier between two `BiMap`.

    Args:
        floor: In the square of the input's unit.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, matrix: Float[Tensor, "... row row"]) -> Float[Tensor, "... row row"]:
        """Matrices whose smallest eigenvalue is the floor or more."""
        return _of_eigenvalues(matrix, self.floor, logarithm=False)


class LogEig(nn.Module):
    """Matrix logarithm.

    Args:
        floor: Of eigenvalues, in the square of the input's unit.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, matrix: Float[Tensor, "... row row"]) -> Float[Tensor, "... row row"]:
        """Symmetric matrices."""
        return _of_eigenvalues(matrix, self.floor, logarithm=True)


def half(matrix: Float[Tensor, "... row row"]) -> Float[Tensor, "... feature"]:
    """Upper triangle of symmetric matrices as features whose distances are those of the matrices.

    Off-diagonal entries, which stand for two, are multiplied by the root of 2.
    """
    n = matrix.shape[-1]
    place = torch.triu_indices(n, n, device=matrix.device)
    weight = torch.where(place[0] == place[1], 1.0, 2.0**0.5)
    return matrix[..., place[0], place[1]] * weight


def _of_eigenvalues(matrix: Tensor, floor: float, *, logarithm: bool) -> Tensor:
    if torch.is_grad_enabled() and matrix.requires_grad:
        return cast(Tensor, _OfEigenvalues.apply(matrix, floor, logarithm))
    values, vectors = torch.linalg.eigh(matrix)
    return _with_eigenvalues(vectors, _function(values, floor, logarithm))


def _function(values: Tensor, floor: float, logarithm: bool) -> Tensor:
    values = values.clamp(min=floor)
    return values.log() if logarithm else values


def _with_eigenvalues(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(-2)) @ vectors.transpose(-1, -2)


class _OfEigenvalues(torch.autograd.Function):
    """A function of the eigenvalues, with a gradient that equal ones do not make infinite.

    PyTorch's gradient of eigenvectors divides by differences of eigenvalues. That of a function of
    the matrix only has difference quotients (Daleckii & Krein), whose limit is the derivative.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, floor: float, logarithm: bool) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        changed = _function(values, floor, logarithm)
        ctx.save_for_backward(values, vectors, changed)
        ctx.floor, ctx.logarithm = floor, logarithm
        return _with_eigenvalues(vectors, changed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, vectors, changed = ctx.saved_tensors
        above = (values > ctx.floor).to(values.dtype)
        slope = above / values.clamp(min=ctx.floor) if ctx.logarithm else above
        difference = values.unsqueeze(-1) - values.unsqueeze(-2)
        size = values.abs().unsqueeze(-1) + values.abs().unsqueeze(-2) + ctx.floor
        close = difference.abs() < 1e-4 * size
        quotient = torch.where(
            close,
            (slope.unsqueeze(-1) + slope.unsqueeze(-2)) / 2,
            (changed.unsqueeze(-1) - changed.unsqueeze(-2)) / difference.masked_fill(close, 1.0),
        )
        across = vectors.transpose(-1, -2)
        grad = (grads[0] + grads[0].transpose(-1, -2)) / 2
        return vectors @ (quotient * (across @ grad @ vectors)) @ across, None, None
