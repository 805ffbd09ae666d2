"""Random 2-s windows: the store against braindecode and against a copy from memory (the limit).

Every method serves the same windows of the same recordings as batches of 64. Each runs in its own
process with one thread, and the processes take turns, so that a slow moment of the machine hits
all of them. Time is CPU time of the process; memory is what opening and reading added to it.

Recordings: EEGMMIDB under $NEUROFM_DATA, else simulated ones; resampled to 256 Hz.
"""

from __future__ import annotations

import argparse
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

WINDOW_S, STRIDE_S, SFREQ, BATCH = 2.0, 0.25, 256.0, 64
METHODS = {
    "gather": "float32 arrays in memory, windows copied out: the limit",
    "store int16": "neurofm, checksums verified",
    "store float32": "neurofm, checksums verified",
    "lazy FIF": "braindecode, float32 FIF read when asked",
    "lazy EDF": "braindecode, the original EDF at its own rate read when asked",
    "preloaded": "braindecode, recordings preloaded by MNE",
}
Draw = Callable[[list[int]], Any]


def _corpus() -> tuple[Any, str]:
    from neurofm.io import open_corpus

    if os.environ.get("NEUROFM_DATA"):
        return open_corpus("eegmmidb"), "EEGMMIDB"
    return open_corpus("simulated_motor_imagery"), "simulation"


def build(folder: Path) -> dict[str, Any]:
    """Write the recordings in every format; what was written."""
    import mne

    from neurofm.data import Resample, prepare_corpus
    from neurofm.io import Store, signal_to_raw

    corpus, name = _corpus()
    recordings = corpus.recordings()
    if name == "EEGMMIDB":  # two-minute runs only: the rest have other lengths
        recordings = corpus.recordings(runs=[4, 8, 12])
    runs = sorted({item.run for item in recordings})
    for dtype in ("int16", "float32"):
        path = prepare_corpus(
            corpus, [Resample(SFREQ)], folder / dtype, runs=runs, dtype=dtype, progress=False
        )
        path.rename(folder / dtype / "store")
    store = Store(folder / "float32" / "store")
    by_id = {item.id: item for item in recordings}
    (folder / "fif").mkdir()
    (folder / "edf").mkdir()
    originals = []
    for i, entry in enumerate(store.entries):
        recording = by_id[entry.recording.id]
        data = store.read(i, 0, entry.n_times)
        np.save(folder / f"{i:03d}.npy", data)
        original = corpus.load(recording)
        prepared = type(original)(
            data, entry.sfreq, entry.sensors, original.events, original.recording
        )
        raw = signal_to_raw(prepared)
        raw.save(folder / "fif" / f"{i:03d}_raw.fif", fmt="single", verbose="ERROR")
        edf = recording.path
        if edf is None:
            edf = folder / "edf" / f"{i:03d}.edf"
            mne.export.export_raw(edf, signal_to_raw(original), verbose="ERROR")
        originals.append(str(edf))
    return {
        "data": name,
        "recordings": len(store),
        "hours": sum(entry.duration for entry in store.entries) / 3600,
        "edf": originals,
        "n_times": [entry.n_times for entry in store.entries],
    }


def _positions(made: dict[str, Any]) -> list[tuple[int, int]]:
    """Recording and first sample of every window, the same for all methods."""
    n, step = round(WINDOW_S * SFREQ), round(STRIDE_S * SFREQ)
    return [
        (i, start)
        for i, n_times in enumerate(made["n_times"])
        for start in range(0, n_times - n + 1, step)
    ]


def _open(method: str, folder: Path, made: dict[str, Any]) -> Draw:
    if method == "gather":
        return _gather(folder, made)
    if method.startswith("store"):
        from neurofm.data import Windows

        store = folder / method.split()[1] / "store"
        return Windows(store, window_s=WINDOW_S, stride_s=STRIDE_S).__getitems__
    return _braindecode(method, folder, made)


def _gather(folder: Path, made: dict[str, Any]) -> Draw:
    import torch

    arrays = [np.load(folder / f"{i:03d}.npy") for i in range(made["recordings"])]
    positions = _positions(made)
    n = round(WINDOW_S * SFREQ)
    x = torch.empty(BATCH, len(arrays[0]), n)
    out = x.numpy()

    def draw(indices: list[int]) -> Any:
        for k, index in enumerate(indices):
            i, start = positions[index]
            out[k] = arrays[i][:, start : start + n]
        return x

    return draw


def _braindecode(method: str, folder: Path, made: dict[str, Any]) -> Draw:
    import mne
    from torch.utils.data import default_collate

    from neurofm.compat import guard_torchaudio

    guard_torchaudio()
    from braindecode.datasets import BaseConcatDataset, RawDataset
    from braindecode.preprocessing import create_fixed_length_windows

    sets = []
    for i in range(made["recordings"]):
        if method == "lazy EDF":
            raw = mne.io.read_raw(made["edf"][i], preload=False, verbose="ERROR")
        else:
            path = folder / "fif" / f"{i:03d}_raw.fif"
            raw = mne.io.read_raw_fif(path, preload=method == "preloaded", verbose="ERROR")
        sets.append(RawDataset(raw, {"subject": i}))
    sfreq = sets[0].raw.info["sfreq"]
    windows = create_fixed_length_windows(
        BaseConcatDataset(sets),
        window_size_samples=round(WINDOW_S * sfreq),
        window_stride_samples=round(STRIDE_S * sfreq),
        drop_last_window=True,
    )
    return lambda indices: default_collate([windows[i] for i in indices])[0]


def _serve(method: str, folder: Path, made: dict[str, Any], seed: int, line: Connection) -> None:
    """A process that draws batches whenever it is told to, and says how long it took."""
    import psutil
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if method.startswith("store"):
        import neurofm.data.windows  # noqa: F401
    elif method != "gather":
        from neurofm.compat import guard_torchaudio

        guard_torchaudio()
        import braindecode.datasets
        import braindecode.preprocessing  # noqa: F401
    process = psutil.Process()
    n_windows = len(_positions(made))
    if method == "lazy EDF":  # another rate may have room for one window more or less
        n_windows -= made["recordings"]
    before = process.memory_info().rss
    draw = _open(method, folder, made)
    generator = np.random.default_rng(seed)
    first = draw(generator.integers(0, n_windows, BATCH).tolist())
    x = np.asarray(first if method not in ("store int16", "store float32") else first.x)
    line.send(x[0].astype(np.float64).std(axis=1).tolist())
    while (n := line.recv()) is not None:
        batches = generator.integers(0, n_windows, (n, BATCH)).tolist()
        start = time.process_time()
        for indices in batches:
            draw(indices)
        spent = time.process_time() - start
        memory = process.memory_info().rss - before
        line.send((spent / (n * BATCH), memory))


def measure(
    *, repeats: int = 7, batches: int = 40, methods: tuple[str, ...] = tuple(METHODS)
) -> Any:
    """Milliseconds of CPU time per window, megabytes."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        made = build(Path(name))
        lines, processes, checks = {}, [], {}
        for method in methods:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(method, Path(name), made, 0, there))
            process.start()
            lines[method], checks[method] = here, here.recv()
            processes.append(process)
        times: dict[str, list[float]] = {method: [] for method in methods}
        memory: dict[str, float] = {}
        for repeat in range(repeats + 1):
            for method, line in lines.items():
                # Slow methods draw fewer: each turn then takes about as long.
                line.send(batches if method.startswith(("store", "gather")) else batches // 4)
                spent, used = line.recv()
                if repeat:  # the first turn warms files and memory
                    times[method].append(spent * 1e3)
                memory[method] = max(memory.get(method, 0.0), used / 1e6)
        for line in lines.values():
            line.send(None)
        for process in processes:
            process.join()
    return {"made": made, "times": times, "memory": memory, "checks": checks}


def text(result: dict[str, Any]) -> str:
    """The table."""
    made, times, memory = result["made"], result["times"], result["memory"]
    limit = statistics.median(times["gather"])
    lines = [
        f"{made['data']}: {made['recordings']} recordings, {made['hours']:.2f} h, windows of "
        f"{WINDOW_S:g} s at {SFREQ:g} Hz, batches of {BATCH}, one thread",
        f"{'method':<15}{'ms/window':>10}{'min':>8}{'max':>8}{'windows/s':>11}{'of limit':>9}"
        f"{'MB':>8}",
    ]
    for method, values in times.items():
        middle = statistics.median(values)
        lines.append(
            f"{method:<15}{middle:>10.4f}{min(values):>8.4f}{max(values):>8.4f}"
            f"{1000 / middle:>11.0f}{limit / middle:>9.1%}{memory[method]:>8.0f}"
        )
    for ours in ("store int16", "store float32"):
        for other in ("lazy FIF", "lazy EDF", "preloaded"):
            if ours in times and other in times:
                ratio = statistics.median(times[other]) / statistics.median(times[ours])
                apart = max(times[ours]) < min(times[other])
                share = memory[ours] / max(memory[other], 1e-9)
                lines.append(
                    f"{ours} is {ratio:.1f}x faster than {other} (ranges "
                    f"{'do not overlap' if apart else 'overlap'}), with {share:.2f} of its memory"
                )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Random windows of prepared recordings.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    result = measure(
        repeats=options.repeats, batches=options.batches, methods=tuple(options.methods)
    )
    result["made"].pop("edf")
    print(json.dumps(result) if options.json else text(result))


if __name__ == "__main__":
    main()
