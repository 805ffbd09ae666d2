"""Writing recordings: in groups of channels, on full disks, and in processes that are killed."""

from __future__ import annotations

import builtins
import errno
import os
import signal as signals
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.io import Store, seal, write_recording
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


def made(n_channels: int = 7, n_times: int = 1234, sfreq: float = 100.0, seed: int = 0) -> Signal:
    generator = np.random.default_rng(seed)
    data = generator.normal(0, 10, (n_channels, n_times)) * np.arange(1, n_channels + 1)[:, None]
    sensors = Sensors.of_kind(
        [f"E{i}" for i in range(n_channels)], Kind.EEG, generator.normal(size=(n_channels, 3))
    )
    sensors = replace(sensors, region=tuple(f"area {i % 3}" for i in range(n_channels)))
    events = (Event(1.5, 0.25, "left"),)
    recording = Recording("toy", "01", path=Path("somewhere.edf"))
    return Signal(data.astype(np.float32), sfreq, sensors, events, recording, ("a",), {"b": [1]})


def slabs_of(signal: Signal, sizes: list[int]) -> Iterator[Signal]:
    low = 0
    for size in sizes:
        yield signal.pick(range(low, min(low + size, len(signal.sensors))))
        low += size


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    n_times=st.integers(1, 700),
    sfreq=st.sampled_from([0.5, 30.0, 102.4]),
    dtype=st.sampled_from(["int16", "float32"]),
)
def test_groups_of_channels_give_the_bytes_of_the_whole(
    tmp_path_factory, sizes, n_times, sfreq, dtype
):
    folder = tmp_path_factory.mktemp("slabs")
    signal = made(sum(sizes), n_times, sfreq)
    write_recording(folder / "whole", signal, key="k", dtype=dtype, provenance={"a": 1})
    write_recording(
        folder / "slabs", slabs_of(signal, sizes), key="k", dtype=dtype, provenance={"a": 1}
    )
    assert contents(folder / "slabs") == contents(folder / "whole")


def test_memory_is_bounded_by_one_group(tmp_path):
    n_times, group = 200_000, 4

    def slabs() -> Iterator[Signal]:
        for first in range(0, 64, group):
            sensors = Sensors.of_kind([f"E{first + i}" for i in range(group)], Kind.EEG)
            data = np.random.default_rng(first).normal(size=(group, n_times)).astype(np.float32)
            yield Signal(data, 1000.0, sensors, (), Recording("toy", "01"))
            del data

    tracemalloc.start()
    write_recording(tmp_path, slabs(), key="k")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = group * n_times * 4
    assert peak < 4 * one + 30e6 < 64 * n_times * 4 + 10e6
    seal(tmp_path)
    store = Store(tmp_path)
    assert store.columns.n_channels[0] == 64
    np.testing.assert_allclose(
        store.read(0, 0, 100, channels=[60]),
        np.random.default_rng(60).normal(size=(group, n_times))[:1, :100],
        atol=float(store.entries[0].max_error[60]) * 1.001,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 200.0}, "sfreq 200"),
        ({"recording": Recording("toy", "02")}, "recording"),
        ({"data": np.ones((3, 10), np.float32)}, "n_times 10"),
    ],
)
def test_groups_that_do_not_belong_together_are_refused(tmp_path, change, message):
    signal = made(6)
    first, second = signal.pick([0, 1, 2]), signal.pick([3, 4, 5])
    with pytest.raises(ValueError, match=f"group 1 of channels has {message}"):
        write_recording(tmp_path, iter([first, replace(second, **change)]), key="k")
    with pytest.raises(ValueError, match="frame 'head', another in 'mni'"):
        moved = replace(second, sensors=replace(second.sensors, frame="mni"))
        write_recording(tmp_path, [first, moved], key="k")
    with pytest.raises(ValueError, match="twice"):
        write_recording(tmp_path, [first, first], key="k")
    with pytest.raises(ValueError, match="none"):
        write_recording(tmp_path, [], key="k")
    assert contents(tmp_path) == {}


def test_a_reader_that_fails_between_groups_leaves_nothing(tmp_path):
    def slabs() -> Iterator[Signal]:
        yield made(3)
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        write_recording(tmp_path, slabs(), key="k")
    assert contents(tmp_path) == {}


class Full:
    """A file that takes some bytes, then says that the disk is full."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: Any) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize(
    ("in_groups", "which", "room"),
    [
        *[(False, 0, 1000), (False, 1, 0), (False, 1, 500)],
        *[(True, 0, 1000), (True, 1, 1000), (True, 2, 0), (True, 2, 500)],
    ],
)
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, in_groups, which, room):
    """`which` file is too large: scratch file and samples, or samples and document."""
    write_recording(tmp_path, made(seed=1), key="old")
    seal(tmp_path)
    before = contents(tmp_path)
    opened: list[str] = []

    def limited(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = builtins.open(path, mode, *args, **kwargs)  # noqa: SIM115
        if "w" not in mode:
            return file
        opened.append(str(path))
        return Full(file, room if len(opened) == which + 1 else 10**9)

    signal = made()
    given = slabs_of(signal, [3, 4]) if in_groups else signal
    with monkeypatch.context() as patch:
        patch.setattr("neurofm.io.stores.files.open", limited, raising=False)
        with pytest.raises(OSError) as caught:
            write_recording(tmp_path, given, key="new")
    assert caught.value.errno == errno.ENOSPC
    assert contents(tmp_path) == before
    Store(tmp_path).read(0, 0, 100)


def test_a_full_disk_while_sealing_leaves_the_old_store_readable(tmp_path, monkeypatch):
    write_recording(tmp_path, made(seed=1), key="old")
    seal(tmp_path)
    expected = Store(tmp_path).read(0, 0, 100)
    write_recording(tmp_path, replace(made(), recording=Recording("toy", "02")), key="new")
    before = contents(tmp_path)
    for room in (0, 100, 3000):
        files: list[Any] = []

        def limited(path: Any, mode: str = "r", room: int = room, files: list[Any] = files) -> Any:
            file = builtins.open(path, mode)  # noqa: SIM115
            files.append(path)
            return Full(file, room if "w" in mode else 10**9)

        with monkeypatch.context() as patch:
            patch.setattr("neurofm.io.stores.files.open", limited, raising=False)
            with pytest.raises(OSError, match="space"):
                seal(tmp_path)
        left = contents(tmp_path)
        assert {name: left[name] for name in before} == before
        np.testing.assert_array_equal(Store(tmp_path).read(0, 0, 100), expected)
    seal(tmp_path)
    assert len(Store(tmp_path)) == 2
    assert len(list(tmp_path.glob("index-*"))) == 1


KILLED = """
import os, sys, signal
from pathlib import Path
import numpy as np
from neurofm.io import seal, write_recording
from neurofm.io.stores import files, manifest
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

folder, where = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def count(original):
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == where:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return counted

for name in ("fsync", "replace"):
    setattr(os, name, count(getattr(os, name)))
files.Path.unlink = count(files.Path.unlink)
sensors = Sensors.of_kind(["C3", "C4"], Kind.EEG)
signal_ = Signal(np.ones((2, 500), np.float32), 100.0, sensors, (), Recording("toy", "02"))
write_recording(folder, iter([signal_]), key="new")
seal(folder)
print("finished")
"""


def test_a_process_killed_at_any_moment_leaves_a_readable_store(tmp_path):
    write_recording(tmp_path, made(seed=1), key="old")
    seal(tmp_path)
    expected = Store(tmp_path).read(0, 0, 1234)
    finished = False
    for where in range(1, 40):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(where)],
            capture_output=True,
            text=True,
            check=False,
        )
        store = Store(tmp_path)
        assert "old" in [entry.key for entry in store.entries]
        for i, entry in enumerate(store.entries):
            got = store.read(i, 0, entry.n_times)
            if entry.key == "old":
                np.testing.assert_array_equal(got, expected)
        if done.returncode == 0:
            finished = True
            break
        assert done.returncode == -signals.SIGKILL, done.stderr
    assert finished
    assert len(Store(tmp_path)) == 2
