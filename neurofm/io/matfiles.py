"""MATLAB files (version 5 and 7.3) and plain HDF5 whose variables a card names.

There is no convention for recordings in MATLAB files, so the card says where things are, as paths
that `neurofm.io.matlab.find` follows. What lies at one path is one piece of recording; pieces, and
trials inside an array, are laid end to end, with an event `EDGE boundary` at every join.

Axes: channel time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.electrodes import positions_of, standard_name
from neurofm.io.matlab import find, read_mat
from neurofm.io.quality import listed, matches
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.io.rules import same_entity
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, si_factor

EDGE = "EDGE boundary"


@dataclass(frozen=True)
class _Piece:
    """One stretch without a gap: channel x time as stored, and its events in samples."""

    data: np.ndarray
    marks: list[tuple[float, float, str]]  # onset and duration in samples, label


class MatReader:
    """MATLAB files: the card names the variables.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        records: Path of the variable, structure or cell that holds one piece of recording; "" is
            the file itself.
        data: Path of the array inside a record; "" if the record is the array.
        axes: What the axes of the array are: "channel", "time"; any other names are trials.
        sfreq: Hz, or its path inside a record (or the file).
        channels: Names in the order of the array, or their path inside a record (or the file).
        kinds: Channel name or wildcard -> kind; the others are `kind`.
        kind: Kind of the channels `kinds` does not name.
        exclude: Names or wildcards of channels to leave out.
        unit: What the numbers are.
        montage: MNE template for the positions of EEG channels.
        onsets: Path inside a record of the sample at which each event starts, the first being 1.
        labels: Path inside a record of one label per event, or per piece or trial; or the labels
            themselves in the order of pieces; or per session as a mapping of such lists.
        label_axis: Name of the axis whose index, from 1, is the label of a trial.
        trigger: Name of a channel, or path inside a record of a signal: its stretches of one value
            other than 0 are events, that value the label.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        records: str = "",
        data: str = "",
        axes: Sequence[str] = ("channel", "time"),
        sfreq: float | str,
        channels: Sequence[str] | str,
        kinds: Mapping[str, str] | None = None,
        kind: str = "eeg",
        exclude: Sequence[str] = (),
        unit: str | float = "uV",
        montage: str | None = None,
        onsets: str | None = None,
        labels: str | Sequence[str | int] | Mapping[Any, Sequence[str | int]] | None = None,
        label_axis: str | None = None,
        trigger: str | None = None,
    ) -> None:
        compile_pattern(pattern)
        if axes.count("time") != 1 or axes.count("channel") != 1 or len(set(axes)) < len(axes):
            raise ValueError(
                f"{dataset}: axes {list(axes)} need `channel` and `time` once and no name twice."
            )
        if label_axis is not None and label_axis not in set(axes) - {"channel", "time"}:
            raise ValueError(f"{dataset}: label_axis {label_axis!r} is not a trial axis of {axes}.")
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.records = records
        self.data = data
        self.axes = tuple(axes)
        self.sfreq = sfreq
        self.channels = channels if isinstance(channels, str) else tuple(channels)
        self.kinds = dict(kinds or {})
        self.kind = Kind[kind.upper()]
        self.exclude = tuple(exclude)
        self.unit = unit
        self.montage = montage
        self.onsets = onsets
        self.labels = labels
        self.label_axis = label_axis
        self.trigger = trigger

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return find_recordings(self.root, self.pattern, dataset=self.dataset)

    def load(self, recording: Recording) -> Signal:
        """One recording in working units.

        Raises:
            ValueError: A variable the card names is missing or has another shape.
        """
        path = path_of(recording)
        file = read_mat(path)
        records = find(file, self.records)
        if not records:
            raise ValueError(
                f"{path}: no variable fits {self.records!r}; there are {listed(list(file))}. "
                "Correct `records` in the card's reader."
            )
        sfreq = float(np.ravel(self._value(self.sfreq, records[0], file, path))[0])
        names = self._names(records[0], file, path)
        labels = self._given_labels(recording)
        pieces: list[_Piece] = []
        for record in records:
            pieces += self._pieces(record, path, names, labels, first=len(pieces))
        if not pieces:
            raise ValueError(f"{path}: the records under {self.records!r} hold no samples.")
        data, events = _joined(pieces, sfreq)
        chosen = [i for i, name in enumerate(names) if not matches(name, self.exclude)]
        sensors = self._sensors([names[i] for i in chosen])
        factor = si_factor(self.unit, where=str(path))
        per_si = np.array([UNITS[Kind(int(kind))].per_si for kind in sensors.kind])
        scale = np.where(sensors.kind == Kind.OTHER, 1.0, factor * per_si).astype(np.float32)
        return Signal(
            data=data[chosen].astype(np.float32) * scale[:, None],
            sfreq=sfreq,
            sensors=sensors,
            events=events,
            recording=recording,
            history=(f"read {path.name}",),
        )

    def _value(self, given: Any, record: Any, file: Mapping[str, Any], path: Path) -> Any:
        """A value of the card, or what lies at its path in the record, else in the file."""
        if not isinstance(given, str):
            return given
        for place in (record, file):
            found = find(place, given)
            if found:
                return found[0] if len(found) == 1 else found
        raise ValueError(
            f"{path}: nothing at {given!r}; there is {listed(_keys(record) or list(file))}. "
            "Correct the card's reader."
        )

    def _names(self, record: Any, file: Mapping[str, Any], path: Path) -> list[str]:
        value = self._value(self.channels, record, file, path)
        names = [str(name).strip() for name in _flat(value)]
        if self.montage:
            names = [standard_name(name, self.montage) for name in names]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: channel names appear twice: {listed(names)}.")
        return names

    def _given_labels(self, recording: Recording) -> list[str] | None:
        """Labels the card itself lists, of this recording's session if they differ."""
        given = self.labels
        if isinstance(given, Mapping):
            given = next((v for k, v in given.items() if same_entity(k, recording.session)), None)
        return None if given is None or isinstance(given, str) else [str(item) for item in given]

    def _pieces(
        self,
        record: Any,
        path: Path,
        names: Sequence[str],
        labels: Sequence[str] | None,
        *,
        first: int,
    ) -> list[_Piece]:
        arrays = find(record, self.data)
        if len(arrays) != 1 or not isinstance(arrays[0], np.ndarray):
            raise ValueError(
                f"{path}: {self.data or 'the record'!r} is not one array in a record that has "
                f"{listed(_keys(record))}. Correct `data` in the card's reader."
            )
        array = arrays[0]
        if array.size == 0:
            return []
        if array.ndim < len(self.axes):  # MATLAB drops trailing axes of length 1
            array = array.reshape(array.shape + (1,) * (len(self.axes) - array.ndim))
        if array.ndim != len(self.axes) or array.dtype.kind not in "iuf":
            raise ValueError(
                f"{path}: an array of shape {array.shape} and type {array.dtype}, the card's axes "
                f"are {', '.join(self.axes)}."
            )
        if array.shape[self.axes.index("channel")] != len(names):
            raise ValueError(
                f"{path}: {array.shape[self.axes.index('channel')]} channels in an array of shape "
                f"{array.shape}, {len(names)} names in the card. Correct `axes` or `channels`."
            )
        trials = [name for name in self.axes if name not in ("channel", "time")]
        order = [self.axes.index(name) for name in (*trials, "channel", "time")]
        stacked = np.transpose(array, order)
        shape = stacked.shape[: len(trials)]
        every = stacked.reshape(-1, *stacked.shape[-2:])
        own = None if labels is not None else self._own_labels(record)
        pieces = []
        for i, values in enumerate(every):
            marks = self._marks(record, values, names, path, own)
            if self.onsets is None and self.trigger is None:
                label = None
                if self.label_axis is not None:
                    label = str(np.unravel_index(i, shape)[trials.index(self.label_axis)] + 1)
                elif labels is not None:
                    label = _nth(labels, first + i, path)
                elif own is not None:
                    label = _nth(own, i, path)
                if label is not None:
                    marks = [(0.0, float(values.shape[-1]), label)]
            pieces.append(_Piece(values, marks))
        return pieces

    def _own_labels(self, record: Any) -> list[str] | None:
        if not isinstance(self.labels, str):
            return None
        found = find(record, self.labels)
        return [_label(value) for value in _flat(found)] if found else None

    def _marks(
        self,
        record: Any,
        values: np.ndarray,
        names: Sequence[str],
        path: Path,
        own: Sequence[str] | None,
    ) -> list[tuple[float, float, str]]:
        if self.onsets is not None:
            starts = np.ravel(np.asarray(_flat(find(record, self.onsets)), dtype=np.float64))
            if own is not None and len(own) != len(starts):
                raise ValueError(
                    f"{path}: {len(starts)} values at {self.onsets!r}, {len(own)} at "
                    f"{self.labels!r}; expected one label for each onset."
                )
            named = own if own is not None else ["event"] * len(starts)
            return [
                (start - 1, 0.0, label)
                for start, label in zip(starts.tolist(), named, strict=True)
                if np.isfinite(start)
            ]
        if self.trigger is not None:
            if self.trigger in names:
                steps = values[list(names).index(self.trigger)]
            else:
                steps = np.ravel(np.asarray(_flat(find(record, self.trigger)), dtype=np.float64))
            if len(steps) != values.shape[-1]:
                raise ValueError(
                    f"{path}: {len(steps)} values at {self.trigger!r}, the signal has "
                    f"{values.shape[-1]} samples."
                )
            return changes(steps)
        return []

    def _sensors(self, names: Sequence[str]) -> Sensors:
        kind = np.full(len(names), self.kind, dtype=np.int8)
        for i, name in enumerate(names):
            word = next((w for p, w in self.kinds.items() if matches(name, [p])), None)
            kind[i] = kind[i] if word is None else Kind[word.upper()]
        position = np.full((len(names), 3), np.nan)
        if self.montage:
            eeg = np.flatnonzero(kind == Kind.EEG)
            position[eeg] = positions_of([names[int(i)] for i in eeg], self.montage)
        return Sensors(tuple(names), kind, position, np.zeros((len(names), 3)))


def changes(steps: np.ndarray) -> list[tuple[float, float, str]]:
    """Onset and length in samples and value of every stretch of one value other than 0."""
    steps = np.nan_to_num(np.asarray(steps, dtype=np.float64))
    edges = np.r_[0, np.flatnonzero(np.diff(steps)) + 1, len(steps)]
    return [
        (float(start), float(stop - start), f"{steps[start]:g}")
        for start, stop in itertools.pairwise(edges)
        if stop > start and steps[start] != 0
    ]


def _joined(pieces: Sequence[_Piece], sfreq: float) -> tuple[np.ndarray, tuple[Event, ...]]:
    events, start = [], 0
    for piece in pieces:
        if start:
            events.append(Event(start / sfreq, 0.0, EDGE))
        for onset, length, label in piece.marks:
            events.append(Event((start + onset) / sfreq, length / sfreq, label))
        start += piece.data.shape[-1]
    data = np.concatenate([piece.data for piece in pieces], axis=1)
    return data, tuple(sorted(events, key=lambda event: event.onset))


def _nth(labels: Sequence[str], i: int, path: Path) -> str:
    if i >= len(labels):
        raise ValueError(
            f"{path}: more than {len(labels)} pieces, the number of labels. Correct `labels` in "
            "the card's reader."
        )
    return labels[i]


def _label(value: Any) -> str:
    return value if isinstance(value, str) else f"{float(value):g}"


def _keys(record: Any) -> list[str]:
    return list(record) if isinstance(record, Mapping) else []


def _flat(value: Any) -> list[Any]:
    """The single values in nested lists and arrays."""
    if isinstance(value, (list, tuple)):
        return [item for part in value for item in _flat(part)]
    if isinstance(value, np.ndarray):
        return [item for part in value.ravel().tolist() for item in _flat(part)]
    return [value]
