"""Calcium imaging as suite2p leaves it: fluorescence and deconvolved activity of regions.

`F.npy` and `spks.npy` are ROI x frame, `iscell.npy` says which ROIs are cells and how surely. The
frame rate stands in `ops.npy`, a pickle, which is never read: the card declares it. Fluorescence
has an arbitrary unit; the step `neurofm.data.DeltaF` expresses it relative to its baseline.

Source: suite2p (Pachitariu et al. 2017).
Axes: ROI = channel, frame = time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from neurofm.io.arrays import ARBITRARY, read_arrays
from neurofm.io.quality import Problem, report
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind


class CalciumReader:
    """Folders of suite2p, found by their `F.npy`.

    Args:
        pattern: Path of `F.npy` below the root, such as "{subject}/suite2p/plane0/F.npy".
        dataset: Name of the corpus.
        root: Folder of the corpus.
        sfreq: Frames per second, or "frames" where nobody knows: time then counts frames, one a
            second, with a warning. Never guessed.
        signal: "F", or "spks" for deconvolved activity.
        neuropil: Share of the surround (`Fneu.npy`) subtracted from "F"; suite2p uses 0.7.
        cells_only: Keep the ROIs that `iscell.npy` calls cells.
    """

    def __init__(
        self,
        pattern: str = "**/F.npy",
        *,
        dataset: str,
        root: Path | str,
        sfreq: float | str | None = None,
        signal: Literal["F", "spks"] = "F",
        neuropil: float = 0.0,
        cells_only: bool = False,
    ) -> None:
        compile_pattern(pattern)
        where = f"CalciumReader of {dataset}"
        if sfreq != "frames" and not (isinstance(sfreq, (int, float)) and sfreq > 0):
            raise ValueError(
                f"{where}: sfreq is {sfreq!r}. The files do not say their frame rate: set `sfreq` "
                "in the card's reader, in frames per second, or to `frames` if nobody knows it."
            )
        if signal not in ("F", "spks"):
            raise ValueError(f"{where}: signal {signal!r}, expected F or spks.")
        if neuropil and signal != "F":
            raise ValueError(f"{where}: neuropil is subtracted from F, not from {signal}.")
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.sfreq = sfreq
        self.signal = signal
        self.neuropil = neuropil
        self.cells_only = cells_only

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return find_recordings(self.root, self.pattern, dataset=self.dataset, suffixes=(".npy",))

    def files(self, recording: Recording) -> list[Path]:
        """All files a recording may be read from."""
        folder = path_of(recording).parent
        wanted = [folder / f"{name}.npy" for name in ("F", "Fneu", "iscell", "spks")]
        return [file for file in wanted if file.is_file()]

    def load(self, recording: Recording) -> Signal:
        """One recording; `details` lists which channels are cells.

        Raises:
            FileNotFoundError: A file that is needed is missing.
            ValueError: A file is damaged or holds Python objects, shapes do not fit each other, or
                no ROI is a cell.
        """
        folder = path_of(recording).parent
        path = folder / f"{self.signal}.npy"
        data = _table(path)
        history = [f"read {path.name}"]
        if self.neuropil:
            surround = _table(folder / "Fneu.npy")
            if surround.shape != data.shape:
                raise ValueError(
                    f"{folder}: Fneu.npy has shape {surround.shape}, F.npy {data.shape}."
                )
            data = data - np.float32(self.neuropil) * surround
            history.append(f"subtract {self.neuropil:g} of the neuropil")
        details: dict[str, object] = {"unit": ARBITRARY}
        names = [f"roi{i:0{len(str(len(data)))}d}" for i in range(len(data))]
        chosen = np.arange(len(data))
        if self.cells_only or (folder / "iscell.npy").exists():
            cell = self._cells(folder / "iscell.npy", len(data))
            if self.cells_only:
                if not cell.any():
                    raise ValueError(
                        f"{folder / 'iscell.npy'}: none of {len(cell)} ROIs is a cell."
                    )
                chosen = np.flatnonzero(cell)
                history.append(f"keep {len(chosen)} of {len(cell)} ROIs that are cells")
            details["cells"] = [names[i] for i in np.flatnonzero(cell)]
        sfreq = self.sfreq
        if isinstance(sfreq, str) or sfreq is None:
            sfreq = 1.0
            details["sfreq"] = "unknown"
            report(
                Problem(
                    "warning",
                    "The frame rate is not known: time counts frames, as if there was one a "
                    "second.",
                    "Set `sfreq` in the card's reader; until then no time or frequency is real.",
                    "unknown_rate",
                ),
                str(path),
            )
        return Signal(
            data=data[chosen],
            sfreq=float(sfreq),
            sensors=Sensors.of_kind([names[i] for i in chosen], Kind.UNIT, frame="unknown"),
            events=(),
            recording=recording,
            history=tuple(history),
            details=details,
        )

    @staticmethod
    def _cells(path: Path, n: int) -> np.ndarray:
        table = read_arrays(path, ["iscell"])["iscell"]
        if table.ndim not in (1, 2) or len(table) != n or not np.issubdtype(table.dtype, np.number):
            raise ValueError(
                f"{path}: shape {table.shape} and type {table.dtype}, expected a row for each of "
                f"{n} ROIs."
            )
        return (table if table.ndim == 1 else table[:, 0]) > 0.5


def _table(path: Path) -> np.ndarray:
    data = read_arrays(path, ["data"])["data"]
    if data.ndim != 2 or 0 in data.shape or not np.issubdtype(data.dtype, np.floating):
        raise ValueError(
            f"{path}: shape {data.shape} and type {data.dtype}, expected numbers of shape (ROI, "
            "frame)."
        )
    return data.astype(np.float32, copy=False)
