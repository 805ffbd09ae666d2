"""Windows as rows of a table, each made when it is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, overload

import numpy as np

from neurofm.data.columns import Columns
from neurofm.data.rows import Row
from neurofm.data.table import RecordingTable
from neurofm.io import Entry
from neurofm.shapes import Int

_CHUNK = 1 << 16


class WindowRows(Sequence[Row]):
    """A sequence of `Row` that keeps numbers only.

    Args:
        subject: Name of each recording's subject.
        entries: Of the stores, for the recordings' fingerprints.
        recording: Recording of each window, by position in the table.
        start: First sample of each window.
        length: Samples of a window of each recording.
        y: Position of each window's label in `labels`, if it has one.
        stimuli: Labels are names of stimuli, not classes.
    """

    def __init__(
        self,
        table: RecordingTable,
        *,
        subject: Sequence[str],
        entries: Sequence[Entry],
        recording: Int[np.ndarray, " window"],
        start: Int[np.ndarray, " window"],
        length: Int[np.ndarray, " recording"],
        y: Int[np.ndarray, " window"] | None,
        labels: tuple[str, ...] | None,
        stimuli: bool = False,
    ) -> None:
        self._table, self._subject, self._entries = table, subject, entries
        self._recording, self._start, self._length = recording, start, length
        self._y, self._labels, self._stimuli = y, labels, stimuli
        self._about: dict[int, tuple[Any, ...]] = {}

    def __len__(self) -> int:
        return len(self._recording)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, index: SupportsIndex) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        y = None if self._y is None else int(self._y[index])
        return self._row(int(self._recording[index]), int(self._start[index]), y)

    def __iter__(self) -> Iterator[Row]:
        for low in range(0, len(self), _CHUNK):
            part = slice(low, low + _CHUNK)
            recordings = self._recording[part].tolist()
            ys = [None] * len(recordings) if self._y is None else self._y[part].tolist()
            yield from map(self._row, recordings, self._start[part].tolist(), ys)

    def _row(self, i: int, start: int, y: int | None) -> Row:
        about = self._about.get(i)
        if about is None:
            about = self._about[i] = self._of_recording(i)
        subject, session, run, name, sfreq, length, fingerprint = about
        label = None if y is None or self._labels is None else self._labels[y]
        return Row(
            subject=subject,
            session=session,
            run=run,
            recording=name,
            start=start / sfreq,
            stop=(start + length) / sfreq,
            label=None if self._stimuli else label,
            stimulus=label if self._stimuli else None,
            fingerprint=fingerprint,
        )

    def _of_recording(self, i: int) -> tuple[Any, ...]:
        """What the windows of a recording have in common."""
        named = self._table.recording(i)
        return (
            self._subject[i],
            named.session,
            named.run,
            named.id,
            float(self._table.sfreq[i]),
            int(self._length[i]),
            self._entries[i].fingerprint or None,
        )

    def columns(self) -> Columns:
        """The columns an audit looks at, without making rows."""
        used, inverse = np.unique(self._recording, return_inverse=True)
        inverse = inverse.reshape(-1)
        about = [self._of_recording(i) for i in used.tolist()]
        subject, session, run, name, _, _, fingerprint = zip(*about, strict=True)
        known = {
            "subject": subject,
            "session": session,
            "run": run,
            "recording": name,
            "fingerprint": fingerprint,
        }
        nothing = np.zeros(len(used))
        few = Columns.of_values(known, nothing, nothing)
        rate = self._table.sfreq[self._recording]
        names, codes = dict(few.names), {key: code[inverse] for key, code in few.code.items()}
        if self._stimuli and self._y is not None:
            names["stimulus"], codes["stimulus"] = self._labels or (), self._y
        return Columns(
            names=names,
            code=codes,
            start=self._start / rate,
            stop=(self._start + self._length[self._recording]) / rate,
        )

    def distinct(self) -> tuple[list[Row], Int[np.ndarray, " window"]]:
        """One row per recording and label, spanning their windows, and the row of each window.

        What a split by subject, session, run or recording needs to know of millions of windows.
        """
        n = 1 if self._labels is None else len(self._labels)
        code = self._recording.astype(np.int64) * n + (0 if self._y is None else self._y)
        found, inverse = np.unique(code, return_inverse=True)
        inverse = inverse.reshape(-1)
        first = np.full(len(found), np.iinfo(np.int64).max)
        np.minimum.at(first, inverse, self._start)
        last = np.zeros(len(found), dtype=np.int64)
        np.maximum.at(last, inverse, self._start)
        rows = []
        for key, low, high in zip(found.tolist(), first.tolist(), last.tolist(), strict=True):
            row = self._row(key // n, low, None if self._y is None else key % n)
            rows.append(replace(row, stop=self._row(key // n, high, None).stop))
        return rows, inverse
