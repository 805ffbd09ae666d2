"""Recordings with different channels in one batch: geometry of sensors, and `collate`.

A padded channel has kind -1, mask False and zeros elsewhere.
Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.data.table import RecordingTable
from neurofm.io import Store
from neurofm.units import Kind

_REMEMBERED = 4096  # sensor sets kept as numbers: 40 MB of 306 channels each


class SensorTables:
    """Geometry of sensor sets as fields of a batch.

    A set is turned into numbers when a window first asks for it: a corpus in which every recording
    was digitised has as many sets as recordings.
    """

    def __init__(self, stores: Sequence[Store], table: RecordingTable) -> None:
        self._stores, self._table = stores, table
        self._packed: dict[int, Tensor] = {}
        self._fields: dict[int, dict[str, Tensor]] = {}
        self._names: dict[int, tuple[str, ...]] = {}
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}, "_fields": {}, "_names": {}, "_same": {}}

    def names(self, recording: np.ndarray) -> tuple[str, ...] | None:
        """Names of the channels if these recordings share them in one order, else None."""
        found = [self._names_of(number) for number in set(self._table.sensors[recording].tolist())]
        return found[0] if all(names is found[0] for names in found) else None

    def _names_of(self, number: int) -> tuple[str, ...]:
        """Names of a set; equal ones are one object."""
        names = self._names.get(number)
        if names is None:
            store, place = self._table.sensor_set[number].tolist()
            names = self._stores[store].sensor_sets[place].names
            names = self._names[number] = self._same.setdefault(names, names)
        return names

    def _pack(self, number: int) -> Tensor:
        """`channel 8` of a set: kind, position, orientation, whether the position is known."""
        found = self._packed.get(number)
        if found is None:
            store, place = self._table.sensor_set[number].tolist()
            sensors = self._stores[store].sensor_sets[place]
            known = sensors.has_position
            packed = np.zeros((len(sensors), 8), dtype=np.float32)
            packed[:, 0] = sensors.kind
            packed[:, 1:4] = np.where(known[:, None], sensors.position, 0)
            packed[:, 4:7] = sensors.orientation
            packed[:, 7] = known
            if len(self._packed) >= _REMEMBERED:
                self._packed.clear()
                self._fields.clear()
            found = self._packed[number] = torch.from_numpy(packed)
        return found

    def batch(self, recording: np.ndarray) -> tuple[int, dict[str, Tensor]]:
        """Largest number of channels, and the fields; views when all windows share a set."""
        sets = self._table.sensors[recording].tolist()
        n_channels = int(self._table.n_channels[recording].max())
        if sets.count(sets[0]) == len(sets):
            fields = self._fields.get(sets[0])
            if fields is None:
                fields = self._fields[sets[0]] = _unpacked(self._pack(sets[0]).unsqueeze(0))
            return n_channels, {k: v.expand(len(sets), *v.shape[1:]) for k, v in fields.items()}
        packed = torch.zeros(len(sets), n_channels, 8)
        packed[:, :, 0] = int(Kind.PAD)
        for i, number in enumerate(sets):
            own = self._pack(number)
            packed[i, : len(own)] = own
        return n_channels, _unpacked(packed)


def _unpacked(packed: Tensor) -> dict[str, Tensor]:
    """Fields of a batch from `batch channel 8`."""
    kind = packed[..., 0].long()
    return {
        "channel_mask": kind != int(Kind.PAD),
        "kind": kind,
        "position": packed[..., 1:4].contiguous(),
        "orientation": packed[..., 4:7].contiguous(),
        "has_position": packed[..., 7] > 0,
    }


def collate(batches: Sequence[Batch]) -> Batch:
    """Stack batches of one rate and length, padding to the largest number of channels.

    Raises:
        ValueError: They differ in rate, length, unit, or in whether they have targets.
    """
    first = batches[0]
    for other in batches[1:]:
        same = (
            other.sfreq == first.sfreq
            and other.x.shape[2] == first.x.shape[2]
            and other.unit == first.unit
            and (other.y is None) == (first.y is None)
        )
        if not same:
            raise ValueError(
                f"collate: {_describe(first)} do not go with {_describe(other)}. Resample, or "
                "collate them separately."
            )
    n_channels = max(batch.x.shape[1] for batch in batches)

    def stack(name: str, padding: int = 0) -> Tensor:
        parts = []
        for batch in batches:
            value = getattr(batch, name)
            missing = n_channels - value.shape[1]
            if missing:
                extra = value.new_full((len(value), missing, *value.shape[2:]), padding)
                value = torch.cat([value, extra], dim=1)
            parts.append(value)
        return torch.cat(parts)

    return Batch(
        x=stack("x"),
        channel_mask=stack("channel_mask"),
        kind=stack("kind", int(Kind.PAD)),
        position=stack("position"),
        orientation=stack("orientation"),
        has_position=stack("has_position"),
        sfreq=first.sfreq,
        onset=torch.cat([batch.onset for batch in batches]),
        subject=torch.cat([batch.subject for batch in batches]),
        recording=torch.cat([batch.recording for batch in batches]),
        y=None if first.y is None else torch.cat([b.y for b in batches if b.y is not None]),
        unit=first.unit,
        names=first.names if all(batch.names == first.names for batch in batches) else None,
        band=first.band if all(batch.band == first.band for batch in batches) else None,
    )


def _describe(batch: Batch) -> str:
    targets = "without targets" if batch.y is None else "with targets"
    return f"{batch.x.shape[2]} samples at {batch.sfreq:g} Hz ({batch.unit}, {targets})"
