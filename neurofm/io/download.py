"""One file over https: resumed where it stopped, checked by size and hash, in place when whole.

The bytes go to `.<name>.part` beside the target. A web page, or a pointer of git-lfs or git-annex,
never takes the target's name, whatever the server calls it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from neurofm.io.integrity import check_file, refuse_foreign

logger = logging.getLogger(__name__)
Progress = Callable[[Path, int, int | None], None]  # file, bytes so far, bytes in all if known
_BLOCK = 1 << 20
_PAGES = ("text/html", "application/xhtml+xml")


def nothing(path: Path, done: int, total: int | None) -> None:
    """Progress that nobody looks at."""


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress = nothing,
    tries: int = 3,
    timeout_s: float = 60.0,
) -> Path:
    """Fetch one file; what is there and fits is kept, and what was begun is continued.

    Args:
        url: Of http or https.
        target: Where it goes.
        sha256: Published hash.
        size: Published size, bytes.
        progress: Called after each block.
        tries: How often a broken connection is taken up again.
        timeout_s: Seconds without an answer that count as broken.

    Raises:
        ValueError: Another scheme, another size or hash than published, or not data at all.
        OSError: The server cannot be reached or refuses.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: only http and https addresses are fetched.")
    if target.exists() and _fits(target, sha256, size):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    resumed = part.exists()
    for attempt in range(tries):
        try:
            _receive(url, part, target, progress, timeout_s)
            break
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or attempt == tries - 1:
                raise OSError(
                    f"{url}: {_words(error)}. What arrived is kept; try again."
                ) from error
            logger.info("%s: %s, trying again", url, error)
            time.sleep(min(2.0**attempt, 10.0) if attempt else 0.0)
    try:
        _check(part, target, url, sha256, size)
    except ValueError:
        part.unlink(missing_ok=True)
        if resumed:  # the beginning may be of an older edition
            return download(url, target, sha256=sha256, size=size, progress=progress, tries=tries)
        raise
    os.replace(part, target)
    return target


def _words(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    return f"no connection ({getattr(error, 'reason', error)})"


def _receive(url: str, part: Path, target: Path, progress: Progress, timeout_s: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "neurofm"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with answer:
        kind = answer.headers.get_content_type()
        if kind in _PAGES and target.suffix.lower() not in (".html", ".htm"):
            raise ValueError(
                f"{url}: the server sent a web page ({kind}) instead of {target.name}: an error or "
                "log-in page. Look at the address in a browser."
            )
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        with open(part, "ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                if not have:
                    refuse_foreign(target, block[:256])
                file.write(block)
                have += len(block)
                progress(target, have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"{have} of {total} bytes arrived")


def _check(part: Path, target: Path, url: str, sha256: str | None, size: int | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        raise ValueError(f"{url}: {found} bytes arrived, {size} are published. Fetch it again.")
    if sha256 is not None and (got := sha256_of(part)) != sha256.lower():
        raise ValueError(
            f"{url}: the file's SHA-256 is {got}, published is {sha256}. It was damaged on the way "
            "or replaced by its publisher."
        )
    with open(part, "rb") as file:
        refuse_foreign(target, file.read(256))


def _fits(target: Path, sha256: str | None, size: int | None) -> bool:
    if size is not None and target.stat().st_size != size:
        return False
    return sha256 is None or sha256_of(target) == sha256.lower()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_arrived(path: Path) -> None:
    """Refuse what a client fetched if it is no data; the file is removed.

    Raises:
        ValueError: It is a web page, a pointer, or incomplete.
    """
    try:
        check_file(path)
    except ValueError:
        path.unlink(missing_ok=True)
        raise
