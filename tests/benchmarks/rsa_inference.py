"""Bootstraps of RSA against rsatoolbox, and searchlights against its own and a loop.

100 conditions, 20 people, 5 models, 1000 samples of conditions and people ("corr"), with noise
ceilings. rsatoolbox is timed on a share of the samples and its time for all is that times their
number. The searchlight has about 20,000 centres of 3 voxels' radius, 20 conditions, correlation
distances and Spearman against one model; rsatoolbox and a plain loop (numpy, scipy, one centre at
a time) are timed on a share of the centres. One thread, in turn; CPU time, medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = function()
    return time.process_time() - began, found


def _said(name: str, ours: list[float], theirs: list[float], peer: str) -> None:
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{name}: neurofm {a:.2f} s ({min(ours):.2f} - {max(ours):.2f}), {peer} {b:.1f} s "
          f"({min(theirs):.1f} - {max(theirs):.1f}), ratio {b / a:.1f}")  # fmt: skip


def _bootstrap(options: argparse.Namespace) -> None:
    import rsatoolbox
    from rsatoolbox.inference import eval_bootstrap

    from neurofm.interpret import rsa

    rng = np.random.default_rng(0)
    n, s, k = options.conditions, 20, 5
    people = rng.random((s, n * (n - 1) // 2))
    models = rng.random((k, people.shape[1]))
    theirs = [rsatoolbox.model.ModelFixed(f"m{i}", one) for i, one in enumerate(models)]
    data = rsatoolbox.rdm.RDMs(people)
    draws = rng.integers(n, size=(options.samples, n))
    persons = rng.integers(s, size=(options.samples, s))
    some = max(2, options.samples // 50)
    ours, peer = [], []
    for _ in range(options.repeats):
        took, _ = _timed(
            lambda: rsa.resample(models, people, "corr", conditions=draws, subjects=persons)
        )
        ours.append(took)
        took, _ = _timed(lambda: eval_bootstrap(theirs, data, method="corr", N=some))
        peer.append(took * options.samples / some)
    _said(f"bootstrap {options.samples} x {n} x {s} x {k}", ours, peer, "rsatoolbox")


def _searchlight(options: argparse.Namespace) -> None:
    from rsatoolbox.inference import eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.util.searchlight import evaluate_models_searchlight, get_searchlight_RDMs
    from scipy.stats import spearmanr

    from neurofm.interpret import rsa

    rng = np.random.default_rng(0)
    mask = np.ones((options.side,) * 3, dtype=bool)
    around = rsa.volume_spheres(mask, radius=3.01)
    x, model = rng.standard_normal((20, mask.sum())), rng.random(190)
    upper, ends = np.triu_indices(20, 1), around.incidence.indptr
    centres = np.linspace(0, len(ends) - 2, min(400, len(ends) - 1)).astype(int)

    def loop() -> list[float]:
        scores = []
        for c in centres:
            part = x[:, around.incidence.indices[ends[c] : ends[c + 1]]]
            scores.append(spearmanr(1 - np.corrcoef(part)[upper], model).statistic)
        return scores

    fixed = [ModelFixed("model", model)]
    near = [around.incidence.indices[ends[c] : ends[c + 1]] for c in centres]

    def toolbox() -> list[float]:
        maps = get_searchlight_RDMs(x, centres, near, np.arange(20), verbose=False)
        told = evaluate_models_searchlight(maps, fixed, eval_fixed, method="spearman", n_jobs=1)
        return [float(one.evaluations.item()) for one in told]

    ours, plain, peer = [], [], []
    share = len(around.centre) / len(centres)
    for _ in range(options.repeats):
        took, found = _timed(lambda: rsa.searchlight_rsa(x, model, around))
        ours.append(took)
        took, scores = _timed(loop)
        plain.append(took * share)
        took, theirs = _timed(toolbox)
        peer.append(took * share)
    for others in (scores, theirs):
        np.testing.assert_allclose(found.scores[centres], others, atol=1e-9)
    _said(f"searchlight, {len(around.centre)} centres", ours, plain, "loop")
    _said(f"searchlight, {len(around.centre)} centres", ours, peer, "rsatoolbox")


def main(arguments: list[str]) -> None:
    """Time both."""
    parser = argparse.ArgumentParser(prog="rsa_inference")
    parser.add_argument("--conditions", type=int, default=100)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--side", type=int, default=28, help="voxels along the volume")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    _bootstrap(options)
    _searchlight(options)
