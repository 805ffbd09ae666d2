"""Searchlight in closed form, many spheres at once, against scikit-learn sphere by sphere.

20,000 voxels of 3 mm, spheres of 9 mm (123 voxels), 8 categories in 9 runs, each run left out. The
loop is timed on a share of the spheres, the same ones in every repeat, and its time for all is that
times their number; ours runs all. One thread, in turn; CPU time. Both shrink the covariance as
Ledoit and Wolf do, scikit-learn by class and towards the diagonal, so scores are alike, not equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)


def _data(n_voxels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    side = int(np.ceil(n_voxels ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    y, run = np.tile(np.arange(8), 9), np.repeat(np.arange(9), 8)
    x = rng.standard_normal((72, n_voxels))
    x[:, : n_voxels // 4] += 0.3 * rng.standard_normal((8, n_voxels // 4))[y]
    return x, y, run, 0.003 * grid[:n_voxels]


def _loop(x: np.ndarray, y: np.ndarray, run: np.ndarray, spheres: list[np.ndarray]) -> np.ndarray:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_score

    made = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = LeaveOneGroupOut()
    scores = [cross_val_score(made, x[:, s], y, groups=run, cv=folds).mean() for s in spheres]
    return np.array(scores)


def main(arguments: list[str]) -> None:
    """Time both."""
    parser = argparse.ArgumentParser(prog="searchlight")
    parser.add_argument("--voxels", type=int, default=20_000)
    parser.add_argument("--radius", type=float, default=9.0, help="mm")
    parser.add_argument("--spheres", type=int, default=100, help="of the loop")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    from neurofm.evaluate.searchlight import find_spheres, searchlight

    warnings.simplefilter("ignore")
    x, y, run, position = _data(options.voxels)
    spheres, _ = find_spheres(position, radius_mm=options.radius)
    every = max(1, len(spheres) // options.spheres)
    some = spheres[::every]
    ours, loop = [], []
    for _ in range(options.repeats):
        began = time.process_time()
        found = searchlight(x, y, run, position, radius_mm=options.radius)
        ours.append(time.process_time() - began)
        began = time.process_time()
        scores = _loop(x, y, run, some)
        loop.append((time.process_time() - began) * len(spheres) / len(some))
        r = np.corrcoef(scores, found.value[::every])[0, 1]
    a, b = statistics.median(ours), statistics.median(loop)
    print(f"neurofm      {a:8.1f} s ({min(ours):.1f} - {max(ours):.1f})")
    print(f"scikit-learn {b:8.1f} s ({min(loop):.1f} - {max(loop):.1f}), from {len(some)} spheres")
    print(f"ratio {b / a:.1f}; scores correlate {r:.2f}")
