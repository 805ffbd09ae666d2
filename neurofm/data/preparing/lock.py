"""One driver per store: a lock that ends with the process that holds it.

The lock is the kernel's (`flock`), so that a killed driver leaves none behind and none can be
stale. A second driver waits, then finds done what the first one did. Where a file system or a
system has no such locks, two drivers at once do some recordings twice and harm nothing: files are
written under names of their process and renamed when whole, the same bytes either way, and sealing
gathers what both made.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".prepare.lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def only_driver(store: Path, *, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a store, waiting for it if another driver is at work.

    Args:
        store: Its folder, which exists.
        tell: Called once with who is waited for.
    """
    with open(store / LOCK, "a+", encoding="utf-8") as file:
        if fcntl is not None:
            _lock(file, store, tell)
        file.seek(0)
        file.truncate()
        holder = {"host": socket.gethostname(), "process": os.getpid(), "since": _now()}
        file.write(json.dumps(holder))
        file.flush()
        yield


def _lock(file: IO[str], store: Path, tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell(f"{store}: {_holder(file)} prepares this store; waiting until it is done.")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        log.info("%s: no locks on this file system (%s); going on without one.", store, error)


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f"process {found['process']} on {found['host']}, since {found['since']},"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
