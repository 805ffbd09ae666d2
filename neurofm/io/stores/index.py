"""The index of a store: what is known about all recordings, as a few flat arrays in one file.

Opening it reads the file once and parses nothing per recording, so a hundred thousand recordings
open in well under a second; `Columns` is what loaders use, `Index.row` gives one recording.

Texts are in pools, equal ones once, and columns hold their numbers. The file is that of
`neurofm.io.stores.packed`.

Axes: recording, event (of all recordings, one after the other), channel (of all sensor sets, or of
all recordings for scales), text. `x_at[i] : x_at[i + 1]` are the places of recording i in a flat
array x.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofm.io.stores.blocks import Layout, layout_of
from neurofm.io.stores.packed import Pool, Texts, starts, unpack
from neurofm.types import FRAMES, Recording, Sensors

DTYPE_NAMES = ("int16", "float32", "tokens")
ENTITIES = ("dataset", "subject", "session", "run", "task")
# Arrays by the axis along which they run: name -> (type, further axes).
_SCHEMA: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "recording": {
        "n_times": ("<i8", ()),
        "sfreq": ("<f8", ()),
        "block": ("<i8", ()),
        "n_bytes": ("<i8", ()),
        "dtype": ("|u1", ()),
        "sensors": ("<i4", ()),
        **{name: ("<i4", ()) for name in ENTITIES},
        "history": ("<i4", ()),
        "details": ("<i4", ()),
        "provenance": ("<i4", ()),
        "fingerprint": ("<i4", ()),
        "sha256": ("|u1", (32,)),
        "document_crc32c": ("<u4", ()),
        "document_bytes": ("<i8", ()),
    },
    "scale": {"scale": ("<f4", ())},
    "event": {
        "event_onset": ("<f8", ()),
        "event_duration": ("<f8", ()),
        "event_label": ("<i4", ()),
    },
    "set": {"set_hash": ("|u1", (8,)), "frame": ("|u1", ())},
    "channel": {
        "channel_name": ("<i4", ()),
        "channel_region": ("<i4", ()),
        "kind": ("|i1", ()),
        "position": ("<f8", (3,)),
        "orientation": ("<f8", (3,)),
    },
}
# Where each piece of a flat axis starts: name -> (axis that owns the pieces, flat axis).
_OFFSETS = {
    "scale_at": ("recording", "scale"),
    "event_at": ("recording", "event"),
    "channel_at": ("set", "channel"),
}
# Pools of text, and the arrays that hold numbers of their texts (-1 = none).
_POOLS: dict[str, tuple[str, ...]] = {
    "key": (),
    **{name: (name,) for name in ENTITIES},
    "label": ("event_label",),
    "channel": ("channel_name", "channel_region"),
    "text": ("history", "details", "provenance", "fingerprint"),
}
_MAY_LACK = ("session", "run", "task", "channel_region")


@dataclass(frozen=True)
class Columns:
    """Numbers of all recordings of a store, for loaders: no object per recording is made.

    Arrays are shared by all who read the store; treat them as read-only.

    Args:
        n_times: int64 `recording`, samples per channel.
        sfreq: float64 `recording`, Hz.
        n_channels: int64 `recording`.
        n_bytes: int64 `recording`, size of the file.
        is_int16: bool `recording`; False for float32 samples and for tokens.
        is_tokens: bool `recording`; True where the file holds tokens of windows, no samples.
        sensors: int32 `recording`, place in `Store.sensor_sets`.
        dataset: int32 `recording`, place in `tables["dataset"]`; so `subject`, `session`, `run` and
            `task`, of which the last three may be -1, none. The same subject name in two datasets
            has the same number.
        scale_at: int64 `recording + 1`; `scale[scale_at[i]:scale_at[i + 1]]` are the steps of the
            channels of recording i in working units, none for float32 samples.
        event_at: int64 `recording + 1`; places in the three event columns.
        event_onset: float64 `event`, seconds, in order of onset as written.
        event_duration: float64 `event`, seconds.
        event_label: int32 `event`, place in `tables["label"]`.
        tables: The names behind the numbers: dataset, subject, session, run, task, label.
    """

    n_times: np.ndarray
    sfreq: np.ndarray
    n_channels: np.ndarray
    n_bytes: np.ndarray
    is_int16: np.ndarray
    is_tokens: np.ndarray
    sensors: np.ndarray
    dataset: np.ndarray
    subject: np.ndarray
    session: np.ndarray
    run: np.ndarray
    task: np.ndarray
    scale_at: np.ndarray
    scale: np.ndarray
    event_at: np.ndarray
    event_onset: np.ndarray
    event_duration: np.ndarray
    event_label: np.ndarray
    tables: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.n_times)


@dataclass(frozen=True)
class IndexRow:
    """One recording as the index holds it; texts of JSON are kept as text.

    Args:
        scale: float32 `channel`, None for float32 samples.
        onset: float64 `event`, seconds; so `duration`.
        document_crc32c: Checksum that begins the recording's document, and the document's size: the
            row is as good as the document while both are unchanged.
    """

    key: str
    recording: Recording
    sensors_hash: str
    n_times: int
    sfreq: float
    block: int
    dtype: str
    scale: np.ndarray | None
    onset: np.ndarray
    duration: np.ndarray
    labels: tuple[str, ...]
    history: str
    details: str
    provenance: str
    fingerprint: str
    n_bytes: int
    sha256: str
    document_crc32c: int
    document_bytes: int


@dataclass
class Index:
    """All arrays of one index: made by `build`, read by `load`.

    Args:
        about: How the store was prepared.
    """

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]
    _sets: dict[int, Sensors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pools = {
            name: Texts(self.arrays[f"{name}_at_text"], self.arrays[f"{name}_text"])
            for name in _POOLS
        }
        a = self.arrays
        tables = {name: tuple(self.pools[name]) for name in (*ENTITIES, "label")}
        width = np.diff(a["channel_at"])
        self.columns = Columns(
            n_channels=width[a["sensors"]],
            is_int16=a["dtype"] == DTYPE_NAMES.index("int16"),
            is_tokens=a["dtype"] == DTYPE_NAMES.index("tokens"),
            tables=tables,
            **{name: a[name] for name in ("n_times", "sfreq", "n_bytes", "sensors", *ENTITIES)},
            **{name: a[name] for name in ("scale_at", "scale", "event_at")},
            **{name: a[name] for name in _SCHEMA["event"]},
        )

    def __len__(self) -> int:
        return len(self.arrays["n_times"])

    def __getstate__(self) -> dict[str, Any]:
        return {"about": self.about, "arrays": self.arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.about, self.arrays, self._sets = state["about"], state["arrays"], {}
        self.__post_init__()

    @property
    def n_sets(self) -> int:
        """Number of distinct sensor sets."""
        return len(self.arrays["frame"])

    def set_hash(self, number: int) -> str:
        """Hash of a sensor set's content."""
        return str(self.arrays["set_hash"][number].tobytes().hex())

    def sensors(self, number: int) -> Sensors:
        """A sensor set; the same object every time."""
        found = self._sets.get(number)
        if found is None:
            a, names = self.arrays, self.pools["channel"]
            low, high = a["channel_at"][number : number + 2].tolist()
            region = a["channel_region"][low:high].tolist()
            found = self._sets[number] = Sensors(
                names=tuple(names[i] for i in a["channel_name"][low:high].tolist()),
                kind=a["kind"][low:high].copy(),
                position=a["position"][low:high].copy(),
                orientation=a["orientation"][low:high].copy(),
                frame=FRAMES[a["frame"][number]],
                region=() if -1 in region else tuple(names[i] for i in region),
            )
        return found

    def layout(self, i: int) -> Layout:
        """Where everything is in the file of recording `i`."""
        a = self.arrays
        return layout_of(
            self.pools["key"][i],
            n_channels=int(self.columns.n_channels[i]),
            block=int(a["block"][i]),
            dtype=DTYPE_NAMES[a["dtype"][i]],
        )

    def document_stamp(self, i: int) -> tuple[int, int]:
        """Size and checksum of the document from which row `i` was made."""
        a = self.arrays
        return int(a["document_bytes"][i]), int(a["document_crc32c"][i])

    def parsed(self, name: str, i: int) -> Any:
        """JSON value of recording `i` in a pool of texts, such as "history"."""
        return json.loads(self.pools["text"][int(self.arrays[name][i])])

    def recording(self, i: int) -> Recording:
        """Entities of recording `i`."""
        tables = self.columns.tables
        names = {k: tables[k][c] for k in ENTITIES if (c := int(self.arrays[k][i])) >= 0}
        return Recording(**names)  # type: ignore[arg-type]

    def row(self, i: int) -> IndexRow:
        """Recording `i`."""
        a, text, labels = self.arrays, self.pools["text"], self.columns.tables["label"]
        low, high = a["event_at"][i : i + 2].tolist()
        steps = a["scale"][a["scale_at"][i] : a["scale_at"][i + 1]]
        return IndexRow(
            key=self.pools["key"][i],
            recording=self.recording(i),
            sensors_hash=self.set_hash(int(a["sensors"][i])),
            n_times=int(a["n_times"][i]),
            sfreq=float(a["sfreq"][i]),
            block=int(a["block"][i]),
            dtype=DTYPE_NAMES[a["dtype"][i]],
            scale=steps.copy() if self.columns.is_int16[i] else None,
            onset=a["event_onset"][low:high],
            duration=a["event_duration"][low:high],
            labels=tuple(labels[k] for k in a["event_label"][low:high].tolist()),
            history=text[int(a["history"][i])],
            details=text[int(a["details"][i])],
            provenance=text[int(a["provenance"][i])],
            fingerprint=text[int(a["fingerprint"][i])],
            n_bytes=int(a["n_bytes"][i]),
            sha256=a["sha256"][i].tobytes().hex(),
            document_crc32c=int(a["document_crc32c"][i]),
            document_bytes=int(a["document_bytes"][i]),
        )


def build(rows: Sequence[IndexRow], sensors: Mapping[str, Sensors], about: dict[str, Any]) -> Index:
    """An index of these recordings, in this order; equal input gives equal bytes.

    Args:
        sensors: By `sensors_hash` of the rows.
    """
    pools = {name: Pool() for name in _POOLS}
    used = list(dict.fromkeys(row.sensors_hash for row in rows))
    number = {digest: i for i, digest in enumerate(used)}
    sets = [sensors[digest] for digest in used]
    text, channel, label = pools["text"], pools["channel"], pools["label"]
    columns: dict[str, list[Any]] = {name: [] for axis in _SCHEMA.values() for name in axis}
    for row in rows:
        pools["key"](row.key)
        for name in ("n_times", "sfreq", "block", "n_bytes", "document_crc32c", "document_bytes"):
            columns[name].append(getattr(row, name))
        for name in ENTITIES:
            columns[name].append(pools[name](getattr(row.recording, name)))
        for name in ("history", "details", "provenance", "fingerprint"):
            columns[name].append(text(getattr(row, name)))
        columns["dtype"].append(DTYPE_NAMES.index(row.dtype))
        columns["sensors"].append(number[row.sensors_hash])
        columns["event_label"].extend(map(label, row.labels))
    for item in sets:
        columns["frame"].append(FRAMES.index(item.frame))
        columns["channel_name"].extend(map(channel, item.names))
        columns["channel_region"].extend(map(channel, item.region or [None] * len(item)))
    joined = {
        "sha256": [bytes.fromhex(row.sha256) for row in rows],
        "set_hash": [bytes.fromhex(digest) for digest in used],
    }
    parts: dict[str, list[np.ndarray]] = {
        "scale": [row.scale for row in rows if row.scale is not None],
        "event_onset": [row.onset for row in rows],
        "event_duration": [row.duration for row in rows],
        **{name: [getattr(s, name) for s in sets] for name in ("kind", "position", "orientation")},
    }
    arrays: dict[str, np.ndarray] = {
        "scale_at": starts(0 if row.scale is None else len(row.scale) for row in rows),
        "event_at": starts(len(row.onset) for row in rows),
        "channel_at": starts(len(item) for item in sets),
    }
    for axis in _SCHEMA.values():
        for name, (kind, further) in axis.items():
            if name in joined:
                array = np.frombuffer(b"".join(joined[name]), dtype=kind)
            elif name in parts:
                array = np.concatenate([np.empty((0, *further), kind), *parts[name]])
            else:
                array = np.array(columns[name], dtype=kind)
            arrays[name] = array.astype(kind).reshape(-1, *further)
    for name, pool in pools.items():
        arrays[f"{name}_at_text"], arrays[f"{name}_text"] = pool.arrays()
    return Index(about, arrays)


def load(raw: np.ndarray, where: str) -> Index:
    """The index in these bytes, without copying them.

    Args:
        raw: uint8 `byte`, the whole file.
        where: Name of the file, for messages.

    Raises:
        OSError: Truncated or damaged.
        ValueError: Not an index, or of another format.
    """
    remedy = "Rerun `neurofm prepare` with the same options: it writes the index anew."
    try:
        about, arrays = unpack(raw, where)
    except (OSError, ValueError) as error:
        raise type(error)(f"{error} {remedy}") from None
    try:
        _check(arrays)
        return Index(about, arrays)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{where}: not the index of a store ({error}). {remedy}") from None


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Every array is there, of its type and length, and every number points at something."""

    def want(good: bool | np.bool_, what: str) -> None:
        if not good:
            raise ValueError(what)

    sizes: dict[str, int] = {}
    for axis, names in _SCHEMA.items():
        for name, (kind, further) in names.items():
            array = arrays[name]
            want(array.dtype.str == kind and array.shape[1:] == further, f"type of {name}")
            want(sizes.setdefault(axis, len(array)) == len(array), f"length of {name}")
    places = {name: (sizes[owner], sizes[flat]) for name, (owner, flat) in _OFFSETS.items()}
    for pool in _POOLS:
        at, text = arrays[f"{pool}_at_text"], arrays[f"{pool}_text"]
        want(text.dtype == np.uint8 and text.ndim == 1, f"type of {pool}_text")
        places[f"{pool}_at_text"] = (len(at) - 1, len(text))
    for name, (n, end) in places.items():
        at = arrays[name]
        want(at.dtype.str == "<i8" and at.shape == (n + 1,), f"type of {name}")
        want(at[0] == 0 and at[-1] == end and (np.diff(at) >= 0).all(), f"places in {name}")
    for pool, users in _POOLS.items():
        for name in users:
            low = -1 if name in _MAY_LACK else 0
            codes, n = arrays[name], len(arrays[f"{pool}_at_text"]) - 1
            want(not codes.size or (codes.min() >= low and codes.max() < n), f"numbers in {name}")
    n = sizes["recording"]
    want(len(arrays["key_at_text"]) == n + 1, "number of keys")
    # Keys become names of files: none may lead out of the store.
    want(not np.isin(arrays["key_text"], np.frombuffer(b"/\\\0", np.uint8)).any(), "keys")
    for name, limit in (("sensors", sizes["set"]), ("dtype", len(DTYPE_NAMES))):
        codes = arrays[name]
        want(not n or (codes.min() >= 0 and codes.max() < limit), f"numbers in {name}")
    want((arrays["frame"] < len(FRAMES)).all(), "numbers in frame")
    for name in ("n_times", "sfreq", "block", "n_bytes"):
        want((arrays[name] > 0).all(), f"values of {name}")
    width = np.diff(arrays["channel_at"])[arrays["sensors"]]
    steps = np.where(arrays["dtype"] == DTYPE_NAMES.index("int16"), width, 0)
    want((np.diff(arrays["scale_at"]) == steps).all(), "number of scales")
