"""What readers of responses share: tables of trials, pictures by name, responses as a `Signal`.

A reader of responses has the methods of `Reader` (a recording is a session of a person) and besides
`people()`, `responses(subject)`, `shared()` (the stimuli that test), `images(names)` and
`categories_of(names)`.

Axes: trial channel [time]; stimulus, 3 height width.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.quality import listed
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Responses, Signal


@runtime_checkable
class ResponseReader(Protocol):
    """A corpus of responses to stimuli."""

    def people(self) -> list[str]:
        """Whose responses there are."""
        ...

    def responses(self, subject: str) -> Responses:
        """Everything one person answered."""
        ...

    def shared(self) -> tuple[str, ...]:
        """Stimuli that test, by the corpus's design."""
        ...

    def images(self, names: Sequence[str]) -> np.ndarray:
        """Pictures, stimulus x 3 x height x width, 0 to 1."""
        ...


def read_table(path: Path, needed: Sequence[str], *, delimiter: str = ",") -> dict[str, list[str]]:
    """Columns of a table with a header, as text.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A column is missing, or a line has another length.
    """
    check_file(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter=delimiter)
        header = next(rows, [])
        missing = [name for name in needed if name not in header]
        if missing:
            raise ValueError(f"{path}: no column {listed(missing)}; there are {listed(header)}.")
        columns: dict[str, list[str]] = {name: [] for name in header}
        for number, row in enumerate(rows, start=2):
            if len(row) != len(header):
                raise ValueError(
                    f"{path}: line {number} has {len(row)} fields, the header {len(header)}."
                )
            for name, value in zip(header, row, strict=True):
                columns[name].append(value)
    return columns


def as_signal(found: Responses, recording: Recording, *, history: str) -> Signal:
    """Responses of a session as a signal: a sample per trial, or stretches with joins between."""
    details: dict[str, Any] = {"unit": found.unit}
    if found.values.ndim == 2:
        events = [Event(float(i), 1.0, name) for i, name in enumerate(found.stimulus)]
        data, sfreq = found.values.T, 1.0
        details["samples"] = "trials"
    else:
        sfreq = float(found.sfreq or 1.0)
        n, _, length = found.values.shape
        zero = round(-found.start_s * sfreq)
        events = [
            Event((i * length + zero) / sfreq, 0.0, name) for i, name in enumerate(found.stimulus)
        ]
        events += [Event(i * length / sfreq, 0.0, "EDGE boundary") for i in range(1, n)]
        data = np.concatenate(list(found.values), axis=1)
    return Signal(
        data=np.ascontiguousarray(data, dtype=np.float32),
        sfreq=sfreq,
        sensors=found.sensors,
        events=tuple(sorted(events, key=lambda event: event.onset)),
        recording=recording,
        history=(history,),
        details=details,
    )


def require_person(subject: str, people: Sequence[str], *, dataset: str) -> str:
    """The person's name as the corpus spells it; 1 finds "01" and "P1".

    Raises:
        ValueError: Nobody of this name.
    """
    plain = subject.lstrip("0") or "0"
    for name in people:
        if subject == name or plain == (name.lstrip("0") or "0"):
            return name
    raise ValueError(f"{dataset}: no subject {subject!r}; there are {listed(people)}.")


def read_pictures(
    files: Mapping[str, Path], names: Sequence[str], *, size: int, where: str
) -> Float[np.ndarray, "stimulus 3 height width"]:
    """Pictures by name, cut to squares and resized.

    Raises:
        FileNotFoundError: Pictures are missing; how many and which is the first.
    """
    from PIL import Image

    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(
            f"{where}: {len(missing)} of {len(names)} pictures are missing, such as "
            f"{missing[0]!r}. {_HOW}"
        )
    found = np.empty((len(names), 3, size, size), dtype=np.float32)
    for i, name in enumerate(names):
        with Image.open(files[name]) as opened:
            found[i] = square(np.asarray(opened.convert("RGB")), size)
    return found


_HOW = "Responses can be read without them: get the pictures, or give features under these names."


def square(picture: np.ndarray, size: int) -> Float[np.ndarray, "3 height width"]:
    """Bytes `height width 3` as numbers from 0 to 1, the middle square, resized."""
    from PIL import Image

    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    resized = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255
