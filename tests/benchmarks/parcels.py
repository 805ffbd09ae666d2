"""Parcel means of a 4-D image: ours against nilearn's NiftiLabelsMasker.

The same image, the same labels on its grid, prepared beforehand on both sides; then the image is
read from disk and averaged. Every method and file has its own process with one thread, and the
processes take turns, so that a slow moment of the machine hits all of them. Ratios are of CPU
time. Memory is the peak of the process above what it held before (Linux only). Files lie in the
page cache.

Image: MNI 2 mm, 91 x 109 x 91 voxels, 200 volumes of noise, more in the head than in the air;
labels of 100 parcels in blocks. Of a `.nii.gz`, most of the time is inflating it, for everybody.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import gzip
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, PARCELS, TR = (91, 109, 91), 100, 2.0
METHODS = {
    "inflate": "the bytes alone, inflated or read and thrown away: the limit",
    "neurofm": "blocks of volumes",
    "nilearn": "NiftiLabelsMasker, transform after fit",
}
FILES = {"int16.nii": np.int16, "float32.nii": np.float32, "int16.nii.gz": np.int16}


def labels() -> np.ndarray:
    """100 blocks of voxels in the middle of the image, about as many as a cortex has."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"))
    inside = sum(((g - n / 2) / (0.42 * n)) ** 2 for g, n in zip(grid, SHAPE, strict=True)) < 1
    block = sum((g // 18) * step for g, step in zip(grid, (1, 6, 42), strict=True))
    return np.where(inside & (grid[0] % 2 == 0), block % PARCELS + 1, 0).astype(np.int16)


def build(folder: Path, volumes: int, names: tuple[str, ...]) -> None:
    """Write the images, volume by volume: they need not fit into memory."""
    import nibabel
    from scipy import ndimage

    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    atlas = labels()
    nibabel.save(nibabel.Nifti1Image(atlas, affine), folder / "labels.nii")
    rng = np.random.default_rng(0)
    head = ndimage.binary_dilation(atlas > 0, iterations=3)
    mean = np.where(head, 1000, 30).astype(np.float32)
    spread = np.where(head, 15, 8).astype(np.float32)
    for name in names:
        header = nibabel.Nifti1Header()
        header.set_data_dtype(FILES[name])
        header.set_data_shape((*SHAPE, volumes))
        header.set_sform(affine, 1)
        header.set_xyzt_units("mm", "sec")
        header["pixdim"][1:5] = 2, 2, 2, TR
        header["vox_offset"] = 352
        header["magic"] = b"n+1"
        path = folder / name
        with gzip.open(path, "wb", 1) if name.endswith(".gz") else open(path, "wb") as file:
            file.write(header.binaryblock + bytes(4))
            for _ in range(volumes):
                volume = mean + spread * rng.standard_normal(SHAPE, dtype=np.float32)
                file.write(volume.astype(FILES[name]).tobytes(order="F"))


def _open(method: str, folder: Path, name: str) -> Callable[[], np.ndarray]:
    path = folder / name
    if method == "inflate":
        return lambda: _read(path)
    if method == "neurofm":
        from neurofm.io import open_image, parcel_means, read_atlas

        numbers = read_atlas(folder / "labels.nii").on(open_image(path).grid)
        return lambda: parcel_means(open_image(path), numbers)[0]
    from nilearn.maskers import NiftiLabelsMasker

    masker = NiftiLabelsMasker(
        str(folder / "labels.nii"), resampling_target=None, standardize=None
    ).fit()
    return lambda: masker.transform(str(path)).T


def _read(path: Path) -> np.ndarray:
    buffer = bytearray(8 << 20)
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return np.zeros((PARCELS, 1))


def _serve(method: str, folder: Path, name: str, line: Connection) -> None:
    """A process that averages the image whenever it is told to, and says how long it took."""
    warnings.simplefilter("ignore")
    average = _open(method, folder, name)
    line.send(None)
    while line.recv():
        before = _reset_peak()
        start, cpu = time.perf_counter(), time.process_time()
        result = average()
        spent = time.perf_counter() - start, time.process_time() - cpu
        line.send((*spent, _status("VmHWM") - before, result[:, :3].tolist()))


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


def measure(*, repeats: int = 5, volumes: int = 200, names: tuple[str, ...] = tuple(FILES)) -> Any:
    """Seconds and megabytes of every method on every file."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    context = multiprocessing.get_context("spawn")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), volumes, names)
        for name in names:
            lines, processes = {}, []
            for method in METHODS:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(method, Path(folder), name, there))
                process.start()
                here.recv()
                lines[method] = here
                processes.append(process)
            runs: dict[str, list[Any]] = {method: [] for method in METHODS}
            peak: dict[str, float] = {}
            for repeat in range(repeats + 1):
                for method, line in lines.items():
                    line.send(True)
                    answer = line.recv()
                    peak[method] = max(peak.get(method, 0.0), answer[2])
                    if repeat:  # the first turn fills the page cache
                        runs[method].append(answer)
            for line in lines.values():
                line.send(False)
            for process in processes:
                process.join()
            np.testing.assert_allclose(runs["neurofm"][0][3], runs["nilearn"][0][3], rtol=1e-4)
            result[name] = {
                method: {
                    "seconds": [run[0] for run in done],
                    "cpu": [run[1] for run in done],
                    "mb": peak[method],
                }
                for method, done in runs.items()
            }
            size = (Path(folder) / name).stat().st_size / 1e6
            result[name]["file_mb"] = size
    return result


def text(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{'file':<14}{'method':<10}{'CPU s':>8}{'min':>8}{'max':>8}{'wall s':>8}{'peak MB':>9}"
    ]
    for name, methods in result.items():
        for method in METHODS:
            own = methods[method]
            lines.append(
                f"{name:<14}{method:<10}{statistics.median(own['cpu']):>8.3f}"
                f"{min(own['cpu']):>8.3f}{max(own['cpu']):>8.3f}"
                f"{statistics.median(own['seconds']):>8.3f}{own['mb']:>9.0f}"
            )
        ours, theirs = methods["neurofm"], methods["nilearn"]
        ratio = statistics.median(theirs["cpu"]) / statistics.median(ours["cpu"])
        apart = max(ours["cpu"]) < min(theirs["cpu"])
        lines.append(
            f"{name}: {ratio:.1f}x less CPU time than nilearn (ranges "
            f"{'do not overlap' if apart else 'overlap'}), with {ours['mb'] / theirs['mb']:.3f} of "
            f"its peak memory; file of {methods['file_mb']:.0f} MB"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Parcel means of a 4-D image.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--files", nargs="+", choices=tuple(FILES), default=tuple(FILES))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(repeats=options.repeats, volumes=options.volumes, names=tuple(options.files))
    print(json.dumps(result) if options.json else text(result))


if __name__ == "__main__":
    main()
