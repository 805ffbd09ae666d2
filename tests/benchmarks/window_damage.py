"""What each format does about a flipped bit, a truncated file and a missing block."""

from __future__ import annotations

import multiprocessing
import shutil
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.window_formats import Made, open_arrays

DAMAGES = ("flipped", "truncated", "gone")


def damage_table(made: Made, forms: tuple[str, ...]) -> dict[str, list[str]]:
    """Outcome of every kind of damage, for the formats that read from disk."""
    disk = [form for form in forms if form not in ("gather", "preloaded", "lazy EDF")]
    return {form: [_try(made, form, kind) for kind in DAMAGES] for form in disk}


def _try(made: Made, form: str, kind: str) -> str:
    """Damage a copy of the format and read the first recording in a process of its own."""
    place = made.folder / "damaged"
    one = replace(made, folder=place, n_times=made.n_times[:1])
    shutil.copytree(made.folder / form, place / form)
    if form != "npy":
        (place / "npy").mkdir()
        shutil.copy(made.folder / "npy" / "000.npy", place / "npy")
    try:
        _damage(one, form, kind)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_read, args=(one, form, there))
        process.start()
        there.close()
        try:
            found = here.recv() if here.poll(120) else "hangs"
        except EOFError:
            found = "dead"
        process.kill()
        process.join()
        return found
    finally:
        shutil.rmtree(place)


def _damage(made: Made, form: str, kind: str) -> None:
    files = made.files(form)
    chunked = form == "zarr"
    file = files[1] if chunked else files[0]
    raw = bytearray(file.read_bytes())
    if kind == "flipped":
        for at in range(len(raw) // 2, len(raw) // 2 + 4):
            raw[at] ^= 0x10
    elif kind == "truncated":
        del raw[len(raw) // 2 // 4 * 4 :]
    elif chunked:
        file.unlink()
        return
    else:  # an extent that was lost reads as zeros
        third, size = len(raw) // 3, 1 << 16
        raw[third : third + size] = bytes(size)
    file.write_bytes(raw)


def _read(made: Made, form: str, line: Connection) -> None:
    """Say whether the whole first recording is read as it was written."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    truth = np.load(made.folder / "npy" / "000.npy") if form != "npy" else None
    try:
        data = _whole(made, form)
    except Exception as error:
        line.send("caught" if str(error) else "caught, no reason")
        return
    same = truth is not None and data.shape == truth.shape
    line.send("unharmed" if same and np.allclose(data, truth, atol=1e-3) else "silent")


def _whole(made: Made, form: str) -> Any:
    n = made.n_times[0]
    if form.startswith("store"):
        from neurofm.io import Store

        return Store(made.folder / form).read(0, 0, n)
    if form == "litdata":
        import litdata

        data = litdata.StreamingDataset(str(made.folder / "litdata"), batch_decode=0)
        tiles = n // made.window
        return np.concatenate([np.array(data[k]["x"]) for k in range(tiles)], axis=1)
    if form == "lazy FIF":
        import mne

        from neurofm.io import signal_from_raw
        from neurofm.types import Recording

        path = Path(made.folder / form / "000_raw.fif")
        raw = mne.io.read_raw_fif(path, preload=False, verbose="ERROR")
        return signal_from_raw(raw, Recording("bench", "0")).data
    return np.asarray(open_arrays(made, form)[0][:, :])
