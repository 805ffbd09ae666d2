"""The tags of a FIF file: is the chain whole, and what does the file hold?

A FIF file is a chain of tags, some of which open and close blocks. A whole file closes every block
it opens and ends at a tag's end.

Source: the FIF tag layout as MNE documents it.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

_BLOCK_START, _BLOCK_END = 104, 105
# Blocks that say what a file holds; the first of these that occurs decides.
CONTENTS = {
    373: "epochs",
    104: "averages",
    102: "a continuous recording",
    112: "a continuous recording",
    119: "a continuous recording",
    374: "an independent component analysis",
    356: "an inverse operator",
    352: "a forward solution",
    351: "a source space",
    355: "a covariance",
}


def check_fif(path: Path, size: int) -> None:
    """Raise ValueError if the chain of tags breaks off before all blocks are closed."""
    depth = 0
    with path.open("rb") as file:
        for position, kind, length in _tags(file, path):
            end = position + 16 + length
            if kind is None or length < 0 or end > size:
                raise ValueError(
                    f"{path}: truncated: a FIF tag at byte {position} runs to byte {end}, the "
                    f"file ends at {size}. Fetch it again."
                )
            depth += {_BLOCK_START: 1, _BLOCK_END: -1}.get(kind, 0)
    if depth > 0:
        raise ValueError(
            f"{path}: truncated: {depth} FIF blocks are opened and never closed in {size} bytes. "
            "Fetch it again."
        )


def check_gzip(path: Path, start: bytes) -> None:
    """Raise ValueError if a compressed FIF file cannot be unpacked, or holds something else."""
    try:
        with gzip.open(path) as file:
            found = file.read(len(start))
            while file.read(1 << 20):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path}: the compressed file is incomplete ({error}). Fetch it again."
        ) from error
    if found != start:
        raise ValueError(
            f"{path}: not a FIF file inside: it starts with {found!r}. Fetch it again."
        )


def content_of(path: Path) -> str:
    """What a FIF file holds, by its blocks: a value of `CONTENTS`, or "nothing known".

    Raises:
        ValueError: The chain of tags turns in a circle.
    """
    packed = path.name.lower().endswith(".gz")
    blocks = set()
    with gzip.open(path) if packed else path.open("rb") as file:
        for _, kind, length in _tags(file, path):
            if kind is None:
                break
            if kind == _BLOCK_START and length == 4:
                blocks.add(int.from_bytes(file.read(4), "big"))
    return next((name for block, name in CONTENTS.items() if block in blocks), "nothing known")


def _tags(
    file: BufferedReader | gzip.GzipFile, path: Path
) -> Iterator[tuple[int, int | None, int]]:
    """Position, kind and length of every tag; the file stands behind the tag's head.

    A kind of None means that the file ends inside the head.
    """
    position, seen = 0, set()
    while position not in seen:
        seen.add(position)
        file.seek(position)
        head = file.read(16)
        if not head and position > 0:
            return  # the chain ends with the file
        if len(head) < 16:
            yield position, None, 0
            return
        kind, _, length, following = struct.unpack(">iiii", head)
        yield position, kind, length
        if following == -1:
            return
        position = following if following > 0 else position + 16 + max(length, 0)
    raise ValueError(
        f"{path}: its chain of FIF tags comes back to byte {position}. The file is damaged: fetch "
        "it again."
    )
