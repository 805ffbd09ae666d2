"""Recordings that could not be prepared, with their reasons: `problems.json` of a store."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurofm.data.preparing.outcomes import Outcome
from neurofm.io.stores.files import read_document, write_document

PROBLEMS = "problems.json"


@dataclass(frozen=True)
class Quarantined:
    """One recording that was left out.

    Args:
        type: Of the exception; "WorkerDied" if its process was killed or crashed.
        message: What it said.
        traceback: Its last lines.
        file: The recording.
        when: Time in UTC.
        attempts: How often it was tried; more than once only if workers died.
    """

    type: str
    message: str
    traceback: str
    file: str
    when: str
    attempts: int

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


def quarantined(outcome: Outcome[Any, Any], file: Path | None) -> Quarantined:
    """What an outcome without a result says."""
    failure = outcome.failure
    if failure is None:
        raise ValueError("quarantined: the outcome has a result.")
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Quarantined(
        failure.type,
        failure.message,
        failure.traceback,
        "" if file is None else str(file),
        when,
        outcome.attempts,
    )


def read_problems(store: Path) -> dict[str, Quarantined]:
    """Recordings of a store that are in quarantine, by their id.

    A list that cannot be read counts as empty: preparing writes it anew.
    """
    try:
        found = read_document(Path(store) / PROBLEMS)["problems"]
        return {name: Quarantined(**entry) for name, entry in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_problems(store: Path, new: dict[str, Quarantined], attempted: set[str]) -> None:
    """Keep the list true: these problems, and earlier ones of recordings not tried again.

    Args:
        attempted: Recordings that were tried, or found whole.
    """
    before = read_problems(store)
    merged = {name: item for name, item in before.items() if name not in attempted} | new
    if merged == before:
        return
    if merged:
        problems = {name: asdict(item) for name, item in sorted(merged.items())}
        write_document(Path(store) / PROBLEMS, {"problems": problems})
    else:
        (Path(store) / PROBLEMS).unlink(missing_ok=True)
