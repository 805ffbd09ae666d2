"""Integrated gradients, 50 steps of Gauss-Legendre, beside captum.

A network of two convolutions, power and a linear layer reads windows of 22 channels; both take the
same steps, and the largest difference of their values is printed. One thread, in turn; CPU time.
Captum runs as it comes (all steps in one pass) and with passes as large as ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402  (after the number of threads is set)
from torch import Tensor, nn  # noqa: E402


class Network(nn.Module):
    """Temporal and spatial filters, power, classes."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.temporal = nn.Conv2d(1, 16, (1, 25), padding=(0, 12))
        self.spatial = nn.Conv2d(16, 16, (n_channels, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of windows."""
        power = self.spatial(self.temporal(x[:, None])).square().mean((2, 3))
        return self.head(torch.log(power + 1e-6))


def main(arguments: list[str]) -> None:
    """Time both."""
    parser = argparse.ArgumentParser(prog="attributions")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--channels", type=int, default=22)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    from captum.attr import IntegratedGradients

    from neurofm.interpret.attribution import integrated_gradients
    from neurofm.interpret.attribution.integrated import points_at_once

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Network(options.channels).eval()
    x = torch.randn(options.windows, options.channels, options.samples)
    target = torch.zeros(len(x), dtype=torch.int64)
    captum = IntegratedGradients(model)
    rows = options.windows * min(options.steps, points_at_once(x))

    def ours() -> Tensor:
        return integrated_gradients(model, x, target, steps=options.steps).values

    def theirs(batch: int | None) -> Tensor:
        return captum.attribute(
            x, target=target, n_steps=options.steps, internal_batch_size=batch
        ).detach()

    methods = {
        "neurofm": ours,
        "captum": lambda: theirs(None),
        f"captum, {rows} windows a pass": lambda: theirs(rows),
    }
    took: dict[str, list[float]] = {name: [] for name in methods}
    found = {}
    for _ in range(options.repeats + 1):
        for name, method in methods.items():
            began = time.process_time()
            found[name] = method()
            took[name].append(time.process_time() - began)
    first = statistics.median(took["neurofm"][1:])
    for name, times in took.items():
        median = statistics.median(times[1:])  # the first is a rehearsal
        spread = f"({min(times[1:]):.2f} - {max(times[1:]):.2f})"
        print(f"{name:32s} {median:7.2f} s {spread}, {median / first:.2f} x neurofm")
    scale = found["captum"].abs().max()
    apart = (found["neurofm"] - found["captum"]).abs().max() / scale
    print(f"largest difference {apart:.1e} of the largest value")
