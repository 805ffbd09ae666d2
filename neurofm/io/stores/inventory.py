"""Files of a store that its index does not name: what they are, and whether anybody needs them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from neurofm.io.stores.files import LocalFiles, document_head, read_document
from neurofm.io.stores.index import Index
from neurofm.io.stores.manifest import MANIFEST, read_manifest
from neurofm.types import Recording

LOCK = ".prepare.lock"
QUARANTINE = "damaged"  # folder for damaged recordings while they are made anew
# A file that another machine began to write and has not touched for a day will not be finished.
_ABANDONED_S = 86400.0


@dataclass(frozen=True)
class Leftover:
    """Files that no index names.

    Args:
        why: What they are, in words.
        removable: False for what somebody still needs.
        recording: Whose they are, "" if unknown.
    """

    files: tuple[Path, ...]
    why: str
    removable: bool
    recording: str = ""

    @property
    def n_bytes(self) -> int:
        """Their size together."""
        total = 0
        for file in self.files:
            with suppress(OSError):
                total += file.stat().st_size
        return total


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, or was going to be one; no other folder's files are touched."""
    begun = (folder / LOCK).is_file() and (folder / "recordings").is_dir()
    with suppress(OSError), open(folder / MANIFEST, "rb") as file:
        return document_head(file.read(64)) is not None or begun
    return begun


def leftovers(store: Path) -> list[Leftover]:
    """What lies in a store beside what its index names, in order of names.

    A version of a recording that is newer than the index waits to be sealed and is kept; one that
    is older was replaced.
    """
    store = Path(store)
    index: Index | None = None
    named, sealed = "", 0
    with suppress(OSError, ValueError):
        manifest, index = read_manifest(LocalFiles(store), str(store))
        named = manifest["index"]["file"]
        sealed = (store / named).stat().st_mtime_ns
    found = [
        Leftover((file,), "an index that was replaced", True)
        for file in sorted(store.glob("index-*.bin"))
        if index is not None and file.name != named
    ]
    found += [_partial(file) for file in sorted(store.glob(".*.partial"))]
    quarantined = store / QUARANTINE
    for file in sorted(quarantined.iterdir()) if quarantined.is_dir() else ():
        anew = (store / "recordings" / file.name).exists()
        why = "damaged, and made anew since" if anew else "damaged, `neurofm verify` puts it back"
        found.append(Leftover((file,), why, anew))
    return [*found, *_recordings(store / "recordings", index, sealed)]


def _recordings(folder: Path, index: Index | None, sealed: int) -> Iterator[Leftover]:
    if not folder.is_dir():
        return
    keys = {} if index is None else {key: i for i, key in enumerate(index.pools["key"])}
    names: set[str] | None = None
    for stem, suffixes in sorted(_by_key(folder).items()):
        files = tuple(folder / f"{stem}{suffix}" for suffix in sorted(suffixes))
        if suffixes == {".partial"}:
            yield _partial(files[0])
        elif not suffixes <= {".bin", ".json"}:
            yield Leftover(files, "not a file of a store", False)
        elif stem in keys:
            continue
        elif suffixes == {".bin"}:
            yield Leftover(files, "samples without a document, never finished", True)
        elif suffixes == {".json"}:
            yield Leftover(files, "a document without samples", True)
        else:
            if names is None:
                names = {index.recording(i).id for i in keys.values()} if index else set()
            yield _version(files, names, sealed)


def _by_key(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in os.scandir(folder):
        stem, suffix = os.path.splitext(file.name)
        found.setdefault(stem, set()).add(suffix)
    return found


def _version(files: tuple[Path, ...], names: set[str], sealed: int) -> Leftover:
    document = files[1]
    try:
        recording = Recording(**read_document(document)["recording"]).id
        newer = document.stat().st_mtime_ns > sealed
    except (OSError, ValueError, KeyError, TypeError):
        return Leftover(files, "its document is damaged", True)
    if recording in names and not newer:
        return Leftover(files, "a version that was replaced", True, recording)
    return Leftover(
        files, "complete, to be sealed by `neurofm prepare` or `tokenize`", False, recording
    )


def _partial(file: Path) -> Leftover:
    host, _, process = file.name.removesuffix(".partial").rpartition("-")
    if process.isdigit() and host.endswith(f".{socket.gethostname()}"):
        over = not _lives(int(process))
    else:
        with suppress(OSError):
            over = time.time() - file.stat().st_mtime > _ABANDONED_S
            return Leftover((file,), "begun on another machine", over)
        over = False
    return Leftover((file,), "begun by a process that died" if over else "being written", over)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
