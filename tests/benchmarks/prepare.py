"""What preparing costs: the executors' share per recording, and the rate of one core.

Three parts. Executors alone: thousands of tasks that do nothing, time per task. The driver: a
corpus of tiny recordings prepared and prepared again, less the work itself. One core: simulated
recordings from EDF and FIF files through the default steps into a store, in CPU time: signal per
time, bytes; from that, what a corpus of thousands of hours costs (datasets/PREPARING.md).
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.data.preparing.executors import Executor
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

TASKS, TINY, WORKERS, REPEATS = 3000, 1000, 2, 5


@dataclass(frozen=True)
class Arrays:
    """A corpus of `.npy` files, channel time, float32."""

    root: Path
    sfreq: float = 100.0
    name: str = "arrays"
    card: dict[str, Any] = field(default_factory=dict)

    def recordings(
        self,
        *,
        subjects: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
    ) -> list[Recording]:
        return [
            Recording(self.name, path.stem, path=path) for path in sorted(self.root.glob("*.npy"))
        ]

    def load(self, recording: Recording) -> Signal:
        assert recording.path is not None
        data = np.load(recording.path)
        sensors = Sensors.of_kind(tuple(f"C{i}" for i in range(len(data))), Kind.EEG)
        return Signal(data, self.sfreq, sensors, (), recording)


def nothing(item: str) -> int:
    return len(item)


def executors() -> None:
    from neurofm.data import open_executor

    for name in ("inprocess", "processes", "dask"):
        with closing(open_executor(name, workers=1 if name == "inprocess" else WORKERS)) as opened:
            outcomes = opened.imap_unordered(nothing, ("x" * 300 for _ in range(TASKS)))
            next(outcomes)
            start = time.perf_counter()
            count = sum(1 for _ in outcomes)
            elapsed = time.perf_counter() - start
        print(f"executor {name:<10} {elapsed / count * 1e3:8.3f} ms per task ({TASKS} tasks)")


def driver(folder: Path) -> None:
    from neurofm.data import open_executor, prepare_corpus

    corpus = Arrays(folder / "tiny")
    corpus.root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(TINY):
        np.save(corpus.root / f"{i:05d}.npy", rng.normal(0, 20, (4, 200)).astype(np.float32))
    time.sleep(2.5)  # files at rest are believed by the journal
    for name in ("inprocess", "processes", "dask"):
        workers = 1 if name == "inprocess" else WORKERS
        with closing(Timed(open_executor(name, workers=workers), workers)) as timed:
            store = folder / f"tiny-{name}"
            prepare_corpus(corpus, [], store, progress=False, executor=timed)
            start = time.perf_counter()
            prepare_corpus(corpus, [], store, progress=False, executor=timed)
            again = time.perf_counter() - start
        print(
            f"corpus   {name:<10} {timed.overhead() * 1e3:8.3f} ms per recording beside "
            f"the {statistics.median(timed.seconds) * 1e3:.1f} ms of a tiny recording; "
            f"{again / TINY * 1e3:.3f} ms when prepared again"
        )


class Timed:
    """An executor that keeps how long the work took, and when the first and last ended."""

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor, self.workers = executor, workers
        self.seconds: list[float] = []
        self._first = self._last = 0.0

    def imap_unordered(self, work: Any, items: Any) -> Generator[Any, None, None]:
        with closing(self._executor.imap_unordered(work, items)) as outcomes:
            for outcome in outcomes:
                self._last = time.perf_counter()
                self._first = self._first or self._last
                self.seconds.append(outcome.seconds)
                yield outcome

    def overhead(self) -> float:
        """Seconds of a worker per item in which it did not work, once all workers run."""
        worked = sum(self.seconds[self.workers :])
        return ((self._last - self._first) * self.workers - worked) / len(self.seconds)

    def close(self) -> None:
        self._executor.close()


def write_edf(path: Path, data: np.ndarray, sfreq: float) -> None:
    import edfio

    names = (f"{row}{i}" for row in ("F", "FC", "C", "CP", "P", "PO", "O", "T") for i in range(8))
    signals = [
        edfio.EdfSignal(row, sfreq, label=name, physical_dimension="uV", physical_range=(-200, 200))
        for name, row in zip(names, data, strict=True)
    ]
    edfio.Edf(signals).write(path)


def write_fif(path: Path, data: np.ndarray, sfreq: float) -> None:
    import mne

    kinds = ["mag", "grad", "grad"] * (len(data) // 3)
    info = mne.create_info([f"MEG{i:04d}" for i in range(len(data))], sfreq, kinds, verbose="ERROR")
    scale = np.where(np.array(kinds) == "mag", 1e-15, 1e-13)[:, None]
    mne.io.RawArray(data * scale, info, verbose="ERROR").save(path, fmt="single", verbose="ERROR")


def one_core(folder: Path, label: str, n_channels: int, sfreq: float, minutes: float) -> None:
    from neurofm.data import build_steps, prepare_corpus
    from neurofm.io import Store, open_path

    raw = folder / label.replace(" ", "-")
    raw.mkdir()
    rng, n = np.random.default_rng(0), round(minutes * 60 * sfreq)
    data = np.clip(20 * rng.standard_normal((n_channels, n), dtype=np.float32), -199, 199)
    if n_channels == 64:
        write_edf(raw / "1.edf", data, sfreq)
    else:
        write_fif(raw / "1_raw.fif", data, sfreq)
    del data
    corpus = open_path(raw)
    (recording,) = corpus.recordings()
    steps = build_steps(None, line_freq=50)
    total, reading = [], []
    for repeat in range(REPEATS):
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            corpus.load(recording)
        reading.append(time.process_time() - start)
        start = time.process_time()
        made = prepare_corpus(corpus, steps, folder / f"{raw.name}-{repeat}", progress=False)
        total.append(time.process_time() - start)
    (entry,) = Store(made).entries
    size = sum(file.stat().st_size for file in raw.iterdir()) / 1e6
    rates = sorted(minutes * 60 / seconds for seconds in total)
    middle = statistics.median(total)
    print(
        f"{label:<22} {minutes * 60 / middle:6.0f} x real time per core ({rates[0]:.0f}-"
        f"{rates[-1]:.0f}), {statistics.median(reading) / middle:.0%} of it reading; "
        f"{size / middle:.0f} MB/s in; per hour {size / minutes * 60:.0f} MB read, "
        f"{entry.n_bytes / entry.duration * 3600 / 1e6:.0f} MB stored"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="prepare", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of EEG recordings")
    options = parser.parse_args(arguments)
    for name in ("distributed", "neurofm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}" + (" (not quiet)" if load > 0.5 else ""))
    executors()
    with tempfile.TemporaryDirectory() as name:
        driver(Path(name))
        one_core(Path(name), "EEG 64 x 512 Hz, EDF", 64, 512.0, options.minutes)
        one_core(Path(name), "EEG 64 x 1000 Hz, EDF", 64, 1000.0, options.minutes)
        one_core(Path(name), "MEG 306 x 1000 Hz, FIF", 306, 1000.0, options.minutes / 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"peak of this process, files written and read: {peak:.0f} MB")


if __name__ == "__main__":
    main([])
