"""Samples as checksummed blocks of about one second.

A block holds `block_length(sfreq)` samples, channel-major (`channel time`, the last block filled
with zeros), little-endian int16 or float32, then the CRC32C of those bytes, then zeros up to a
multiple of 64 bytes. Block i of a file starts at i x stride, so a window is one read of
neighbouring bytes at a known place. The checksum starts from the file's seed and the block's
number: a block in the wrong place is as wrong as a flipped bit.

int16 samples are multiples of a scale per channel. Scales have nine significant bits, so that
sample x scale is exact in float32 and the error of a sample is at most scale / 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from crc32c import crc32c

from neurofm.shapes import Float

DTYPES: dict[str, np.dtype[Any]] = {"int16": np.dtype("<i2"), "float32": np.dtype("<f4")}
TOKENS = "tokens"  # no samples: a block of bytes per window, see `neurofm.io.stores.tokens`
_NUMBERS = {**DTYPES, TOKENS: np.dtype("|u1")}
_ALIGN = 64
_CHECKSUM = struct.Struct("<I").unpack_from
_CHUNK = 1 << 23  # bytes of blocks encoded at a time, which bounds the memory of writing
# Samples of a block, at least: a block of one fMRI volume would cost a checksum per volume.
_SHORTEST = 16


def block_length(sfreq: float) -> int:
    """Samples of a block: one second, or 16 samples if that is less (fMRI, slow calcium)."""
    return max(_SHORTEST, round(sfreq))


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
        return self.n_channels * self.n_samples * _NUMBERS[self.dtype].itemsize

    @cached_property
    def stride(self) -> int:
        """Bytes from one block to the next."""
        return -(-(self.payload + 4) // _ALIGN) * _ALIGN

    def view(self, raw: bytes | np.ndarray, count: int) -> np.ndarray:
        """The samples of `count` blocks as block x channel x time, without a copy."""
        kind = _NUMBERS[self.dtype]
        return np.ndarray(
            (count, self.n_channels, self.n_samples),
            kind,
            buffer=raw,
            strides=(self.stride, self.n_samples * kind.itemsize, kind.itemsize),
        )

    def pack(self, blocks: np.ndarray, first: int) -> memoryview:
        """The bytes of blocks of tokens, uint8 `block byte`, from block `first` on."""
        raw = np.zeros((len(blocks), self.stride), dtype=np.uint8)
        raw[:, : self.payload] = blocks
        return self._finished(raw, first)

    def encode(
        self, data: Float[np.ndarray, "channel time"], scale: np.ndarray | None
    ) -> Iterator[memoryview]:
        """The bytes of a recording, some blocks at a time."""
        for first, count in self._chunks(data.shape[1]):
            raw = np.zeros((count, self.stride), dtype=np.uint8)
            body = self.view(raw, count)
            for i, piece in enumerate(self._blocks(data, scale, first, count)):
                body[i, :, : piece.shape[1]] = piece
            yield self._finished(raw, first)

    def spool(
        self, data: Float[np.ndarray, "channel time"], scale: np.ndarray | None
    ) -> Iterator[memoryview]:
        """Some channels of a recording, encoded for `interleave`; `n_channels` is their number."""
        for first, count in self._chunks(data.shape[1]):
            raw = np.zeros((count, self.n_channels, self.n_samples), DTYPES[self.dtype])
            for i, piece in enumerate(self._blocks(data, scale, first, count)):
                raw[i, :, : piece.shape[1]] = piece
            yield raw.data.cast("B")

    def interleave(
        self, read: Callable[[int, int], bytes], widths: Sequence[int], n_times: int
    ) -> Iterator[memoryview]:
        """The bytes of a recording whose channels were spooled in groups.

        Args:
            read: Bytes of the spooled groups, one after the other: from where, how many.
            widths: Channels of each group.
        """
        size = self.n_samples * DTYPES[self.dtype].itemsize
        n_blocks = -(-n_times // self.n_samples)
        for first, count in self._chunks(n_times):
            raw = np.zeros((count, self.stride), dtype=np.uint8)
            body = self.view(raw, count)
            low = 0
            for width in widths:
                at = (low * n_blocks + first * width) * size
                piece = np.frombuffer(read(at, count * width * size), dtype=DTYPES[self.dtype])
                body[:, low : low + width] = piece.reshape(count, width, self.n_samples)
                low += width
            yield self._finished(raw, first)

    def _chunks(self, n_times: int) -> Iterator[tuple[int, int]]:
        """First block and number of blocks of pieces that fit into memory."""
        n_blocks = -(-n_times // self.n_samples)
        step = max(1, _CHUNK // self.stride)
        for first in range(0, n_blocks, step):
            yield first, min(step, n_blocks - first)

    def _blocks(
        self, data: np.ndarray, scale: np.ndarray | None, first: int, count: int
    ) -> Iterator[np.ndarray]:
        """`channel time` of each block, in steps of the scale if there is one."""
        n = self.n_samples
        divisor = None if scale is None else scale.astype(np.float64)[:, None]
        for block in range(first, first + count):
            piece = data[:, block * n : (block + 1) * n]
            yield piece if divisor is None else np.rint(piece / divisor)

    def _finished(self, raw: np.ndarray, first: int) -> memoryview:
        """Blocks with their checksums, as bytes."""
        payload = self.payload
        for i in range(len(raw)):
            check = crc32c(raw[i, :payload].data, (self.seed + first + i) & 0xFFFFFFFF)
            raw[i, payload : payload + 4] = np.frombuffer(check.to_bytes(4, "little"), np.uint8)
        return raw.data.cast("B")

    def first_damaged(self, raw: bytes, first: int) -> int | None:
        """Number of the first block with a wrong checksum; `raw` starts at block `first`."""
        view = memoryview(raw)
        payload, stride = self.payload, self.stride
        for block, at in enumerate(range(0, len(raw), stride), start=first):
            end = at + payload
            if crc32c(view[at:end], (self.seed + block) & 0xFFFFFFFF) != _CHECKSUM(raw, end)[0]:
                return block
        return None


def layout_of(key: str, *, n_channels: int, block: int, dtype: str) -> Layout:
    """Where everything is in the file of a recording.

    Args:
        block: Samples of a block; its bytes for tokens.
    """
    width = 1 if dtype == TOKENS else n_channels
    return Layout(width, block, dtype, crc32c(key.encode()))
