"""What files were like when they were last read: the driver's memory between two runs.

Reading a terabyte again to learn that nothing changed is what a rerun would cost without it. The
journal of a store (`journal.jsonl`) has a line for each source file with its hash, and one for each
finished recording, each with the `Stamp` of the file: size, time of modification, time of change
and inode. A hash is believed while the stamp is the same.

Why that is safe: the time of change is set by the kernel, no program can set it back (as
`os.utime` and copying tools set the time of modification), and a copy has another inode. Times have
a resolution, so that a file rewritten in the same tick could look unchanged: a source is noted only
if it was at rest for two seconds before it was read (the coarsest resolution in use, FAT's). What
remains is a disk that returns other bytes without a write: `rehash` reads everything again. The
journal is a cache: without it, or with a line of it damaged, files are read.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from neurofm.data.preparing.keys import file_hash
from neurofm.io.integrity import check_file
from neurofm.io.stores.files import atomic_write

Stamp = tuple[int, int, int, int]
_REST_NS = 2_000_000_000


def stamp_of(path: Path | str) -> Stamp:
    """Size, times of modification and change in nanoseconds, inode."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@dataclass(frozen=True)
class Hashed:
    """A file's contents at one time.

    Args:
        stamp: Taken before the first byte was read.
        settled: Whether any later change of the file must change its stamp.
    """

    path: str
    stamp: Stamp
    sha256: str
    settled: bool


def hash_of(path: Path | str, known: Mapping[str, Hashed]) -> Hashed:
    """A file's hash: the known one while its stamp is the same, else its contents are read.

    Raises:
        OSError: It cannot be read; the message says how to get it.
    """
    try:
        stamp = stamp_of(path)
        found = known.get(str(path))
        if found is not None and found.stamp == stamp:
            return found
        settled = time.time_ns() - max(stamp[1:3]) > _REST_NS
        return Hashed(str(path), stamp, file_hash(path), settled)
    except (FileNotFoundError, PermissionError):
        check_file(Path(path))  # a link that git-annex has not filled, say
        raise


@dataclass(frozen=True)
class Finished:
    """A prepared recording in the store.

    Args:
        stamps: Of its samples and of its document.
        seconds: Its length.
        coarse: How many of its channels int16 is coarse for.
    """

    key: str
    stamps: tuple[Stamp, Stamp]
    seconds: float
    coarse: int


class Journal:
    """The journal of one store.

    Args:
        path: Its file, made when the first line is noted.
        believe: False to know nothing: every file is read again.
    """

    def __init__(self, path: Path, *, believe: bool = True) -> None:
        self.path = path
        self._sources: dict[str, Hashed] = {}
        self._finished: dict[str, Finished] = {}
        self._file: IO[str] | None = None
        self._lines = 0
        self._believe = believe
        with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                self._lines += 1
                with suppress(ValueError, KeyError, TypeError):
                    self._learn(json.loads(line))

    def _learn(self, line: dict[str, Any]) -> None:
        if "source" in line:
            path = str(line["source"])
            self._sources[path] = Hashed(path, _stamp(line["stamp"]), str(line["sha256"]), True)
        else:
            samples, document = line["stamps"]
            key = str(line["finished"])
            self._finished[key] = Finished(
                key, (_stamp(samples), _stamp(document)), float(line["s"]), int(line["coarse"])
            )

    def known(self, files: Iterable[Path]) -> dict[str, Hashed]:
        """Those of the files whose contents are known without reading them."""
        known = {}
        for file in files:
            found = self._sources.get(str(file))
            if self._believe and found is not None and found.stamp == stamp_of(file):
                known[found.path] = found
        return known

    def finished(self, store: Path, key: str) -> Finished | None:
        """A recording that is in the store as it was left, None if that must be looked at."""
        found = self._finished.get(key)
        if found is None or not self._believe:
            return None
        with suppress(OSError):
            if found.stamps == stamps_of_recording(store, key):
                return found
        return None

    def note(self, hashed: Iterable[Hashed], finished: Finished | None) -> None:
        """Write down what is new of these."""
        for item in hashed:
            if item.settled and self._sources.get(item.path) != item:
                self._sources[item.path] = item
                self._write(_source_line(item))
        if finished is not None and self._finished.get(finished.key) != finished:
            self._finished[finished.key] = finished
            self._write(_finished_line(finished))

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            # A line at a time, so that a killed driver loses none.
            self._file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            if self._file.tell():
                self._file.write("\n")  # a killed driver may have left half a line
        self._file.write(json.dumps(line) + "\n")
        self._lines += 1

    def close(self) -> None:
        """Close the file; rewrite it if most of its lines are outdated."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if self._lines > 2 * (len(self._sources) + len(self._finished)) + 1000:
            with atomic_write(self.path) as file:
                lines = [*map(_source_line, self._sources.values())]
                lines += map(_finished_line, self._finished.values())
                file.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def stamps_of_recording(store: Path, key: str) -> tuple[Stamp, Stamp]:
    """Stamps of a prepared recording's samples and document.

    Raises:
        FileNotFoundError: One of them is missing.
    """
    folder = store / "recordings"
    return stamp_of(folder / f"{key}.bin"), stamp_of(folder / f"{key}.json")


def _stamp(value: Any) -> Stamp:
    size, modified, changed, inode = (int(item) for item in value)
    return size, modified, changed, inode


def _source_line(item: Hashed) -> dict[str, Any]:
    return {"source": item.path, "stamp": item.stamp, "sha256": item.sha256}


def _finished_line(item: Finished) -> dict[str, Any]:
    return {
        "finished": item.key,
        "stamps": item.stamps,
        "s": item.seconds,
        "coarse": item.coarse,
    }
