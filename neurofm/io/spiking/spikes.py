"""Reader of sorted units: NWB files, and MATLAB files of nested cells.

Axes: unit = channel, time = bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from neurofm.io.contacts import metres_per
from neurofm.io.integrity import suffix_of
from neurofm.io.readers import compile_pattern, find_recordings, path_of
from neurofm.io.spiking.nwb import read_nwb
from neurofm.io.spiking.spike_lists import SpikeTrains, bin_spikes, in_order, leave_out_silent
from neurofm.io.spiking.spike_mat import read_spike_mat
from neurofm.io.spiking.trodes import read_position
from neurofm.types import FRAMES, Recording, Signal

SPIKE_SUFFIXES = (".nwb", ".mat")


class SpikeReader:
    """Units in NWB (`.nwb`) or MATLAB (`.mat`) files, found by a pattern, counted in bins.

    Args:
        pattern: Path below the root, as for `FolderReader`.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        bin_s: Seconds.
        events: In NWB files, paths of event codes or intervals, see `read_nwb`.
        behaviour: In NWB files, paths of time series; beside MATLAB files, position files of
            Trodes in the same folder: a name must be there, a wildcard takes what is there.
        position_unit: Unit of the electrodes' coordinates in NWB files; positions stay unknown
            without it.
        frame: Space of these.
        keep_silent: Keep units that never fire, as rows of zeros.
        max_gap_s: Longest gap of behaviour that counts as measured, seconds.
    """

    def __init__(
        self,
        pattern: str,
        *,
        dataset: str,
        root: Path | str,
        bin_s: float = 0.02,
        events: Sequence[str] = (),
        behaviour: Sequence[str] = (),
        position_unit: str | None = None,
        frame: str = "unknown",
        keep_silent: bool = False,
        max_gap_s: float = 0.25,
    ) -> None:
        compile_pattern(pattern)
        where = f"SpikeReader of {dataset}"
        if not bin_s > 0:
            raise ValueError(f"{where}: bins of {bin_s} s, expected above 0.")
        if frame not in FRAMES:
            raise ValueError(f"{where}: frame {frame!r} is not one of {', '.join(FRAMES)}.")
        self.pattern = pattern
        self.dataset = dataset
        self.root = Path(root)
        self.bin_s = float(bin_s)
        self.events = tuple(events)
        self.behaviour = tuple(behaviour)
        self.metres = None if position_unit is None else metres_per(position_unit, where=where)
        self.frame = frame
        self.keep_silent = keep_silent
        self.max_gap_s = max_gap_s

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        return find_recordings(
            self.root, self.pattern, dataset=self.dataset, suffixes=SPIKE_SUFFIXES
        )

    def files(self, recording: Recording) -> list[Path]:
        """All files a recording is read from."""
        path = path_of(recording)
        return [path, *(self._beside(path) if suffix_of(path) == ".mat" else [])]

    def load(self, recording: Recording) -> Signal:
        """Counts per bin, and behaviour.

        Raises:
            FileNotFoundError: The file, or a position file that is asked for, is missing.
            ValueError: It is damaged, of another format, or holds no units.
        """
        return bin_spikes(self.trains(recording), self.bin_s, max_gap_s=self.max_gap_s)

    def trains(self, recording: Recording) -> SpikeTrains:
        """The time of every spike; raises as `load`."""
        path = path_of(recording)
        if suffix_of(path) == ".nwb":
            return read_nwb(
                path,
                recording,
                events=self.events,
                behaviour=self.behaviour,
                metres=self.metres,
                frame=self.frame,
                keep_silent=self.keep_silent,
            )
        lists, names, span = read_spike_mat(path)
        where = str(path)
        times = [in_order(own, name, where) for own, name in zip(lists, names, strict=True)]
        kept = leave_out_silent(times, names, where)
        if not kept:
            raise ValueError(f"{path}: none of its {len(times)} units has a spike.")
        ends = np.array([times[i][k] for i in kept for k in (0, -1)])
        start, stop = span or (0.0, 0.0)
        if self.keep_silent:
            kept = list(range(len(times)))
        return SpikeTrains(
            times=tuple(times[i] for i in kept),
            names=tuple(names[i] for i in kept),
            start=min(start, ends.min()) if span else float(ends.min()),
            stop=max(stop, ends.max()) if span else float(ends.max()),
            recording=recording,
            behaviour=tuple(track for file in self._beside(path) for track in read_position(file)),
        )

    def _beside(self, path: Path) -> list[Path]:
        found = []
        for name in self.behaviour:
            files = sorted(path.parent.glob(name))
            if not files and not any(sign in name for sign in "*?["):
                raise FileNotFoundError(
                    f"{path.parent / name}: no such file beside {path.name}. Copy it there, or "
                    "remove it from `behaviour` in the card's reader."
                )
            found += files
        return found
