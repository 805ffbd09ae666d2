"""The prepared store: recordings as flat files of checksummed blocks, and one index.

A store is a folder with `recordings/<key>.bin` (samples, laid out as in `blocks`),
`recordings/<key>.json` (what is known about them; exists only when the samples are complete),
`index-<hash>.bin` (all of them, see `index`) and `manifest.json`, which names the index.
`seal` writes the last two; readers look at nothing else. Every file is written under a temporary
name, flushed to disk and renamed: what has its final name is whole. A store may be read where it
is, from disk or from a server (`neurofm.io.stores.remote`).

Axes: channel = sensor of any kind, time = sample. Amplitudes in working units.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from neurofm.io.stores.blocks import DTYPES, Layout, layout_of
from neurofm.io.stores.files import (
    LocalFiles,
    Source,
    atomic_write,
    read_document,
    scratch_file,
    write_document,
)
from neurofm.io.stores.gathered import Gathered, samples
from neurofm.io.stores.index import Columns
from neurofm.io.stores.manifest import Entries, SensorSets, read_manifest
from neurofm.io.stores.remote import RemoteFiles, is_remote
from neurofm.shapes import Float
from neurofm.types import Recording, Signal

_REMEMBERED = 1 << 15  # files whose layout is kept: about 20 MB


def write_recording(
    store: Path,
    signal: Signal | Iterable[Signal],
    *,
    key: str,
    dtype: str = "int16",
    provenance: dict[str, Any] | None = None,
    fingerprint: str | Callable[[], str] = "",
) -> dict[str, Any]:
    """Write one recording; `seal` then makes it visible to readers.

    Args:
        store: Folder of the store, made if missing.
        signal: The recording, or consecutive groups of its channels, each over the whole time, as
            of `Corpus.slabs`. In groups, no more than one is in memory, the store's disk needs room
            for the recording twice, and the bytes are those of the whole signal; events, history
            and details are those of the first.
        key: Name of the recording's files: letters, digits, `.`, `_` and `-`.
        dtype: "int16" (half the bytes, error at most half a step) or "float32" (exact).
        provenance: Where the signal came from; the signal's own history is kept as well.
        fingerprint: Something to recognise the recording by, whatever file it was read from; or a
            function that knows it once the last group of channels was taken.

    Returns:
        What the store knows about the recording.

    Raises:
        ValueError: NaN or infinite samples, no samples, an unknown dtype or an unusable key; groups
            of channels that do not belong together.
        OSError: The disk is full, say. Nothing of this recording stays behind.
    """
    if dtype not in DTYPES:
        raise ValueError(f"write_recording: dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", key):
        raise ValueError(
            f"write_recording: key {key!r} may hold letters, digits, '.', '_' and '-' only."
        )
    folder = Path(store) / "recordings"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key}.bin"
    if isinstance(signal, Signal):
        known = Gathered.of(signal, dtype)
        layout = known.layout(key)
        written = write_blocks(file, layout.encode(samples(signal), known.scale))
    else:
        with scratch_file(folder / f"{key}.slabs") as spool:
            known = _spool(signal, dtype, spool)
            layout = known.layout(key)

            def read(at: int, n: int) -> bytes:
                spool.seek(at)
                return spool.read(n)

            pieces = layout.interleave(read, known.widths, known.n_times)
            written = write_blocks(file, pieces)
    record = {"key": key, **known.record(), **written, "block": layout.n_samples, "dtype": dtype}
    mark = fingerprint() if callable(fingerprint) else fingerprint
    record |= {"provenance": provenance or {}, "fingerprint": mark}
    complete(file, record)
    return record


def complete(file: Path, record: dict[str, Any]) -> None:
    """Write the document of a file of blocks, which makes it one of the store's recordings.

    Raises:
        OSError: It cannot be written; the file of blocks is removed.
    """
    document = file.with_name(f"{record['key']}.json")
    try:
        write_document(document, record)
    except BaseException:
        if not document.exists():
            file.unlink(missing_ok=True)
        raise


def _spool(slabs: Iterable[Signal], dtype: str, spool: IO[bytes]) -> Gathered:
    """Encode groups of channels into a scratch file, one at a time."""
    known: Gathered | None = None
    for slab in slabs:
        part = Gathered.of(slab, dtype)
        for piece in part.layout("").spool(samples(slab), part.scale):
            spool.write(piece)
        known = part if known is None else known.joined(part)
        del slab  # before the next one is made
    if known is None:
        raise ValueError("write_recording: no signal to write, the groups of channels are none.")
    spool.flush()
    return known


def write_blocks(file: Path, pieces: Iterable[memoryview]) -> dict[str, Any]:
    """Write the blocks of a recording, all or nothing; their size and hash."""
    digest = hashlib.sha256()
    n_bytes = 0
    with atomic_write(file) as opened:
        for piece in pieces:
            digest.update(piece)
            n_bytes += len(piece)
            opened.write(piece)
    return {"n_bytes": n_bytes, "sha256": digest.hexdigest()}


def read_record(store: Path, key: str) -> dict[str, Any] | None:
    """What `write_recording` returned for a key, or None if it must be written (again).

    Its samples are read and their checksums compared, so that a damaged file is made anew.
    """
    folder = Path(store) / "recordings"
    try:
        record = read_document(folder / f"{key}.json")
        n_channels, block = len(record["sensors"]["names"]), record["block"]
        layout = layout_of(key, n_channels=n_channels, block=block, dtype=record["dtype"])
        n_blocks, rest = divmod(record["n_bytes"], layout.stride)
        if rest or not n_blocks:
            return None
        step = max(1, (1 << 22) // layout.stride)
        with open(folder / f"{key}.bin", "rb") as file:
            for first in range(0, n_blocks, step):
                n = min(step, n_blocks - first) * layout.stride
                raw = file.read(n)
                if len(raw) != n or layout.first_damaged(raw, first) is not None:
                    return None
            return None if file.read(1) else record
    except (OSError, KeyError):
        return None


class Store:
    """Random access to prepared recordings. Cheap to pickle into workers, safe to fork.

    Args:
        path: Folder with a `manifest.json`, or the address of one (`https://`, `s3://`, ...).
        source: Where the bytes are, if not there. Of a local folder, the index is still read there.

    Attributes:
        where: Folder or address, for messages.
        about: How it was prepared.
        entries: All recordings; each is made when asked for.
        columns: Their numbers as arrays, without making entries; see `Columns`.
        sensor_sets: What `columns.sensors` points into; `sensor_sets.hashes` names the sets.
        digest: SHA-256 of the index: equal for stores that hold the same in the same order.

    Raises:
        FileNotFoundError: There is no sealed store there.
        OSError: The manifest or the index is damaged.
        ValueError: It is of another format.
    """

    def __init__(self, path: Path | str, *, source: Source | None = None) -> None:
        self.where = str(path).rstrip("/")
        self.path = Path(path)
        files: Source
        if is_remote(path):
            files = source = RemoteFiles(str(path)) if source is None else source
        else:
            files = LocalFiles(self.path)
        manifest, self._index = read_manifest(files, self.where)
        self.about: dict[str, Any] = manifest["about"]
        self.digest: str = manifest["index"]["sha256"]
        self.entries = Entries(self._index)
        self.columns: Columns = self._index.columns
        self.sensor_sets = SensorSets(self._index)
        self.source: Source = files if source is None else source
        self._opened: dict[int, tuple[str, Layout]] = {}  # whose size was found right

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return f"Store({self.where!r}, {len(self)} recordings)"

    def read(
        self,
        i: int,
        start: int,
        stop: int,
        *,
        channels: Sequence[int] | np.ndarray | None = None,
        out: Float[np.ndarray, "channel time"] | None = None,
    ) -> Float[np.ndarray, "channel time"]:
        """Samples `start` to `stop` of recording `i`, every touched block checked.

        Args:
            channels: Indices, in the order wanted; all if not given.
            out: float32 array to fill, of the shape to be returned.

        Raises:
            ValueError: The range is not inside the recording, or `out` does not fit.
            OSError: The file is missing, truncated or damaged; the message says where and what to
                do.
        """
        i = range(len(self))[i]
        columns = self.columns
        if columns.is_tokens[i]:
            raise ValueError(f"{self.where}: holds tokens of {self.recording(i).id}, no samples.")
        n_times = columns.n_times[i]
        if not 0 <= start < stop <= n_times:
            entry = self.entries[i]
            raise ValueError(
                f"{entry.recording.id}: samples {start} to {stop} are not inside its "
                f"{entry.n_times} samples ({entry.duration:.3f} s)."
            )
        pick = None if channels is None else np.asarray(channels, dtype=np.intp)
        shape = (int(columns.n_channels[i]) if pick is None else len(pick), stop - start)
        if out is None:
            out = np.empty(shape, dtype=np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise ValueError(
                f"{self.entries[i].recording.id}: `out` is {out.dtype} {out.shape}, expected "
                f"float32 {shape}."
            )
        if not columns.is_int16[i]:
            self.read_raw(i, start, stop, out, pick)
            return out
        # Casting is fastest on neighbouring numbers: assemble the window as int16, then cast once.
        target = np.empty(shape, dtype=np.int16)
        self.read_raw(i, start, stop, target, pick)
        at = columns.scale_at[i]
        scale = columns.scale[at : at + columns.n_channels[i]]
        np.copyto(out, target)
        return np.multiply(out, (scale if pick is None else scale[pick])[:, None], out=out)

    def read_raw(
        self,
        i: int,
        start: int,
        stop: int,
        out: np.ndarray,
        channels: np.ndarray | None = None,
    ) -> None:
        """Fill `out` (channel time, of the stored type) with samples as they are on disk, unscaled.

        For callers that convert a window themselves; `start` and `stop` must be inside.

        Raises:
            OSError: As `read`.
        """
        n = (self._opened.get(i) or self._open(i))[1].n_samples
        first = start // n
        count = (stop - 1) // n + 1 - first
        low, at, total = start - first * n, 0, stop - start
        for piece in self.read_blocks(i, first, count):
            chosen = piece if channels is None else piece[channels]
            length = min(n - low, total - at)
            out[:, at : at + length] = chosen[:, low : low + length]
            at += length
            low = 0

    def read_blocks(self, i: int, first: int, count: int) -> np.ndarray:
        """Blocks of recording `i` as they are on disk, block x channel x time, checked.

        Tokens are bytes: block x 1 x byte. The blocks must exist.

        Raises:
            OSError: As `read`.
        """
        name, layout = self._opened.get(i) or self._open(i)
        stride = layout.stride
        try:
            raw = self.source.read_range(name, first * stride, count * stride)
        except (FileNotFoundError, PermissionError) as error:
            raise self._unreadable(i, error) from None
        if len(raw) != count * stride:
            self._check_size(i, name, layout)
            raise OSError(f"{self.where}/{name}: a read came back short. {self._remedy(i)}")
        wrong = layout.first_damaged(raw, first)
        if wrong is not None:
            self._check_size(i, name, layout)
            entry = self.entries[i]
            raise OSError(
                f"{self.where}/{name}: {entry.recording.id} is damaged in block {wrong} "
                f"({entry.place(wrong)}): its checksum does not match. {self._remedy(i)}"
            )
        return layout.view(raw, count)

    def prefetch(
        self, recordings: Sequence[int], starts: Sequence[int], stops: Sequence[int]
    ) -> None:
        """Fetch samples that will be read next, all at once, if the store is elsewhere.

        Over a network a batch then waits once, not once for each window. Nothing is done for local
        folders, where reads do not wait for each other.
        """
        if not isinstance(self.source, RemoteFiles):
            return
        ranges = []
        for i, start, stop in zip(recordings, starts, stops, strict=True):
            name, layout = self._opened.get(i) or self._open(i)
            first = start // layout.n_samples
            count = (stop - 1) // layout.n_samples + 1 - first
            ranges.append((name, first * layout.stride, count * layout.stride))
        self.source.prefetch(ranges)

    @property
    def keys(self) -> Sequence[str]:
        """Key of every recording."""
        return self._index.pools["key"]

    def recording(self, i: int) -> Recording:
        """Entities of recording `i`."""
        return self._index.recording(i)

    def history(self, i: int) -> tuple[str, ...]:
        """Processing steps of recording `i`, oldest first."""
        return tuple(self._index.parsed("history", i))

    def document_stamp(self, i: int) -> tuple[int, int]:
        """Size and checksum of recording `i`'s document when the store was sealed."""
        return self._index.document_stamp(i)

    def _open(self, i: int) -> tuple[str, Layout]:
        """Name and layout of a recording's file, whose size must be what the index says."""
        layout = self._index.layout(i)
        name = f"recordings/{self._index.pools['key'][i]}.bin"
        # Asking a server costs as much as reading: there, the checksums must do.
        if not isinstance(self.source, RemoteFiles):
            self._check_size(i, name, layout)
        if len(self._opened) >= _REMEMBERED:
            self._opened.clear()
        self._opened[i] = name, layout
        return name, layout

    def _check_size(self, i: int, name: str, layout: Layout) -> None:
        try:
            size = self.source.size(name)
        except (FileNotFoundError, PermissionError) as error:
            raise self._unreadable(i, error) from None
        entry = self.entries[i]
        if size != entry.n_bytes:
            raise OSError(
                f"{self.where}/{name}: {entry.recording.id} has {size} bytes, the index says "
                f"{entry.n_bytes}: truncated or overwritten after "
                f"{entry.place(size // layout.stride)}. {self._remedy(i)}"
            )

    def _unreadable(self, i: int, error: OSError) -> OSError:
        file = f"{self.where}/recordings/{self._index.pools['key'][i]}.bin"
        if isinstance(error, PermissionError):
            return PermissionError(
                f"{file}: no permission to read it. Ask its owner, or change its mode (`chmod`)."
            )
        return OSError(f"{file}: missing. {self._remedy(i)}")

    def _remedy(self, i: int) -> str:
        command = "tokenize" if self.columns.is_tokens[i] else "prepare"
        return (
            f"Rerun `neurofm {command} {self._index.recording(i).dataset}` with the same options "
            "and --rehash: it remakes this recording and leaves the others."
        )
