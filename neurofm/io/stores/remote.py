"""Stores that are somewhere else: ranged reads through fsspec (`http://`, `s3://`, `gs://`, ...).

A read is tried a few times, since servers and networks have bad moments; what comes back must have
the length that was asked for. Whether its bytes are right is checked where all blocks are checked.
Needs the extra `remote`; other protocols need fsspec's own package for them (`s3fs`, `gcsfs`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neurofm.compat import optional

log = logging.getLogger(__name__)
_HTTP = ("http://", "https://")
_AGAIN = (408, 425, 429)  # client's errors that may pass
_GAP = 1 << 16  # bytes between two ranges that cost less than a request of their own
_LARGEST = 1 << 24  # bytes of one request, unless one range is longer
_AT_ONCE = 16  # requests: more than small servers queue make everybody wait
_BEYOND = 416  # asked for bytes after the end


def is_remote(path: object) -> bool:
    """Whether a store's path is an address such as `https://host/store`."""
    return isinstance(path, str) and "://" in path


class RemoteFiles:
    """Ranged reads of the files below an address. Cheap to pickle into workers, safe to fork.

    Args:
        url: Address of the folder, as fsspec understands it.
        attempts: How often a read is tried.
        pause_s: Seconds before the second attempt; doubled for each further one.
        options: Of fsspec's file system: credentials, `anon`, an endpoint.

    Raises:
        ImportError: fsspec, or its package for this protocol, is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        attempts: int = 4,
        pause_s: float = 0.2,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.attempts = attempts
        self.pause_s = pause_s
        self.options = dict(options or {})
        self._system: Any = None
        self._root = ""
        self._process = -1
        self._ahead: dict[tuple[str, int, int], bytes] = {}
        self._connect()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remote_files, (self.url, self.attempts, self.pause_s, self.options)

    def _connect(self) -> Any:
        """The file system; a process has its own, since its connections do not survive a fork."""
        if self._process == os.getpid():
            return self._system
        fsspec = optional("fsspec")
        options: dict[str, Any] = {"skip_instance_cache": True}
        if self.url.startswith(_HTTP):
            patience = optional("aiohttp").ClientTimeout(sock_connect=10, sock_read=60)
            # A compressed answer has other bytes than those that were asked for.
            options |= {
                "headers": {"Accept-Encoding": "identity"},
                "client_kwargs": {"timeout": patience},
            }
        self._system, self._root = fsspec.core.url_to_fs(self.url, **{**options, **self.options})
        if hasattr(self._system, "batch_size"):
            self._system.batch_size = _AT_ONCE
        self._ahead = {}
        self._process = os.getpid()
        return self._system

    def read_range(self, name: str, offset: int, n: int) -> bytes:
        """`n` bytes of file `name` from `offset`, fewer only at its end.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It could not be read, however often it was tried.
        """
        if n <= 0:
            return b""
        ready = self._ahead.get((name, offset, n))
        if ready is not None and self._process == os.getpid():
            return ready

        def read(system: Any, path: str) -> bytes:
            try:
                data = bytes(system.cat_file(path, start=offset, end=offset + n))
            except Exception as error:
                if _status(error) == _BEYOND:
                    return b""
                raise
            if len(data) < n and offset + len(data) < system.size(path):
                raise OSError(f"{len(data)} of {n} bytes came back")
            return data

        data = self._persist(name, read)
        if len(data) > n:
            raise OSError(
                f"{self.url}/{name}: asked for {n} bytes, {len(data)} came back: this server "
                "ignores ranges. Serve the store with one that supports them, or copy it to a "
                "local folder."
            )
        return data

    def size(self, name: str) -> int:
        """Bytes of file `name`.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It could not be found out, however often it was tried.
        """
        size = self._persist(name, lambda system, path: system.size(path))
        if size is None:
            raise OSError(
                f"{self.url}/{name}: the server does not say how long this file is. Serve the "
                "store with one that does (Content-Length), or copy it to a local folder."
            )
        return int(size)

    def prefetch(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        """Read several ranges (name, offset, n) at once, for `read_range` until the next call.

        Ranges that touch each other, or nearly, are one request. What cannot be read is left to
        `read_range`, which tries again and says why.
        """
        system = self._connect()
        requests = merged(ranges)
        found = system.cat_ranges(
            [f"{self._root}/{item.name}" for item in requests],
            [item.start for item in requests],
            [item.stop for item in requests],
            on_error="return",
        )
        self._ahead = {}
        for item, data in zip(requests, found, strict=True):
            if isinstance(data, BaseException) or len(data) != item.stop - item.start:
                continue
            for name, offset, n in item.parts:
                at = offset - item.start
                self._ahead[name, offset, n] = bytes(data[at : at + n])

    def _persist(self, name: str, act: Callable[[Any, str], Any]) -> Any:
        """Do something with a file, again if it fails for a reason that may pass."""
        where = f"{self.url}/{name}"
        for attempt in range(1, self.attempts + 1):
            try:
                return act(self._connect(), f"{self._root}/{name}")
            except Exception as error:
                if _is_missing(error):
                    raise FileNotFoundError(f"{where}: no such file") from None
                if not _may_pass(error):
                    raise OSError(f"{where}: {type(error).__name__}: {error}") from error
                log.info("%s: attempt %d: %s: %s", where, attempt, type(error).__name__, error)
                last = error
            time.sleep(self.pause_s * 2 ** (attempt - 1) if attempt < self.attempts else 0)
        reason = last.__cause__ if isinstance(last, FileNotFoundError) else last
        raise OSError(
            f"{where}: could not be read in {self.attempts} attempts; the last one ended with "
            f"{type(reason).__name__}: {reason}. Check the network and the server, then run again."
        ) from last


@dataclass
class Request:
    """One read that serves several ranges of a file."""

    name: str
    start: int
    stop: int
    parts: list[tuple[str, int, int]]


def merged(ranges: Iterable[tuple[str, int, int]]) -> list[Request]:
    """As few requests as serve these ranges (name, offset, n) without reading much between them."""
    requests: list[Request] = []
    for part in sorted(set(ranges)):
        name, start, n = part
        last = requests[-1] if requests else None
        if (
            last is not None
            and last.name == name
            and start <= last.stop + _GAP
            and start + n - last.start <= _LARGEST
        ):
            last.stop = max(last.stop, start + n)
            last.parts.append(part)
        else:
            requests.append(Request(name, start, start + n, [part]))
    return requests


def _remote_files(url: str, attempts: int, pause_s: float, options: dict[str, Any]) -> RemoteFiles:
    return RemoteFiles(url, attempts=attempts, pause_s=pause_s, options=options)


def _status(error: BaseException | None) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _is_missing(error: Exception) -> bool:
    """fsspec also calls a file missing whose size it failed to ask for; then the cause says why."""
    if not isinstance(error, FileNotFoundError):
        return False
    return error.__cause__ is None or _status(error.__cause__) in (404, 410)


def _may_pass(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError):
        return _may_pass(error.__cause__) if isinstance(error.__cause__, Exception) else False
    if isinstance(error, (PermissionError, ImportError, TypeError, AttributeError, ValueError)):
        return False
    status = _status(error)
    return status is None or status >= 500 or status in _AGAIN
