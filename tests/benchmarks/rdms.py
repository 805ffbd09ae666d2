"""RDMs, crossnobis and comparisons of RDMs: ours, rsatoolbox, and the matrix products alone.

    python -m tests.benchmarks rdms
    python -m tests.benchmarks rdms --conditions 500 --columns 4000 --compared 40 --repeats 3

CPU time of one thread, methods in turn, medians (lowest - highest), float64 unless said.

* Correlation RDM of 2000 patterns of 20,000 columns. Bound: one product of that size.
* Crossnobis of 200 conditions, 8 runs, 1000 columns, noise with a full covariance. Bound: one
  product that whitens, nine Gram matrices. rsatoolbox gets the precision, inverted beforehand.
* 100 RDMs against one: whitened cosine with independent conditions and with a full covariance, and
  tau-a. rsatoolbox is timed on a few of the RDMs, and its time for all is that times their number.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)

Method = Callable[[], Any]


def in_turn(
    title: str,
    methods: Mapping[str, Method],
    repeats: int,
    times: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Print the time of each method, and its ratio to the first; what each gave."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    gave: dict[str, Any] = {}
    for _ in range(repeats):
        for name, method in methods.items():
            began = time.process_time()
            gave[name] = method()
            spent[name].append((time.process_time() - began) * (times or {}).get(name, 1.0))
    print(f"\n{title}")
    first = statistics.median(next(iter(spent.values())))
    for name, values in spent.items():
        middle = statistics.median(values)
        span = f"({1e3 * min(values):.1f} - {1e3 * max(values):.1f})"
        print(f"  {name:34} {1e3 * middle:10.1f} ms {span:24} x {middle / first:.2f}")
    return gave


def patterns(conditions: int, columns: int, repeats: int) -> None:
    """Correlation RDMs."""
    import rsatoolbox

    from neurofm.interpret import rsa

    x = np.random.default_rng(0).standard_normal((conditions, columns))
    other, data = x[::-1].copy(), rsatoolbox.data.Dataset(x)
    gave = in_turn(
        f"correlation RDM, {conditions} x {columns}",
        {
            "one product (the bound)": lambda: x @ other.T,
            "neurofm": lambda: rsa.rdm(x).values,
            "neurofm, float32 products": lambda: rsa.rdm(x, dtype="float32").values,
            "rsatoolbox": lambda: (
                rsatoolbox.rdm.calc_rdm(data, method="correlation").dissimilarities
            ),
        },
        repeats,
    )
    apart = [
        float(np.abs(gave["neurofm"] - gave[name]).max())
        for name in ("rsatoolbox", "neurofm, float32 products")
    ]
    print(f"  apart: rsatoolbox {apart[0]:.1e}, float32 {apart[1]:.1e}")


def crossed(conditions: int, columns: int, repeats: int, runs: int = 8) -> None:
    """Crossnobis with a full covariance."""
    import rsatoolbox

    from neurofm.interpret import rsa

    rng = np.random.default_rng(0)
    x = rng.standard_normal((runs * conditions, columns))
    noise = rsa.noise_covariance(rng.standard_normal((2 * columns, columns)), "full")
    names, folds = np.tile(np.arange(conditions), runs), np.repeat(np.arange(runs), conditions)
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": names, "r": folds})
    precision = np.linalg.inv(noise)
    parts, other = x.reshape(runs, conditions, columns), x[:conditions][::-1].copy()

    def products() -> None:
        x @ precision
        for part in (*parts, parts[0]):
            part @ other.T

    gave = in_turn(
        f"crossnobis, {conditions} conditions, {runs} runs, {columns} columns",
        {
            "the products (the bound)": products,
            "neurofm": lambda: (
                rsa.crossnobis(x, names.tolist(), folds.tolist(), noise=noise).values
            ),
            "neurofm, patterns averaged already": lambda: rsa.crossnobis_distances(
                parts, noise=noise
            ),
            "rsatoolbox": lambda: rsatoolbox.rdm.calc_rdm(
                data, method="crossnobis", descriptor="c", cv_descriptor="r", noise=precision
            ).dissimilarities[0],
        },
        repeats,
    )
    print(f"  apart: rsatoolbox {float(np.abs(gave['neurofm'] - gave['rsatoolbox']).max()):.1e}")


def compared(n: int, repeats: int, some: int, count: int = 100) -> None:
    """Comparisons of `count` RDMs with one."""
    import rsatoolbox

    from neurofm.interpret import rsa

    rng = np.random.default_rng(0)
    a = rsa.dissimilarities(rng.standard_normal((count, n, 2 * n)), "euclidean")
    b = rsa.dissimilarities(rng.standard_normal((1, n, 2 * n)), "euclidean")
    few, one = rsatoolbox.rdm.RDMs(a[:some]), rsatoolbox.rdm.RDMs(b)
    covariance = np.cov(rng.standard_normal((4 * n, n)).T)
    for method, sigma in (("cosine_cov", None), ("cosine_cov", covariance), ("tau-a", None)):
        kind = (
            "" if method == "tau-a" else (", independent" if sigma is None else ", full covariance")
        )
        options = {} if method == "tau-a" else {"sigma_k": sigma}

        def theirs(method: str = method, options: Any = options) -> Any:
            return rsatoolbox.rdm.compare(few, one, method=method, **options)

        gave = in_turn(
            f"{method}{kind}, {count} RDMs of {n} conditions",
            {
                "neurofm": lambda m=method, o=options: rsa.compare(a, b, m, **o),
                f"rsatoolbox, from {some} of them": theirs,
            },
            repeats,
            {f"rsatoolbox, from {some} of them": count / some},
        )
        both = list(gave.values())
        print(f"  apart: {float(np.abs(both[0][:some] - both[1]).max()):.1e}")


def main(arguments: list[str]) -> None:
    """Time all."""
    parser = argparse.ArgumentParser(prog="rdms")
    parser.add_argument("--conditions", type=int, default=2000)
    parser.add_argument("--columns", type=int, default=20_000)
    parser.add_argument("--crossed", type=int, default=200, help="conditions of crossnobis")
    parser.add_argument("--compared", type=int, nargs="+", default=[100, 200], help="conditions")
    parser.add_argument("--some", type=int, default=2, help="RDMs that rsatoolbox compares")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    patterns(options.conditions, options.columns, options.repeats)
    crossed(options.crossed, 5 * options.crossed, options.repeats)
    for n in options.compared:
        # Larger ones are too many entries for its matrix over pairs of pairs.
        compared(n, options.repeats, options.some) if n <= 120 else ours_alone(n, options.repeats)


def ours_alone(n: int, repeats: int, count: int = 100) -> None:
    """Whitened comparisons of sizes that are out of reach otherwise."""
    from neurofm.interpret import rsa

    rng = np.random.default_rng(0)
    a, b = (rng.random((k, n * (n - 1) // 2)) for k in (count, 1))
    covariance = np.cov(rng.standard_normal((4 * n, n)).T)
    in_turn(
        f"whitened cosine, {count} RDMs of {n} conditions",
        {
            "independent": lambda: rsa.compare(a, b, "cosine_cov"),
            "full covariance": lambda: rsa.compare(a, b, "cosine_cov", sigma_k=covariance),
            "tau-a": lambda: rsa.compare(a, b, "tau-a"),
        },
        repeats,
    )
