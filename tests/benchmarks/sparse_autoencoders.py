"""Time of one training step of a sparse autoencoder: decoding by gathering beside a dense product.

    python -m tests.benchmarks sparse_autoencoders --device cuda

Prints the median of both and their ratio, on one thread on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from neurofm.interpret.decomposition import SparseAutoencoder


def step(net: SparseAutoencoder, x: torch.Tensor, *, dense: bool) -> None:
    """Forward and backward pass."""
    net.zero_grad()
    found = net.decode(net.encode(x)) if dense else net(x)
    (found - x).square().mean().backward()
    if x.is_cuda:
        torch.cuda.synchronize()


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sparse_autoencoders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--latents", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net = SparseAutoencoder(told.dim, told.latents, k=32).to(told.device)
    x = torch.randn(told.batch, told.dim, device=told.device)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(told.repeats + 1):
        for dense, seen in times.items():
            start = time.perf_counter()
            step(net, x, dense=dense)
            seen.append(time.perf_counter() - start)
    gathered, dense = (statistics.median(times[key][1:]) for key in (False, True))
    print(
        f"{told.batch} samples, {told.dim} to {told.latents} latents, {told.device}: gathering "
        f"{1e3 * gathered:.0f} ms, dense {1e3 * dense:.0f} ms, {dense / gathered:.2f}x"
    )
