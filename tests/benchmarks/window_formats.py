"""The formats of the window benchmark: how each is written, read and laid out on disk.

Every format holds the same float32 recordings, `channel time`, at the same rate. A format gives
`draw(indices)`: the windows at these positions as one new array `batch channel time`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_S, STRIDE_S = 2.0, 0.25
FORMATS = {
    "gather": "float32 arrays in memory, windows copied out: the limit; no checksum",
    "store int16": "neurofm, a checksum for every second, verified",
    "store float32": "neurofm, a checksum for every second, verified",
    "npy": "numpy memory maps; no checksum",
    "hdf5": "h5py, chunks of one second, fletcher32 checksums verified",
    "zarr": "zarr v3, chunks of one second, crc32c checksums verified, no compression",
    "litdata": "windows without overlap, batch decode off; no checksum",
    "lazy FIF": "braindecode, float32 FIF read when asked",
    "lazy EDF": "braindecode, the original EDF at its own rate read when asked",
    "preloaded": "braindecode, recordings preloaded by MNE",
}
Draw = Callable[[list[int]], Any]


@dataclass(frozen=True)
class Made:
    """What was written: shared by all formats.

    Args:
        n_times: Samples of each recording.
        edf: The original of each recording, where there is one.
    """

    folder: Path
    name: str
    sfreq: float
    n_channels: int
    n_times: tuple[int, ...]
    edf: tuple[str, ...] = ()

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(WINDOW_S * self.sfreq)

    def positions(self) -> list[tuple[int, int]]:
        """Recording and first sample of every window, the same for all formats."""
        step = round(STRIDE_S * self.sfreq)
        return [
            (i, start)
            for i, n_times in enumerate(self.n_times)
            for start in range(0, n_times - self.window + 1, step)
        ]

    def array(self, i: int, *, mapped: bool = False) -> np.ndarray:
        """A recording."""
        return np.load(self.folder / "npy" / f"{i:03d}.npy", mmap_mode="r" if mapped else None)

    def files(self, form: str) -> list[Path]:
        """The files that hold a format's samples."""
        if form in ("gather", "npy"):
            return sorted((self.folder / "npy").glob("*.npy"))
        if form == "lazy EDF":
            return [Path(file) for file in self.edf]
        if form == "preloaded":
            form = "lazy FIF"
        place = self.folder / form
        pattern = {"zarr": "c/*/*", "litdata": "chunk-*.bin", "lazy FIF": "*.fif"}.get(
            form, "*.bin"
        )
        return sorted(place.rglob("*.h5" if form == "hdf5" else pattern))


def write(made: Made, form: str) -> None:
    """Write all recordings in a format; the arrays themselves are there already."""
    place = made.folder / form
    if form in ("gather", "npy", "lazy EDF", "preloaded") or form.startswith("store"):
        return
    place.mkdir()
    second = round(made.sfreq)
    if form == "litdata":
        _write_litdata(made, place)
    for i in range(len(made.n_times)):
        if form == "hdf5":
            import h5py

            with h5py.File(place / f"{i:03d}.h5", "w") as file:
                chunks = (made.n_channels, second)
                file.create_dataset("x", data=made.array(i), chunks=chunks, fletcher32=True)
        elif form == "zarr":
            import zarr

            data = made.array(i)
            array = zarr.create_array(
                place / f"{i:03d}.zarr",
                shape=data.shape,
                chunks=(made.n_channels, second),
                dtype=data.dtype,
                compressors=[zarr.codecs.Crc32cCodec()],
            )
            array[:] = data
        elif form == "lazy FIF":
            from neurofm.io import signal_to_raw
            from neurofm.types import Recording, Sensors, Signal
            from neurofm.units import Kind

            sensors = Sensors.of_kind([f"EEG{k:03d}" for k in range(made.n_channels)], Kind.EEG)
            signal = Signal(made.array(i), made.sfreq, sensors, (), Recording("bench", str(i)))
            signal_to_raw(signal).save(place / f"{i:03d}_raw.fif", fmt="single", verbose="ERROR")


def _tiles(made: Made) -> list[tuple[str, int, int]]:
    return [
        (str(made.folder / "npy" / f"{i:03d}.npy"), start, made.window)
        for i, n_times in enumerate(made.n_times)
        for start in range(0, n_times - made.window + 1, made.window)
    ]


def _tile(tile: tuple[str, int, int]) -> dict[str, np.ndarray]:
    file, start, n = tile
    return {"x": np.ascontiguousarray(np.load(file, mmap_mode="r")[:, start : start + n])}


def _optimize(tiles: list[tuple[str, int, int]], place: str) -> None:
    import litdata

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        litdata.optimize(
            fn=_tile, inputs=tiles, output_dir=place, chunk_bytes="64MB", num_workers=1
        )


def _write_litdata(made: Made, place: Path) -> None:
    """In a process of its own: litdata changes how processes are started."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_optimize, args=(_tiles(made), str(place)))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"litdata.optimize ended with code {process.exitcode}")


def warm_up(form: str) -> None:
    """Import what a format needs, so that it counts as neither time nor memory of reading."""
    import torch

    torch.set_num_threads(1)
    if form.startswith("store"):
        import neurofm.data.windows  # noqa: F401
    elif form in ("hdf5", "zarr", "litdata"):
        __import__({"hdf5": "h5py"}.get(form, form))
    elif form not in ("gather", "npy"):
        from neurofm.compat import guard_torchaudio

        guard_torchaudio()
        import braindecode.datasets
        import braindecode.preprocessing  # noqa: F401


def open_format(made: Made, form: str) -> Draw:
    """A function that draws batches."""
    if form.startswith("store"):
        from neurofm.data import Windows

        windows = Windows(made.folder / form, window_s=WINDOW_S, stride_s=STRIDE_S)
        return lambda indices: windows.batch(indices).x
    if form == "litdata":
        return _litdata(made)
    if form not in ("gather", "npy", "hdf5", "zarr"):
        return _braindecode(made, form)
    read = open_arrays(made, form)
    positions, n = made.positions(), made.window

    def draw(indices: list[int]) -> Any:
        import torch

        x = torch.empty(len(indices), made.n_channels, n)
        out = x.numpy()
        for k, index in enumerate(indices):
            i, start = positions[index]
            out[k] = read[i][:, start : start + n]
        return x

    return draw


def open_arrays(made: Made, form: str) -> list[Any]:
    """Each recording as something that is sliced like an array."""
    numbers = range(len(made.n_times))
    if form in ("gather", "npy"):
        return [made.array(i, mapped=form == "npy") for i in numbers]
    if form == "hdf5":
        import h5py

        return [h5py.File(made.folder / form / f"{i:03d}.h5", "r")["x"] for i in numbers]
    import zarr

    return [zarr.open_array(made.folder / form / f"{i:03d}.zarr", mode="r") for i in numbers]


def _litdata(made: Made) -> Draw:
    import litdata
    from torch.utils.data import default_collate

    data = litdata.StreamingDataset(str(made.folder / "litdata"), batch_decode=0)
    positions = made.positions()
    tiles = [n // made.window for n in made.n_times]
    first = np.cumsum([0, *tiles]).tolist()

    def draw(indices: list[int]) -> Any:
        items = []
        for index in indices:
            i, start = positions[index]
            items.append(data[first[i] + min(start // made.window, tiles[i] - 1)]["x"])
        return default_collate(items)

    return draw


def _braindecode(made: Made, form: str) -> Draw:
    import mne
    from braindecode.datasets import BaseConcatDataset, RawDataset
    from braindecode.preprocessing import create_fixed_length_windows
    from torch.utils.data import default_collate

    sets = []
    for i in range(len(made.n_times)):
        if form == "lazy EDF":
            raw = mne.io.read_raw(made.edf[i], preload=False, verbose="ERROR")
        else:
            path = made.folder / "lazy FIF" / f"{i:03d}_raw.fif"
            raw = mne.io.read_raw_fif(path, preload=form == "preloaded", verbose="ERROR")
        sets.append(RawDataset(raw, {"subject": i}))
    sfreq = sets[0].raw.info["sfreq"]
    windows = create_fixed_length_windows(
        BaseConcatDataset(sets),
        window_size_samples=round(WINDOW_S * sfreq),
        window_stride_samples=round(STRIDE_S * sfreq),
        drop_last_window=True,
    )
    return lambda indices: default_collate([windows[min(i, len(windows) - 1)] for i in indices])[0]
