"""Readers: find the recordings of a corpus on disk and load one.

`FolderReader` reads anything MNE reads, found by a file-name pattern; `TableReader` text tables of
one row per sample. A dataset card names one of them, or a reader of another module, with its
arguments; `dataset` and `root` are added when a corpus is opened.

Axes: channel time.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neurofm.io.electrodes import positions_of
from neurofm.io.formats import SUFFIXES, read_raw_signal
from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.kit import is_marker_file
from neurofm.io.quality import Problem, listed, report
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, si_factor

ENTITIES = ("subject", "session", "task", "run")
_FIELD = re.compile(r"\{(\w+)(?::(\d+))?\}|(\*\*/)|(\*)")
_SPLIT = re.compile(r"_split-(\d+)_")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a file-name pattern.

    `{subject}`, `{session}`, `{task}`, `{run}` match within one folder or file name and must agree
    where they are repeated; `{subject:2}` is two characters long; `*` is any text within a name,
    `**/` any number of folders.
    """
    parts, end, seen = [], 0, set()
    for match in _FIELD.finditer(pattern):
        parts.append(re.escape(pattern[end : match.start()]))
        end = match.end()
        field, width, folders, _ = match.groups()
        if field is None:
            parts.append("(?:.*/)?" if folders else "[^/]*")
        elif field not in ENTITIES:
            raise ValueError(
                f"pattern {pattern!r}: {{{field}}} is not one of "
                f"{', '.join('{' + name + '}' for name in ENTITIES)}."
            )
        elif field in seen:
            parts.append(f"(?P={field})")
        else:
            seen.add(field)
            parts.append(f"(?P<{field}>[^/]{{{width}}})" if width else f"(?P<{field}>[^/]+?)")
    parts.append(re.escape(pattern[end:]))
    return re.compile("".join(parts))


def find_recordings(
    root: Path, pattern: str, *, dataset: str, suffixes: Sequence[str] | None = None
) -> list[Recording]:
    """Recordings below `root` whose path fits the pattern, in the order of their paths.

    Without `{subject}` in the pattern the path itself, without its suffix, stands for the subject.

    Raises:
        FileNotFoundError: The folder is missing, or holds nothing that fits.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; expected the recordings of {dataset} there."
        )
    expression = compile_pattern(pattern)
    # Two fields side by side are one star: two would mean any number of folders.
    glob = re.sub(r"\*?(\{[^}]+\}\*?)+", "*", pattern.replace("[", "[[]"))
    found = []
    for path in sorted(root.glob(glob)):
        relative = path.relative_to(root).as_posix()
        match = expression.fullmatch(relative)
        if match is None or (suffixes is not None and suffix_of(path) not in suffixes):
            continue
        entities = {name: value for name, value in match.groupdict().items() if value}
        entities.setdefault("subject", _without_suffix(path, relative).replace("/", "-"))
        found.append(Recording(dataset=dataset, path=path, **entities))
    if not found:
        there = [item.name for item in sorted(root.iterdir())]
        raise FileNotFoundError(
            f"{root}: no file fits the pattern {pattern!r} of {dataset}. The folder holds "
            f"{listed(there) or 'nothing'}."
        )
    return found


def _without_suffix(path: Path, relative: str) -> str:
    suffix = suffix_of(path)
    return relative[: -len(suffix)] if path.name.lower().endswith(suffix or "/") else relative


class FolderReader:
    """Files of any format MNE reads, in folders and with names that follow a pattern.

    Args:
        pattern: Path below the root, such as "S{subject}/S{subject}R{run}.edf".
        dataset: Name of the corpus.
        root: Folder of the corpus.
        montage: MNE template for EEG electrodes without a position.
        standardize: Spell EEG names as the montage does ("Fc5." becomes "FC5").
        rename: Channel name in the file -> name.
        kinds: Channel name or wildcard -> kind ("ECG*": ecg).
        exclude: Names or wildcards of channels to leave out.
        unit: What the numbers really are where the file declares it wrongly ("uV", or SI units per
            number; per kind as a mapping).
        event_channel: Stimulus channel read as events, or "auto".
        compensation: MEG: grade of compensation by the reference channels (CTF: 0 to 3); as stored
            if not given.
        remove_chpi: MEG: subtract the signals of continuous head position coils.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        montage: str | None = None,
        standardize: bool = False,
        rename: Mapping[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        unit: str | float | Mapping[str, str | float] | None = None,
        event_channel: str | None = None,
        compensation: int | None = None,
        remove_chpi: bool = False,
    ) -> None:
        compile_pattern(pattern)
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.montage = montage
        self.standardize = standardize
        self.rename = rename
        self.kinds = kinds
        self.exclude = tuple(exclude)
        self.unit = unit
        self.event_channel = event_channel
        self.compensation = compensation
        self.remove_chpi = remove_chpi

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file; what belongs to another file is left out."""
        found = find_recordings(self.root, self.pattern, dataset=self.dataset, suffixes=SUFFIXES)
        return [item for item in found if not is_later_part(path_of(item))]

    def load(self, recording: Recording) -> Signal:
        """One recording in working units."""
        return read_raw_signal(
            path_of(recording),
            recording,
            montage=self.montage,
            standardize=self.standardize,
            rename=self.rename,
            kinds=self.kinds,
            exclude=self.exclude,
            unit=self.unit,
            event_channel=self.event_channel,
            compensation=self.compensation,
            remove_chpi=self.remove_chpi,
        )


def is_later_part(path: Path) -> bool:
    """Whether MNE reaches a file through another.

    That is so for later parts of a split FIF file ("a_raw-1.fif", "a_split-02_meg.fif"), for files
    inside a CTF folder and for marker measurements of KIT ("a_mrk.sqd").
    """
    if any(parent.suffix == ".ds" for parent in path.parents) or is_marker_file(path):
        return True
    stem, dash, number = path.name.removesuffix(".fif").rpartition("-")
    if dash and number.isdecimal() and (path.parent / f"{stem}.fif").exists():
        return True
    split = _SPLIT.search(path.name)
    if split is None or int(split[1]) < 2:
        return False
    first = f"_split-{'1'.zfill(len(split[1]))}_"
    return path.with_name(path.name.replace(split[0], first)).exists()


class TableReader:
    """Text tables (CSV or TSV, also gzip-compressed): one row per sample, one column per channel.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        sfreq: Hz.
        channels: Columns that are channels.
        unit: Unit of those columns.
        kind: `Kind` name of the channels.
        montage: MNE template for the positions.
        time: Column of time stamps in seconds, compared with `sfreq`.
        markers: Names the marker column may have; non-zero marks the sample of an event.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        sfreq: float,
        channels: Sequence[str],
        unit: str = "uV",
        kind: str = "eeg",
        montage: str | None = None,
        time: str | None = None,
        markers: Sequence[str] = (),
    ) -> None:
        compile_pattern(pattern)
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.sfreq = sfreq
        self.channels = tuple(channels)
        self.unit = unit
        self.kind = Kind[kind.upper()]
        self.montage = montage
        self.time = time
        self.markers = tuple(markers)

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return find_recordings(self.root, self.pattern, dataset=self.dataset)

    def load(self, recording: Recording) -> Signal:
        """One recording in working units.

        Raises:
            ValueError: A column is missing, a value is not a number, or the rate is another one.
        """
        path = path_of(recording)
        columns = self._columns(path)
        needed = [*self.channels, *([self.time] if self.time is not None else [])]
        missing = [name for name in needed if name not in columns]
        if missing:
            raise ValueError(
                f"{path}: columns {listed(missing)} are missing; the table has "
                f"{listed(list(columns))}."
            )
        scale = si_factor(self.unit, where=str(path)) * UNITS[self.kind].per_si
        data = np.stack([columns[name] for name in self.channels]) * scale
        if self.time is not None:
            self._check_rate(path, columns[self.time])
        events: list[Event] = []
        for name in [name for name in self.markers if name in columns]:
            marks = np.nan_to_num(columns[name])
            events += [
                Event(float(i) / self.sfreq, 0.0, f"{marks[i]:g}") for i in np.flatnonzero(marks)
            ]
        position = positions_of(self.channels, self.montage) if self.montage else None
        return Signal(
            data=data.astype(np.float32),
            sfreq=float(self.sfreq),
            sensors=Sensors.of_kind(self.channels, self.kind, position),
            events=tuple(sorted(events, key=lambda event: event.onset)),
            recording=recording,
            history=(f"read {path.name}",),
        )

    @staticmethod
    def _columns(path: Path) -> dict[str, np.ndarray]:
        check_file(path)
        separator = "\t" if ".tsv" in suffix_of(path) else ","
        try:
            head = np.loadtxt(path, delimiter=separator, max_rows=1, dtype=str, ndmin=1)
            try:
                table = np.loadtxt(path, delimiter=separator, skiprows=1, ndmin=2)
            except ValueError:  # empty cells: the slower reader takes them for NaN
                table = np.genfromtxt(path, delimiter=separator, skip_header=1, ndmin=2)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(
                f"{path}: incomplete or not compressed ({error}). Fetch it again."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{path}: rows of different length ({error}). Fetch it again."
            ) from error
        if table.shape[0] < 1 or table.shape[1] != len(head):
            raise ValueError(
                f"{path}: {table.shape[0]} rows of {table.shape[1]} values under {len(head)} "
                "column names."
            )
        # Spreadsheets quote names, and some begin the file with a byte order mark.
        _tell_unfinished(path)
        names = [str(name).lstrip("\ufeff").strip().strip("\"'").strip() for name in head]
        return {name: table[:, i] for i, name in enumerate(names)}

    def _check_rate(self, path: Path, stamps: np.ndarray) -> None:
        span = stamps[-1] - stamps[0]
        rate = (len(stamps) - 1) / span if span > 0 else float("inf")
        if not 0.95 < rate / self.sfreq < 1.05:
            raise ValueError(
                f"{path}: {len(stamps)} samples in {span:.1f} s are {rate:.1f} Hz, the card says "
                f"{self.sfreq:g} Hz. Correct `sfreq`, or look for missing samples."
            )
        gaps = int((np.diff(stamps) > 0.1).sum())
        if gaps:
            report(
                Problem(
                    "warning",
                    f"The time stamps jump by more than 0.1 s {gaps} times.",
                    "Samples were lost there: avoid windows across the gaps.",
                    "time_gaps",
                ),
                str(path),
            )


def path_of(recording: Recording) -> Path:
    """Path of a recording that has one."""
    if recording.path is None:
        raise ValueError(f"{recording.id}: has no path; take it from the reader's `recordings()`.")
    return recording.path


def _tell_unfinished(path: Path) -> None:
    """A table that was cut off within its last number looks whole, with another number."""
    if path.suffix.lower() == ".gz":
        return  # has a checksum of its own
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
    if last not in b"\r\n":
        report(
            Problem(
                "info",
                "The last line has no end.",
                "The table may be cut off inside its last number: compare its size.",
                "unfinished_line",
            ),
            str(path),
        )
