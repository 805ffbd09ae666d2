"""Band-pass, notch and change of rate: one fused pass against MNE's chain and against bare FFTs.

64 channels x 10 minutes at 1000 Hz: notch at 60 Hz and harmonics, 0.1-96 Hz, 256 Hz. Each method
has its own process with one thread, and they take turns. Time is CPU time; memory is what the call
added to the process at its peak. The limit is one transform of each channel and one back at the new
length.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

CHANNELS, SECONDS, OLD, NEW = 64, 600, 1000.0, 256.0
METHODS = {
    "limit": "float32 FFT of each channel and back, nothing else",
    "fused": "neurofm, one overlap-save pass in float32",
    "mne": "MNE: notch_filter, filter_data, resample(npad=0) in float64",
    "mne steps": "neurofm with engine: mne (a few channels at a time)",
}


def _signal(seconds: float) -> Any:
    from neurofm.types import Recording, Sensors, Signal
    from neurofm.units import Kind

    rng = np.random.default_rng(0)
    shape = (CHANNELS, round(seconds * OLD))
    data = np.cumsum(rng.standard_normal(shape, dtype=np.float32), axis=1)
    data += 5 * rng.standard_normal(shape, dtype=np.float32)
    sensors = Sensors.of_kind([f"E{i}" for i in range(CHANNELS)], Kind.EEG)
    return Signal(data, OLD, sensors, (), Recording("noise", "01"))


def _steps(engine: str) -> list[Any]:
    from neurofm.data import Bandpass, Notch, Resample, build_steps

    steps = [Notch(engine=engine), Bandpass(0.1, 96.0, engine=engine), Resample(NEW, engine)]
    return build_steps(steps, line_freq=60.0)


def apply(method: str, signal: Any) -> np.ndarray:
    """Filtered and resampled samples."""
    if method == "limit":
        import scipy.fft

        n = signal.data.shape[1]
        m = round(n * NEW / OLD)
        out = np.empty((CHANNELS, m), dtype=np.float32)
        for row, into in zip(signal.data, out, strict=True):
            into[:] = scipy.fft.irfft(scipy.fft.rfft(row)[: m // 2 + 1], m)
        return out
    if method == "mne":
        import mne.filter

        x = signal.data.astype(np.float64)
        x = mne.filter.notch_filter(x, OLD, np.arange(60, OLD / 2, 60.0), verbose="ERROR")
        x = mne.filter.filter_data(x, OLD, 0.1, 96.0, copy=False, verbose="ERROR")
        return mne.filter.resample(x, NEW, OLD, npad=0, method="fft", verbose="ERROR")
    for step in _steps("fft" if method == "fused" else "mne"):
        signal = step(signal)
    return signal.data


def _memory(name: str) -> float:
    """MB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _serve(method: str, connection: Connection) -> None:
    signal = _signal(SECONDS)
    apply(method, _signal(60.0))  # imports, plans
    while connection.recv():
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
        before = _memory("VmRSS")
        start = time.process_time()
        result = apply(method, signal)
        took = time.process_time() - start
        connection.send((took, _memory("VmHWM") - before, result[:2].astype(np.float32)))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks filters")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for method in METHODS:
        pipes[method], other = context.Pipe()
        workers.append(context.Process(target=_serve, args=(method, other), daemon=True))
        workers[-1].start()
    took: dict[str, list[float]] = {method: [] for method in METHODS}
    peak: dict[str, float] = {}
    samples: dict[str, np.ndarray] = {}
    for _ in range(options.repeats):
        for method, pipe in pipes.items():
            pipe.send(True)
            seconds, peak[method], samples[method] = pipe.recv()
            took[method].append(seconds)
    for pipe in pipes.values():
        pipe.send(False)
    for worker in workers:
        worker.join()
    middle = {method: statistics.median(times) for method, times in took.items()}
    print(f"{CHANNELS} channels x {SECONDS} s, {OLD:g} -> {NEW:g} Hz, {options.repeats} repeats")
    print("| method | x real time (lowest - highest) | of the limit | of MNE | MB |")
    print("| --- | --- | --- | --- | --- |")
    for method, what in METHODS.items():
        rates = sorted(SECONDS / t for t in took[method])
        print(
            f"| {method}: {what} | {SECONDS / middle[method]:.0f} ({rates[0]:.0f} - "
            f"{rates[-1]:.0f}) | {middle['limit'] / middle[method]:.2f} | "
            f"{middle['mne'] / middle[method]:.1f} | {peak[method]:.0f} |"
        )
    edge = round(30 * NEW)
    inside = samples["mne"][:, edge:-edge]
    error = (samples["fused"] - samples["mne"])[:, edge:-edge].std() / inside.std()
    whole = (samples["fused"] - samples["mne"]).std() / samples["mne"].std()
    print(f"fused against MNE: {error:.1e} of RMS inside, {whole:.1e} with the ends")


if __name__ == "__main__":
    main()
