"""Tokens of the windows of a recording, in the files of the store.

The file has the blocks of `neurofm.io.stores.blocks`, each with its checksum, but bytes instead of
samples. The first `grid_blocks` hold what all windows have in common, channel (int32) and time
(float32) of each token. Then comes one block per window: its first sample (int64), the mask (one
bit per token), codes (`token level`, the smallest type that holds them), values (`token dim`).
Everything else that the store knows of the recording (sensors, events, rate, fingerprint, length)
is what the prepared recording had, so that windows are cut, split and audited without it.

Axes: window token level dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.stores.blocks import TOKENS, layout_of
from neurofm.io.stores.manifest import Entry, sensors_document
from neurofm.io.stores.store import Store, complete, write_blocks
from neurofm.shapes import Bool, Float, Int

# Increase when a change of code changes the tokens that are written.
CODE_VERSION = 1
# As they are on disk; numpy has no bfloat16, its bits are kept.
VALUE_TYPES = {"none": "<u2", "float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}
_CODE_TYPES = ("|u1", "<u2", "<u4")


@dataclass(frozen=True)
class WindowTokens:
    """Tokens of some windows of one recording.

    Args:
        start: First sample of each window.
        values: As on disk, see `VALUE_TYPES`; None if they are not kept.
    """

    start: Int[np.ndarray, " window"]
    mask: Bool[np.ndarray, "window token"]
    channel: Int[np.ndarray, " token"]
    time: Float[np.ndarray, " token"]
    codes: Int[np.ndarray, "window token level"] | None
    values: np.ndarray | None


@dataclass(frozen=True)
class TokenShape:
    """How the tokens of a recording lie in its file.

    Args:
        codes: Type of a code, such as "|u1"; of no meaning if `n_levels` is 0.
        values: Name of the type of values, one of `VALUE_TYPES`.
        dim: Features of a token; 0 if values are not kept.
    """

    n_tokens: int
    n_levels: int
    codes: str
    values: str
    dim: int

    @classmethod
    def of(cls, tokens: WindowTokens, *, n_codes: int, values: str) -> TokenShape:
        """The shape that holds tokens like these.

        Args:
            n_codes: Codes of a level.
        """
        kind = next(kind for kind in _CODE_TYPES if n_codes <= np.iinfo(kind).max + 1)
        levels = 0 if tokens.codes is None else tokens.codes.shape[2]
        dim = 0 if tokens.values is None else tokens.values.shape[2]
        return cls(len(tokens.channel), levels, kind, values, dim)

    @classmethod
    def read(cls, entry: Entry) -> TokenShape:
        """The shape of a recording of the store."""
        known = entry.details[TOKENS]
        return cls(**{name: known[name] for name in cls.__dataclass_fields__})

    @property
    def parts(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        """Name, type and shape of what a window's block holds, in order."""
        return [
            ("start", np.dtype("<i8"), ()),
            ("mask", np.dtype("|u1"), (-(-self.n_tokens // 8),)),
            ("codes", np.dtype(self.codes), (self.n_tokens, self.n_levels)),
            ("values", np.dtype(VALUE_TYPES[self.values]), (self.n_tokens, self.dim)),
        ]

    @property
    def block(self) -> int:
        """Bytes of a window."""
        return sum(kind.itemsize * int(np.prod(shape)) for _, kind, shape in self.parts)

    @property
    def grid_blocks(self) -> int:
        """Blocks before the first window."""
        return -(-8 * self.n_tokens // self.block)


def write_tokens(
    store: Path,
    entry: Entry,
    batches: Iterable[WindowTokens],
    *,
    key: str,
    n_codes: int,
    values: str,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write the tokens of one recording; `seal` then makes them visible to readers.

    Args:
        store: Folder of the store, made if missing.
        entry: The prepared recording.
        batches: Its windows in order, some at a time.
        key: Name of the files, see `write_recording`.
        n_codes: Codes of a level.
        values: Type of the values, one of `VALUE_TYPES`.

    Returns:
        What the store knows about them.

    Raises:
        ValueError: No window, windows that differ in channel or time of their tokens, or a code
            that is not below `n_codes`.
        OSError: The disk is full, say. Nothing of this recording stays behind.
    """
    folder = Path(store) / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    name, given = entry.recording.id, iter(batches)
    first = next(given, None)
    if first is None:
        raise ValueError(f"write_tokens {name}: no windows.")
    shape = TokenShape.of(first, n_codes=n_codes, values=values)
    layout = layout_of(key, n_channels=1, block=shape.block, dtype=TOKENS)
    count = 0

    def pieces() -> Iterator[memoryview]:
        nonlocal count
        yield layout.pack(_grid(first, shape), 0)
        for batch in chain([first], given):
            if not (
                np.array_equal(batch.channel, first.channel)
                and np.array_equal(batch.time, first.time)
            ):
                raise ValueError(
                    f"write_tokens {name}: window {count} has tokens of other channels or times "
                    "than the first; a recording's windows must be cut alike."
                )
            if batch.codes is not None and batch.codes.size:
                low, high = int(batch.codes.min()), int(batch.codes.max())
                if low < 0 or high >= n_codes:
                    raise ValueError(
                        f"write_tokens {name}: codes from {low} to {high}, expected 0 to "
                        f"{n_codes - 1}, the tokenizer's n_codes."
                    )
            yield layout.pack(_windows(batch, shape), shape.grid_blocks + count)
            count += len(batch.start)

    file = folder / f"{key}.bin"
    written = write_blocks(file, pieces())
    about = {**asdict(shape), "n_windows": count, "grid_blocks": shape.grid_blocks}
    entities = {k: v for k, v in asdict(entry.recording).items() if k != "path"}
    record = {
        "key": key,
        "recording": entities,
        "n_times": entry.n_times,
        "sfreq": entry.sfreq,
        "scale": None,
        "coarse": [],
        "events": [[e.onset, e.duration, e.label] for e in entry.events],
        "history": list(entry.history),
        "details": {**entry.details, TOKENS: about},
        "sensors": sensors_document(entry.sensors),
        **written,
        "block": shape.block,
        "dtype": TOKENS,
        "provenance": provenance,
        "fingerprint": entry.fingerprint,
    }
    complete(file, record)
    return record


def _grid(tokens: WindowTokens, shape: TokenShape) -> np.ndarray:
    raw = tokens.channel.astype("<i4").tobytes() + tokens.time.astype("<f4").tobytes()
    blocks = np.zeros(shape.grid_blocks * shape.block, dtype=np.uint8)
    blocks[: len(raw)] = np.frombuffer(raw, dtype=np.uint8)
    return blocks.reshape(shape.grid_blocks, shape.block)


def _windows(tokens: WindowTokens, shape: TokenShape) -> np.ndarray:
    n = len(tokens.start)
    mask = np.packbits(tokens.mask, axis=1)
    held = {"start": tokens.start, "mask": mask, "codes": tokens.codes, "values": tokens.values}
    parts = []
    for name, kind, _ in shape.parts:
        array = held[name]
        if array is not None:
            little = np.ascontiguousarray(array, dtype=kind)
            parts.append(little.reshape(n, -1).view(np.uint8))
    return np.concatenate(parts, axis=1)


def read_grid(
    store: Store, i: int, shape: TokenShape
) -> tuple[Int[np.ndarray, " token"], Float[np.ndarray, " token"]]:
    """Channel and time of each token of recording `i`.

    Raises:
        OSError: As `Store.read`.
    """
    raw = store.read_blocks(i, 0, shape.grid_blocks).reshape(-1)[: 8 * shape.n_tokens]
    half = 4 * shape.n_tokens
    return raw[:half].copy().view("<i4"), raw[half:].copy().view("<f4")


def read_windows(
    store: Store, i: int, shape: TokenShape, windows: Sequence[int]
) -> Iterator[dict[str, np.ndarray]]:
    """Start, mask, codes and values of windows of recording `i`, as on disk.

    Raises:
        OSError: As `Store.read`.
    """
    for window in windows:
        raw = store.read_blocks(i, shape.grid_blocks + window, 1).reshape(-1)
        at, found = 0, {}
        for name, kind, form in shape.parts:
            size = kind.itemsize * int(np.prod(form))
            found[name] = raw[at : at + size].view(kind).reshape(form)
            at += size
        found["mask"] = np.unpackbits(found["mask"], count=shape.n_tokens).astype(bool)
        yield found
