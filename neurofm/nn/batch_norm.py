"""Batch normalization over the windows of all processes.

In one process it is torch's. With several, mean and variance are those of the whole batch, on any
device: Lightning's `sync_batchnorm` does the same on GPUs only, and is needed for networks of other
libraries.
Axes: batch feature [time].
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.nn.processes import all_reduce, place


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` whose training statistics are those of all processes."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or place()[1] == 1:
            return super().forward(input)
        self._check_input_dim(input)
        x = input.float().transpose(1, -1)  # feature last
        axes = tuple(range(x.ndim - 1))
        ones = x.new_ones(x.shape[:-1]).sum()
        packed = _add(torch.cat([x.sum(axes), ones.view(1)]))
        count = packed[-1]
        mean = packed[:-1] / count
        centred = x - mean
        variance = _add(centred.square().sum(axes)) / count
        self._track(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        y = centred * (variance + self.eps).rsqrt()
        if self.affine:
            y = y * self.weight + self.bias
        return y.transpose(1, -1).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        seen = cast(Tensor, self.num_batches_tracked)
        seen.add_(1)
        share: Any = 1 / seen if self.momentum is None else self.momentum
        cast(Tensor, self.running_mean).lerp_(mean, share)
        cast(Tensor, self.running_var).lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over processes; every process's loss pulls on it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Sum."""
        total = value.clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Gradients of all processes."""
        total = grad.clone()
        all_reduce(total)
        return total


def _add(value: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(value))
