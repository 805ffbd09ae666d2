"""Files that are whole or absent, and ranged reads.

`atomic_write` gives a file its name only when it is complete and on disk. `write_document` and
`read_document` do the same for JSON that carries its own checksum. `LocalFiles` reads ranges of the
files of a folder; anything else with the two methods of `Source` can stand in for it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from crc32c import crc32c

# A document begins with its own checksum, at a fixed place, so that it is checked without parsing.
_HEAD = b'{"crc32c": "%08x", '
_HEAD_LENGTH = len(_HEAD % 0)
_CHECKSUM_AT = _HEAD.index(b"%")


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name only when it is complete and on disk.

    Raises:
        OSError: As raised by the writes; the partial file is removed and an older one stays.
    """
    partial = _partial(path)
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


@contextmanager
def scratch_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write and read back, beside `path`, which is gone afterwards."""
    partial = _partial(path)
    try:
        with open(partial, "w+b") as file:
            yield file
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")


def remove_partial(folder: Path) -> int:
    """Delete what killed processes of this machine left behind; how many files that was."""
    removed = 0
    for path in folder.glob(".*.partial"):
        host, _, process = path.name.removesuffix(".partial").rpartition("-")
        if not process.isdigit() or not host.endswith(f".{socket.gethostname()}"):
            continue
        if not _alive(int(process)):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):  # Linux: dead, but nobody has asked for its exit code (containers)
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b") ")[2]
        return not state.startswith(b"Z")
    return True


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write JSON with its checksum, atomically."""
    body = memoryview(json.dumps(document, ensure_ascii=False, allow_nan=False).encode())[1:]
    with atomic_write(path) as file:
        file.write(_HEAD % crc32c(body))
        file.write(body)


def read_document(path: Path) -> dict[str, Any]:
    """Read JSON written by `write_document`.

    Raises:
        OSError: Its bytes are not those that were written.
    """
    return parse_document(path.read_bytes(), str(path))


def parse_document(raw: bytes, where: str) -> dict[str, Any]:
    """The document in the bytes of a file; `where` names it in messages.

    Raises:
        OSError: Its bytes are not those that were written.
    """
    remedy = "Delete it and rerun `neurofm prepare`."
    if raw[:_HEAD_LENGTH] != _HEAD % crc32c(memoryview(raw)[_HEAD_LENGTH:]):
        raise OSError(f"{where}: damaged, its checksum does not match. {remedy}")
    try:
        document: dict[str, Any] = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise OSError(f"{where}: damaged, it is not JSON ({error}). {remedy}") from None
    del document["crc32c"]
    return document


def document_head(raw: bytes) -> int | None:
    """The checksum that the first bytes of a document carry, None if it is none."""
    digits = raw[_CHECKSUM_AT : _CHECKSUM_AT + 8]
    try:
        check = int(digits, 16)
    except ValueError:
        return None
    return check if check >= 0 and raw[:_HEAD_LENGTH] == _HEAD % check else None


def document_checksum(path: Path | str) -> tuple[int, int]:
    """Size of a document and the checksum that it carries, without reading the rest.

    Raises:
        OSError: It cannot be read, or does not begin as documents do.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = os.read(descriptor, _HEAD_LENGTH)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    check = document_head(head)
    if check is None:
        raise OSError(f"{path}: damaged, it does not begin as documents do.")
    return size, check


@runtime_checkable
class Source(Protocol):
    """Where the bytes of a store are. The local disk is one; anything with ranged reads will do."""

    def read_range(self, name: str, offset: int, n: int) -> bytes:
        """`n` bytes of file `name` from `offset`, fewer only at its end."""
        ...

    def size(self, name: str) -> int:
        """Bytes of file `name`."""
        ...


def read_whole(source: Source, name: str) -> np.ndarray:
    """All bytes of a file as it is now, uint8 `byte`, in memory that may be written to."""
    if isinstance(source, LocalFiles):  # past its open files: this one may have been replaced
        return np.fromfile(source.folder / name, dtype=np.uint8)
    return np.array(np.frombuffer(source.read_range(name, 0, source.size(name)), dtype=np.uint8))


class _Descriptor:
    """A file descriptor that closes when the last thread that uses it lets go."""

    def __init__(self, path: Path) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class LocalFiles:
    """Ranged reads from a folder, keeping at most `limit` files open.

    `pread` does not move a file position: threads and forked workers may share descriptors.
    """

    def __init__(self, folder: Path, *, limit: int = 128) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _local_files, (self.folder, self.limit)

    def _descriptor(self, name: str) -> _Descriptor:
        if self._process != os.getpid():  # forked, perhaps while a thread held the lock
            self._lock, self._process = threading.Lock(), os.getpid()
        with self._lock:
            found = self._open.get(name)
            if found is not None:
                self._open.move_to_end(name)
                return found
            found = self._open[name] = _Descriptor(self.folder / name)
            if len(self._open) > self.limit:
                self._open.popitem(last=False)
            return found

    def read_range(self, name: str, offset: int, n: int) -> bytes:
        """`n` bytes of file `name` from `offset`, fewer only at its end."""
        held = self._descriptor(name)
        data = os.pread(held.fd, n, offset)
        while len(data) < n and (more := os.pread(held.fd, n - len(data), offset + len(data))):
            data += more
        return data

    def size(self, name: str) -> int:
        """Bytes of file `name`."""
        return os.fstat(self._descriptor(name).fd).st_size


def _local_files(folder: Path, limit: int) -> LocalFiles:
    return LocalFiles(folder, limit=limit)
