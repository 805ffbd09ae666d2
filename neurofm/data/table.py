"""Recordings of several stores as columns.

One array per property instead of one object per recording, so that a hundred thousand recordings
and the millions of windows in them are handled by a few numpy calls.
Axes: recording = position in all stores taken together; set = sensor set; event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from neurofm.io import Entry, Store
from neurofm.io.rules import same_entity
from neurofm.shapes import Float, Int
from neurofm.types import Recording


@dataclass(frozen=True)
class Codes:
    """A column of few distinct names.

    Args:
        index: Position of each row's name in `names`; -1 = none.
    """

    index: Int[np.ndarray, " row"]
    names: tuple[str, ...]

    @classmethod
    def joined(cls, parts: Sequence[tuple[np.ndarray, Sequence[str]]]) -> Codes:
        """Columns one after the other; equal names get one number."""
        number: dict[str, int] = {}
        columns = []
        for index, names in parts:
            new = [number.setdefault(name, len(number)) for name in names]
            columns.append(np.array([*new, -1], dtype=np.int32)[index])  # -1 stays -1
        return cls(np.concatenate(columns), tuple(number))

    def name(self, row: int) -> str | None:
        """Name of a row, None if it has none."""
        code = int(self.index[row])
        return None if code < 0 else self.names[code]


@dataclass(frozen=True)
class RecordingTable:
    """What windows need to know of every recording.

    Args:
        store: Which store.
        place: Position in that store.
        sfreq: Hz.
        sensors: Position of the recording's sensor set in `sensor_set`.
        sensor_set: A store that has each sensor set, and its position there.
        event_recording: Recording of each event, not decreasing.
        event_onset: Seconds.
        event_duration: Seconds.
    """

    store: Int[np.ndarray, " recording"]
    place: Int[np.ndarray, " recording"]
    n_times: Int[np.ndarray, " recording"]
    n_channels: Int[np.ndarray, " recording"]
    sfreq: Float[np.ndarray, " recording"]
    sensors: Int[np.ndarray, " recording"]
    sensor_set: Int[np.ndarray, "set 2"]
    dataset: Codes
    subject: Codes
    session: Codes
    run: Codes
    task: Codes
    event_recording: Int[np.ndarray, " event"]
    event_onset: Float[np.ndarray, " event"]
    event_duration: Float[np.ndarray, " event"]
    event_label: Codes

    def __len__(self) -> int:
        return len(self.n_times)

    @classmethod
    def of(cls, stores: Sequence[Store]) -> RecordingTable:
        """The recordings of all stores, one store after the other."""
        columns = [store.columns for store in stores]
        counts = [len(held) for held in columns]
        first = np.cumsum([0, *counts[:-1]])
        sensors, sensor_set = _sensor_sets(stores)

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(held, name) for held in columns])

        def coded(name: str) -> Codes:
            return Codes.joined([(getattr(held, name), held.tables[name]) for held in columns])

        labels = [(held.event_label, held.tables["label"]) for held in columns]
        owners = [np.repeat(np.arange(len(held)), np.diff(held.event_at)) for held in columns]
        return cls(
            store=np.repeat(np.arange(len(stores), dtype=np.int32), counts),
            place=np.concatenate([np.arange(n, dtype=np.int32) for n in counts]),
            n_times=joined("n_times"),
            n_channels=joined("n_channels"),
            sfreq=joined("sfreq"),
            sensors=sensors,
            sensor_set=sensor_set,
            dataset=coded("dataset"),
            subject=coded("subject"),
            session=coded("session"),
            run=coded("run"),
            task=coded("task"),
            event_recording=np.concatenate([o + n for o, n in zip(owners, first, strict=True)]),
            event_onset=joined("event_onset"),
            event_duration=joined("event_duration"),
            event_label=Codes.joined(labels),
        )

    def recording(self, i: int) -> Recording:
        """Entities of a recording."""
        return Recording(
            dataset=self.dataset.names[self.dataset.index[i]],
            subject=self.subject.names[self.subject.index[i]],
            session=self.session.name(i),
            run=self.run.name(i),
            task=self.task.name(i),
        )

    def named(
        self,
        *,
        subjects: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
    ) -> Int[np.ndarray, " chosen"]:
        """Positions of the recordings of these subjects and runs; None = of any."""
        wanted = np.ones(len(self), dtype=bool)
        for column, values in ((self.subject, subjects), (self.run, runs)):
            if values is not None:
                fitting = [
                    i
                    for i, name in enumerate(column.names)
                    if any(same_entity(name, value) for value in values)
                ]
                wanted &= np.isin(column.index, fitting)
        return np.flatnonzero(wanted)


class Entries(Sequence[Entry]):
    """The entries of several stores, one after the other."""

    def __init__(self, stores: Sequence[Store], table: RecordingTable) -> None:
        self._stores, self._table = stores, table

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._stores[self._table.store[index]].entries[int(self._table.place[index])]


def _sensor_sets(stores: Sequence[Store]) -> tuple[np.ndarray, np.ndarray]:
    """Sensor set of each recording, and where each is; equal sets of two stores are one."""
    number: dict[str, int] = {}
    where: list[tuple[int, int]] = []
    columns = []
    for s, store in enumerate(stores):
        own = []
        for i, digest in enumerate(store.sensor_sets.hashes):
            if digest not in number:
                number[digest] = len(where)
                where.append((s, i))
            own.append(number[digest])
        columns.append(np.array(own, dtype=np.int32)[store.columns.sensors])
    return np.concatenate(columns), np.array(where, dtype=np.int32).reshape(-1, 2)
