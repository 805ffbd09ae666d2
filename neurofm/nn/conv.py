"""SEANet convolution stacks on time-major sequences.

Encoder: strided convolutions with residual blocks between them, an LSTM, and a last convolution;
the decoder mirrors it with transposed convolutions. All convolutions carry weight normalization
and reflect at the edges.

Sequences are `row time feature`, row = one window of one channel. In that layout a convolution is
PyTorch's channels-last two-dimensional one of height 1, for which the CPU has its fastest kernel;
ELU and padding then share one pass over memory, and without gradients a block of rows that fits
the cache goes through all layers before the next one starts.

Source: Tagliasacchi et al. 2020 (SEANet); Defossez et al. 2022 (padding and residual blocks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import cached

from neurofm.shapes import Float

# Values per block without gradients on a CPU: 64 windows of 512 samples x 32 features are 4 MB.
# Found by trial (16 windows: 25 % slower, all 448 of a recording: 30 % slower).
_BLOCK_VALUES = 64 * 512 * 32


def padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Samples to add left and right so that the output has `ceil(length / stride)` steps."""
    total = kernel - stride
    right = total // 2
    steps = math.ceil((length - kernel + total) / stride + 1)
    extra = (steps - 1) * stride + (kernel - total) - length
    return total - right, right + extra


def pad_reflect(
    x: Float[Tensor, "row time feature"], left: int, right: int, *, elu: bool = False
) -> Float[Tensor, "row padded feature"]:
    """Reflect both ends, optionally after ELU (which commutes with reflection).

    A sequence not longer than the padding is first lengthened by zeros, which are cut off again.
    """
    n = x.shape[1]
    extra = max(max(left, right) - n + 1, 0)
    if torch.is_grad_enabled() or extra:
        x = F.elu(x) if elu else x
        if extra:
            x = torch.cat([x, x.new_zeros(x.shape[0], extra, x.shape[2])], 1)
        parts = [x[:, 1 : left + 1].flip(1), x, x[:, x.shape[1] - 1 - right : -1].flip(1)]
        joined = torch.cat(parts, 1) if left or right else x
        return joined[:, : joined.shape[1] - extra]
    # Without gradients ELU runs in place in the padded buffer: one pass instead of three.
    buffer = x.new_empty(x.shape[0], left + n + right, x.shape[2])
    middle = buffer[:, left : left + n].copy_(x)
    if elu:
        F.elu_(middle)
    if left:
        buffer[:, :left] = middle[:, 1 : left + 1].flip(1)
    if right:
        buffer[:, left + n :] = middle[:, n - 1 - right : n - 1].flip(1)
    return buffer


def _as_image(x: Tensor) -> Tensor:
    """row time feature -> row feature 1 time: a view that is contiguous in channels-last order."""
    return x.movedim(-1, 1).unsqueeze(2)


def _as_sequence(x: Tensor) -> Tensor:
    """row feature 1 time -> row time feature."""
    return x.squeeze(2).movedim(1, -1).contiguous()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class Conv(nn.Module):
    """Weight-normalized convolution over time with reflected edges, optionally after ELU."""

    def __init__(
        self, dim_in: int, dim_out: int, kernel: int, *, stride: int = 1, elu: bool = False
    ) -> None:
        super().__init__()
        self.stride = stride
        self.elu = elu
        self.conv = weight_norm(nn.Conv1d(dim_in, dim_out, kernel, stride=stride))

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row step out"]:
        """A step every `stride` samples."""
        weight = self.conv.weight
        left, right = padding(x.shape[1], weight.shape[-1], self.stride)
        if left or right or self.elu:
            x = pad_reflect(x, left, right, elu=self.elu)
        y = F.conv2d(_as_image(x), _channels_last(weight), self.conv.bias, stride=(1, self.stride))
        return _as_sequence(y)


class ConvTranspose(nn.Module):
    """ELU and a weight-normalized transposed convolution, trimmed to `stride` times the length."""

    def __init__(self, dim_in: int, dim_out: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = weight_norm(nn.ConvTranspose1d(dim_in, dim_out, 2 * stride, stride=stride))

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row step out"]:
        """`stride` samples for every step."""
        y = F.conv_transpose2d(
            _as_image(F.elu(x)),
            _channels_last(self.conv.weight),
            self.conv.bias,
            stride=(1, self.stride),
        )
        right = self.stride // 2
        left = self.stride - right
        return _as_sequence(y[..., left : y.shape[-1] - right])


class ResidualBlock(nn.Module):
    """1x1 shortcut plus [ELU, convolution of width 3 to half the features, ELU, 1x1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shortcut = Conv(dim, dim, 1)
        self.narrow = Conv(dim, dim // 2, 3, elu=True)
        self.widen = Conv(dim // 2, dim, 1, elu=True)

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row time feature"]:
        """Same shape."""
        branch = self.widen(self.narrow(x))
        if torch.is_grad_enabled():
            return self.shortcut(x) + branch
        return branch.add_(self.shortcut(x))


class ResidualLSTM(nn.Module):
    """Two-layer LSTM whose input is added to its output."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers=2)

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row time feature"]:
        """Same shape; the state starts at zero."""
        return self.lstm(x.transpose(0, 1))[0].transpose(0, 1) + x


class SEANetEncoder(nn.Module):
    """Windows to a few steps of features.

    Args:
        dim: Features of a step.
        n_filters: Features after the first convolution; every stage doubles them.
        ratios: Strides, listed as the decoder uses them (last stage of the encoder first).
        kernel_size: Of the first convolution.
        last_kernel_size: Of the last convolution.
    """

    def __init__(
        self,
        dim: int,
        *,
        n_filters: int,
        ratios: Sequence[int],
        kernel_size: int,
        last_kernel_size: int,
    ) -> None:
        super().__init__()
        self.first = Conv(1, n_filters, kernel_size)
        self.blocks = nn.ModuleList()
        self.downsample = nn.ModuleList()
        width = n_filters
        for ratio in reversed(ratios):
            self.blocks.append(ResidualBlock(width))
            self.downsample.append(Conv(width, 2 * width, 2 * ratio, stride=ratio, elu=True))
            width *= 2
        self.lstm = ResidualLSTM(width)
        self.last = Conv(width, dim, last_kernel_size, elu=True)

    def strided(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row step feature"]:
        """All stages before the LSTM."""
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return self._strided(x)
        rows = max(_BLOCK_VALUES // (x.shape[1] * self.first.conv.out_channels), 1)
        return torch.cat([self._strided(block) for block in x.split(rows)])

    def _strided(self, x: Tensor) -> Tensor:
        y = self.first(x.unsqueeze(-1))
        for block, downsample in zip(self.blocks, self.downsample, strict=True):
            y = downsample(block(y))
        return y

    def forward(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row step dim"]:
        """Features of each step of each window."""
        with cached():  # the normalized weights are computed once, not per block
            return self.last(self.lstm(self.strided(x)))


class SEANetDecoder(nn.Module):
    """Steps of features back to windows; arguments as in `SEANetEncoder`."""

    def __init__(
        self,
        dim: int,
        *,
        n_filters: int,
        ratios: Sequence[int],
        kernel_size: int,
        last_kernel_size: int,
    ) -> None:
        super().__init__()
        width = n_filters * 2 ** len(ratios)
        self.stride = math.prod(ratios)
        self.first = Conv(dim, width, kernel_size)
        self.lstm = ResidualLSTM(width)
        self.upsample = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for ratio in ratios:
            self.upsample.append(ConvTranspose(width, width // 2, stride=ratio))
            self.blocks.append(ResidualBlock(width // 2))
            width //= 2
        self.last = Conv(n_filters, 1, last_kernel_size, elu=True)

    def deconvolve(self, y: Float[Tensor, "row step feature"]) -> Float[Tensor, "row time"]:
        """The transposed stages, after the LSTM."""
        for upsample, block in zip(self.upsample, self.blocks, strict=True):
            y = block(upsample(y))
        return self.last(y).squeeze(-1)

    def forward(self, x: Float[Tensor, "row step dim"]) -> Float[Tensor, "row time"]:
        """Windows from features of their steps."""
        with cached():
            y = self.lstm(self.first(x))
            if torch.is_grad_enabled() or x.device.type != "cpu":
                return self.deconvolve(y)
            width = self.last.conv.in_channels
            rows = max(_BLOCK_VALUES // (y.shape[1] * self.stride * width), 1)
            return torch.cat([self.deconvolve(block) for block in y.split(rows)])
