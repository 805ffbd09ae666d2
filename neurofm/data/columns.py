"""Rows as columns of numbers, so that a million of them are compared in seconds.

Axes: row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.data.rows import Row, overlapping_times
from neurofm.io.seen import Seen
from neurofm.shapes import Bool, Float, Int

NAMES = ("subject", "session", "run", "recording", "stimulus", "fingerprint")


@dataclass(frozen=True)
class Columns:
    """The columns of a table of windows that an audit looks at.

    Args:
        names: Of each column of `NAMES`: its distinct values.
        code: Of each column: position of every row's value in `names`; -1 = none.
        start: Seconds.
        stop: Seconds.
    """

    names: Mapping[str, tuple[str, ...]]
    code: Mapping[str, Int[np.ndarray, " row"]]
    start: Float[np.ndarray, " row"]
    stop: Float[np.ndarray, " row"]

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Columns:
        """The columns of these rows, in their order; `rows.columns()` where rows have that."""
        if hasattr(rows, "columns"):
            made: Columns = rows.columns()
            return made
        held = list(rows)  # rows may be made as they are asked for
        coded = {name: _coded(getattr(row, name) for row in held) for name in NAMES}
        return cls(
            names={name: values for name, (values, _) in coded.items()},
            code={name: code for name, (_, code) in coded.items()},
            start=np.array([row.start for row in held], dtype=np.float64),
            stop=np.array([row.stop for row in held], dtype=np.float64),
        )

    @classmethod
    def of_values(
        cls,
        values: Mapping[str, Sequence[str | None]],
        start: Float[np.ndarray, " row"],
        stop: Float[np.ndarray, " row"],
    ) -> Columns:
        """From lists of values; a name of `NAMES` that is missing is unknown in every row."""
        n = len(start)
        coded = {name: _coded(values.get(name, [None] * n)) for name in NAMES}
        return cls(
            names={name: known for name, (known, _) in coded.items()},
            code={name: code for name, (_, code) in coded.items()},
            start=start,
            stop=stop,
        )

    def joined(self, *names: str) -> Int[np.ndarray, " row"]:
        """One number per combination of values of these columns."""
        total = np.zeros(len(self), dtype=np.int64)
        for name in names:
            total = total * (len(self.names[name]) + 1) + self.code[name] + 1
            if len(names) > 1:  # keep the numbers small
                total = np.unique(total, return_inverse=True)[1].reshape(-1).astype(np.int64)
        return total

    def entity(self, by: str) -> Int[np.ndarray, " row"]:
        """Number of the subject, session (of a subject), run (of a session) or recording."""
        if by == "session":
            return self.joined("subject", "session")
        if by == "run":
            return self.joined("subject", "session", "run")
        return self.code[by]

    def value(self, name: str, row: int) -> str | None:
        """What stands in a column."""
        code = int(self.code[name][row])
        return None if code < 0 else self.names[name][code]

    def readable(self, by: str, row: int) -> str:
        """The subject, session, run, recording, stimulus or window of a row, in words."""
        if by in ("time", "window"):
            where = self.value("recording", row) or "a recording without a name"
            return f"{where} at {self.start[row]:g}-{self.stop[row]:g} s"
        parts = {"session": ("subject", "session"), "run": ("subject", "session", "run")}
        found = [self.value(name, row) for name in parts.get(by, (by,))]
        return " ".join(part for part in found if part is not None) or "without a name"

    def overlap(
        self, left: Int[np.ndarray, " left"], right: Int[np.ndarray, " right"]
    ) -> Bool[np.ndarray, " right"]:
        """Which rows of the right share time with a row of the left in one recording."""
        recording = self.code["recording"]
        ours, theirs = left[recording[left] >= 0], recording[right] >= 0
        hit = np.zeros(len(right), dtype=bool)
        hit[theirs] = overlapping_times(recording, self.start, self.stop, ours, right[theirs])
        return hit


def seen_in(rows: Sequence[Row], members: Sequence[int]) -> Seen:
    """What a model has seen that was trained on these members of the rows."""
    columns = Columns.of([rows[int(i)] for i in members])
    names = columns.names["recording"]
    recording = columns.code["recording"]
    prints = {}
    for i in np.unique(recording, return_index=True)[1]:
        prints[names[recording[i]]] = columns.value("fingerprint", int(i)) or ""
    return Seen.of_windows(names, prints, recording, columns.start, columns.stop)


def _coded(values: Iterable[Hashable]) -> tuple[tuple[str, ...], Int[np.ndarray, " row"]]:
    number: dict[Hashable, int] = {None: -1}
    code = [number.setdefault(value, len(number) - 1) for value in values]
    return tuple(str(value) for value in list(number)[1:]), np.array(code, dtype=np.int64)
