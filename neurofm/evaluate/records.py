"""Records of cells: one small file each while a suite runs, one file of lines when it is done.

A record is written under a temporary name, synced and renamed, so that a killed run leaves whole
records only and continues at the next cell. Of many records in one file, what they have in common
(the trials that were decoded, versions, a pretraining) stands once, in lines of its own before
them: `{"shared": NAME, "values": ...}`. A record says `"test": {"shared": NAME, "p": [...]}`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from neurofm.evaluate.suites import digest

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]
LINES = "records.jsonl"


def write_text(path: Path, text: str) -> None:
    """Write a file, all or nothing."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """The same for what is no text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Keep the record of one cell under its key."""
    write_text(folder / f"{record['key']}.json", _line(record))


def recorded(folder: Path, key: str) -> bool:
    """Whether the record of a cell was written."""
    return (folder / f"{key}.json").is_file()


@contextmanager
def claimed(folder: Path, key: str) -> Iterator[None]:
    """Hold a cell, waiting while another process computes it.

    The lock is the kernel's and ends with the process. Where a file system has none, two commands
    at once compute the same records twice.

    Args:
        folder: Of single records; locks of all cells are bytes of one file in it.
        key: Of a cell, hexadecimal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_EX, 1, int(key, 16) >> 2)  # offsets have 63 bits
        yield


def read_records(folder: Path) -> dict[str, Record]:
    """All records of a folder by key: those in one file of lines, and single ones.

    Raises:
        ValueError: A file is not what was written; it is named.
    """
    lines = folder / LINES
    found = {record["key"]: record for record in read_lines(lines)} if lines.is_file() else {}
    for file in sorted((folder / "records").glob("*.json")):
        record = _parsed(_text(file), where=str(file))
        found[record["key"]] = record
    return found


def read_lines(path: Path) -> list[Record]:
    """The records that `write_lines` wrote, each whole again.

    Raises:
        ValueError: A line is no record, or what it shares with others is not in the file.
    """
    parts: dict[str, Any] = {}
    found = []
    for number, text in enumerate(_text(path).splitlines(), start=1):
        where = f"{path}, line {number}"
        record = _parsed(text, where=where)
        if "shared" in record:
            if digest(record.get("values")) != record["shared"]:
                raise ValueError(f"{where}: the values of {record['shared']} were changed.")
            parts[record["shared"]] = record["values"]
            continue
        for field in _SHARED:
            own = record.get(field)
            if not isinstance(own, dict) or "shared" not in own:
                continue
            name = own.pop("shared")
            if name not in parts:
                raise ValueError(
                    f"{where}: record {record['key']} refers to {name} for its {field}, which the "
                    "file does not hold. Take the whole file from where it came from."
                )
            record[field] = {**parts[name], **own} if own else parts[name]
        found.append(record)
    return found


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """All records in one file, in an order that does not depend on who finished first."""
    parts: dict[str, str] = {}
    lines = []
    for record in sorted(records, key=lambda r: [str(r[k]) for k in _ORDER]):
        line = dict(record)
        for field, keys in _SHARED.items():
            own = record.get(field)
            if not own:
                continue
            values = {key: own[key] for key in keys if key in own} if keys else own
            name = digest(values)
            parts[name] = _line({"shared": name, "values": values})
            rest = {key: own[key] for key in own if key not in values} if keys else {}
            line[field] = {"shared": name, **rest}
        lines.append(_line(line))
    write_text(path, "".join([*parts.values(), *lines]))


_ORDER = ("dataset", "protocol", "method", "weights", "reading", "fold", "seed", "share", "key")
# What many records have in common: of predictions the trials, of other fields all.
_SHARED: dict[str, tuple[str, ...]] = {
    "test": ("subject", "recording", "window", "y"),
    "versions": (),
    "pretraining": (),
}


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True) + "\n"


def _parsed(text: str, *, where: str) -> Record:
    try:
        record = json.loads(text)
        if "shared" not in record:
            record["key"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: not a record ({error}). Delete the file; its cells are computed again."
        ) from error
    return dict(record)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
