"""Named arrays and a little JSON in one checksummed file, and pools of text.

File: 16 bytes of magic with the format, CRC32C of all that follows (uint32), length of the header
(uint32), the header as JSON (`about`, and type, shape and place of every array), then the arrays,
each at a multiple of 64 bytes. Numbers are little-endian. It is read once, checked as a whole and
parsed nowhere else: arrays are views of the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from crc32c import crc32c

MAGIC = b"neurofm index 3\n"
_HEAD = struct.Struct("<16sII")
_CHECKED = 20  # the checksum covers what follows it
_ALIGN = 64
_TYPES = ("<i8", "<f8", "<i4", "<f4", "<u4", "|u1", "|i1")


class Texts(Sequence[str]):
    """A pool of texts, decoded when asked for.

    Args:
        at: int64 `text + 1`, where each text starts in `raw`.
        raw: uint8 `byte`, all texts as UTF-8.
    """

    def __init__(self, at: np.ndarray, raw: np.ndarray) -> None:
        self.at, self.raw = at, raw

    def __len__(self) -> int:
        return len(self.at) - 1

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"text {i} of {n}")
        i %= n
        return self.raw[self.at[i] : self.at[i + 1]].tobytes().decode()


class Pool:
    """Gathers texts and numbers them in order of first use; None is -1."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {None: -1}

    def __call__(self, text: str | None) -> int:
        """The number of a text."""
        return self._numbers.setdefault(text, len(self._numbers) - 1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """`at` and `raw` of `Texts`."""
        texts = [text.encode() for text in self._numbers if text is not None]
        return starts(map(len, texts)), np.frombuffer(b"".join(texts), dtype=np.uint8)


def starts(lengths: Iterable[int]) -> np.ndarray:
    """int64, where each of some consecutive pieces starts, and where the last one ends."""
    counts = np.fromiter(lengths, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])


def pack(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The bytes of a file, in pieces; equal input gives equal bytes."""
    places, at = {}, 0
    for name in sorted(arrays):
        array = arrays[name]
        places[name] = [array.dtype.str, list(array.shape), at]
        at += -(-array.nbytes // _ALIGN) * _ALIGN
    document = {"about": dict(about), "arrays": places, "n_bytes": at}
    header = json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    header += b" " * (-(len(header) + _HEAD.size) % _ALIGN)
    body: list[Any] = [struct.pack("<I", len(header)), header]
    for name in places:
        array = np.ascontiguousarray(arrays[name])
        if array.size:
            body += [array.reshape(-1).view(np.uint8).data, b"\0" * (-array.nbytes % _ALIGN)]
    check = 0
    for piece in body:
        check = crc32c(piece, check)
    yield MAGIC + struct.pack("<I", check)
    yield from body


def checksum(raw: np.ndarray) -> int:
    """The checksum that a file of `pack` carries; it stands for the file's content."""
    return int.from_bytes(raw[16:_CHECKED].tobytes(), "little")


def unpack(raw: np.ndarray, where: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack` was given, as views of the file's bytes.

    Args:
        raw: uint8 `byte`, the whole file.
        where: Name of the file, for messages.

    Raises:
        OSError: Truncated or damaged.
        ValueError: Another kind of file, or another format.
    """
    head = raw[: _HEAD.size].tobytes()
    if head[:14] != MAGIC[: len(head[:14])]:
        raise ValueError(f"{where}: not the index of a store, it begins with {head[:14]!r}.")
    if len(head) < _HEAD.size or _HEAD.unpack(head)[1] != crc32c(raw[_CHECKED:].data):
        raise OSError(f"{where}: damaged or truncated, its checksum does not match.")
    magic, _, length = _HEAD.unpack(head)
    if magic != MAGIC:
        raise ValueError(f"{where}: {magic!r}, this version reads {MAGIC!r}. Update neurofm.")
    try:
        document = json.loads(raw[_HEAD.size : _HEAD.size + length].tobytes())
        body = raw[_HEAD.size + length :]
        about, places = dict(document["about"]), dict(document["arrays"])
        if len(body) != document["n_bytes"]:
            raise ValueError(f"{len(body)} bytes of arrays, the header says {document['n_bytes']}")
        return about, {name: _array(body, *place) for name, place in places.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{where}: its header makes no sense ({error}).") from error


def _array(body: np.ndarray, kind: str, shape: list[int], at: int) -> np.ndarray:
    if kind not in _TYPES:
        raise ValueError(f"type {kind!r}")
    size = np.dtype(kind).itemsize
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"shape {shape}")
        size *= n
    if not isinstance(at, int) or at < 0 or at % _ALIGN or at + size > len(body):
        raise ValueError(f"an array of {size} bytes at byte {at} of {len(body)}")
    return body[at : at + size].view(kind).reshape(shape)
