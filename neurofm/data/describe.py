"""What the windows of a training or test side are: for contracts, and for the card of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.amplitudes import channel_amplitudes, summarize
from neurofm.contract import Given
from neurofm.data.windows import Windows
from neurofm.units import Kind

_LOOKED_AT = 32  # windows whose amplitudes are measured, spread over all
_HISTORIES = 32  # recordings whose steps are compared


@dataclass(frozen=True)
class Description:
    """What windows are.

    Args:
        given: Every combination of sensors, rate, band and unit that occurs.
        amplitude: Of channels of some windows, by kind.
        facts: Plain data: datasets, numbers of recordings, people and windows, rate, unit, band,
            window, kinds, steps of preparation that all recordings share.
    """

    given: tuple[Given, ...]
    amplitude: dict[str, list[float]]
    facts: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the channels if all windows share them in one order."""
        found = {given.names for given in self.given}
        return found.pop() if len(found) == 1 else None

    @property
    def band(self) -> tuple[float, float] | None:
        """Hz, from the lowest to the highest frequency of any window; None if one is unknown."""
        bands = [given.band for given in self.given if given.band is not None]
        if len(bands) < len(self.given):
            return None
        return min(low for low, _ in bands), max(high for _, high in bands)

    @property
    def statistics(self) -> dict[str, Any]:
        """Median and spread of the amplitudes of channels, by kind, in the unit of the data."""
        return {"amplitude": summarize(self.amplitude)}


def describe(windows: Windows, indices: Sequence[int] | np.ndarray) -> Description:
    """What the windows at `indices` are; a few of them are read."""
    index = np.asarray(indices, dtype=np.int64)
    recordings = np.unique(windows.recording[index])
    table = windows.table
    given: dict[tuple[Any, ...], Given] = {}
    for number in recordings.tolist():
        signal = windows.signal([number])
        sfreq = float(table.sfreq[number])
        key = (int(table.sensors[number]), sfreq, signal)
        if key not in given:
            given[key] = _given(windows, number, sfreq)
    rates = sorted({item.sfreq for item in given.values()})
    kinds = {kind for item in given.values() for kind in item.kinds or ()}
    found = Description(tuple(given.values()), _amplitudes(windows, index), {})
    people = {(int(table.dataset.index[i]), int(table.subject.index[i])) for i in recordings}
    facts = {
        "datasets": sorted({table.dataset.names[table.dataset.index[i]] for i in recordings}),
        "recordings": len(recordings),
        "subjects": len(people),
        "windows": len(index),
        "window_s": windows.window_s,
        "kinds": sorted(kinds),
        "sfreq": rates[0] if len(rates) == 1 else rates,
        "unit": next(iter(given.values())).unit if given else "physical",
        "band": None if found.band is None else list(found.band),
        "preparation": _shared_steps(windows, recordings),
    }
    return Description(found.given, found.amplitude, facts)


def _given(windows: Windows, recording: int, sfreq: float) -> Given:
    table = windows.table
    store, place = table.sensor_set[table.sensors[recording]].tolist()
    sensors = windows.stores[store].sensor_sets[place]
    signal = windows.signal([recording])
    return Given(
        sfreq=sfreq,
        n_times=round(windows.window_s * sfreq),
        unit=signal.unit,
        kinds=tuple(sorted({Kind(int(kind)).name.lower() for kind in sensors.kind})),
        names=sensors.names,
        n_channels=(len(sensors), len(sensors)),
        band=signal.band,
        n_unplaced=int((~sensors.has_position).sum()),
    )


def _amplitudes(windows: Windows, index: np.ndarray) -> dict[str, list[float]]:
    chosen = np.unique(np.linspace(0, max(len(index) - 1, 0), min(_LOOKED_AT, len(index))))
    found: dict[str, list[float]] = {}
    for at in chosen.astype(int).tolist():
        batch = windows.batch(index[at : at + 1])
        if not batch.has_signal:
            return {}
        for kind, values in channel_amplitudes(batch).items():
            found.setdefault(kind, []).extend(values)
    return found


def _shared_steps(windows: Windows, recordings: np.ndarray) -> list[str]:
    """Lines of history that recordings have in common, in order."""
    chosen = recordings[
        np.linspace(0, len(recordings) - 1, min(_HISTORIES, len(recordings)), dtype=int)
    ]
    table, shared = windows.table, None
    for number in chosen.tolist():
        lines = windows.stores[table.store[number]].history(int(table.place[number]))
        shared = list(lines) if shared is None else [line for line in shared if line in lines]
    return shared or []
