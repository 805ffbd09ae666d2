"""Random 2-s windows: the store against other formats and a copy from memory (the limit).

Every format serves the same windows of the same recordings as batches, a new array each. Each runs
in its own process with one thread, and the processes take turns, so that a slow moment of the
machine hits all of them. Warm time is CPU time. Cold time, CPU and wall, is measured after the
format's files were dropped from the page cache and opened anew (opening an EDF reads all of it for
its annotations). Memory is the peak of resident memory while opening and reading, beyond what was
there after the imports. Damage: a bit of four neighbouring bytes flipped, the file cut in half, a
block gone; then the recording is read by another process. "caught" = an error, "silent" = other
numbers without an error, "dead" = the process was killed.

Cases: eeg = EEGMMIDB under $NEUROFM_DATA, else simulated, at 256 Hz; meg = 306 channels of noise at
1000 Hz.
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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.window_damage import damage_table
from tests.benchmarks.window_formats import FORMATS, Made, open_format, warm_up, write

BATCH = {"eeg": 64, "meg": 16}
BATCHES = {"eeg": 40, "meg": 10}


def build(folder: Path, case: str) -> Made:
    """Write the recordings as arrays and as stores."""
    signals, name, edf = _eeg(folder) if case == "eeg" else _meg()
    from neurofm.io import seal, write_recording

    (folder / "npy").mkdir()
    n_times = []
    for i, signal in enumerate(signals):
        np.save(folder / "npy" / f"{i:03d}.npy", signal.data)
        n_times.append(signal.data.shape[1])
        for dtype in ("int16", "float32"):
            write_recording(folder / f"store {dtype}", signal, key=f"{i:03d}", dtype=dtype)
        sfreq, n_channels = signal.sfreq, len(signal.sensors)
    for dtype in ("int16", "float32"):
        seal(folder / f"store {dtype}")
    return Made(folder, name, sfreq, n_channels, tuple(n_times), tuple(edf))


def _eeg(folder: Path) -> tuple[Any, str, list[str]]:
    import mne

    from neurofm.data import Resample
    from neurofm.io import open_corpus, signal_to_raw
    from neurofm.types import Recording, Signal

    real = bool(os.environ.get("NEUROFM_DATA"))
    corpus = open_corpus("eegmmidb" if real else "simulated_motor_imagery")
    recordings = corpus.recordings(runs=[4, 8, 12]) if real else corpus.recordings()
    (folder / "edf").mkdir()
    edf: list[str] = []

    def signals() -> Any:
        for i, recording in enumerate(recordings):
            original = corpus.load(recording)
            file = recording.path
            if file is None:
                file = folder / "edf" / f"{i:03d}.edf"
                mne.export.export_raw(file, signal_to_raw(original), verbose="ERROR")
            edf.append(str(file))
            made = Resample(256.0)(original)
            name = Recording("bench", f"{i:03d}")
            yield Signal(np.asarray(made.data), made.sfreq, made.sensors, (), name)

    return list(signals()), "EEGMMIDB" if real else "simulation", edf


def _meg() -> tuple[Any, str, list[str]]:
    from neurofm.types import Recording, Sensors, Signal
    from neurofm.units import Kind

    sensors = Sensors.of_kind([f"MEG{k:03d}" for k in range(306)], Kind.MAG)
    generator = np.random.default_rng(0)
    signals = (
        Signal(
            generator.standard_normal((306, 60_000), dtype=np.float32) * 300,
            1000.0,
            sensors,
            (),
            Recording("bench", f"{i:03d}"),
        )
        for i in range(6)
    )
    return signals, "noise like MEG", []


def _peak() -> int:
    """Largest resident memory since the last reset, bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _evict(made: Made, form: str) -> None:
    """Drop a format's files from the page cache."""
    for file in made.files(form):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _serve(form: str, made: Made, batch: int, seed: int, line: Connection) -> None:
    """A process that draws batches whenever it is told to, and says what it took."""
    import psutil

    warnings.simplefilter("ignore")
    warm_up(form)
    process = psutil.Process()
    before = process.memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    draw: Any = open_format(made, form)
    n_windows = len(made.positions())
    generator = np.random.default_rng(seed)
    first = np.asarray(draw([0, *generator.integers(0, n_windows, batch - 1).tolist()]))
    line.send(first[0].astype(np.float64).std(axis=1).tolist())
    del first
    while (order := line.recv()) is not None:
        cold, n = order
        batches = generator.integers(0, n_windows, (n, batch)).tolist()
        if cold:
            draw = None  # a mapped page is not dropped
            _evict(made, form)
            draw = open_format(made, form)
        read, cpu, wall = process.io_counters().read_bytes, time.process_time(), time.perf_counter()
        for indices in batches:
            draw(indices)
        each = 1e3 / (n * batch)
        line.send(
            {
                "cpu": (time.process_time() - cpu) * each,
                "wall": (time.perf_counter() - wall) * each,
                "read": (process.io_counters().read_bytes - read) / (n * batch),
                "peak": (_peak() - before) / 1e6,
            }
        )


def measure(case: str, *, repeats: int, cold: int, forms: tuple[str, ...], damage: bool) -> Any:
    """Milliseconds per window, megabytes, and what became of damage."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        made = build(Path(name), case)
        forms = tuple(form for form in forms if form != "lazy EDF" or made.edf)
        for form in {"lazy FIF" if form == "preloaded" else form for form in forms}:
            write(made, form)
        lines, processes, checks = {}, [], {}
        for form in forms:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(form, made, BATCH[case], 0, there))
            process.start()
            lines[form], checks[form] = here, here.recv()
            processes.append(process)
        warm: dict[str, list[Any]] = {form: [] for form in forms}
        chill: dict[str, list[Any]] = {form: [] for form in forms}
        for repeat in range(repeats + 1):
            for form, line in lines.items():
                # Slow formats draw fewer: each turn then takes about as long.
                fast = form.startswith("store") or form in ("gather", "npy", "litdata")
                line.send((False, BATCHES[case] if fast else max(BATCHES[case] // 5, 1)))
                found = line.recv()
                if repeat:  # the first turn warms files and memory
                    warm[form].append(found)
        for _ in range(cold):
            for form, line in lines.items():
                if form not in ("gather", "preloaded"):
                    line.send((True, 2))
                    chill[form].append(line.recv())
        for line in lines.values():
            line.send(None)
        for process in processes:
            process.join()
        size = 4 * made.n_channels * sum(made.n_times)
        disk = {f: sum(x.stat().st_size for x in made.files(f)) / size for f in forms}
        found_damage = damage_table(made, forms) if damage else {}
    return {
        "case": case,
        "data": made.name,
        "recordings": len(made.n_times),
        "channels": made.n_channels,
        "sfreq": made.sfreq,
        "hours": sum(made.n_times) / made.sfreq / 3600,
        "batch": BATCH[case],
        "warm": warm,
        "cold": chill,
        "disk": disk,
        "checks": checks,
        "damage": found_damage,
    }


def _middle(turns: list[Any], name: str) -> float:
    return statistics.median(turn[name] for turn in turns)


def text(result: dict[str, Any]) -> str:
    """The table."""
    warm, cold = result["warm"], result["cold"]
    limit = _middle(warm["gather"], "cpu") if "gather" in warm else float("nan")
    lines = [
        f"{result['data']}: {result['recordings']} recordings, {result['hours']:.2f} h, "
        f"{result['channels']} channels, windows of 2 s at {result['sfreq']:g} Hz, batches of "
        f"{result['batch']}, one thread",
        f"{'format':<15}{'ms/window':>10}{'min':>8}{'max':>8}{'of limit':>9}{'cold CPU':>10}"
        f"{'cold wall':>10}{'kB read':>9}{'disk':>6}{'peak MB':>9}  flipped, truncated, gone",
    ]
    for form, turns in warm.items():
        values = [turn["cpu"] for turn in turns]
        chilled = cold[form]
        parts = [
            f"{_middle(chilled, k):>10.4f}" if chilled else f"{'':>10}" for k in ("cpu", "wall")
        ]
        read = f"{_middle(chilled, 'read') / 1e3:>9.0f}" if chilled else f"{'':>9}"
        peak = max(turn["peak"] for turn in turns + chilled)
        caught = ", ".join(result["damage"].get(form, ()))
        lines.append(
            f"{form:<15}{statistics.median(values):>10.4f}{min(values):>8.4f}{max(values):>8.4f}"
            f"{limit / statistics.median(values):>9.1%}{''.join(parts)}{read}"
            f"{result['disk'][form]:>6.2f}{peak:>9.0f}  {caught}"
        )
    for other in warm:
        if "store int16" in warm and other not in ("gather", "store int16"):
            lines.append(_ratio(result, other))
    return "\n".join(lines)


def _ratio(result: dict[str, Any], other: str) -> str:
    """The store beside one other format, in words."""
    warm, cold = result["warm"], result["cold"]

    def compare(turns: dict[str, list[Any]], name: str) -> str:
        ours, theirs = ([turn[name] for turn in turns[f]] for f in ("store int16", other))
        apart = max(ours) < min(theirs) or max(theirs) < min(ours)
        ratio = statistics.median(theirs) / statistics.median(ours)
        return f"{ratio:.2f}x{'' if apart else ' (ranges overlap)'}"

    words = f"{other} / store int16: warm CPU {compare(warm, 'cpu')}"
    if cold[other] and cold["store int16"]:
        words += f", cold CPU {compare(cold, 'cpu')}, cold wall {compare(cold, 'wall')}"
    return words


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Random windows of prepared recordings.")
    parser.add_argument("--case", choices=tuple(BATCH), nargs="+", default=list(BATCH))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--cold", type=int, default=5, help="turns with cold files")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=tuple(FORMATS))
    parser.add_argument("--no-damage", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    for case in options.case:
        result = measure(
            case,
            repeats=options.repeats,
            cold=options.cold,
            forms=tuple(options.formats),
            damage=not options.no_damage,
        )
        print(json.dumps(result) if options.json else text(result), flush=True)


if __name__ == "__main__":
    main()
