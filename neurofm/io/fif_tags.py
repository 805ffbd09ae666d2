"""The tags of a FIF file: is the chain whole, and what does the file hold?

A FIF file is a chain of tags, some of which open and close blocks. A whole file closes every block
it opens and ends at a tag's end.

Source: the FIF tag layout as MNE documents it.
"""

from __future__ import annotations

import gzip
import struct
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
    position = 0
    with path.open("rb") as file:
        while position < size:
            kind, length, following = _tag(file, position)
            end = position + 16 + length
            if kind is None or length < 0 or end > size:
                raise ValueError(
                    f"{path}: truncated: a FIF tag at byte {position} runs to byte {end}, the "
                    f"file ends at {size}. Fetch it again."
                )
            depth += {_BLOCK_START: 1, _BLOCK_END: -1}.get(kind, 0)
            if following == -1:
                break
            position = following if following > 0 else end
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
    except (EOFError, OSError) as error:
        raise ValueError(
            f"{path}: the compressed file is incomplete ({error}). Fetch it again."
        ) from error
    if found != start:
        raise ValueError(
            f"{path}: not a FIF file inside: it starts with {found!r}. Fetch it again."
        )


def content_of(path: Path) -> str:
    """What a FIF file holds, by its blocks: a value of `CONTENTS`, or "nothing known"."""
    packed = path.name.lower().endswith(".gz")
    blocks = set()
    position = 0
    with gzip.open(path) if packed else path.open("rb") as file:
        while True:
            kind, length, following = _tag(file, position)
            if kind is None:
                break
            if kind == _BLOCK_START:
                blocks.add(struct.unpack(">i", file.read(4))[0])
            if following == -1:
                break
            position = following if following > 0 else position + 16 + length
    return next((name for block, name in CONTENTS.items() if block in blocks), "nothing known")


def _tag(file: BufferedReader | gzip.GzipFile, position: int) -> tuple[int | None, int, int]:
    file.seek(position)
    header = file.read(16)
    if len(header) < 16:
        return None, 0, 0
    kind, _, length, following = struct.unpack(">iiii", header)
    return kind, length, following
