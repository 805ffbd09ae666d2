"""Activity patterns that come as arrays: one row per trial, one column per voxel.

Nothing is known about when a trial was, so a recording of patterns has one sample per trial and
says so: `details["samples"]` is "trials", its clock counts one trial a second, and every trial is
an event of one second with the name of its condition. Windows of one second are single patterns.

A run is a recording of its own: patterns of one run share its noise, so splits go between runs, and
whatever is estimated per run (its mean, say) must not see another.

Axes: channel = voxel, time = trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.quality import listed
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind


class PatternReader:
    """Patterns in `.npz` files, one file per participant or session.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        data: Key of the patterns, trial x voxel.
        condition: Key of the condition of each trial.
        run: Key of the run of each trial; without it a file is one recording.
        labels: Condition in the file -> name; conditions without one keep their number.
        unit: What the numbers are, for `details["unit"]`; "arbitrary" where nobody says.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        data: str = "Y",
        condition: str = "cond",
        run: str | None = "run",
        labels: Mapping[Any, str] | None = None,
        unit: str = "arbitrary",
    ) -> None:
        compile_pattern(pattern)
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.data = data
        self.condition = condition
        self.run = run
        self.labels = {str(key): str(value) for key, value in (labels or {}).items()}
        self.unit = unit

    def recordings(self) -> list[Recording]:
        """One per file and run; of a file only the runs are read."""
        found = find_recordings(self.root, self.pattern, dataset=self.dataset, suffixes=[".npz"])
        if self.run is None:
            return found
        return [
            replace(recording, run=run)
            for recording in found
            for run in sorted(set(self._column(path_of(recording), self.run)), key=_order)
        ]

    def load(self, recording: Recording) -> Signal:
        """The patterns of one run.

        Raises:
            ValueError: Damaged, or conditions and runs that do not fit the patterns.
        """
        path = path_of(recording)
        with _opened(path) as file:
            patterns = _array(path, file, self.data)
        if patterns.ndim != 2 or patterns.dtype.kind not in "iuf":
            raise ValueError(
                f"{path}: {self.data!r} is {patterns.dtype} of shape {patterns.shape}, expected "
                "numbers, trial x voxel."
            )
        condition = self._column(path, self.condition, len(patterns))
        keep = np.arange(len(patterns))
        if self.run is not None:
            runs = self._column(path, self.run, len(patterns))
            keep = np.array([i for i, run in enumerate(runs) if run == recording.run], dtype=int)
            if not len(keep):
                raise ValueError(
                    f"{path}: no trial of run {recording.run}; there are "
                    f"{listed(sorted(set(runs), key=_order))}."
                )
        n = patterns.shape[1]
        names = [self.labels.get(condition[i], condition[i]) for i in keep.tolist()]
        width = len(str(n - 1))
        return Signal(
            data=np.ascontiguousarray(patterns[keep].T, dtype=np.float32),
            sfreq=1.0,
            sensors=Sensors.of_kind(
                [f"v{i:0{width}d}" for i in range(n)], Kind.OTHER, frame="unknown"
            ),
            events=tuple(Event(float(i), 1.0, name) for i, name in enumerate(names)),
            recording=recording,
            history=(f"read {path.name}: {len(keep)} patterns of {n} voxels",),
            details={"samples": "trials", "unit": self.unit},
        )

    def _column(self, path: Path, key: str, n: int | None = None) -> list[str]:
        """A value per trial, as text."""
        with _opened(path) as file:
            values = _array(path, file, key)
        if values.ndim != 1 or (n is not None and len(values) != n):
            raise ValueError(
                f"{path}: {key!r} has shape {values.shape}, expected one value for each of "
                f"{'the' if n is None else n} trials."
            )
        return [_text(value) for value in values.tolist()]


def _text(value: Any) -> str:
    """1.0 and 1 are the same condition."""
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _order(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _opened(path: Path) -> Any:
    check_file(path)
    try:
        file = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile and numpy raise what they stumble on
        raise ValueError(f"{path}: not an .npz file, or damaged ({error}).") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError(f"{path}: a single array, expected an .npz file of several.")
    return file


def _array(path: Path, file: Any, key: str) -> np.ndarray:
    if key not in file.files:
        raise ValueError(f"{path}: no array {key!r}; there are {listed(file.files)}.")
    try:
        return np.asarray(file[key])
    except Exception as error:
        raise ValueError(f"{path}: {key!r} cannot be read ({error}). Fetch it again.") from error
