"""Records of cells: one small file each while a suite runs, one file of lines when it is done.

A record is written under a temporary name, synced and renamed, so that a killed run leaves whole
records only and continues at the next cell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
    write_text(folder / f"{record['key']}.json", json.dumps(record, sort_keys=True) + "\n")


def read_records(folder: Path) -> dict[str, Record]:
    """All records of a folder by key: those in one file of lines, and single ones.

    Raises:
        ValueError: A file is not what was written; it is named.
    """
    found: dict[str, Record] = {}
    lines = folder / LINES
    parts = [(lines, text) for text in _text(lines).splitlines()] if lines.is_file() else []
    parts += [(file, _text(file)) for file in sorted((folder / "records").glob("*.json"))]
    for file, text in parts:
        try:
            record = json.loads(text)
            found[record["key"]] = record
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}: not a record ({error}). Delete it; its cell is computed again."
            ) from error
    return found


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """All records in one file, in an order that does not depend on who finished first."""
    ordered = sorted(records, key=lambda r: [str(r[k]) for k in _ORDER])
    write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in ordered))


_ORDER = ("dataset", "protocol", "method", "weights", "reading", "fold", "seed", "share", "key")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
