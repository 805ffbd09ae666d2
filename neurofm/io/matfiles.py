"""MATLAB files (version 5 and 7.3) and plain HDF5 whose variables a card names.

There is no convention for recordings in MATLAB files, so the card says where things are, as paths
that `neurofm.io.matlab.find` follows. What lies at one path is one piece of recording; pieces, and
trials inside an array, are laid end to end, with an event `EDGE boundary` at every join.

Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.arrays import ARBITRARY
from neurofm.io.contacts import metres_per
from neurofm.io.electrodes import named_sensors, standard_name
from neurofm.io.matlab import find, fitting, flat, keys_of, open_mat, text_of
from neurofm.io.pieces import Piece, changes, cut, joined, label_at, stacked_trials
from neurofm.io.quality import listed, matches
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.io.rules import same_entity
from neurofm.types import Recording, Signal
from neurofm.units import UNITS, Kind, si_factor


class MatReader:
    """MATLAB files: the card names the variables.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        records: Path of the variable, structure or cell that holds one piece of recording, or
            several paths in the order of time; "" is the file itself.
        sessions: Session in a file's name -> what it is called. Names are to sort in the order of
            time. With a list of names each record is a recording of its own.
        data: Path of the array inside a record, "" if the record is the array; or for one array
            per class a mapping of paths to labels, which then name the events.
        axes: What the axes of the array are: "channel", "time"; any other names are trials. With
            "time" alone, every variable that fits `data` is one channel.
        piece_s: Length of the trials that an array holds one behind the other without saying so,
            seconds.
        sfreq: Hz, or its path inside a record (or the file).
        channels: Names in the order of the array, or their path inside a record (or the file); not
            needed where every channel is a variable with a name.
        kinds: Channel name or wildcard -> kind; the others are `kind`.
        kind: Kind of the channels `kinds` does not name.
        exclude: Names or wildcards of channels to leave out.
        unit: What the numbers are, or "arbitrary" as for `ArrayReader`.
        montage: MNE template for the positions of EEG channels.
        onsets: Path inside a record of the sample at which each event starts, the first being 1.
        labels: Path inside a record (or the file) of one label per event, or per piece or trial; or
            the labels themselves in the order of pieces; or per session such a list.
        label_axis: Name of the axis whose index, from 1, is the label of a trial.
        subjects: Path of the number of a person for each channel, where a file holds many people:
            each becomes a recording.
        positions: Path of the coordinates, channel x 3.
        position_unit: Their unit.
        frame: Their space.
        trigger: Name of a channel, or path inside a record of a signal: its stretches of one value
            other than 0 are events, that value the label.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        records: str | Sequence[str] = "",
        sessions: Mapping[str, str | Sequence[str]] | None = None,
        data: str | Mapping[str, str] = "",
        axes: Sequence[str] = ("channel", "time"),
        piece_s: float | None = None,
        sfreq: float | str,
        channels: Sequence[str] | str | None = None,
        kinds: Mapping[str, str] | None = None,
        kind: str = "eeg",
        exclude: Sequence[str] = (),
        unit: str | float = "uV",
        montage: str | None = None,
        onsets: str | None = None,
        labels: str | Sequence[str | int] | Mapping[Any, Sequence[str | int]] | None = None,
        label_axis: str | None = None,
        trigger: str | None = None,
        subjects: str | None = None,
        positions: str | None = None,
        position_unit: str = "mm",
        frame: str = "head",
    ) -> None:
        compile_pattern(pattern)
        single = list(axes) == ["time"]
        if len(set(axes)) < len(axes) or not (single or {"channel", "time"} <= set(axes)):
            raise ValueError(
                f"{dataset}: axes {list(axes)} need `channel` and `time` once and no name twice."
            )
        if channels is None and not single:
            raise ValueError(f"{dataset}: `channels` must name the channels of an array.")
        if label_axis is not None and label_axis not in set(axes) - {"channel", "time"}:
            raise ValueError(f"{dataset}: label_axis {label_axis!r} is not a trial axis of {axes}.")
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.records = (records,) if isinstance(records, str) else tuple(records)
        self.sessions = {
            key: (value,) if isinstance(value, str) else tuple(value)
            for key, value in (sessions or {}).items()
        }
        named = [name for names in self.sessions.values() for name in names]
        if len(set(named)) < len(named):
            raise ValueError(f"{dataset}: sessions {named} are named twice.")
        self.data = data
        self.axes = tuple(axes)
        self.piece_s = piece_s
        self.sfreq = sfreq
        self.channels = channels
        self.kinds = dict(kinds or {})
        self.kind = Kind[kind.upper()]
        self.exclude = tuple(exclude)
        self.unit = unit
        self.montage = montage
        self.onsets = onsets
        self.labels = labels
        self.label_axis = label_axis
        self.trigger = trigger
        self.subjects = subjects
        self.positions = positions
        self.metres = metres_per(position_unit, where=dataset)
        self.frame = frame

    def recordings(self) -> list[Recording]:
        """All recordings; files are opened only where they hold several people."""
        found = [
            replace(item, session=name)
            for item in find_recordings(self.root, self.pattern, dataset=self.dataset)
            for name in self.sessions.get(item.session or "", (item.session,))
        ]
        if self.subjects is None:
            return found
        every = []
        for recording in found:
            with open_mat(path_of(recording)) as file:
                owners = [text_of(value) for value in flat(find(file, self.subjects))]
            every += [replace(recording, subject=name) for name in dict.fromkeys(owners)]
        return every

    def load(self, recording: Recording) -> Signal:
        """One recording in working units.

        Raises:
            ValueError: A variable the card names is missing or has another shape.
        """
        with open_mat(path_of(recording)) as file:
            return self._signal(recording, file)

    def slabs(self, recording: Recording, *, max_bytes: int) -> Iterator[Signal]:
        """As `Corpus.slabs`: in groups where every channel is a variable of its own, else whole."""
        with open_mat(path_of(recording)) as file:
            record = self._records(file, recording)[0]
            names = [] if "channel" in self.axes else self._names(record, file, path_of(recording))
            if not names:
                yield self._signal(recording, file)
                return
            length = np.size(self._variables(record, names[:1], path_of(recording)))
            group = max(int(max_bytes // (np.dtype(np.float32).itemsize * max(length, 1))), 1)
            for first in range(0, len(names), group):
                yield self._signal(recording, file, only=names[first : first + group])

    def _records(self, file: Mapping[str, Any], recording: Recording) -> list[Any]:
        path = path_of(recording)
        records: list[Any] = []
        for where in self.records:
            found = find(file, where)
            if not found:
                raise ValueError(
                    f"{path}: no variable fits {where!r}; there are {listed(list(file))}. "
                    "Fetch the file that the card means, or correct `records` in its reader."
                )
            records += found
        names = next((n for n in self.sessions.values() if recording.session in n), ())
        if len(names) < 2:
            return records
        if len(names) != len(records):
            raise ValueError(
                f"{path}: {len(records)} records, {len(names)} sessions named in the card's reader "
                f"({', '.join(names)}). Fetch the file again, or correct `sessions`."
            )
        return [records[names.index(str(recording.session))]]

    def _signal(
        self, recording: Recording, file: Mapping[str, Any], *, only: Sequence[str] | None = None
    ) -> Signal:
        path = path_of(recording)
        records = self._records(file, recording)
        sfreq = float(np.ravel(self._value(self.sfreq, records[0], file, path))[0])
        names = list(only) if only is not None else self._names(records[0], file, path)
        labels = self._given_labels(recording)
        pieces: list[Piece] = []
        for record in records:
            pieces += self._pieces(record, file, path, names, labels, first=len(pieces))
        if not pieces:
            raise ValueError(f"{path}: the records under {listed(self.records)!r} hold no samples.")
        if self.piece_s is not None:
            pieces = cut(pieces, round(self.piece_s * sfreq), where=str(path))
        data, events = joined(pieces, sfreq)
        chosen = [i for i, name in enumerate(names) if not matches(name, self.exclude)]
        if self.subjects is not None:
            owners = [text_of(value) for value in flat(find(file, self.subjects))]
            chosen = [i for i in chosen if owners[i] == recording.subject]
        sensors = named_sensors(
            [names[i] for i in chosen],
            self._positions(file, chosen, path),
            kind=self.kind,
            kinds=self.kinds,
            montage=self.montage,
            frame=self.frame,
        )
        scale = np.ones(len(chosen), dtype=np.float32)
        if self.unit != ARBITRARY:
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
            details={"unit": ARBITRARY} if self.unit == ARBITRARY else {},
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
            f"{path}: nothing at {given!r}; there is {listed(keys_of(record) or list(file))}. "
            "Correct the card's reader."
        )

    def _names(self, record: Any, file: Mapping[str, Any], path: Path) -> list[str]:
        if self.channels is None:
            names = [name for group in self._groups(record) for name in group[1]]
        else:
            value = self._value(self.channels, record, file, path)
            names = [str(name).strip() for name in flat(value)]
        if self.montage:
            names = [standard_name(name, self.montage) for name in names]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: channel names appear twice: {listed(names)}.")
        if not names:
            raise ValueError(f"{path}: no variable fits {self.data!r}; correct `data` in the card.")
        return names

    def _groups(self, record: Any) -> list[tuple[Mapping[str, Any], list[str]]]:
        """Where the variables of single channels are, and their names."""
        parent, _, pattern = str(self.data).rpartition(".")
        groups = [group for group in find(record, parent) if isinstance(group, Mapping)]
        return [(group, fitting(group, pattern)) for group in groups]

    def _variables(self, record: Any, names: Sequence[str], path: Path) -> np.ndarray:
        """The channels of these names, one variable each: channel x time."""
        rows = []
        for name in names:
            row = next((g[name] for g, found in self._groups(record) if name in found), None)
            if not isinstance(row, np.ndarray) or row.size != max(row.shape, default=0):
                raise ValueError(f"{path}: {name} is not one row of numbers.")
            rows.append(row.ravel())
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"{path}: the channels have different lengths.")
        return np.stack(rows)

    def _given_labels(self, recording: Recording) -> list[str] | None:
        """Labels the card itself lists, of this recording's session if they differ."""
        given = self.labels
        if isinstance(given, Mapping):
            given = next((v for k, v in given.items() if same_entity(k, recording.session)), None)
        return None if given is None or isinstance(given, str) else [str(item) for item in given]

    def _pieces(
        self,
        record: Any,
        file: Mapping[str, Any],
        path: Path,
        names: Sequence[str],
        labels: Sequence[str] | None,
        *,
        first: int,
    ) -> list[Piece]:
        """The pieces of one record, `first` of which came before."""
        if isinstance(self.data, Mapping):
            found: list[Piece] = []
            for where, word in self.data.items():
                for piece in self._trials(record, path, names, where)[0]:
                    marks = self._marks(record, piece, names, path, None)
                    found.append(Piece(piece, [(on, off, word) for on, off, _ in marks]))
            return found
        every, shape, trials = self._trials(record, path, names, self.data)
        own, shared = (None, 0) if labels is not None else self._own_labels(record, file, first)
        found = []
        for i, values in enumerate(every):
            marks = self._marks(record, values, names, path, own)
            if self.onsets is None and self.trigger is None:
                label: str | None = None
                if self.label_axis is not None:
                    label = str(np.unravel_index(i, shape)[trials.index(self.label_axis)] + 1)
                elif labels is not None:
                    label = label_at(labels, first + i, where=str(path))
                elif own is not None:
                    label = label_at(own, shared + i, where=str(path))
                if label is not None:
                    marks = [(0.0, float(values.shape[-1]), label)]
            found.append(Piece(values, marks))
        return found

    def _trials(
        self, record: Any, path: Path, names: Sequence[str], where: str
    ) -> tuple[np.ndarray, tuple[int, ...], list[str]]:
        """Trial x channel x time, the lengths of the trial axes and their names."""
        single = "channel" not in self.axes
        axes = ("channel", "time") if single else self.axes
        arrays = [self._variables(record, names, path)] if single else find(record, where)
        if len(arrays) != 1 or not isinstance(arrays[0], np.ndarray):
            raise ValueError(
                f"{path}: {where or 'the record'!r} is not one array in a record that has "
                f"{listed(keys_of(record))}. Correct `data` in the card's reader."
            )
        return stacked_trials(arrays[0], axes, len(names), where=str(path))

    def _own_labels(
        self, record: Any, file: Mapping[str, Any], first: int
    ) -> tuple[list[str] | None, int]:
        """Labels at their path, and how many of them belong to pieces before this record."""
        if not isinstance(self.labels, str):
            return None, 0
        for place, before in ((record, 0), (file, first)):
            values = flat(find(place, self.labels))
            if values:
                return [text_of(value) for value in values], before
        return None, 0

    def _marks(
        self,
        record: Any,
        values: np.ndarray,
        names: Sequence[str],
        path: Path,
        own: Sequence[str] | None,
    ) -> list[tuple[float, float, str]]:
        if self.onsets is not None:
            starts = np.ravel(np.asarray(flat(find(record, self.onsets)), dtype=np.float64))
            if own and len(own) != len(starts):
                raise ValueError(
                    f"{path}: {len(starts)} values at {self.onsets!r}, {len(own)} at "
                    f"{self.labels!r}; expected one label for each onset."
                )
            named = own or ["event"] * len(starts)  # test runs may come without labels
            return [
                (start - 1, 0.0, label)
                for start, label in zip(starts.tolist(), named, strict=True)
                if np.isfinite(start)
            ]
        if self.trigger is not None:
            if self.trigger in names:
                steps = values[list(names).index(self.trigger)]
            else:
                steps = np.ravel(np.asarray(flat(find(record, self.trigger)), dtype=np.float64))
            if len(steps) != values.shape[-1]:
                raise ValueError(
                    f"{path}: {len(steps)} values at {self.trigger!r}, the signal has "
                    f"{values.shape[-1]} samples."
                )
            return changes(steps)
        return []

    def _positions(
        self, file: Mapping[str, Any], chosen: Sequence[int], path: Path
    ) -> np.ndarray | None:
        if self.positions is None:
            return None
        found = find(file, self.positions)
        if len(found) != 1 or np.ndim(found[0]) != 2 or np.shape(found[0])[1] != 3:
            raise ValueError(f"{path}: {self.positions!r} is not one array of channel x 3.")
        position = np.asarray(found[0], dtype=np.float64)[list(chosen)] * self.metres
        position[~np.isfinite(position).all(axis=1)] = np.nan
        return position
