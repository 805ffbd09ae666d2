"""Recordings kept as plain numpy arrays (`.npy`, `.npz`), with what their keys mean told by a card.

An array says nothing about itself: axes, rate, unit, kind and space are arguments. Rows of
different sessions become separate recordings, because no time lies between them that is known.

Numbers without a unit ("arbitrary") are kept as they are, so that ratios between channels and
sessions stay and nothing is fitted; `details["unit"]` is then "arbitrary". Their amplitude cannot
be judged, and models should see them as z (`Standardize`).
Axes: channel time.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from neurofm.io.contacts import metres_per
from neurofm.io.integrity import check_file, suffix_of
from neurofm.io.quality import Problem, listed, report
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.types import FRAMES, Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, si_factor

logger = logging.getLogger(__name__)
ARBITRARY = "arbitrary"
_AXES = ("channel time", "time channel")


class ArrayReader:
    """Arrays in `.npy` or `.npz` files found by a pattern.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        rate: Hz, or the key that holds it (one value, or one per session in the order of the
            sessions; equal values may be as many as they like).
        kind: `Kind` name of the channels.
        unit: Unit of the numbers, SI units per number, or "arbitrary".
        axes: "channel time" or "time channel".
        data: Key of the numbers; of no use for `.npy`.
        session: Key of an index per sample; each value becomes a recording of its own.
        positions: Key of the coordinates, channel x 3.
        position_unit: Their unit, "m", "cm" or "mm".
        frame: Their space, one of `types.FRAMES`.
        names: Key of the channels' names; running numbers without it.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        rate: float | str,
        kind: str,
        unit: str | float,
        axes: str = "channel time",
        data: str = "data",
        session: str | None = None,
        positions: str | None = None,
        position_unit: str = "m",
        frame: str = "unknown",
        names: str | None = None,
    ) -> None:
        compile_pattern(pattern)
        where = f"ArrayReader of {dataset}"
        if axes not in _AXES:
            raise ValueError(f"{where}: axes are {axes!r}, expected {' or '.join(_AXES)}.")
        if frame not in FRAMES:
            raise ValueError(f"{where}: frame {frame!r} is not one of {', '.join(FRAMES)}.")
        if kind.upper() not in Kind.__members__:
            raise ValueError(f"{where}: kind {kind!r} is not known.")
        if unit != ARBITRARY:
            si_factor(unit, where=where)
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.rate = rate
        self.kind = Kind[kind.upper()]
        self.unit = unit
        self.axes = axes
        self.data = data
        self.session = session
        self.positions = positions
        self.metres = metres_per(position_unit, where=where)
        self.frame = frame
        self.names = names

    def recordings(self) -> list[Recording]:
        """All recordings; where files hold sessions, only the index of the samples is read.

        A file whose index cannot be read stays in the list as one recording, so that loading it
        says why.
        """
        found = find_recordings(
            self.root, self.pattern, dataset=self.dataset, suffixes=(".npy", ".npz")
        )
        if self.session is None:
            return found
        every = []
        for recording in found:
            try:
                arrays = read_arrays(path_of(recording), [self.session])
                labels = _labels(arrays[self.session], path_of(recording))
            except (OSError, ValueError) as error:
                logger.debug("%s: sessions unknown: %s", recording.path, error)
                every.append(recording)
                continue
            every += [replace(recording, session=label) for label in dict.fromkeys(labels)]
        return every

    def load(self, recording: Recording) -> Signal:
        """One recording, or one session of a file.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: A key is missing, shapes do not fit each other, a rate is not a positive
                number, or the arrays are Python objects.
        """
        path = path_of(recording)
        wanted = [self.data, self.session, self.positions, self.names]
        wanted += [self.rate if isinstance(self.rate, str) else None]
        arrays = read_arrays(path, [key for key in wanted if key is not None])
        data = np.asarray(arrays[self.data])
        if data.ndim != 2 or not np.issubdtype(data.dtype, np.number) or 0 in data.shape:
            raise ValueError(
                f"{path}: {self.data} has shape {data.shape} and type {data.dtype}, expected "
                f"numbers with the axes {self.axes!r}."
            )
        if np.iscomplexobj(data):
            raise ValueError(f"{path}: {self.data} holds complex numbers, expected real ones.")
        data = data if self.axes == "channel time" else data.T
        sessions = None
        chosen = np.arange(data.shape[1])
        if self.session is not None:
            sessions = _labels(arrays[self.session], path)
            if len(sessions) != data.shape[1]:
                raise ValueError(
                    f"{path}: {self.session} has {len(sessions)} entries, {self.data} has "
                    f"{data.shape[1]} samples (axes {self.axes!r}). Correct `axes` or `session`."
                )
            if recording.session is not None:
                chosen = np.flatnonzero(np.array(sessions) == recording.session)
            if not len(chosen):
                raise ValueError(
                    f"{path}: no session {recording.session!r}; there are "
                    f"{listed(list(dict.fromkeys(sessions)))}."
                )
        sfreq = self._rate(arrays, path, sessions, recording.session)
        scale = 1.0
        details = {}
        history = f"read {path.name}"
        if self.unit == ARBITRARY:
            details["unit"] = ARBITRARY
            history += "; unit unknown, numbers kept as they are"
        else:
            scale = si_factor(self.unit, where=str(path)) * UNITS[self.kind].per_si
        return Signal(
            data=(data[:, chosen] * scale).astype(np.float32),
            sfreq=sfreq,
            sensors=self._sensors(arrays, data.shape[0], path),
            events=_joins(chosen, sessions, sfreq),
            recording=recording,
            history=(history,),
            details=details,
        )

    def _rate(
        self,
        arrays: Mapping[str, np.ndarray],
        path: Path,
        sessions: list[str] | None,
        session: str | None,
    ) -> float:
        if not isinstance(self.rate, str):
            return float(self.rate)
        held = arrays[self.rate]
        if not np.issubdtype(held.dtype, np.number) or held.size < 1:
            raise ValueError(f"{path}: {self.rate} holds {held!r}, expected a rate in Hz.")
        values = held.ravel().astype(np.float64)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ValueError(f"{path}: {self.rate} is {values.tolist()} Hz, expected above 0.")
        if (values == values[0]).all():
            return float(values[0])
        labels = sorted(set(sessions or ()), key=_order)
        if session is None or len(labels) != len(values):
            raise ValueError(
                f"{path}: {self.rate} holds {len(values)} different rates "
                f"({listed([f'{v:g}' for v in values])} Hz) for {len(labels) or 1} sessions. "
                "Name the key of the session index as `session` in the card's reader."
            )
        return float(values[labels.index(session)])

    def _sensors(self, arrays: Mapping[str, np.ndarray], n: int, path: Path) -> Sensors:
        # Plain numbers, so that no shaft can be read from names that nobody gave.
        names = tuple(f"{i + 1:0{len(str(n))}d}" for i in range(n))
        if self.names is not None:
            names = tuple(str(name).strip() for name in arrays[self.names].ravel())
            if len(names) != n or len(set(names)) < n:
                raise ValueError(
                    f"{path}: {self.names} has {len(set(names))} different names, {self.data} has "
                    f"{n} channels (axes {self.axes!r})."
                )
        position = None
        if self.positions is not None:
            position = np.asarray(arrays[self.positions])
            if position.shape != (n, 3) or not np.issubdtype(position.dtype, np.number):
                raise ValueError(
                    f"{path}: {self.positions} has shape {position.shape} and type "
                    f"{position.dtype}, expected numbers of shape ({n}, 3) for {n} channels."
                )
            position = position.astype(np.float64) * self.metres
            position[~np.isfinite(position).all(axis=1)] = np.nan
            twice = n - len(np.unique(np.nan_to_num(position, nan=np.inf), axis=0))
            unknown = int(np.isnan(position).any(axis=1).sum())
            if twice - max(unknown - 1, 0) > 0:
                report(
                    Problem(
                        "warning",
                        f"{twice - max(unknown - 1, 0)} of {n} channels share the position of "
                        "another.",
                        "The coordinates may be rounded or filled in: look at their source.",
                        "equal_positions",
                    ),
                    str(path),
                )
        return Sensors.of_kind(names, self.kind, position, frame=self.frame)


def read_arrays(path: Path, keys: list[str]) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file by name; a `.npy` file is its only array, whatever the first key.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Not such a file, incomplete, without one of the keys, or holding Python objects,
            which could run code when read.
    """
    check_file(path)
    try:
        if suffix_of(path) == ".npy":
            return {keys[0]: np.load(path, allow_pickle=False)}
        with closing(np.load(path, allow_pickle=False)) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive")
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise KeyError(
                    f"{path}: no array {listed(missing)}; there are {listed(archive.files)}. "
                    "Correct the keys in the card's reader."
                )
            return {key: archive[key] for key in keys}
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        if "pickle" in str(error) and "allow_pickle" in str(error):
            raise ValueError(
                f"{path}: holds Python objects (or is no numpy file); they are never unpickled, "
                "because that runs code. Save plain arrays."
            ) from error
        raise ValueError(f"{path}: not a whole numpy file ({error}). Fetch it again.") from error


def _labels(index: np.ndarray, path: Path) -> list[str]:
    values = np.asarray(index)
    if values.size != max(values.shape, default=0):
        raise ValueError(f"{path}: the session index has shape {values.shape}, expected one axis.")
    values = values.ravel()
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: the session index holds NaN or infinity.")
        return [f"{value:g}" for value in values.tolist()]
    return [str(value) for value in values.tolist()]


def _order(label: str) -> tuple[bool, float, str]:
    try:
        return False, float(label), label
    except ValueError:
        return True, 0.0, label


def _joins(chosen: np.ndarray, sessions: list[str] | None, sfreq: float) -> tuple[Event, ...]:
    """An event at every sample that does not follow the one before it in the file."""
    jumps = np.flatnonzero(np.diff(chosen) > 1) + 1
    if sessions is not None:
        labels = np.array(sessions)[chosen]
        jumps = np.union1d(jumps, np.flatnonzero(labels[1:] != labels[:-1]) + 1)
    return tuple(Event(float(i) / sfreq, 0.0, "EDGE boundary") for i in jumps)
