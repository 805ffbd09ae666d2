"""A corpus and steps that worker processes import by name, and that fail in the ways real ones do.

Tests put this folder on `sys.path` before they import it (fixture `toys`).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


@dataclass(frozen=True)
class ToyCorpus:
    """Recordings as `<subject>.npy`; every load is a line in `loaded.txt`."""

    root: Path
    card: dict[str, Any] = field(default_factory=lambda: {"reader": {"class_path": "toys"}})
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
        with open(self.root / "loaded.txt", "a") as file:
            file.write(f"{recording.subject}\n")
        assert recording.path is not None
        data = np.load(recording.path)
        sensors = Sensors.of_kind(tuple(f"E{i}" for i in range(len(data))), Kind.EEG)
        return Signal(data, 100.0, sensors, (Event(0.5, 0.1, "a"),), recording)

    def loads(self) -> list[str]:
        file = self.root / "loaded.txt"
        return file.read_text().split() if file.exists() else []


def make_corpus(root: Path, n: int = 6) -> ToyCorpus:
    root.mkdir(parents=True)
    for i in range(n):
        data = np.random.default_rng(i).normal(0, 20, (4, 4_000))
        np.save(root / f"{i:02d}.npy", data.astype(np.float32))
    return ToyCorpus(root)


@dataclass(frozen=True)
class Mix:
    """A step whose result depends on the order of sums: a matrix product of float32."""

    factor: float = 0.5

    def __call__(self, signal: Signal) -> Signal:
        n = len(signal.data)
        weights = np.random.default_rng(0).normal(0, self.factor, (n, n)).astype(np.float32)
        square = signal.data @ signal.data.T / np.float32(signal.data.shape[1] * 400)
        return replace(signal, data=weights @ (square @ signal.data), history=("mix",))


@dataclass(frozen=True)
class Trap(Mix):
    """A step that spoils some recordings; what it does depends on files in `folder`.

    `kill-SUBJECT`: die each time. `kill-SUBJECT-once`: die the first time. `hold-SUBJECT`: say so
    by `held-SUBJECT`, and wait until the file is gone.
    """

    folder: str = ""

    def __call__(self, signal: Signal) -> Signal:
        folder, subject = Path(self.folder), signal.recording.subject
        once = folder / f"kill-{subject}-once"
        if once.exists() or (folder / f"kill-{subject}").exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal_number())
        while (folder / f"hold-{subject}").exists():
            (folder / f"held-{subject}").touch()
            time.sleep(0.01)
        return super().__call__(signal)


def signal_number() -> int:
    return signal.SIGKILL


class Unpicklable(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")

    def __reduce__(self) -> Any:
        raise TypeError("no")


@dataclass(frozen=True)
class Work:
    """Items are numbers; some are special: see `__call__`. `folder` takes notes."""

    folder: str
    special: dict[int, str] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with open(Path(self.folder) / "received.txt", "a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, item: int) -> Any:
        what = self.special.get(item, "")
        if what == "raise":
            raise KeyError(f"item {item}")
        if what == "raise unpicklable":
            raise Unpicklable(item, item)
        if what == "return unpicklable":
            return lambda: None
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "die once":
            note = Path(self.folder) / f"died-{item}"
            if not note.exists():
                note.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if what == "threads":
            import threadpoolctl

            return [library["num_threads"] for library in threadpoolctl.threadpool_info()]
        if what == "process":
            return os.getpid()
        if what == "sleep":
            (Path(self.folder) / f"sleeps-{item}").touch()
            time.sleep(600)
        return item * item


@dataclass
class Stillborn:
    """Work that cannot be received: raises, or ends the process."""

    how: str
    driver: int

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() == self.driver:
            return
        if self.how == "exit":
            os._exit(3)
        raise ImportError("no such module here")

    def __call__(self, item: int) -> int:
        return item


def prepare_all(root: str, store: str, traps: str, executor: str, seal_s: float) -> None:
    """A driver to be killed: prepares a toy corpus with traps."""
    from neurofm.data import prepare_corpus

    prepare_corpus(
        ToyCorpus(Path(root)),
        [Trap(folder=traps)],
        store,
        executor=executor,
        workers=None if executor == "inprocess" else 2,
        progress=False,
        seal_s=seal_s,
    )


def sleep_all(folder: str) -> None:
    """A driver to be killed: its workers would sleep for ten minutes."""
    from neurofm.data import open_executor

    work = Work(folder, {0: "sleep", 1: "sleep"})
    for _ in open_executor("processes", workers=2).imap_unordered(work, range(2)):
        pass


if __name__ == "__main__":
    import toys  # by name, as workers know it

    # A shell that starts tests in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = [float(word) if word.isdigit() else word for word in sys.argv[2:]]
    getattr(toys, sys.argv[1])(*arguments)
