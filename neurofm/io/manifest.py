"""What a store says about its recordings: one document each, and the manifest that gathers them.

`seal` writes the manifest; `Entry` is one line of it. Sensor sets are kept once, by the hash of
their content. Positions in metres, JSON null where unknown; amplitudes in working units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.files import read_document, write_document
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors

FORMAT = 2


def sensors_document(sensors: Sensors) -> dict[str, Any]:
    """Sensors as JSON."""
    known = sensors.has_position
    position = sensors.position.astype(np.float64).tolist()
    return {
        "names": list(sensors.names),
        "kind": sensors.kind.tolist(),
        "position": [p if has else None for p, has in zip(position, known, strict=True)],
        "orientation": sensors.orientation.astype(np.float64).tolist(),
        "frame": sensors.frame,
        "region": list(sensors.region),
    }


def _sensors(document: dict[str, Any]) -> Sensors:
    nowhere = [np.nan] * 3
    position = [nowhere if p is None else p for p in document["position"]]
    n = len(document["names"])
    return Sensors(
        names=tuple(document["names"]),
        kind=np.array(document["kind"], dtype=np.int8),
        position=np.array(position, dtype=np.float64).reshape(n, 3),
        orientation=np.array(document["orientation"], dtype=np.float64).reshape(n, 3),
        frame=document["frame"],
        region=tuple(document["region"]),
    )


def seal(
    store: Path, *, keys: Sequence[str] = (), about: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write the manifest from the recordings that are complete.

    A recording written twice (its source or the code changed) is listed once: with the key named in
    `keys`, else the one the manifest had, else the newest. Other versions are left out.

    Args:
        keys: Keys known to be current.
        about: How the store was prepared; kept from the previous manifest if not given.

    Returns:
        The manifest.
    """
    path = Path(store) / "manifest.json"
    previous: dict[str, Any] = {}
    if path.is_file():
        with suppress(OSError):  # damaged: written anew
            previous = read_document(path)
    current = set(keys)
    had = {record["key"] for record in previous.get("recordings", ())}
    chosen: dict[str, tuple[tuple[bool, bool, int], dict[str, Any]]] = {}
    for file in (Path(store) / "recordings").glob("[!.]*.json"):
        try:
            record = read_document(file)
        except OSError:
            continue  # damaged: prepare makes it again
        name = Recording(**record["recording"]).id
        key = record["key"]
        rank = (key in current, key in had, file.stat().st_mtime_ns)
        if name not in chosen or rank > chosen[name][0]:
            chosen[name] = (rank, record)
    sensors: dict[str, Any] = {}
    recordings = []
    for name in sorted(chosen):
        record = dict(chosen[name][1])
        text = json.dumps(record["sensors"], sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest()[:16]
        sensors[digest] = record["sensors"]
        record["sensors"] = digest
        recordings.append(record)
    manifest = {
        "format": FORMAT,
        "about": previous.get("about", {}) if about is None else about,
        "sensors": sensors,
        "recordings": recordings,
    }
    if manifest != previous:
        write_document(path, manifest)
    return manifest


@dataclass(frozen=True)
class Entry:
    """One prepared recording.

    Args:
        recording: Its entities; `path` is None.
        sensors: One object per distinct sensor set of the store.
        n_times: Samples per channel.
        sfreq: Hz, exact.
        block: Samples per block.
        scale: float32 step of each channel, working units; None for float32 samples.
        max_error: Largest difference from the signal that was written, working units.
        history: Processing steps, oldest first.
        details: What else the file said, see `Signal`.
        n_bytes: Size of the file.
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

    @property
    def n_channels(self) -> int:
        """Channels of any kind."""
        return len(self.sensors)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.n_times / self.sfreq


def _entry(record: dict[str, Any], sensors: Sensors) -> Entry:
    scale = record["scale"]
    return Entry(
        key=record["key"],
        recording=Recording(**record["recording"]),
        sensors=sensors,
        sensors_hash=record["sensors"],
        n_times=record["n_times"],
        sfreq=record["sfreq"],
        block=record["block"],
        dtype=record["dtype"],
        scale=None if scale is None else np.array(scale, dtype=np.float32),
        max_error=np.array(record["max_error"], dtype=np.float64),
        events=tuple(Event(*event) for event in record["events"]),
        history=tuple(record["history"]),
        details=record["details"],
        provenance=record["provenance"],
        n_bytes=record["n_bytes"],
        sha256=record["sha256"],
    )


def entries(manifest: dict[str, Any]) -> tuple[Entry, ...]:
    """The recordings of a manifest; equal sensor sets are one object."""
    sensors = {key: _sensors(value) for key, value in manifest["sensors"].items()}
    return tuple(_entry(record, sensors[record["sensors"]]) for record in manifest["recordings"])
