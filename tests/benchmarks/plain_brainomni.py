"""BrainTokenizer and BrainOmni as the paper reads, in straightforward PyTorch: what ours is timed
against. Parameters carry our names, so that a state dict of ours loads.

Channel-major `nn.Conv1d` on (batch x channel x window, feature, time) with the parametrized weight
norm, `F.pad` in reflect mode, `F.elu`, `F.scaled_dot_product_attention`, `torch.cdist`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Conv(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(dim_in, dim_out, kernel, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, length = self.conv.kernel_size[0], self.conv.stride[0], x.shape[-1]
        total = kernel - stride
        right = total // 2
        left = total - right
        extra = (math.ceil((length - kernel + total) / stride)) * stride + kernel - total - length
        short = max(max(left, right + extra) - length + 1, 0)
        if short:
            x = F.pad(x, (0, short))
        x = F.pad(x, (left, right + extra), mode="reflect")
        return self.conv(x[..., : x.shape[-1] - short])


class ConvTranspose(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = weight_norm(nn.ConvTranspose1d(dim_in, dim_out, 2 * stride, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        right = self.stride // 2
        y = self.conv(x)
        return y[..., self.stride - right : y.shape[-1] - right]


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shortcut = Conv(dim, dim, 1)
        self.narrow = Conv(dim, dim // 2, 3)
        self.widen = Conv(dim // 2, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.widen(F.elu(self.narrow(F.elu(x))))


class LSTM(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers=2)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(2, 0, 1)
        return (self.lstm(y)[0] + y).permute(1, 2, 0)


class Encoder(nn.Module):
    def __init__(self, dim: int, filters: int, ratios: Sequence[int], kernel: int, last: int):
        super().__init__()
        self.first = Conv(1, filters, kernel)
        self.blocks, self.downsample = nn.ModuleList(), nn.ModuleList()
        for ratio in reversed(ratios):
            self.blocks.append(Block(filters))
            self.downsample.append(Conv(filters, 2 * filters, 2 * ratio, ratio))
            filters *= 2
        self.lstm = LSTM(filters)
        self.last = Conv(filters, dim, last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.unsqueeze(1))
        for block, down in zip(self.blocks, self.downsample, strict=True):
            y = down(F.elu(block(y)))
        return self.last(F.elu(self.lstm(y))).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self, dim: int, filters: int, ratios: Sequence[int], kernel: int, last: int):
        super().__init__()
        width = filters * 2 ** len(ratios)
        self.first = Conv(dim, width, kernel)
        self.lstm = LSTM(width)
        self.upsample, self.blocks = nn.ModuleList(), nn.ModuleList()
        for ratio in ratios:
            self.upsample.append(ConvTranspose(width, width // 2, ratio))
            width //= 2
            self.blocks.append(Block(width))
        self.last = Conv(filters, 1, last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(self.first(x.transpose(1, 2)))
        for up, block in zip(self.upsample, self.blocks, strict=True):
            y = block(up(F.elu(y)))
        return self.last(F.elu(y)).squeeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    parts = (x.unflatten(-1, (heads, -1)).transpose(-2, -3) for x in (query, key, value))
    y = F.scaled_dot_product_attention(*parts, dropout_p=dropout)
    return y.transpose(-2, -3).flatten(-2)


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        layers = (nn.Linear(dim, 4 * dim), nn.SELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout))
        super().__init__(*layers)


class Sensors(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.geometry = nn.Sequential(nn.Linear(6, dim // 2), nn.SELU(), nn.Linear(dim // 2, dim))
        self.kind = nn.Embedding(3, dim)
        self.feedforward = FeedForward(dim)
        self.norm = nn.RMSNorm(dim, eps=1e-6)

    def forward(self, pos: Tensor, kind: Tensor) -> Tensor:
        x = self.geometry(pos) + self.kind(kind)
        return self.norm(x + self.feedforward(x))


class Compression(nn.Module):
    def __init__(self, dim: int, heads: int, sources: int) -> None:
        super().__init__()
        self.heads = heads
        self.sources = nn.Parameter(torch.empty(sources, dim))
        self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, z: Tensor, sensors: Tensor) -> Tensor:
        key = self.key(z + sensors[:, :, None, None]).movedim(1, 3)
        value = self.value(z).movedim(1, 3)  # batch window step channel dim
        query = self.sources.expand(*key.shape[:3], -1, -1)
        return self.out(attend(query, key, value, self.heads)).movedim(3, 1)


class Expansion(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key_value, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, values: Tensor, sensors: Tensor) -> Tensor:
        key, value = self.key_value(values.movedim(1, 3)).chunk(2, -1)
        query = sensors[:, None, None].expand(*key.shape[:3], -1, -1)
        return self.out(attend(query, key, value, self.heads)).movedim(3, 1)


class Level(nn.Module):
    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebook", torch.zeros(size, dim))
        self.register_buffer("codebook_sum", torch.zeros(size, dim))
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("initialized", torch.zeros(1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = torch.cdist(z.detach(), self.codebook).argmin(-1)
        code = F.embedding(codes, self.codebook)
        if self.training:
            code = rotate(z, code)
        loss = 0.25 * F.mse_loss(z, code.detach())
        if self.training:
            with torch.no_grad():
                chosen = F.one_hot(codes, len(self.codebook)).type_as(z)
                self.count.mul_(0.99).add_(chosen.sum(0), alpha=0.01)
                self.codebook_sum.mul_(0.99).add_(chosen.t() @ z, alpha=0.01)
                whole = self.count.sum()
                smoothed = (self.count + 1e-6) / (whole + len(self.count) * 1e-6) * whole
                self.codebook.copy_(self.codebook_sum / smoothed.unsqueeze(1))
        return code, codes, loss


def rotate(z: Tensor, code: Tensor) -> Tensor:
    z_norm = z.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    code_norm = code.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    u, v = (z / z_norm).detach(), (code / code_norm).detach()
    w = F.normalize(u + v, dim=-1, eps=1e-6)
    turned = z - 2 * (z * w).sum(-1, keepdim=True) * w + 2 * (z * u).sum(-1, keepdim=True) * v
    return turned * (code_norm / z_norm).detach()


class Quantizer(nn.Module):
    def __init__(self, levels: int, size: int, dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(size, dim) for _ in range(levels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual = F.normalize(x, dim=-1).flatten(0, -2)
        total, codes, losses = torch.zeros_like(residual), [], []
        for level in self.levels:
            value, code, loss = level(residual)
            residual = residual - value.detach()
            total = total + value
            codes.append(code)
            losses.append(loss)
        shape = (*x.shape[:-1], len(codes))
        return (
            total.reshape(x.shape),
            torch.stack(codes, -1).reshape(shape),
            sum(losses) / len(codes),
        )


class PlainTokenizer(nn.Module):
    """Arguments as those of `BrainTokenizer` of the same names."""

    def __init__(
        self,
        window_length: int = 512,
        n_filters: int = 32,
        ratios: Sequence[int] = (8, 4, 2),
        kernel_size: int = 5,
        last_kernel_size: int = 5,
        n_dim: int = 256,
        n_head: int = 4,
        n_neuro: int = 16,
        codebook_dim: int = 256,
        codebook_size: int = 512,
        num_quantizers: int = 4,
    ) -> None:
        super().__init__()
        self.length = window_length
        sizes = (n_dim, n_filters, ratios, kernel_size, last_kernel_size)
        self.sensors = Sensors(n_dim)
        self.encoder = Encoder(*sizes)
        self.compression = Compression(n_dim, n_head, n_neuro)
        self.quantizer = Quantizer(num_quantizers, codebook_size, codebook_dim)
        self.expansion = Expansion(n_dim, n_head)
        self.decoder = Decoder(*sizes)

    def windows(self, x: Tensor, overlap: float = 0.0) -> Tensor:
        stride = int(self.length * (1 - overlap))
        if overlap:
            x = F.pad(x, (0, -(x.shape[-1] - self.length) % stride))
        return x.unfold(-1, self.length, stride)

    def latent(self, windows: Tensor, sensors: Tensor) -> Tensor:
        z = self.encoder(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        return self.compression(z, sensors)

    def tokenize(self, x: Tensor, pos: Tensor, kind: Tensor, overlap: float) -> tuple[Tensor, ...]:
        latent = self.latent(self.windows(x, overlap), self.sensors(pos, kind))
        values, codes, _ = self.quantizer(latent.flatten(2, 3))
        return values, codes

    def loss(self, x: Tensor, pos: Tensor, kind: Tensor, order: Tensor, noise: Tensor) -> Tensor:
        """Stage 1: the first channels of `order` are hidden, as many as `noise` lacks."""
        x, pos, kind = x[:, order], pos[:, order], kind[:, order]
        hidden = len(order) - noise.shape[1]
        windows, sensors = self.windows(x), self.sensors(pos, kind)
        latent = self.latent(windows[:, hidden:] + 0.1 * noise, sensors[:, hidden:])
        values, _, commitment = self.quantizer(latent)
        y = self.expansion(values, sensors)
        output = self.decoder(y.flatten(0, 2)).unflatten(0, y.shape[:3])
        target = windows - windows.mean(-1, keepdim=True)
        target = target / (windows.std(-1, keepdim=True) + 1e-6)
        a, b = (t - t.mean(-1, keepdim=True) for t in (target, output))
        covariance = (a * b).sum(-1) / (self.length - 1)
        pcc = (covariance / (target.std(-1) * output.std(-1) + 1e-6)).mean()
        taper = torch.hamming_window(self.length)
        first, second = (torch.fft.rfft(t * taper, norm="ortho") for t in (target, output))
        return (
            F.l1_loss(output, target)
            + torch.exp(-pcc)
            + commitment
            + F.l1_loss(second.abs(), first.abs())
            + 0.5 * F.l1_loss(second.angle(), first.angle())
        )


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float, *, rotary: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.rotary = heads, dropout, rotary
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    @staticmethod
    def _rotate(x: Tensor) -> Tensor:
        n, dim = x.shape[-2:]
        frequency = 10000 ** (-torch.arange(0, dim, 2) / dim)
        angle = torch.outer(torch.arange(n), frequency)
        turn = torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(
            -2
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_key_value(x).chunk(3, -1)
        if self.rotary:
            query, key = self._rotate(query.contiguous()), self._rotate(key.contiguous())
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(query, key, value, self.heads, dropout))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.feedforward_norm = (nn.RMSNorm(dim, eps=1e-6) for _ in range(2))
        self.time_attention = Attention(dim // 2, heads // 2, dropout, rotary=True)
        self.source_attention = Attention(dim // 2, heads // 2, dropout, rotary=False)
        self.feedforward = FeedForward(dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        time, source = self.attention_norm(x).chunk(2, -1)
        time = self.time_attention(time)
        source = self.source_attention(source.transpose(1, 2)).transpose(1, 2)
        x = x + torch.cat([source, time], -1)
        return x + self.feedforward(self.feedforward_norm(x))


class PlainBrainOmni(nn.Module):
    """Arguments as those of `BrainOmni` of the same names; lm_dim is the tokenizer's n_dim."""

    def __init__(
        self,
        tokenizer: PlainTokenizer,
        lm_dim: int = 256,
        lm_head: int = 8,
        lm_depth: int = 12,
        lm_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        levels = len(tokenizer.quantizer.levels)
        size = tokenizer.quantizer.levels[0].codebook.shape[0]
        self.levels = levels
        self.mask_token = nn.Parameter(torch.empty(lm_dim))
        self.blocks = nn.ModuleList(
            PlainBlock(lm_dim, lm_head, lm_dropout) for _ in range(lm_depth)
        )
        self.predict_head = nn.Linear(lm_dim, levels * size)
        self.tokenizer = tokenizer.requires_grad_(False).eval()

    def embed(self, values: Tensor, skip: int) -> Tensor:
        x = values + self.tokenizer.compression.sources.detach().unsqueeze(1)
        for block in self.blocks[: len(self.blocks) - skip]:
            x = block(x)
        return x

    @torch.no_grad()
    def encode(self, x: Tensor, pos: Tensor, kind: Tensor) -> Tensor:
        values, _ = self.tokenizer.tokenize(x, pos, kind, 0.25)
        return F.normalize(self.embed(values, 1), dim=-1, eps=1e-6)

    def loss(
        self, x: Tensor, pos: Tensor, kind: Tensor, draws: Sequence[Tensor], real: Tensor
    ) -> Tensor:
        """Stage 2: `draws` decide what is hidden, by what, and in which order it is replaced."""
        with torch.no_grad():
            values, codes = self.tokenizer.tokenize(x, pos, kind, 0.25)
        return self.predict(values, codes, draws, real)

    def predict(
        self, values: Tensor, codes: Tensor, draws: Sequence[Tensor], real: Tensor
    ) -> Tensor:
        """Stage 2 from given tokens."""
        hide, replace, order = draws
        other = values.flatten(0, 2)[order].reshape(values.shape)
        replaced = torch.where((replace < 0.8).unsqueeze(-1), self.mask_token, other)
        hidden = hide <= 0.5
        values = torch.where(hidden.unsqueeze(-1), replaced, values)
        logits = self.predict_head(self.embed(values, 0)).unflatten(-1, (self.levels, -1))
        chosen = hidden & real
        return F.cross_entropy(logits[chosen].flatten(0, 1), codes[chosen].flatten())
