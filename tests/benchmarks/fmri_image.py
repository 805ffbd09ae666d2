"""From 4-D images to decoded and encoded parcels: 64 x 64 x 36 voxels, 300 volumes, four runs.

Each image is read from disk, averaged over 200 parcels, cleaned, and turned into patterns of its
blocks; whole runs are left out. Encoding predicts every parcel from 50 features of each volume,
ridge with a penalty per parcel chosen over runs. Files lie in the page cache; one thread, CPU time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)

SHAPE, TR, PARCELS, FEATURES = (64, 64, 36), 2.0, 200, 50


def _write(folder: Path, volumes: int, n_runs: int) -> tuple[list[Path], Path]:
    import nibabel

    rng = np.random.default_rng(0)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE) * PARCELS // np.prod(SHAPE) + 1
    atlas = folder / "atlas.nii"
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.int16), affine), atlas)
    block = np.tile(np.repeat(np.arange(4), 10), volumes // 40 + 1)[:volumes]
    tuned = 20 * rng.standard_normal((4, PARCELS + 1))
    paths = []
    for run in range(n_runs):
        data = rng.integers(900, 1100, (*SHAPE, volumes), dtype=np.int16)
        for t in range(volumes):
            data[..., t] += tuned[block[max(t - 2, 0)]].astype(np.int16)[labels]
        paths.append(folder / f"run-{run + 1}.nii")
        nibabel.save(nibabel.Nifti1Image(data, affine), paths[-1])
    return paths, atlas


def main(arguments: list[str]) -> None:
    """Time each stage once."""
    parser = argparse.ArgumentParser(prog="fmri_image")
    parser.add_argument("--volumes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=4)
    options = parser.parse_args(arguments)
    from neurofm.evaluate.patterns import decode_patterns, trial_patterns
    from neurofm.io import read_bold
    from neurofm.linear import VoxelwiseRidge
    from neurofm.types import Event, Recording

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        paths, atlas = _write(Path(folder), options.volumes, options.runs)
        events = [Event(20.0 * i, 20.0, "abcd"[i % 4]) for i in range(options.volumes // 10 - 1)]
        clock = [time.process_time()]
        signals = [
            read_bold(
                path, Recording("noise", "1", run=path.stem), atlas=atlas, tr_s=TR, events=events
            )
            for path in paths
        ]
        clock.append(time.process_time())
        made = trial_patterns(signals)
        result = decode_patterns(made.values, made.stimulus, made.run).result
        clock.append(time.process_time())
        y = np.concatenate([signal.data.T for signal in signals])
        run = np.repeat(np.arange(len(signals)), options.volumes)
        features = np.random.default_rng(1).standard_normal((len(y), FEATURES))
        VoxelwiseRidge(folds=None).fit(features, y, groups=run)
        clock.append(time.process_time())
    size = " x ".join(map(str, (*SHAPE, options.volumes)))
    for name, seconds in zip(("parcels", "decoded", "encoded"), np.diff(clock), strict=True):
        print(f"{name:8} {seconds:6.2f} s, {options.runs} images of {size}")
    print(f"accuracy {result.value:.2f}, chance {result.chance:.2f}, of planted categories")
