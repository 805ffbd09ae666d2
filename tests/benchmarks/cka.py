"""Linear CKA of 5000 samples against the usual Gram form with explicit centring matrices.

The usual form makes both kernels, multiplies each by the centring matrix on both sides and takes
traces. The limit is three products of p × n × p, which the feature form needs, in the same BLAS
(CPU: numpy's). One thread, all ways in turn in one process; CPU time, or wall time of a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)
import torch  # noqa: E402

from neurofm.interpret.similarity import compare_layers, linear_cka  # noqa: E402


def usual(x: Any, y: Any) -> float:
    """HSIC with centring matrices, as it is written in papers."""
    n = len(x)
    if isinstance(x, torch.Tensor):
        centring = torch.eye(n, dtype=x.dtype, device=x.device) - 1 / n
    else:
        centring = np.eye(n) - 1 / n
    k, l = centring @ (x @ x.T) @ centring, centring @ (y @ y.T) @ centring

    def hsic(a: Any, b: Any) -> float:
        return float((a * b).sum())

    return hsic(k, l) / (hsic(k, k) * hsic(l, l)) ** 0.5


def products(x: Any, y: Any) -> Any:
    """The limit: what the feature form multiplies."""
    return x.T @ y, x.T @ y, x.T @ y


def timed(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds (of this process; of the clock with a GPU) and the answer."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    began = clock()
    found = call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began, found


def main(arguments: list[str]) -> None:
    """Time all."""
    parser = argparse.ArgumentParser(prog="cka")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=6, help="of the table of layers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n, p = options.samples, options.columns
    x = rng.standard_normal((n, p))
    y: Any = x[:, ::-1] + rng.standard_normal((n, p))
    if options.device != "cpu":
        x, y = (torch.from_numpy(side).to(options.device) for side in (x, y))
    ways: dict[str, Callable[[], Any]] = {
        "three products (the limit)": lambda: products(x, y),
        "neurofm, biased": lambda: linear_cka(x, y, debiased=False),
        "neurofm, debiased": lambda: linear_cka(x, y),
        "centring matrices": lambda: usual(x, y),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Any] = {}
    if options.device != "cpu":
        for call in ways.values():
            call()  # the first one loads kernels
    for _ in range(options.repeats):
        for name, call in ways.items():
            took, answers[name] = timed(call, options.device)
            seconds[name].append(took)
    middle = {name: statistics.median(each) for name, each in seconds.items()}
    limit, ours = middle["three products (the limit)"], middle["neurofm, biased"]
    for name, each in seconds.items():
        print(
            f"{name:<28}{middle[name]:9.4f} s ({min(each):.4f} - {max(each):.4f}), "
            f"{middle[name] / limit:6.2f} of the limit"
        )
    print(f"{middle['centring matrices'] / ours:.1f}x as fast as centring matrices")
    apart = abs(answers["neurofm, biased"] - answers["centring matrices"])
    print(f"answers differ by {apart:.1e}")
    wide = {str(i): rng.standard_normal((n // 5, 4 * p)) for i in range(options.layers)}
    table, _ = timed(lambda: compare_layers(wide, shuffles=0), "cpu")
    every = [(a, b) for a in wide.values() for b in wide.values()]
    pairs, _ = timed(lambda: [linear_cka(a, b) for a, b in every], "cpu")
    print(f"table of {len(wide)} wide layers {table:.2f} s, pair by pair {pairs:.2f} s")
