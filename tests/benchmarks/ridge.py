"""Ridge with a penalty per voxel: ours against himalaya's torch backend.

    python -m tests.benchmarks ridge
    python -m tests.benchmarks ridge --samples 600 --features 1000 --voxels 4000 --repeats 3

The same features and responses (float32, centred and scaled beforehand), 5 folds of consecutive
rows, 20 penalties, R2 averaged over folds on both sides; himalaya with its documented batches of
targets. All choose a penalty per voxel and compute weights of all rows: himalaya's `RidgeCV`, and
its `KernelRidgeCV`, which it recommends for fewer rows than features. Each has its own process with
the same number of threads, and they take turns.

The bound is the time of the matrix products that a direct solver makes (per fold: eigenvectors
times responses, then predictions of the test rows at every penalty; once: eigenvectors times
responses, then weights) at the rate of `torch.mm` for such products, measured in the same turns.
Ours is allowed below it: it makes fewer products, and through oneDNN, whose rate is also given.

`--memory` fits responses from a memory map to weights in a memory map, and gives the peak that
this adds to the process: the file's pages count, because the kernel counts them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

FOLDS = 5
CLOCK = time.perf_counter
METHODS = ("bound", "neurofm", "himalaya", "himalaya_kernel")
BATCHES = {"n_targets_batch": 1000, "n_targets_batch_refit": 1000, "n_alphas_batch": 5}


def penalties(n: int) -> np.ndarray:
    """From features that may be overfitted to none that are believed."""
    return np.logspace(-1, 7, n)


def build(folder: Path, samples: int, features: int, voxels: int) -> None:
    """Features with a falling spectrum; voxels of various numbers of features and noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, features), dtype=np.float32)
    mixing = np.linspace(1, 0.05, features, dtype=np.float32)
    x = x * mixing + 0.3 * np.roll(x, 1, 1)
    x = (x - x.mean(0)) / x.std(0)
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (samples, voxels))
    for start in range(0, voxels, 1000):
        n = min(1000, voxels - start)
        weights = rng.standard_normal((features, n), dtype=np.float32)
        weights *= rng.random((features, n), dtype=np.float32) < rng.uniform(0.001, 0.2, n)
        signal = x @ weights
        signal /= signal.std(0) + 1e-6
        noise = rng.standard_normal((samples, n), dtype=np.float32)
        values = signal + rng.uniform(0.3, 5, n).astype(np.float32) * noise
        y[:, start : start + n] = (values - values.mean(0)) / values.std(0)
    y.flush()
    np.save(folder / "x.npy", x)


def fit_ours(x: np.ndarray, y: np.ndarray, grid: np.ndarray, coef: Any = None) -> Any:
    from neurofm.linear import VoxelwiseRidge

    model = VoxelwiseRidge(grid, folds=FOLDS, standardize=False).fit(x, y, coef=coef)
    return model.penalty, model.coef


def fit_himalaya(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> Any:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from himalaya.scoring import r2_score

    set_backend("torch")
    options = {"score_func": r2_score, **BATCHES}
    model = RidgeCV(alphas=grid, fit_intercept=True, cv=FOLDS, solver_params=options).fit(x, y)
    return model.best_alphas_.numpy(), model.coef_.numpy()


def fit_himalaya_kernel(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> Any:
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from himalaya.scoring import r2_score

    set_backend("torch")
    options = {"score_func": r2_score, **BATCHES}
    model = KernelRidgeCV(alphas=grid, fit_intercept=True, cv=FOLDS, solver_params=options)
    model.fit(x, y)
    return model.best_alphas_.numpy(), model.get_primal_coef().numpy()


FITS = {"neurofm": fit_ours, "himalaya": fit_himalaya, "himalaya_kernel": fit_himalaya_kernel}


def products(x: np.ndarray, y: np.ndarray, n_penalties: int) -> list[tuple[int, int, int, int]]:
    """Rows, inner, columns and number of the products of a direct solver."""
    samples, features = x.shape
    voxels = y.shape[1]
    test = samples // FOLDS
    train, rank = samples - test, min(samples - test, features)
    own = min(samples, features)
    inner = samples if features >= samples else features
    return [
        (rank, train, voxels, FOLDS),
        (test, rank, voxels, FOLDS * n_penalties),
        (own, samples, voxels, 1),
        (features, inner, voxels, 1),
    ]


def bound_seconds(x: np.ndarray, y: np.ndarray, n_penalties: int) -> dict[str, float]:
    """Those products at the measured rate, in blocks of 1000 voxels; and the rate of oneDNN."""
    import torch

    from neurofm.nn.linear import linear

    total, operations = 0.0, 0.0
    for rows, inner, columns, count in products(x, y, n_penalties):
        width = min(columns, 1000)
        a, b = torch.randn(rows, inner), torch.randn(inner, width)
        total += _fastest(lambda a=a, b=b: a @ b) * columns / width * count
        operations += 2.0 * rows * inner * columns * count
    a, b = torch.randn(1024, 2048), torch.randn(1024, 2048)
    wide = 2 * 1024 * 1024 * 2048 / _fastest(lambda: linear(a, b))
    return {"seconds": total, "mm": operations / total / 1e9, "onednn": wide / 1e9}


def _fastest(call: Any, repeats: int = 3) -> float:
    call()
    spent = []
    for _ in range(repeats):
        start = CLOCK()
        call()
        spent.append(CLOCK() - start)
    return min(spent)


def _serve(
    method: str, folder: Path, threads: int, n_penalties: int, clock: str, line: Connection
) -> None:
    """A process that fits whenever it is told to, and says how long it took."""
    warnings.simplefilter("ignore")
    import torch

    global CLOCK
    CLOCK = time.process_time if clock == "cpu" else time.perf_counter
    torch.set_num_threads(threads)
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    grid = penalties(n_penalties)
    line.send(None)
    while line.recv():
        if method == "bound":
            line.send(bound_seconds(x, y, n_penalties))
            continue
        before = _reset_peak()
        start = CLOCK()
        chosen, coef = FITS[method](x, y, grid)
        spent = CLOCK() - start
        np.save(folder / f"{method}.npy", coef)
        line.send({"seconds": spent, "mb": _status("VmHWM") - before, "penalty": chosen})


def _serve_memory(folder: Path, threads: int, n_penalties: int, line: Connection) -> None:
    """Responses from one memory map, weights to another."""
    import torch

    torch.set_num_threads(threads)
    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy", mmap_mode="r")
    shape = (y.shape[1], x.shape[1])
    coef = np.lib.format.open_memmap(folder / "coef.npy", "w+", np.float32, shape)
    fit_ours(x[:40, :50], np.asarray(y[:40, :32]), penalties(3))  # libraries are loaded
    before = _reset_peak()
    start = CLOCK()
    fit_ours(x, y, penalties(n_penalties), coef.T)
    line.send({"mb": _status("VmHWM") - before, "seconds": CLOCK() - start})


def _status(name: str) -> float:
    """A line of the kernel's account of this process, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _reset_peak() -> float:
    """Give back what is free and forget the highest memory so far; what is in use now, MB."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and megabytes of both, whether they agree, and the bound."""
    os.environ |= {key: str(options.threads) for key in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        build(folder, options.samples, options.features, options.voxels)
        if options.memory:
            here, there = context.Pipe()
            given = (folder, options.threads, options.penalties, there)
            process = context.Process(target=_serve_memory, args=given)
            process.start()
            result = here.recv()
            process.join()
            return {"memory": result}
        lines, processes = {}, []
        for method in METHODS:
            here, there = context.Pipe()
            given = (method, folder, options.threads, options.penalties, options.clock, there)
            process = context.Process(target=_serve, args=given)
            process.start()
            here.recv()
            lines[method] = here
            processes.append(process)
        runs: dict[str, list[Any]] = {method: [] for method in METHODS}
        for _ in range(options.repeats):
            for method, line in lines.items():
                line.send(True)
                runs[method].append(line.recv())
        for line in lines.values():
            line.send(False)
        for process in processes:
            process.join()
        result = {
            method: {"seconds": [run["seconds"] for run in done], "mb": done[0].get("mb")}
            for method, done in runs.items()
        }
        result["rates"] = {key: runs["bound"][0][key] for key in ("mm", "onednn")}
        result["agreement"] = _agreement(folder, runs)
        return result


def _agreement(folder: Path, runs: dict[str, list[Any]]) -> dict[str, float]:
    ours, theirs = (runs[m][0]["penalty"] for m in ("neurofm", "himalaya"))
    # himalaya keeps penalties in float32; both are members of one list.
    same = np.isclose(ours, theirs, rtol=1e-4)
    a, b = (np.load(folder / f"{m}.npy", mmap_mode="r") for m in ("neurofm", "himalaya"))
    largest = error = 0.0
    for start in range(0, a.shape[1], 1000):
        part = slice(start, start + 1000)
        one, two = a[:, part][:, same[part]], b[:, part][:, same[part]]
        if one.size:
            scale = np.abs(two).max(0) + 1e-30
            error = max(error, float((np.abs(one - two) / scale).max()))
            largest = max(largest, float(np.abs(one - two).max()))
    return {
        "penalties": float(same.mean()),
        "relative": error,
        "absolute": largest,
        "score": _lost(folder, ours, theirs, ~same) if not same.all() else 0.0,
    }


def _lost(folder: Path, ours: np.ndarray, theirs: np.ndarray, which: np.ndarray) -> float:
    """Largest difference of score, in float64, between two penalties chosen for one voxel."""
    from neurofm.linear import VoxelwiseRidge

    x, y = np.load(folder / "x.npy"), np.load(folder / "y.npy", mmap_mode="r")[:, which]
    grid = np.unique(np.r_[ours[which], theirs[which].astype(np.float64)])
    model = VoxelwiseRidge(grid, folds=FOLDS, standardize=False)
    table = model.scores(x.astype(np.float64), y.astype(np.float64))
    places = [np.abs(grid[:, None] / chosen[which] - 1).argmin(0) for chosen in (ours, theirs)]
    one, two = (table[place, np.arange(table.shape[1])] for place in places)
    return float(np.abs(one - two).max())


def text(result: dict[str, Any]) -> str:
    """The table."""
    if "memory" in result:
        own = result["memory"]
        return (
            f"responses and weights in memory maps: peak {own['mb']:.0f} MB, {own['seconds']:.1f} s"
        )
    lines = [f"{'method':<17}{'seconds':>10}{'min':>9}{'max':>9}{'of bound':>10}{'peak MB':>9}"]
    bound = statistics.median(result["bound"]["seconds"])
    for method in METHODS:
        own = result[method]
        middle = statistics.median(own["seconds"])
        lines.append(
            f"{method:<17}{middle:>10.2f}{min(own['seconds']):>9.2f}{max(own['seconds']):>9.2f}"
            f"{bound / middle:>10.2f}" + (f"{own['mb']:>9.0f}" if own["mb"] else "")
        )
    ours = result["neurofm"]["seconds"]
    for peer in METHODS[2:]:
        theirs = result[peer]["seconds"]
        ratio = statistics.median(theirs) / statistics.median(ours)
        apart = "do not overlap" if max(ours) < min(theirs) else "overlap"
        lines.append(f"{ratio:.2f}x as fast as {peer} (ranges {apart})")
    found, rates = result["agreement"], result["rates"]
    lines.append(
        f"himalaya's penalty for {100 * found['penalties']:.3f} % of voxels (others: scores of the "
        f"two differ by {found['score']:.0e} at most), their weights differ by at most "
        f"{found['relative']:.1e} of a voxel's largest ({found['absolute']:.1e}); "
        f"torch.mm at {rates['mm']:.0f} G/s, oneDNN at {rates['onednn']:.0f}"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Ridge with a penalty per voxel.")
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--features", type=int, default=5000)
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--penalties", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu if busy")
    parser.add_argument("--folder", type=Path, help="for some 1.5 GB of temporary files")
    parser.add_argument("--memory", action="store_true", help="peak memory with memory maps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(options)
    print(json.dumps(result) if options.json else text(result))


if __name__ == "__main__":
    main()
