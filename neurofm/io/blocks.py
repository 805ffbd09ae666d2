"""Samples as checksummed one-second blocks.

A block holds round(sfreq) samples, channel-major (`channel time`, the last block filled with
zeros), little-endian int16 or float32, then the CRC32C of those bytes, then zeros up to a multiple
of 64 bytes. Block i of a file starts at i x stride, so a window is one read of neighbouring bytes
at a known place. The checksum starts from the file's seed and the block's number: a block in the
wrong place is as wrong as a flipped bit.

int16 samples are multiples of a scale per channel. Scales have nine significant bits, so that
sample x scale is exact in float32 and the error of a sample is at most scale / 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from crc32c import crc32c

from neurofm.shapes import Float

DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
_ALIGN = 64
_CHECKSUM = struct.Struct("<I").unpack_from
_CHUNK = 32  # blocks encoded at a time, which bounds the memory of writing


def int16_scale(data: Float[np.ndarray, "channel time"]) -> Float[np.ndarray, " channel"]:
    """float32 step of each channel, such that its largest sample fits into int16."""
    peak = np.maximum(data.max(axis=1), -data.min(axis=1)).astype(np.float64)
    fraction, exponent = np.frexp(np.maximum(peak / 32767, np.finfo(np.float32).tiny))
    scale = np.ldexp(np.ceil(fraction * 512) / 512, exponent)
    return np.where(peak > 0, scale, 1.0).astype(np.float32)


@dataclass(frozen=True)
class Layout:
    """Where the samples of one file are.

    Args:
        n_samples: Per channel and block.
        seed: Start of every checksum; differs between files.
    """

    n_channels: int
    n_samples: int
    dtype: str
    seed: int

    @cached_property
    def payload(self) -> int:
        """Bytes of samples in a block."""
        return self.n_channels * self.n_samples * DTYPES[self.dtype].itemsize

    @cached_property
    def stride(self) -> int:
        """Bytes from one block to the next."""
        return -(-(self.payload + 4) // _ALIGN) * _ALIGN

    def view(self, raw: bytes | np.ndarray, count: int) -> np.ndarray:
        """The samples of `count` blocks as block x channel x time, without a copy."""
        kind = DTYPES[self.dtype]
        return np.ndarray(
            (count, self.n_channels, self.n_samples),
            kind,
            buffer=raw,
            strides=(self.stride, self.n_samples * kind.itemsize, kind.itemsize),
        )

    def encode(
        self, data: Float[np.ndarray, "channel time"], scale: np.ndarray | None
    ) -> Iterator[memoryview]:
        """The bytes of a recording, some blocks at a time."""
        n, payload = self.n_samples, self.payload
        n_blocks = -(-data.shape[1] // n)
        for first in range(0, n_blocks, _CHUNK):
            count = min(_CHUNK, n_blocks - first)
            part = data[:, first * n : (first + count) * n]
            if scale is not None:
                part = np.rint(part / scale.astype(np.float64)[:, None])
            raw = np.zeros((count, self.stride), dtype=np.uint8)
            body = self.view(raw, count)
            for i in range(count):
                piece = part[:, i * n : (i + 1) * n]
                body[i, :, : piece.shape[1]] = piece
                check = crc32c(raw[i, :payload].data, (self.seed + first + i) & 0xFFFFFFFF)
                raw[i, payload : payload + 4] = np.frombuffer(check.to_bytes(4, "little"), np.uint8)
            yield raw.data.cast("B")

    def first_damaged(self, raw: bytes, first: int) -> int | None:
        """Number of the first block with a wrong checksum; `raw` starts at block `first`."""
        view = memoryview(raw)
        payload, stride = self.payload, self.stride
        for block, at in enumerate(range(0, len(raw), stride), start=first):
            end = at + payload
            if crc32c(view[at:end], (self.seed + block) & 0xFFFFFFFF) != _CHECKSUM(raw, end)[0]:
                return block
        return None
