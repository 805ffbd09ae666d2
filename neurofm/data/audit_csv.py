"""A user's table of windows or recordings, read for an audit.

Columns are found by name, in any order and spelling of case; `onset` and `duration` do instead of
`start` and `stop`. What is missing is not looked for, and the audit says so.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.data.columns import Columns
from neurofm.shapes import Float

# Column -> other names it goes by.
COLUMNS: dict[str, tuple[str, ...]] = {
    "subject": ("participant_id", "participant", "sub", "patient"),
    "session": ("ses", "session_id"),
    "run": ("run_id",),
    "recording": ("recording_id", "file", "filename", "path"),
    "start": ("onset", "start_s", "onset_s", "begin"),
    "stop": ("end", "stop_s", "end_s"),
    "duration": ("duration_s", "length_s"),
    "stimulus": ("stimulus_id", "stim", "stim_file"),
    "label": ("y", "class", "target"),
    "fingerprint": ("hash", "sha256", "md5", "checksum"),
    "side": ("split", "set", "partition", "subset", "split_side"),
    "fitted_on": ("fitted",),
}
SIDES: dict[str, tuple[str, ...]] = {
    "train": ("training", "tr", "trn"),
    "validate": ("val", "valid", "validation", "dev"),
    "test": ("testing", "tst", "eval", "held-out", "holdout"),
}
_NOTHING = ("", "n/a", "na", "nan", "none", "null")
_WHOLE = 1.0  # any length: all rows without times are their whole recording


@dataclass(frozen=True)
class Table:
    """What a CSV file says.

    Args:
        sides: Positions of the rows of each side that has any.
        fitted: Rows that each statistic named in `fitted_on` was fitted on.
        has: Columns found, under our names.
        notes: What was assumed.
    """

    columns: Columns
    sides: Mapping[str, np.ndarray]
    fitted: Mapping[str, np.ndarray]
    has: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(path: str | Path, *, renamed: Mapping[str, str] | None = None) -> Table:
    """Read a table with a header line; commas, semicolons or tabs.

    Args:
        renamed: Our name of a column -> its name in the file, where they differ.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No header, a column twice, a side or time that cannot be read; the message names
            the row (1 = first below the header).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            header, body = _parse(file.read(), path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text table in UTF-8 ({error.reason}).") from error
    where = _find(header, renamed or {}, path)
    n = len(body)
    raw = {name: [row[i].strip() for row in body] for name, i in where.items()}
    values: dict[str, list[str | None]] = {
        name: [None if value.lower() in _NOTHING else value for value in raw[name]]
        for name in ("subject", "session", "run", "recording", "stimulus", "fingerprint")
        if name in raw
    }
    notes: list[str] = []
    start, stop = _times(raw, n, path)
    _name_recordings(values, n, notes)
    sides = _sides(raw["side"], path) if "side" in raw else {}
    if not sides and "recording" not in values:
        raise ValueError(
            f"{path}: no row is on a side (column side: train, validate, test), and no column "
            "(recording, session, run) names recordings: nothing can be compared."
        )
    return Table(
        columns=Columns.of_values(values, start, stop),
        sides=sides,
        fitted=_fits(raw.get("fitted_on", [])),
        has=tuple(where),
        notes=tuple(notes),
    )


def _parse(text: str, path: Path) -> tuple[list[str], list[list[str]]]:
    first = text.lstrip("\r\n").partition("\n")[0]
    if not first.strip():
        raise ValueError(f"{path}: empty; expected a line of column names, then one row a line.")
    delimiter = max(",;\t", key=first.count)
    try:
        table = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ValueError(f"{path}: not a text table ({error}).") from error
    header, body = [name.strip() for name in table[0]], table[1:]
    if not body:
        raise ValueError(f"{path}: has column names but no rows.")
    wrong = next((row for row in body if len(row) != len(header)), None)
    if wrong is not None:
        raise ValueError(
            f"{path}, row {body.index(wrong) + 1}: {len(wrong)} fields under {len(header)} column "
            f"names. Quote fields that contain {delimiter!r}."
        )
    return header, body


def _find(header: Sequence[str], renamed: Mapping[str, str], path: Path) -> dict[str, int]:
    """Position of each of our columns that the file has."""
    unknown = sorted(set(renamed) - set(COLUMNS))
    if unknown:
        raise ValueError(f"there is no column {unknown}; expected some of {', '.join(COLUMNS)}.")
    absent = [name for name in renamed.values() if name not in header]
    if absent:
        raise ValueError(f"{path}: has no column {absent}; there are {', '.join(header)}.")
    found: dict[str, int] = {}
    for name, others in COLUMNS.items():
        asked = [renamed[name]] if name in renamed else [name, *others]
        taken = set(renamed.values()) if name not in renamed else set()
        for spelling in asked:
            same = [
                i
                for i, given in enumerate(header)
                if given not in taken
                and (given == spelling if name in renamed else given.lower() == spelling)
            ]
            if len(same) > 1:
                raise ValueError(
                    f"{path}: column {spelling!r} appears {len(same)} times. Rename one of them."
                )
            if same:
                found[name] = same[0]
                break
    if not set(found) & {"subject", "recording", "session", "stimulus", "fingerprint"}:
        raise ValueError(
            f"{path}: none of its columns ({', '.join(header)}) says what a row is. Expected at "
            f"least one of subject, session, recording, stimulus, fingerprint; columns with other "
            "names: --column subject=NAME."
        )
    return found


def _times(
    raw: Mapping[str, list[str]], n: int, path: Path
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Start and stop in seconds; rows of a table without times are whole recordings."""
    if "start" not in raw or not {"stop", "duration"} & set(raw):
        return np.zeros(n), np.full(n, _WHOLE)
    start = _numbers(raw["start"], "start", path)
    last = "stop" if "stop" in raw else "duration"
    stop = _numbers(raw[last], last, path) + (start if last == "duration" else 0.0)
    late = np.flatnonzero(~(stop >= start))
    if len(late):
        raise ValueError(
            f"{path}, row {late[0] + 1}: stops at {stop[late[0]]:g} s, before its start at "
            f"{start[late[0]]:g} s ({len(late)} such rows)."
        )
    return start, stop


def _numbers(values: list[str], name: str, path: Path) -> Float[np.ndarray, " row"]:
    try:
        numbers = np.array(values, dtype=np.float64)
    except ValueError:
        numbers = np.array([_number(value) for value in values])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"{path}, row {bad[0] + 1}: {name} is {values[bad[0]]!r}, expected seconds "
            f"({len(bad)} such rows)."
        )
    return numbers


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def _name_recordings(values: dict[str, list[str | None]], n: int, notes: list[str]) -> None:
    """Give every recording a name of its own."""
    entities = [values[name] for name in ("subject", "session", "run") if name in values]
    if "recording" in values:
        if "subject" not in values:
            return
        owners: dict[str, set[str | None]] = {}
        for name, subject in zip(values["recording"], values["subject"], strict=True):
            if name is not None:
                owners.setdefault(name, set()).add(subject)
        shared = sum(len(subjects) > 1 for subjects in owners.values())
        if 2 * shared <= len(owners):
            return
        notes.append(
            f"{shared} of {len(owners)} recording names occur with several subjects: taken as "
            "numbers within subject and session"
        )
        within = [values["subject"], values.get("session", [None] * n), values["recording"]]
        values["recording"] = _joined(within)
    elif "run" in values or "session" in values:
        notes.append("no column recording: one recording per subject, session and run assumed")
        values["recording"] = _joined(entities)


def _joined(parts: Sequence[Sequence[str | None]]) -> list[str | None]:
    return [
        " ".join(part for part in row if part is not None) or None
        for row in zip(*parts, strict=True)
    ]


def _sides(values: list[str], path: Path) -> dict[str, np.ndarray]:
    number = {
        name: i for i, (side, others) in enumerate(SIDES.items()) for name in (side, *others)
    } | dict.fromkeys(_NOTHING, -1)
    code = np.array([number.get(value.lower(), -2) for value in values], dtype=np.int64)
    unknown = np.flatnonzero(code == -2)
    if len(unknown):
        raise ValueError(
            f"{path}, row {unknown[0] + 1}: side is {values[unknown[0]]!r}, expected train, "
            f"validate or test, or nothing ({len(unknown)} such rows)."
        )
    found = {side: np.flatnonzero(code == i) for i, side in enumerate(SIDES)}
    return {side: members for side, members in found.items() if len(members)}


def _fits(values: Sequence[str]) -> dict[str, np.ndarray]:
    """`fitted_on` names, for each row, what was fitted on it: "scaler; alignment"."""
    members: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value.lower() not in _NOTHING:
            for name in value.split(";"):
                if name.strip():
                    members.setdefault(name.strip(), []).append(i)
    return {name: np.array(rows, dtype=np.int64) for name, rows in members.items()}
