"""What a store says about its recordings: one document each, and the index that gathers them.

`seal` writes the index (`neurofm.io.stores.index`) under a name made from its content, then
`manifest.json`, which names it: that rename is the moment when readers see the new state. `Entry`
is one recording, made when asked for. Positions in metres, JSON null where unknown; amplitudes in
working units.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.files import (
    LocalFiles,
    Source,
    atomic_write,
    document_checksum,
    parse_document,
    read_document,
    read_whole,
    write_document,
)
from neurofm.io.stores.index import Index, IndexRow, build, load
from neurofm.io.stores.numbers import from_json, to_json
from neurofm.io.stores.packed import checksum, pack
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors

FORMAT = 3
MANIFEST = "manifest.json"
_NAME = re.compile(r"index-[0-9a-f]+\.bin")


def sensors_document(sensors: Sensors) -> dict[str, Any]:
    """Sensors as JSON."""
    known = sensors.has_position
    position = to_json(np.where(known[:, None], sensors.position.astype(np.float64), np.nan))
    if isinstance(position, list):
        position = [p if has else None for p, has in zip(position, known, strict=True)]
    return {
        "names": list(sensors.names),
        "kind": to_json(sensors.kind),
        "position": position,
        "orientation": to_json(sensors.orientation.astype(np.float64)),
        "frame": sensors.frame,
        "region": list(sensors.region),
    }


def _sensors(document: dict[str, Any]) -> Sensors:
    nowhere, position = [np.nan] * 3, document["position"]
    if isinstance(position, list):
        position = [nowhere if p is None else p for p in position]
    n = len(document["names"])
    return Sensors(
        names=tuple(document["names"]),
        kind=from_json(document["kind"], np.int8),
        position=from_json(position, np.float64).reshape(n, 3),
        orientation=from_json(document["orientation"], np.float64).reshape(n, 3),
        frame=document["frame"],
        region=tuple(document["region"]),
    )


@dataclass(frozen=True)
class Entry:
    """One prepared recording.

    Args:
        recording: Its entities; `path` is None.
        sensors: One object per distinct sensor set of the store.
        n_times: Samples per channel.
        sfreq: Hz, exact.
        block: Samples per block; bytes for tokens.
        scale: float32 step of each channel, working units; None for float32 samples.
        max_error: Largest difference from the signal that was written, working units.
        history: Processing steps, oldest first.
        details: What else the file said, see `Signal`.
        n_bytes: Size of the file.
        fingerprint: What `write_recording` was given to recognise the recording by, "" if nothing.
    """

    key: str
    recording: Recording
    sensors: Sensors
    sensors_hash: str
    n_times: int
    sfreq: float
    block: int
    dtype: str
    scale: Float[np.ndarray, " channel"] | None
    max_error: Float[np.ndarray, " channel"]
    events: tuple[Event, ...]
    history: tuple[str, ...]
    details: dict[str, Any]
    provenance: dict[str, Any]
    n_bytes: int
    sha256: str
    fingerprint: str = ""

    @property
    def n_channels(self) -> int:
        """Channels of any kind."""
        return len(self.sensors)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_times / self.sfreq

    def place(self, block: int) -> str:
        """Where in the recording a block is, for messages."""
        if self.dtype == TOKENS:
            window = block - self.details[TOKENS]["grid_blocks"]
            return "before the first window" if window < 0 else f"window {window}"
        return f"second {min(block * self.block / self.sfreq, self.duration):.3f}"


def _entry(row: IndexRow, sensors: Sensors) -> Entry:
    events = zip(row.onset.tolist(), row.duration.tolist(), row.labels, strict=True)
    zero = np.zeros(len(sensors))
    return Entry(
        key=row.key,
        recording=row.recording,
        sensors=sensors,
        sensors_hash=row.sensors_hash,
        n_times=row.n_times,
        sfreq=row.sfreq,
        block=row.block,
        dtype=row.dtype,
        scale=row.scale,
        max_error=zero if row.scale is None else row.scale.astype(np.float64) / 2,
        events=tuple(Event(*event) for event in events),
        history=tuple(json.loads(row.history)),
        details=json.loads(row.details),
        provenance=json.loads(row.provenance),
        n_bytes=row.n_bytes,
        sha256=row.sha256,
        fingerprint=row.fingerprint,
    )


class Entries(Sequence[Entry]):
    """The recordings of a store, each made anew when asked for; iterating keeps none."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, i: int) -> Entry: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, i: int | slice) -> Entry | tuple[Entry, ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"recording {i} of {n}")
        at = int(i) % n
        return _entry(
            self._index.row(at), self._index.sensors(int(self._index.columns.sensors[at]))
        )


class SensorSets(Sequence[Sensors]):
    """The distinct sensor sets of a store, each made once, when first asked for."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __len__(self) -> int:
        return self._index.n_sets

    @overload
    def __getitem__(self, i: int) -> Sensors: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Sensors, ...]: ...
    def __getitem__(self, i: int | slice) -> Sensors | tuple[Sensors, ...]:
        if isinstance(i, slice):
            return tuple(self[k] for k in range(*i.indices(len(self))))
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"sensor set {i} of {n}")
        return self._index.sensors(int(i) % n)

    @property
    def hashes(self) -> list[str]:
        """Hash of each set's content, `Entry.sensors_hash`."""
        return [self._index.set_hash(i) for i in range(len(self))]


def _row(record: dict[str, Any], digest: str, checksum: int, n_bytes: int) -> IndexRow:
    onset, duration, labels = zip(*record["events"], strict=True) if record["events"] else ((),) * 3
    scale = record["scale"]

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    return IndexRow(
        key=record["key"],
        recording=Recording(**record["recording"]),
        sensors_hash=digest,
        n_times=record["n_times"],
        sfreq=record["sfreq"],
        block=record["block"],
        dtype=record["dtype"],
        scale=None if scale is None else from_json(scale, np.float32),
        onset=np.array(onset, dtype=np.float64),
        duration=np.array(duration, dtype=np.float64),
        labels=tuple(labels),
        history=text(record["history"]),
        details=text(record["details"]),
        provenance=text(record["provenance"]),
        fingerprint=record.get("fingerprint", ""),
        n_bytes=record["n_bytes"],
        sha256=record["sha256"],
        document_crc32c=checksum,
        document_bytes=n_bytes,
    )


def read_manifest(source: Source, where: str) -> tuple[dict[str, Any], Index]:
    """The manifest and the index that it names.

    Args:
        where: Name of the store, for messages.

    Raises:
        FileNotFoundError: There is no sealed store there.
        OSError: The manifest or the index is damaged or missing.
        ValueError: It is of another format.
    """
    remedy = "Rerun `neurofm prepare` with the same options: it writes it anew."
    for _ in range(3):  # sealed anew between the two reads: the index has another name by then
        try:
            raw = read_whole(source, MANIFEST).tobytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{where}/{MANIFEST}: no such file, so this is not a prepared store. Run `neurofm "
                "prepare DATASET`, which prints the folder of its store."
            ) from None
        manifest = parse_document(raw, f"{where}/{MANIFEST}")
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{where}/{MANIFEST}: format {manifest.get('format')}, this version reads "
                f"{FORMAT}. Update neurofm, or rerun `neurofm prepare`: what an older version "
                "prepared is taken over where it is still right."
            )
        named = manifest.get("index")
        if not isinstance(named, dict) or not _NAME.fullmatch(str(named.get("file"))):
            raise ValueError(f"{where}/{MANIFEST}: names no index. {remedy}")
        file = f"{where}/{named['file']}"
        try:
            packed = read_whole(source, named["file"])
        except FileNotFoundError:
            continue
        index = load(packed, file)
        if checksum(packed) != named.get("crc32c"):
            raise OSError(f"{file}: not the index that {MANIFEST} names. {remedy}")
        return {"about": index.about, **manifest}, index
    raise OSError(f"{file}: missing, though {MANIFEST} names it. {remedy}")


def seal(
    store: Path, *, keys: Sequence[str] = (), about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write index and manifest from the recordings that are complete.

    A recording written twice (its source or the code changed) is listed once: with the key named in
    `keys`, else the one the index had, else the newest. Other versions are left out. Of a recording
    that the index has already, only the checksum of its document is read: sealing again costs about
    50 microseconds a recording, the first time five times as much.

    Args:
        keys: Keys known to be current.
        about: How the store was prepared; kept from the previous manifest if not given.

    Returns:
        The manifest.
    """
    store = Path(store)
    before, index = _previous(store)
    rows, sensors = _rows(store, set(keys), index)
    about = before.get("about", {}) if about is None else about
    made = build(rows, sensors, about)
    pieces = list(pack(made.about, made.arrays))
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    file = f"index-{digest.hexdigest()[:16]}.bin"
    manifest = {
        "format": FORMAT,
        "about": about,
        "recordings": len(rows),
        "hours": float(np.sum(made.columns.n_times / made.columns.sfreq) / 3600),
        "n_bytes": int(made.columns.n_bytes.sum()),
        "index": {
            "file": file,
            "n_bytes": sum(len(piece) for piece in pieces),
            "crc32c": int.from_bytes(pieces[0][-4:], "little"),
            "sha256": digest.hexdigest(),
        },
    }
    if manifest != before or index is None:
        with atomic_write(store / file) as opened:
            for piece in pieces:
                opened.write(piece)
        write_document(store / MANIFEST, manifest)
        for old in store.glob("index-*.bin"):
            if old.name != file:
                old.unlink(missing_ok=True)
    return manifest


def _previous(store: Path) -> tuple[dict[str, Any], Index | None]:
    """Manifest and index as they are; what is damaged is written anew, so it counts as absent."""
    with suppress(OSError, ValueError):
        return read_manifest(LocalFiles(store), str(store))
    with suppress(OSError, ValueError):
        return read_document(store / MANIFEST), None
    for file in sorted(store.glob("index-*.bin"), key=lambda file: -file.stat().st_mtime_ns):
        with suppress(OSError, ValueError):  # it says how the store was prepared as well
            index = load(read_whole(LocalFiles(store), file.name), str(file))
            return {"about": index.about}, index
    return {}, None


def _rows(
    store: Path, current: set[str], index: Index | None
) -> tuple[list[IndexRow], dict[str, Sensors]]:
    """A row for each recording, by name, and the sensor sets they need."""
    had = {} if index is None else {key: i for i, key in enumerate(index.pools["key"])}
    sensors = {} if index is None else {index.set_hash(i): i for i in range(index.n_sets)}
    sets: dict[str, Sensors] = {}
    chosen: dict[str, tuple[tuple[bool, bool, int], IndexRow]] = {}
    with os.scandir(store / "recordings") as files:
        documents = [f for f in files if f.name.endswith(".json") and not f.name.startswith(".")]
    for file in documents:
        key = file.name.removesuffix(".json")
        row = None
        try:
            size, check = document_checksum(file.path)
            if index is not None and key in had:
                row = index.row(had[key])
            if row is None or (row.document_bytes, row.document_crc32c) != (size, check):
                record = read_document(Path(file.path))
                text = json.dumps(record["sensors"], sort_keys=True).encode()
                digest = hashlib.sha256(text).hexdigest()[:16]
                if digest not in sensors and digest not in sets:
                    sets[digest] = _sensors(record["sensors"])
                row = _row(record, digest, check, size)
        except (OSError, KeyError, TypeError, ValueError):
            continue  # damaged, of another version, or just removed: prepare makes it again
        name = row.recording.id
        rank = (key in current, key in had, file.stat().st_mtime_ns)
        if name not in chosen or rank > chosen[name][0]:
            chosen[name] = (rank, row)
    rows = [chosen[name][1] for name in sorted(chosen)]
    if index is not None:
        for digest in {row.sensors_hash for row in rows} & sensors.keys():
            sets[digest] = index.sensors(sensors[digest])
    return rows, sets
