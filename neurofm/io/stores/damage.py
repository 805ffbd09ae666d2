"""What is wrong with the recordings of a store: every byte is read and compared with its hash.

The SHA-256 of the whole file says whether it is right; where it is not, the checksums of the blocks
say which seconds are lost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.stores.blocks import Layout, layout_of
from neurofm.io.stores.files import document_head, parse_document
from neurofm.io.stores.manifest import Entry
from neurofm.io.stores.store import Store

_PIECE = 1 << 22  # bytes read at a time


@dataclass(frozen=True)
class Damage:
    """One recording that is not what was sealed.

    Args:
        place: Of the recording in `Store.entries`.
        what: "missing", "truncated", "flipped", "other content", "unreadable", "document".
        detail: In words, with numbers.
    """

    place: int
    key: str
    recording: str
    what: str
    detail: str


def find_damage(
    store: Store, *, threads: int = 2, advance: Callable[[int], None] = lambda n_bytes: None
) -> Iterator[Damage]:
    """Read a whole store.

    Args:
        threads: Files read at once; reading and hashing do not hold each other up.
        advance: Called with the number of bytes that were looked at since the last call, from
            several threads.
    """
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda i: damage_of(store, i, advance=advance), range(len(store)))
        for found in results:
            if found is not None:
                yield found


def damage_of(
    store: Store, i: int, *, advance: Callable[[int], None] = lambda n_bytes: None
) -> Damage | None:
    """What is wrong with recording `i`, None if nothing is."""
    entry = store.entries[i]
    seen = 0

    def count(n: int) -> None:
        nonlocal seen
        seen += n
        advance(n)

    try:
        found = _samples(store, entry, count) or _document(store, i)
    except FileNotFoundError as error:
        found = "missing", Path(error.filename or str(error)).name
    except OSError as error:
        found = "unreadable", str(error)
    advance(entry.n_bytes - seen)  # what was not read is done as well
    if found is None:
        return None
    return Damage(i, entry.key, entry.recording.id, *found)


def _samples(store: Store, entry: Entry, count: Callable[[int], None]) -> tuple[str, str] | None:
    name = f"recordings/{entry.key}.bin"
    size = store.source.size(name)
    if size != entry.n_bytes:
        word = "truncated" if size < entry.n_bytes else "other content"
        return word, f"{size} bytes instead of {entry.n_bytes}"
    digest = hashlib.sha256()
    for at in range(0, size, _PIECE):
        piece = store.source.read_range(name, at, min(_PIECE, size - at))
        digest.update(piece)
        count(len(piece))
    if digest.hexdigest() == entry.sha256:
        return None
    layout = layout_of(entry.key, n_channels=entry.n_channels, block=entry.block, dtype=entry.dtype)
    wrong = _damaged_blocks(store, name, layout, size // layout.stride)
    if not wrong:
        return "other content", "the blocks are whole, but they are not those that were sealed"
    return "flipped", (
        f"{len(wrong)} of {size // layout.stride} blocks, the first at {entry.place(wrong[0])}"
    )


def _damaged_blocks(store: Store, name: str, layout: Layout, n_blocks: int) -> list[int]:
    """Blocks with a wrong checksum, or with something in the bytes that fill them up."""
    wrong = []
    step = max(1, _PIECE // layout.stride)
    for first in range(0, n_blocks, step):
        count = min(step, n_blocks - first)
        raw = store.source.read_range(name, first * layout.stride, count * layout.stride)
        filling = np.frombuffer(raw, np.uint8).reshape(count, -1)[:, layout.payload + 4 :]
        for block in range(count):
            piece = raw[block * layout.stride : (block + 1) * layout.stride]
            if filling[block].any() or layout.first_damaged(piece, first + block) is not None:
                wrong.append(first + block)
    return wrong


def _document(store: Store, i: int) -> tuple[str, str] | None:
    """The document is needed to seal again."""
    name = f"recordings/{store.entries[i].key}.json"
    raw = store.source.read_range(name, 0, store.source.size(name))
    try:
        parse_document(raw, name)
    except OSError:
        return "document", "its checksum does not match"
    if (len(raw), document_head(raw)) != store.document_stamp(i):
        return "document", "it is not the one that was sealed"
    return None
