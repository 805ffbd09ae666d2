"""BrainTokenizer encode, 64 channels x 10 s, against a plain eager implementation of the paper.

    python -m tests.benchmarks.tokenizer [--channels 64] [--seconds 10] [--threads 1]

Both run alternately in this process with the same weights. The plain one is written as the paper
reads: `nn.Conv1d` on (batch x channel x window, feature, time), `F.pad` in reflect mode, `F.elu`.
Rates count multiply-adds of convolutions, LSTM, attention and quantizer (2 operations each), from
the layer sizes. The peak is the fastest of square matrix products in the same run; oneDNN's
convolutions use wider vector instructions than the matrix product on some processors and may
exceed it, so their best rate is given beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.conv import Conv, padding
from neurofm.tokenizers import BrainTokenizer


class Plain(nn.Module):
    """The encoder of the specification, layer by layer, with the weights of `tokenizer`."""

    def __init__(self, tokenizer: BrainTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        encoder = tokenizer.encoder
        self.first = self._conv(encoder.first)
        self.blocks = nn.ModuleList(
            nn.ModuleList([self._conv(b.shortcut), self._conv(b.narrow), self._conv(b.widen)])
            for b in encoder.blocks
        )
        self.downsample = nn.ModuleList(self._conv(layer) for layer in encoder.downsample)
        self.lstm = encoder.lstm.lstm
        self.last = self._conv(encoder.last)

    @staticmethod
    def _conv(layer: Conv) -> nn.Conv1d:
        weight = layer.conv.weight.detach()
        conv = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], stride=layer.stride)
        conv.load_state_dict({"weight": weight, "bias": layer.conv.bias.detach()})
        return conv

    @staticmethod
    def _padded(conv: nn.Conv1d, x: Tensor) -> Tensor:
        pad = padding(x.shape[-1], conv.kernel_size[0], conv.stride[0])
        return conv(F.pad(x, pad, mode="reflect"))

    def seanet(self, x: Tensor) -> Tensor:
        y = self._padded(self.first, x.unsqueeze(1))
        for (shortcut, narrow, widen), down in zip(self.blocks, self.downsample, strict=True):
            branch = widen(F.elu(self._padded(narrow, F.elu(y))))
            y = self._padded(down, F.elu(shortcut(y) + branch))
        y = y.permute(2, 0, 1)
        y = (self.lstm(y)[0] + y).permute(1, 2, 0)
        return self._padded(self.last, F.elu(y)).transpose(1, 2)

    def forward(self, x: Tensor, pos: Tensor, kind: Tensor, overlap: float) -> Tensor:
        tokenizer = self.tokenizer
        windows = tokenizer.windows(x, overlap)
        sensors = tokenizer.sensors(pos, kind)
        z = self.seanet(windows.flatten(0, 2)).unflatten(0, windows.shape[:3])
        part = tokenizer.compression
        key = part.key(z + sensors[:, :, None, None]).movedim(1, 3)
        value = part.value(z).movedim(1, 3)  # batch window step channel dim
        query, key, value = (
            t.unflatten(-1, (part.heads, -1)).transpose(-2, -3)
            for t in (part.sources.expand(*key.shape[:3], -1, -1), key, value)
        )
        score = (query @ key.transpose(-1, -2)) / query.shape[-1] ** 0.5
        latent = part.out((score.softmax(-1) @ value).transpose(-2, -3).flatten(-2))
        residual = F.normalize(latent.movedim(3, 1), dim=-1)
        codes = []
        for level in tokenizer.quantizer.levels:
            code = torch.cdist(residual, level.codebook).argmin(-1)
            residual = residual - level.codebook[code]
            codes.append(code)
        return torch.stack(codes, -1).flatten(2, 3)


@dataclass
class Report:
    """Times in seconds (median of all repeats, with range), rates in 1e9 operations per second."""

    threads: int
    channels: int
    seconds: float
    operations: dict[str, float] = field(default_factory=dict)
    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    peak_matmul: float = 0.0
    peak_convolution: float = 0.0
    largest_difference: float = 0.0
    equal_codes: float = 0.0

    @property
    def ratio(self) -> float:
        return statistics.median(self.plain) / statistics.median(self.ours)

    def text(self) -> str:
        total = sum(self.operations.values())
        ours, plain = statistics.median(self.ours), statistics.median(self.plain)
        rate = total / ours
        lines = [
            f"BrainTokenizer encode, {self.channels} channels x {self.seconds:g} s, "
            f"{self.threads} thread(s), {len(self.ours)} alternating runs",
            f"  plain  {plain:.3f} s ({min(self.plain):.3f}-{max(self.plain):.3f}), "
            f"{self.seconds / plain:.1f} x real time",
            f"  ours   {ours:.3f} s ({min(self.ours):.3f}-{max(self.ours):.3f}), "
            f"{self.seconds / ours:.1f} x real time",
            f"  ratio  {self.ratio:.2f}; largest difference of the SEANet features "
            f"{self.largest_difference:.1e}, {100 * self.equal_codes:.2f} % of codes equal",
            f"  {total:.1f} G operations at {rate:.0f} G/s = {100 * rate / self.peak_matmul:.0f} % "
            f"of the matrix product ({self.peak_matmul:.0f} G/s), "
            f"{100 * rate / self.peak_convolution:.0f} % of the best convolution "
            f"({self.peak_convolution:.0f} G/s); "
            f"plain {100 * total / plain / self.peak_matmul:.0f} % of the matrix product",
        ]
        whole = sum(self.stages.values())
        for name, spent in self.stages.items():
            work = self.operations.get(name, 0.0)
            lines.append(f"    {name:<12} {100 * spent / whole:5.1f} %  {work / spent:6.0f} G/s")
        return "\n".join(lines)


def operations(tokenizer: BrainTokenizer, channels: int, windows: int) -> dict[str, float]:
    """Operations (2 per multiply-add) of one recording, in 1e9, by stage."""
    rows = channels * windows
    encoder = tokenizer.encoder
    length = tokenizer.window_length
    conv = 0
    layers: list[Conv] = [encoder.first]
    for block, down in zip(encoder.blocks, encoder.downsample, strict=True):
        layers += [block.shortcut, block.narrow, block.widen, down]
    for layer in layers:
        out, features, kernel = layer.conv.weight.shape
        length //= layer.stride
        conv += length * out * features * kernel
    width = encoder.lstm.lstm.hidden_size
    out, features, kernel = encoder.last.conv.weight.shape
    lstm = length * 2 * 4 * width * 2 * width
    steps, dim, sources = windows * length, tokenizer.dim, tokenizer.n_sources
    compression = steps * (2 * channels * dim**2 + 2 * channels * sources * dim + sources * dim**2)
    quantizer = steps * sources * dim * tokenizer.n_codes * tokenizer.n_levels
    return {
        "convolution": 2e-9 * rows * conv,
        "LSTM": 2e-9 * rows * lstm,
        "last": 2e-9 * rows * length * out * features * kernel,
        "compression": 2e-9 * compression,
        "quantizer": 2e-9 * quantizer,
    }


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _stages(
    tokenizer: BrainTokenizer, x: Tensor, sensors: Tensor, repeats: int
) -> dict[str, float]:
    """Median seconds of each stage, each run by itself on the output of the one before."""
    encoder, rows = tokenizer.encoder, tokenizer.windows(x, 0.25)
    batch, channels, count, _ = rows.shape
    z = encoder.strided(rows.flatten(0, 2))
    y = encoder.lstm(z)
    features = encoder.last(y).unflatten(0, (batch, channels, count)).flatten(2, 3)
    latent = tokenizer.compression(features, sensors, None)
    runs: dict[str, Callable[[], object]] = {
        "convolution": lambda: encoder.strided(rows.flatten(0, 2)),
        "LSTM": lambda: encoder.lstm(z),
        "last": lambda: encoder.last(y),
        "compression": lambda: tokenizer.compression(features, sensors, None),
        "quantizer": lambda: tokenizer.quantize(latent),
    }
    return {
        name: statistics.median(_timed(run) for _ in range(repeats)) for name, run in runs.items()
    }


def _peaks() -> tuple[float, float]:
    a, b = torch.randn(2, 1536, 1536).unbind(0)
    product = min(_timed(lambda: a @ b) for _ in range(6))
    x = torch.randn(64, 64, 1, 256).to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 1, 3).to(memory_format=torch.channels_last)
    convolution = min(_timed(lambda: F.conv2d(x, weight)) for _ in range(10))
    return 2e-9 * 1536**3 / product, 2e-9 * 64 * 254 * 64 * 64 * 3 / convolution


@torch.no_grad()
def measure(
    *, channels: int = 64, seconds: float = 10, threads: int = 1, repeats: int = 7
) -> Report:
    """Run both, alternating."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = BrainTokenizer().eval()
    x = torch.randn(1, channels, round(seconds * 256))
    pos, kind = torch.randn(1, channels, 6), torch.zeros(1, channels, dtype=torch.long)
    for level in tokenizer.quantizer.levels:
        level.codebook.normal_(std=tokenizer.dim**-0.5)
        level.initialized.fill_(1)
    plain = Plain(tokenizer)
    report = Report(threads, channels, seconds)
    windows = tokenizer.windows(x, 0.25)
    report.operations = operations(tokenizer, channels, windows.shape[2])
    rows = windows.flatten(0, 2)
    difference = (tokenizer.encoder(rows) - plain.seanet(rows)).abs().max()
    report.largest_difference = float(difference)
    ours = tokenizer.tokenize(x, pos, kind, overlap=0.25).codes
    report.equal_codes = float((ours == plain(x, pos, kind, 0.25)).float().mean())
    for _ in range(repeats):
        report.ours.append(_timed(lambda: tokenizer.tokenize(x, pos, kind, overlap=0.25)))
        report.plain.append(_timed(lambda: plain(x, pos, kind, 0.25)))
    report.stages = _stages(tokenizer, x, tokenizer.sensors(pos, kind), repeats)
    report.peak_matmul, report.peak_convolution = _peaks()
    return report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Speed of BrainTokenizer's encoder.")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    report = measure(**options)
    print(json.dumps(asdict(report)) if as_json else report.text())


if __name__ == "__main__":
    main()
