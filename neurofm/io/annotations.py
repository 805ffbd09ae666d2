"""Recordings whose events lie in another file: hypnograms, tables of intervals, summaries in words.

`AnnotatedReader` is a `FolderReader` that also looks for a file of events. Three forms cover the
public corpora: an EDF+ file of annotations (sleep stages), a table with a start and a label in each
row (the Temple University corpora), and a text in which a block per recording lists times (the
seizures of CHB-MIT).

Times are in seconds from the first sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.quality import Problem, report
from neurofm.io.readers import ENTITIES, FolderReader, path_of
from neurofm.types import Event, Recording, Signal

_FIELD = re.compile(r"\{(\w+)\}")


class AnnotatedReader:
    """Files MNE reads, with their events in files of their own.

    Args:
        files: Arguments of `FolderReader`, with `pattern` among them.
        annotations: Where the events of a recording are, below the root: `{subject}` and the other
            entities, `{folder}` and `{stem}` (of the recording's file) and wildcards. The first
            that exists counts; none is a warning.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        columns: Of a table: its `start`, `stop` or `duration`, and `label`, as names of the header
            line or, without one, numbers from 0. For a file of annotations leave it out.
        separator: Between the columns.
        comment: Lines that begin with it are skipped.
        block: Of a text: expression that matches the line where the part on one recording begins;
            its group `file` is the recording's file name.
        start: Expression whose first group is a time at which an event starts, s.
        stop: The same for its end, in the same order.
        label: What the events of a text are called.
    """

    def __init__(
        self,
        *,
        files: Mapping[str, object],
        annotations: str,
        dataset: str,
        root: Path | str,
        columns: Mapping[str, str | int] | None = None,
        separator: str = ",",
        comment: str | None = None,
        block: str | None = None,
        start: str | None = None,
        stop: str | None = None,
        label: str | None = None,
    ) -> None:
        self.root = Path(root)
        self.dataset = dataset
        self.annotations = annotations
        unknown = {name for name in _FIELD.findall(annotations)} - {*ENTITIES, "folder", "stem"}
        if unknown:
            raise ValueError(
                f"{dataset}: annotations {annotations!r}: {{{min(unknown)}}} is not one of "
                f"{', '.join(ENTITIES)}, folder, stem."
            )
        if columns is not None and not {"start", "label"} <= set(columns):
            raise ValueError(f"{dataset}: columns {dict(columns)} need `start` and `label`.")
        if block is not None and (start is None or label is None):
            raise ValueError(f"{dataset}: a text with `block` needs `start` and `label`.")
        self.columns = dict(columns) if columns is not None else None
        self.separator = separator
        self.comment = comment
        self.block = block
        self.start = start
        self.stop = stop
        self.label = label
        self._files = FolderReader(dataset=dataset, root=root, **files)  # type: ignore[arg-type]

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return self._files.recordings()

    def load(self, recording: Recording) -> Signal:
        """One recording in working units, with the events of its other file added.

        Raises:
            ValueError: The file of events cannot be read.
        """
        signal = self._files.load(recording)
        found = self.file_of(recording)
        if found is None:
            problem = Problem(
                "warning",
                f"No file of events fits {self.annotations!r}.",
                "Without it the recording has no labels: fetch it too.",
                "no_annotation_file",
            )
            report(problem, str(recording.path))
            return signal
        events = [*signal.events, *self.events_in(found, path_of(recording))]
        return replace(signal, events=tuple(sorted(events, key=lambda event: event.onset)))

    def sources(self, recording: Recording) -> list[Path]:
        """The file of events: a recording prepared before must be prepared again if it changes."""
        found = self.file_of(recording)
        return [] if found is None else [found]

    def file_of(self, recording: Recording) -> Path | None:
        """The file of a recording's events; None if there is none."""
        path = path_of(recording)
        values = {name: getattr(recording, name) or "*" for name in ENTITIES}
        values |= {"folder": path.parent.relative_to(self.root).as_posix(), "stem": path.stem}
        pattern = _FIELD.sub(lambda match: _literal(values[match[1]]), self.annotations)
        return next(iter(sorted(self.root.glob(pattern))), None)

    def events_in(self, file: Path, recording: Path) -> list[Event]:
        """The events a file lists for one recording.

        Raises:
            ValueError: The file is not of the declared form.
        """
        check_file(file)
        if self.columns is None and self.block is None:
            return _read_annotations(file)
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not a text ({error}). Fetch it again.") from error
        lines = [line.rstrip() for line in text.splitlines()]
        if self.comment is not None:
            lines = [line for line in lines if not line.startswith(self.comment)]
        if self.block is not None:
            return self._in_words(file, lines, recording.name)
        return self._in_rows(file, [line for line in lines if line])

    def _in_rows(self, file: Path, lines: Sequence[str]) -> list[Event]:
        rows = [[cell.strip() for cell in line.split(self.separator)] for line in lines]
        columns = dict(self.columns or {})
        if rows and any(isinstance(column, str) for column in columns.values()):
            header = rows.pop(0)
            missing = [str(c) for c in columns.values() if isinstance(c, str) and c not in header]
            if missing:
                raise ValueError(
                    f"{file}: no column {', '.join(missing)}; there are {', '.join(header)}."
                )
            columns = {k: header.index(c) if isinstance(c, str) else c for k, c in columns.items()}
        place = {name: int(column) for name, column in columns.items()}
        events = []
        for row in rows:
            if len(row) <= max(place.values()):
                raise ValueError(
                    f"{file}: a row of {len(row)} values ({self.separator.join(row)!r}), expected "
                    f"more than {max(place.values())}."
                )
            onset = _seconds(file, row[place["start"]])
            duration = 0.0
            if "stop" in place:
                duration = _seconds(file, row[place["stop"]]) - onset
            elif "duration" in place:
                duration = _seconds(file, row[place["duration"]])
            events.append(Event(onset, max(duration, 0.0), row[place["label"]]))
        # Corpora that mark each channel repeat an interval as often as channels show it.
        return list(dict.fromkeys(events))

    def _in_words(self, file: Path, lines: Sequence[str], name: str) -> list[Event]:
        starts, stops = [], []
        for line in _part(lines, str(self.block), name):
            if (match := re.search(str(self.start), line)) is not None:
                starts.append(_seconds(file, match[1]))
            elif self.stop is not None and (match := re.search(self.stop, line)) is not None:
                stops.append(_seconds(file, match[1]))
        if self.stop is not None and len(starts) != len(stops):
            raise ValueError(
                f"{file}: {len(starts)} events start and {len(stops)} end in the part on {name}. "
                "Fetch it again."
            )
        ends = stops if self.stop is not None else starts
        return [
            Event(start, max(end - start, 0.0), str(self.label))
            for start, end in zip(starts, ends, strict=True)
        ]


def _part(lines: Sequence[str], block: str, name: str) -> Iterator[str]:
    """The lines from the one that names the recording to the next that names another."""
    inside = False
    for line in lines:
        match = re.search(block, line)
        if match is not None:
            inside = match["file"] == name
        elif inside:
            yield line


def _literal(text: str) -> str:
    return re.sub(r"([\[?])", r"[\1]", text)


def _seconds(file: Path, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{file}: {text!r} is not a time in seconds.") from error


def _read_annotations(file: Path) -> list[Event]:
    import mne

    if suffix_of(file) not in (".edf", ".bdf", ".gdf", ".vmrk", ".fif", ".csv", ".txt"):
        raise ValueError(f"{file}: {suffix_of(file)} is not a file of annotations MNE reads.")
    try:
        found = mne.read_annotations(file)
    except (ValueError, RuntimeError, OSError, IndexError) as error:
        raise ValueError(f"{file}: its annotations cannot be read ({error}).") from error
    return [
        Event(float(onset), float(duration), str(label))
        for onset, duration, label in zip(
            found.onset, found.duration, found.description, strict=True
        )
    ]
