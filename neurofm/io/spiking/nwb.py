"""Sorted units out of NWB files, read with plain h5py.

Spike times of the `units` table, brain area and coordinates of the electrodes they are assigned to,
event codes and intervals as events, further time series as behaviour.

Source: Neurodata Without Borders (Rübel et al. 2022), schema 2.
Axes: unit = row of the units table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.io.integrity import check_file
from neurofm.io.quality import Problem, listed, report
from neurofm.io.spiking.spike_lists import SpikeTrains, Track, in_order, leave_out_silent
from neurofm.types import Event, Recording

_ELECTRODES = "general/extracellular_ephys/electrodes"
_SUBJECT = ("subject_id", "species", "sex", "age")


def read_nwb(
    path: Path,
    recording: Recording,
    *,
    events: Sequence[str] = (),
    behaviour: Sequence[str] = (),
    metres: float | None = None,
    frame: str = "unknown",
    keep_silent: bool = False,
) -> SpikeTrains:
    """The units of one file.

    The recording lasts over the units' `obs_intervals`, else from the first to the last spike or
    event; an event further away from the spikes than they are long is taken for a clock error and
    does not count.

    Args:
        path: The file.
        recording: What it is.
        events: Paths in the file. A time series of codes gives one event per sample, labelled by
            its value; a table of intervals gives events labelled by the table's name.
        behaviour: Paths of time series of numbers.
        metres: Metres in the unit of the electrodes' x, y, z; None leaves positions unknown,
            because files in micrometres and in millimetres are both common.
        frame: Space of these.
        keep_silent: Keep units without spikes.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: Not an NWB file, damaged, without units, or without something asked for.
    """
    h5py = optional("h5py")
    check_file(path)
    try:
        with h5py.File(path, "r") as file:
            return _read(
                file, path, recording, events, behaviour, metres, frame, keep_silent=keep_silent
            )
    except ValueError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path}: not a whole NWB file ({type(error).__name__}: {error}). Fetch it again."
        ) from error


def _read(
    file: Any,
    path: Path,
    recording: Recording,
    events: Sequence[str],
    behaviour: Sequence[str],
    metres: float | None,
    frame: str,
    *,
    keep_silent: bool,
) -> SpikeTrains:
    where = str(path)
    units = file.get("units")
    if units is None or "spike_times" not in units or "spike_times_index" not in units:
        raise ValueError(
            f"{path}: no table of units with spike times; the file holds {listed(sorted(file))}."
        )
    lists = _ragged(units, "spike_times", path)
    rows = np.arange(len(lists)) if "id" not in units else np.asarray(units["id"])
    names = [str(row) for row in rows.tolist()]
    if len(names) != len(lists):
        raise ValueError(f"{path}: {len(names)} ids for {len(lists)} units. The file is damaged.")
    if not lists:
        raise ValueError(f"{path}: its table of units is empty.")
    times = [in_order(own, name, where) for own, name in zip(lists, names, strict=True)]
    kept = list(range(len(times))) if keep_silent else leave_out_silent(times, names, where)
    region, position = _places(file, units, len(times), metres, path)
    found = tuple(event for name in events for event in _events(_item(file, name, path), name))
    start, stop = _span(units, times, found, path)
    return SpikeTrains(
        times=tuple(times[i] for i in kept),
        names=tuple(names[i] for i in kept),
        start=start,
        stop=stop,
        recording=recording,
        position=position[kept],
        frame=frame,
        region=tuple(region[i] for i in kept) if any(region[i] for i in kept) else (),
        events=found,
        behaviour=tuple(t for name in behaviour for t in _tracks(_item(file, name, path), name)),
        details={"participant": _subject(file)},
    )


def _ragged(table: Any, column: str, path: Path) -> list[np.ndarray]:
    values = np.asarray(table[column])
    ends = np.asarray(table[f"{column}_index"]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    if len(ends) and ((ends < starts).any() or ends[-1] > len(values)):
        raise ValueError(
            f"{path}: the index of units/{column} reaches {ends.max()} of {len(values)} values or "
            "goes back. The file is damaged: fetch it again."
        )
    return [values[a:b] for a, b in zip(starts, ends, strict=True)]


def _places(
    file: Any, units: Any, n: int, metres: float | None, path: Path
) -> tuple[list[str], np.ndarray]:
    """Brain area and position of each unit: of its electrode, or the middle of several."""
    region, position = [""] * n, np.full((n, 3), np.nan)
    table = file.get(_ELECTRODES)
    if "electrodes" not in units or table is None:
        return region, position
    if "electrodes_index" in units:
        rows = _ragged(units, "electrodes", path)
    else:
        rows = list(np.asarray(units["electrodes"]).reshape(n, -1))
    size = len(table["id"])
    if any(len(own) and (min(own) < 0 or max(own) >= size) for own in rows):
        raise ValueError(f"{path}: a unit is assigned to a row beyond the {size} electrodes.")
    place = np.full((size, 3), np.nan)
    if metres is not None and all(axis in table for axis in "xyz"):
        place = np.stack([np.asarray(table[axis], dtype=np.float64) for axis in "xyz"], 1) * metres
    area = [_text(value) for value in table["location"][()]] if "location" in table else [""] * size
    for i, own in enumerate(rows):
        areas = {area[int(k)] for k in own}
        region[i] = areas.pop() if len(areas) == 1 else ""
        known = place[np.asarray(own, dtype=int)]
        known = known[np.isfinite(known).all(axis=1)]
        if len(known):
            position[i] = known.mean(axis=0)
    unknown = ("", "unknown", "n/a", "none", "nan")
    return ["" if name.casefold() in unknown else name for name in region], position


def _item(file: Any, name: str, path: Path) -> Any:
    if name not in file:
        parent = file.get(name.rpartition("/")[0] or "/", {})
        raise ValueError(
            f"{path}: nothing at {name!r}; there are {listed(sorted(parent))}. Correct the card's "
            "reader."
        )
    return file[name]


def _events(item: Any, name: str) -> list[Event]:
    label = name.rpartition("/")[2]
    if "start_time" in item and "stop_time" in item:
        pairs = zip(item["start_time"][()], item["stop_time"][()], strict=True)
        return [Event(float(a), max(float(b - a), 0.0), label) for a, b in pairs if np.isfinite(a)]
    times, values = _series(item, name)
    if values.ndim != 1:
        raise ValueError(f"{name}: event codes have shape {values.shape}, expected one axis.")
    return [
        Event(float(time), 0.0, _text(value))
        for time, value in zip(times, values.tolist(), strict=True)
        if np.isfinite(time)
    ]


def _tracks(item: Any, name: str) -> list[Track]:
    times, values = _series(item, name)
    if not np.issubdtype(values.dtype, np.number) or values.ndim > 2:
        raise ValueError(f"{name}: {values.dtype} of shape {values.shape}, expected numbers.")
    columns = values.reshape(len(values), -1).astype(np.float64)
    attributes = item["data"].attrs
    columns = columns * float(attributes.get("conversion", 1.0))
    label, unit = name.rpartition("/")[2], _text(attributes.get("unit", ""))
    names = [label] if columns.shape[1] == 1 else [f"{label}_{i}" for i in range(columns.shape[1])]
    return [Track(own, times, columns[:, i], unit) for i, own in enumerate(names)]


def _series(item: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    if "data" not in item or not ("timestamps" in item or "starting_time" in item):
        raise ValueError(f"{name}: neither a time series nor a table of intervals.")
    values = np.asarray(item["data"])
    if "timestamps" in item:
        times = np.asarray(item["timestamps"], dtype=np.float64)
    else:
        begin = item["starting_time"]
        times = float(begin[()]) + np.arange(len(values)) / float(begin.attrs["rate"])
    if len(times) != len(values):
        raise ValueError(
            f"{name}: {len(values)} values at {len(times)} times. The file is damaged."
        )
    return times, values


def _span(
    units: Any, times: Sequence[np.ndarray], events: Sequence[Event], path: Path
) -> tuple[float, float]:
    spikes = np.concatenate([own[[0, -1]] for own in times if len(own)] or [np.zeros(0)])
    if not len(spikes) or not np.isfinite(spikes).all():
        raise ValueError(f"{path}: none of {len(times)} units has spikes, or their times are NaN.")
    low, high = float(spikes.min()), float(spikes.max())
    moments = [low, high]
    if "obs_intervals" in units:
        observed = np.asarray(units["obs_intervals"], dtype=np.float64).ravel()
        moments += observed[np.isfinite(observed)].tolist()
    else:
        reach = max(high - low, 1.0)
        near = [e for e in events if low - reach <= e.onset <= high + reach]
        moments += [moment for e in near for moment in (e.onset, e.onset + e.duration)]
        if len(near) < len(events):
            far = len(events) - len(near)
            report(
                Problem(
                    "warning",
                    f"{far} of {len(events)} events are further from the spikes than those are "
                    "long: a clock error.",
                    "They stay in the list, outside the recording; no window is cut there.",
                    "events_off_clock",
                ),
                str(path),
            )
    if min(moments) < 0:
        report(
            Problem(
                "warning",
                f"The recording begins at {min(moments):.3g} s of its own clock.",
                "Times before zero are kept; onsets count from the first moment.",
                "negative_times",
            ),
            str(path),
        )
    return min(moments), max(moments)


def _subject(file: Any) -> dict[str, str]:
    about = file.get("general/subject", {})
    return {key: _text(about[key][()]) for key in _SUBJECT if key in about}


def _text(value: Any) -> str:
    """Text of an attribute or a code; codes stored as 3.0 are "3"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
