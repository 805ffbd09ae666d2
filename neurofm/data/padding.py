"""Recordings with different channels in one batch: padded tables of sensors, and `collate`.

A padded channel has kind -1, mask False and zeros elsewhere.
Axes: set = distinct set of sensors; batch channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.io import Entry
from neurofm.units import Kind


@dataclass(frozen=True)
class SensorTables:
    """Geometry of each distinct sensor set, padded to the largest.

    Args:
        of_entry: Sensor set of each entry.
        sizes: Channels of each set.
        tables: `set channel ...` for each field of a batch.
    """

    of_entry: np.ndarray
    sizes: np.ndarray
    tables: dict[str, Tensor]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> SensorTables:
        """Tables of all sets among these entries."""
        hashes = list(dict.fromkeys(entry.sensors_hash for entry in entries))
        number = {value: i for i, value in enumerate(hashes)}
        sets = {entry.sensors_hash: entry.sensors for entry in entries}
        sizes = np.array([len(sets[value]) for value in hashes], dtype=np.int64)
        shape = (len(hashes), int(sizes.max(initial=0)))
        kind = np.full(shape, int(Kind.PAD), dtype=np.int64)
        position = np.zeros((*shape, 3), dtype=np.float32)
        orientation = np.zeros((*shape, 3), dtype=np.float32)
        has_position = np.zeros(shape, dtype=bool)
        mask = np.zeros(shape, dtype=bool)
        for i, value in enumerate(hashes):
            sensors, n = sets[value], sizes[i]
            known = sensors.has_position
            kind[i, :n] = sensors.kind
            position[i, :n] = np.where(known[:, None], sensors.position, 0)
            orientation[i, :n] = sensors.orientation
            has_position[i, :n] = known
            mask[i, :n] = True
        arrays = {
            "channel_mask": mask,
            "kind": kind,
            "position": position,
            "orientation": orientation,
            "has_position": has_position,
        }
        return cls(
            of_entry=np.array([number[entry.sensors_hash] for entry in entries], dtype=np.int64),
            sizes=sizes,
            tables={name: torch.from_numpy(array) for name, array in arrays.items()},
        )

    def batch(self, recording: np.ndarray) -> tuple[int, dict[str, Tensor]]:
        """Largest number of channels, and the fields; views when all windows share a set."""
        sets = self.of_entry[recording]
        n_channels = int(self.sizes[sets].max())
        if (sets == sets[0]).all():
            one = {name: table[sets[0], :n_channels] for name, table in self.tables.items()}
            return n_channels, {k: v.expand(len(sets), *v.shape) for k, v in one.items()}
        picked = torch.from_numpy(sets)
        return n_channels, {k: table[picked, :n_channels] for k, table in self.tables.items()}


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
    )


def _describe(batch: Batch) -> str:
    targets = "without targets" if batch.y is None else "with targets"
    return f"{batch.x.shape[2]} samples at {batch.sfreq:g} Hz ({batch.unit}, {targets})"
