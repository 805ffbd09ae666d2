"""BraInCoRL: encoding models of many voxels at once, against one voxel after the other.

    python -m tests.benchmarks.braincorl [--card braincorl_demo] [--context 100] [--voxels 2000]

Three ways with the same weights take turns in this process: `read_voxels`, which takes as many
voxels at a time as its memory allows and, in the last block, computes the token that is read alone;
a loop that calls our network for each voxel; and a loop over a plain implementation, written as the
paper reads: `nn.MultiheadAttention` whose weights are returned (it shows attention), every token of
every block, `F.linear`. Loops read `--looped` voxels, and times are per voxel. The bound is the
time of the matrix products alone, at the rate of the fastest product in this run.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.models import BraInCoRL


class Plain(nn.Module):
    """The network of the specification, layer by layer, with the weights of `model`."""

    def __init__(self, model: BraInCoRL) -> None:
        super().__init__()
        self.model = model
        self.attention = nn.ModuleList()
        for block in model.blocks:
            ours: Any = block.attention
            attention = nn.MultiheadAttention(model.dim, ours.heads, batch_first=True)
            attention.in_proj_weight = ours.query_key_value.weight
            attention.in_proj_bias = ours.query_key_value.bias
            attention.out_proj.weight = ours.out.weight
            attention.out_proj.bias = ours.out.bias
            self.attention.append(attention)

    @staticmethod
    def residual(layers: nn.Sequential, x: Tensor) -> Tensor:
        for layer in layers:
            block: Any = layer.block
            y = F.linear(F.leaky_relu(block[0](x), 0.1), block[3].weight, block[3].bias)
            y = F.linear(F.leaky_relu(block[4](y), 0.1), block[7].weight, block[7].bias)
            bypass = layer.bypass
            known = isinstance(bypass, nn.Identity)
            x = (x if known else F.linear(x, bypass.weight, bypass.bias)) + y
        return x

    def forward(self, stimulus: Tensor, response: Tensor) -> Tensor:
        model = self.model
        x = self.residual(model.early, torch.cat([stimulus, response.unsqueeze(-1)], -1))
        x = torch.cat([model.registers.expand(len(x), -1, -1), x], 1)
        for block, attention in zip(model.blocks, self.attention, strict=True):
            z = block.norm_1(x)
            x = x + attention(math.log(x.shape[1]) * z, z, z)[0]
            widen, narrow = block.feed_forward.widen, block.feed_forward.narrow
            gate, value = F.linear(block.norm_2(x), widen.weight, widen.bias).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * value, narrow.weight, narrow.bias)
        return self.residual(model.late, x[:, 0])


@dataclass
class Report:
    """Milliseconds per voxel, of each run."""

    card: str
    threads: int
    context: int
    voxels: int
    looped: int
    at_once: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    plain_loop: list[float] = field(default_factory=list)
    bound: float = 0.0
    largest_difference: float = 0.0

    def text(self) -> str:
        fast = statistics.median(self.at_once)
        lines = [
            f"{self.card}, context of {self.context}, {self.threads} thread(s), "
            f"{len(self.at_once)} alternating runs, ms per voxel:"
        ]
        for name, runs, count in (
            ("read_voxels", self.at_once, self.voxels),
            ("loop over our network", self.loop, self.looped),
            ("loop over a plain one", self.plain_loop, self.looped),
        ):
            middle = statistics.median(runs)
            lines.append(
                f"  {name:22} {middle:9.3f} ({min(runs):.3f} - {max(runs):.3f}), "
                f"{count} voxels, {middle / fast:.1f} x"
            )
        lines.append(
            f"  matrix products alone  {self.bound:9.3f}, {100 * self.bound / fast:.0f} % of the "
            f"time at once; largest difference of a weight {self.largest_difference:.1e}"
        )
        return "\n".join(lines)


def operations(model: BraInCoRL, context: int) -> float:
    """Of one voxel, 2 per multiply-add, the last block's unread tokens left out."""
    tokens = context + model.n_registers
    early = sum(p.numel() for p in model.early.parameters() if p.ndim == 2)
    late = sum(p.numel() for p in model.late.parameters() if p.ndim == 2)
    block = sum(p.numel() for p in model.blocks[0].parameters() if p.ndim == 2)
    attention = 2 * tokens * model.dim
    whole = (len(model.blocks) - 1) * tokens * (block + attention)
    last = tokens * 2 * model.dim**2 + block + attention
    return 2.0 * (context * early + whole + last + late)


def _peak() -> float:
    a, b = torch.randn(2, 1536, 1536).unbind(0)
    from neurofm.nn.linear import linear

    runs = [min(_timed(lambda f=f: f(a, b)) for _ in range(5)) for f in (torch.matmul, linear)]
    return 2 * 1536**3 / min(runs)


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def measure(
    *,
    card: str = "braincorl_demo",
    context: int = 100,
    voxels: int = 2000,
    looped: int = 200,
    threads: int = 1,
    repeats: int = 7,
    max_bytes: int = 256_000_000,
) -> Report:
    """Run all three, alternating."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    read = cards.read("models", card)
    model: Any = cards.build({key: read[key] for key in ("class_path", "init_args")}).eval()
    plain = Plain(model).eval()
    x = F.normalize(torch.randn(context, model.n_features), dim=-1)
    y = torch.randn(context, voxels)
    looped = min(looped, voxels)

    def at_once() -> Tensor:
        found = model.read_voxels(x, y, max_bytes=max_bytes)
        return torch.cat([found.weights, found.bias.unsqueeze(1)], 1)

    def loop(network: nn.Module) -> Tensor:
        one = x.unsqueeze(0)
        return torch.cat([network(one, y[:, i].unsqueeze(0)) for i in range(looped)])

    report = Report(card, threads, context, voxels, looped)
    expected = loop(plain)
    pair = at_once()[:looped], loop(model)
    report.largest_difference = max(float((found - expected).abs().max()) for found in pair)
    for _ in range(repeats):
        report.at_once.append(1e3 * _timed(at_once) / voxels)
        report.loop.append(1e3 * _timed(lambda: loop(model)) / looped)
        report.plain_loop.append(1e3 * _timed(lambda: loop(plain)) / looped)
    report.bound = 1e3 * operations(model, context) / _peak()
    return report


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Encoding models of many voxels at once.")
    parser.add_argument("--card", default="braincorl_demo")
    for name, default in (
        ("context", 100),
        ("voxels", 2000),
        ("looped", 200),
        ("threads", 1),
        ("repeats", 7),
        ("max_bytes", 256_000_000),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    report = measure(**options)
    print(json.dumps(asdict(report)) if as_json else report.text())


if __name__ == "__main__":
    main()
