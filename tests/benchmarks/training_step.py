"""A training step of PatchTransformer, 22 channels x 4 s, beside braindecode's Labram and CBraMod.

    python -m tests.benchmarks training_step [--batch 64] [--repeats 5] [--threads 1] [--compile]

All three classify the same windows; a step is forward, backward and AdamW, fused as PyTorch
advises for speed. They take turns in this process; times are of its CPU. Operations are those that
`torch.utils.flop_counter` counts in a forward and backward pass with attention written as matrix
products, and the peak is the fastest of square matrix products in the same run. Memory is the most
that a step's tensors hold beside parameters and optimizer, kept for the backward pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import neurofm
from neurofm.batch import Batch
from neurofm.compat import guard_torchaudio
from neurofm.readouts import PooledLinear

CHANNELS, SECONDS, SFREQ, CLASSES = 22, 4, 200, 4


class Ours(nn.Module):
    """PatchTransformer with a linear map of its pooled tokens, on plain windows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.readout = model, PooledLinear(model.dim, CLASSES)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.model.encode(_batch(x)))  # type: ignore[operator]


def _batch(x: Tensor) -> Batch:
    n, channels = x.shape[:2]
    place = torch.linspace(-0.1, 0.1, channels).unsqueeze(1)
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.zeros(n, channels, dtype=torch.long),
        position=torch.cat([place, place.cos() / 10, place.square()], 1).expand(n, -1, -1),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=float(SFREQ),
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
    )


class Named(nn.Module):
    """Labram, told the names of the channels."""

    def __init__(self, network: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, ch_names=self.names)


def networks(*, compiled: bool) -> dict[str, nn.Module]:
    """Fresh networks in training mode, by name."""
    guard_torchaudio()
    from braindecode.models import CBraMod, Labram
    from braindecode.models.labram import LABRAM_CHANNEL_ORDER

    size = {
        "n_chans": CHANNELS,
        "n_outputs": CLASSES,
        "n_times": SECONDS * SFREQ,
        "sfreq": SFREQ,
    }
    ours: Any = Ours(neurofm.load_model("patch_transformer_base"))
    labram = Named(Labram(**size), LABRAM_CHANNEL_ORDER[:CHANNELS])
    found = {"PatchTransformer": ours, "Labram": labram, "CBraMod": CBraMod(**size)}
    if compiled:
        found["PatchTransformer, compiled"] = torch.compile(
            Ours(neurofm.load_model("patch_transformer_base"))
        )
    return {name: network.train() for name, network in found.items()}


@dataclass
class Times:
    """Of one network: CPU seconds of each step, operations of a step in 1e9, memory in MB."""

    parameters: int
    operations: float
    memory: float
    seconds: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """1e9 operations per second, by the median step."""
        return self.operations / statistics.median(self.seconds)


@dataclass
class Report:
    """What was measured; the peak in 1e9 operations per second of one thread."""

    threads: int
    batch: int
    peak: float
    found: dict[str, Times]

    def text(self) -> str:
        lines = [
            f"training step, {self.batch} windows of {CHANNELS} channels x {SECONDS} s at {SFREQ} "
            f"Hz, {self.threads} thread(s), matrix product {self.peak:.0f} G/s"
        ]
        for name, each in self.found.items():
            median = statistics.median(each.seconds)
            lines.append(
                f"  {name:<28} {each.parameters / 1e6:5.1f} M  {median:6.2f} s "
                f"({min(each.seconds):.2f}-{max(each.seconds):.2f})  {each.operations:5.0f} G  "
                f"{each.rate() / self.peak:.2f} of the peak  {self.batch / median:5.1f} windows/s  "
                f"{each.memory:.0f} MB"
            )
        return "\n".join(lines)


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _kept_mb(run: Callable[[], Tensor]) -> float:
    """Memory of what the forward pass keeps for the backward pass, each storage once."""
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(seen.values()) / 1e6


def measure(
    *, batch: int = 64, repeats: int = 5, threads: int = 1, compiled: bool = False
) -> Report:
    """Run all, taking turns."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = 20 * torch.randn(batch, CHANNELS, SECONDS * SFREQ)
    y = torch.randint(CLASSES, (batch,))
    steps: dict[str, Callable[[], object]] = {}
    found: dict[str, Times] = {}
    for name, network in networks(compiled=compiled).items():
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

        def step(network: nn.Module = network, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()

        parameters = sum(p.numel() for p in network.parameters())
        if "compiled" in name:
            plain = found["PatchTransformer"]
            found[name] = Times(parameters, plain.operations, plain.memory)
        else:
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                step()
            kept = _kept_mb(lambda network=network: F.cross_entropy(network(x), y))
            found[name] = Times(parameters, counter.get_total_flops() / 1e9, kept)
        step()
        steps[name] = step
    a, b = torch.randn(2, 1536, 1536).unbind(0)
    fastest = float("inf")
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].seconds.append(_cpu_seconds(step))
            fastest = min(fastest, *(_cpu_seconds(lambda: a @ b) for _ in range(3)))
    # CPU seconds add up over threads, for networks and matrix product alike.
    return Report(threads, batch, 2e-9 * 1536**3 / fastest, found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Speed of a training step.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", dest="compiled")
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args(arguments))
    as_json = options.pop("json")
    report = measure(**options)
    print(json.dumps(asdict(report)) if as_json else report.text())


if __name__ == "__main__":
    main()
