"""A corpus of arrays, a step, and what lies in the stores made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.data import prepare_corpus
from neurofm.data.preparing.lock import LOCK
from neurofm.data.preparing.prepare import JOURNAL
from neurofm.io import Store
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


@dataclass(frozen=True)
class Gain:
    factor: float

    def __call__(self, signal: Signal) -> Signal:
        history = (*signal.history, f"gain {self.factor}")
        return replace(signal, data=signal.data * np.float32(self.factor), history=history)


Gain.__module__ = "toy"  # the same name in every process, whoever imports this file


@dataclass(frozen=True)
class Toy:
    """Recordings as arrays in files; counts what is loaded."""

    root: Path
    card: dict[str, Any] = field(default_factory=lambda: {"reader": {"class_path": "toy.Reader"}})
    loaded: list[str] = field(default_factory=list)
    name: str = "toy"

    def recordings(
        self,
        *,
        subjects: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
    ) -> list[Recording]:
        return [
            Recording("toy", path.stem, path=path)
            for path in sorted(self.root.glob("*.npy"))
            if subjects is None or path.stem in subjects
        ]

    def load(self, recording: Recording) -> Signal:
        self.loaded.append(recording.subject)
        assert recording.path is not None
        data = np.load(recording.path)
        names = tuple(f"E{i}" for i in range(len(data)))
        sensors = Sensors.of_kind(names, Kind.EEG)
        return Signal(data, 100.0, sensors, (Event(0.5, 0.1, "a"),), recording)


def write_source(root: Path, subject: str, seed: int = 0) -> None:
    root.mkdir(exist_ok=True)
    data = np.random.default_rng([int(subject), seed]).normal(0, 20, (4, 10_000))
    np.save(root / f"{subject}.npy", data.astype(np.float32))


def run(corpus: Toy, root: Path, factor: float = 2.0, **options: Any) -> Path:
    return prepare_corpus(corpus, [Gain(factor)], root, progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """What a store holds; its lock and its journal are the driver's."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (LOCK, JOURNAL)
    }


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != LOCK}


def subjects_in(folder: Path) -> list[str]:
    return [entry.recording.subject for entry in Store(folder).entries]
