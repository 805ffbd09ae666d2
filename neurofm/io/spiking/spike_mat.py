"""Spike times out of MATLAB files: nested cells of units, as Frank-lab and nelpy data have them.

A unit is a struct with a field of spike times, or a vector of them; the cells around it say which
electrode it came from. Empty cells are places where no unit was found.

Axes: spike.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.io.integrity import check_file
from neurofm.io.quality import listed

_TIMES = ("time", "times", "timestamps", "spiketimes", "spike_times")
_SPAN = ("timerange", "time_range")


def load_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file up to version 7.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Not such a file, incomplete, or of version 7.3 (HDF5).
    """
    import scipy.io

    check_file(path)
    with path.open("rb") as file:
        if b"MATLAB 7.3" in file.read(128):
            raise ValueError(f"{path}: a MATLAB 7.3 file. Save it again with `save(..., '-v7')`.")
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # a damaged file makes scipy raise whatever it meets
        raise ValueError(
            f"{path}: not a whole MATLAB file ({type(error).__name__}: {error}). Fetch it again."
        ) from error
    return {name: value for name, value in content.items() if not name.startswith("__")}


def read_spike_mat(
    path: Path,
) -> tuple[list[np.ndarray], list[str], tuple[float, float] | None]:
    """Spike times of every unit in seconds, their names, and the span sorted if the file has it.

    Names are the places in the cells, counted from 1: "9-20" is cell 20 of cell 9; levels with one
    cell are left out.

    Raises:
        ValueError: No unit is found, or times are not numbers.
    """
    content = load_mat(path)
    found: list[tuple[tuple[int, ...], np.ndarray, np.ndarray | None]] = []
    for number, value in enumerate(content.values(), 1):
        start = (number,) if len(content) > 1 else ()
        found += _units(value, start, path)
    if not found:
        raise ValueError(
            f"{path}: no units. Expected cells of structs with a field {' or '.join(_TIMES)}; the "
            f"variables are {listed(list(content)) or 'none'}."
        )
    spans = [span for _, _, span in found if span is not None]
    span = None
    if spans:
        span = (min(float(s.min()) for s in spans), max(float(s.max()) for s in spans))
    return [times for _, times, _ in found], _named([place for place, _, _ in found]), span


def _units(
    value: Any, place: tuple[int, ...], path: Path
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray | None]]:
    if not isinstance(value, np.ndarray) or not value.size:
        return
    if value.dtype == object:
        for i, item in enumerate(value.ravel(order="F"), 1):
            yield from _units(item, (*place, i) if value.size > 1 else place, path)
    elif value.dtype.names:
        fields = {name.casefold(): name for name in value.dtype.names}
        chosen = next((fields[name] for name in _TIMES if name in fields), None)
        if chosen is None:
            return
        ranges = next((fields[name] for name in _SPAN if name in fields), None)
        for i, item in enumerate(value.ravel(order="F"), 1):
            own = (*place, i) if value.size > 1 else place
            span = None
            if ranges is not None and np.size(item[ranges]) == 2:
                span = _numbers(item[ranges], path, own)
            yield own, _numbers(item[chosen], path, own), span
    elif place and np.issubdtype(value.dtype, np.floating) and max(value.shape) == value.size:
        yield place, _numbers(value, path, place), None


def _numbers(value: Any, path: Path, place: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == object and array.size == 1:
        array = np.asarray(array.ravel()[0])
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise ValueError(
            f"{path}: the times of unit {'-'.join(map(str, place)) or '1'} are of type "
            f"{array.dtype}, expected numbers (seconds)."
        )
    return array.astype(np.float64).ravel()


def _named(places: list[tuple[int, ...]]) -> list[str]:
    return ["-".join(map(str, place)) or "1" for place in places]
