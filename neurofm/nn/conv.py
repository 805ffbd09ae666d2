"""SEANet convolution stacks on time-major sequences.

Encoder: strided convolutions with residual blocks between them, an LSTM, and a last convolution;
the decoder mirrors it with transposed convolutions. All convolutions carry weight normalization
and reflect at the edges.

Sequences are `row time feature`, row = one window of one channel. In that layout a convolution is
PyTorch's channels-last two-dimensional one of height 1, for which the CPU has its fastest kernel; a
stride, and a transposed convolution, is one with two taps of more features. ELU and padding share
one pass over memory and one buffer for the backward pass, and without gradients a block of rows
that fits the cache goes through all layers before the next one starts.

Source: Tagliasacchi et al. 2020 (SEANet); Defossez et al. 2022 (padding and residual blocks).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import cached

from neurofm.shapes import Float

# Values per block without gradients on a CPU: 64 windows of 512 samples x 32 features are 4 MB.
# Found by trial (16 windows: 25 % slower, all 448 of a recording: 30 % slower).
_BLOCK_VALUES = 64 * 512 * 32


_PASS_VALUES = 8 * 512 * 32  # the passes of one ELU over them stay in the inner cache
_LOG2_E = math.log2(math.e)


def in_blocks(run: Callable[[Tensor], Tensor], x: Tensor, values: int) -> Tensor:
    """Without gradients on a CPU `run` on blocks of rows that fit the cache, else on all at once.

    Args:
        values: Of the largest tensor that one row becomes.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return run(x)
    return torch.cat([run(block) for block in x.split(max(_BLOCK_VALUES // values, 1))])


def padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Samples to add left and right so that the output has `ceil(length / stride)` steps."""
    total = kernel - stride
    right = total // 2
    steps = math.ceil((length - kernel + total) / stride + 1)
    extra = (steps - 1) * stride + (kernel - total) - length
    return total - right, right + extra


def elu(x: Tensor, out: Tensor) -> None:
    """ELU of `x` into `out`.

    PyTorch has a vector kernel for the power of two but none as fast for `expm1`: less than half of
    the time, within one rounding of 1.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or torch.compiler.is_compiling():
        F.elu_(out.copy_(x))
        return
    rows = max(_PASS_VALUES // x[0].numel(), 1)
    for source, y in zip(x.split(rows), out.split(rows), strict=True):
        torch.mul(source, _LOG2_E, out=y)
        y.exp2_().sub_(1).clamp_max_(0)
        torch.maximum(y, source, out=y)


class _PadElu(torch.autograd.Function):
    """ELU and reflected edges in one buffer, which is all that the backward pass needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, left: int, right: int, with_elu: bool) -> Tensor:
        n = x.shape[1]
        buffer = x.new_empty(x.shape[0], left + n + right, x.shape[2])
        middle = buffer[:, left : left + n]
        if with_elu:
            elu(x, middle)
        else:
            middle.copy_(x)
        if left:
            buffer[:, :left] = middle[:, 1 : left + 1].flip(1)
        if right:
            buffer[:, left + n :] = middle[:, n - 1 - right : n - 1].flip(1)
        ctx.edges, ctx.elu = (left, right, n), with_elu
        if with_elu:
            ctx.save_for_backward(buffer)
        return buffer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        left, right, n = ctx.edges
        saved = ctx.saved_tensors[0] if ctx.elu else None

        def part(begin: int, end: int) -> Tensor:
            piece = gradient[:, begin:end]
            out = torch.empty_like(piece, memory_format=torch.contiguous_format)
            if saved is None:
                return out.copy_(piece)
            y = saved[:, begin:end]
            return torch.ops.aten.elu_backward(piece, 1, 1, 1, True, y, grad_input=out)

        middle = part(left, left + n)
        if left:
            middle[:, 1 : left + 1] += part(0, left).flip(1)
        if right:
            middle[:, n - 1 - right : n - 1] += part(left + n, left + n + right).flip(1)
        return middle, None, None, None


def pad_reflect(
    x: Float[Tensor, "row time feature"], left: int, right: int, *, elu: bool = False
) -> Float[Tensor, "row padded feature"]:
    """Reflect both ends, optionally after ELU (which commutes with reflection).

    A sequence not longer than the padding is first lengthened by zeros, which are cut off again.
    """
    if not (left or right or elu):
        return x
    extra = max(max(left, right) - x.shape[1] + 1, 0)
    if torch.jit.is_tracing():  # which knows no function with a backward pass of its own
        longer = F.pad(F.elu(x) if elu else x, (0, 0, 0, extra)).mT
        return F.pad(longer, (left, right), "reflect").mT[:, : left + x.shape[1] + right]
    if not extra:
        return _PadElu.apply(x, left, right, elu)
    longer = _PadElu.apply(F.pad(x, (0, 0, 0, extra)), left, right, elu)
    return longer[:, : longer.shape[1] - extra]


def convolve(
    x: Float[Tensor, "row time feature"],
    weight: Float[Tensor, "out tap feature"],
    bias: Float[Tensor, " out"],
    *,
    stride: int = 1,
    zeros: int = 0,
) -> Float[Tensor, "row step out"]:
    """Convolution over time of sequences with `zeros` before and behind.

    A view that is contiguous in channels-last order makes it PyTorch's two-dimensional convolution
    of height 1.
    """
    image = x.movedim(-1, 1).unsqueeze(2)
    kernel = weight.movedim(-1, 1).unsqueeze(2)
    y = F.conv2d(image, kernel, bias, stride=(1, stride), padding=(0, zeros))
    return y.squeeze(2).movedim(1, -1).contiguous()


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
        weight = self.conv.weight.movedim(1, -1)  # out tap feature
        kernel, stride = weight.shape[1], self.stride
        x = pad_reflect(x, *padding(x.shape[1], kernel, stride), elu=self.elu)
        if stride > 1 and not (kernel % stride or x.shape[1] % stride):
            # The same numbers as fewer taps of more features: no stride, and no overlap to copy.
            x = x.unflatten(1, (-1, stride)).flatten(2)
            weight, stride = weight.unflatten(1, (-1, stride)).flatten(2), 1
        return convolve(x, weight.contiguous(), self.conv.bias, stride=stride)


class ConvTranspose(nn.Module):
    """ELU and a weight-normalized transposed convolution, trimmed to `stride` times the length.

    A kernel of two strides makes every stride of the output a linear map of two inputs, so it is a
    convolution with two taps.
    """

    def __init__(self, dim_in: int, dim_out: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = weight_norm(nn.ConvTranspose1d(dim_in, dim_out, 2 * stride, stride=stride))

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row step out"]:
        """`stride` samples for every step."""
        weight = self.conv.weight.unflatten(-1, (2, self.stride)).flip(2)
        weight = weight.permute(3, 1, 2, 0).flatten(0, 1)  # (sample out) tap feature
        bias = self.conv.bias.repeat(self.stride)
        y = convolve(pad_reflect(x, 0, 0, elu=True), weight.contiguous(), bias, zeros=1)
        y = y.unflatten(-1, (self.stride, -1)).flatten(1, 2)
        right = self.stride // 2
        left = self.stride - right
        return y[:, left : y.shape[1] - right].contiguous()  # once for all that read it


class ResidualBlock(nn.Module):
    """1x1 shortcut plus [ELU, convolution of width 3 to half the features, ELU, 1x1]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shortcut = Conv(dim, dim, 1)
        self.narrow = Conv(dim, dim // 2, 3, elu=True)
        self.widen = Conv(dim // 2, dim, 1, elu=True)

    def forward(self, x: Float[Tensor, "row time feature"]) -> Float[Tensor, "row time feature"]:
        """Same shape."""
        return self.widen(self.narrow(x)).add_(self.shortcut(x))


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
        return in_blocks(self._strided, x, x.shape[1] * self.first.conv.out_channels)

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
            widest = y.shape[1] * self.stride * self.last.conv.in_channels
            return in_blocks(self.deconvolve, y, widest)
