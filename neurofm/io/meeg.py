"""MNE recordings to `Signal` and back: EEG, MEG, sEEG and ECoG.

Numbers go from SI to working units on entry and back on exit, positions to the head frame, stimulus
channels to events; `mne_channels` says how channels are chosen and placed.

Source: MNE-Python (Gramfort et al. 2013).
Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.electrodes import positions_of
from neurofm.io.mne_channels import (
    KIND_OF_TYPE,
    MEG_KINDS,
    Channels,
    Source,
    choose_channels,
    geometry_of,
    reference_gradiometers,
    working_factors,
)
from neurofm.io.provenance import clock_gaps, details_of
from neurofm.io.quality import Problem, listed, report
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind

if TYPE_CHECKING:
    import mne

_TYPE_OF_KIND = {
    **{kind: name for name, kind in KIND_OF_TYPE.items() if name != "dbs"},
    Kind.AXIAL: "mag",
}
_COIL_OF_KIND = {Kind.MAG: 3022, Kind.GRAD: 3012, Kind.AXIAL: 5001, Kind.MEG_REF: 5002}
_TRIGGERS = ("STI101", "STI 014", "Status", "STATUS", "Trigger", "UPPT001", "STI 001")
BLOCK_VALUES = 2**22  # float64 values converted at a time, so that memory stays near the result's
_HELMET_CENTRE = np.array([0.0, 0.0, 0.04])  # metres, head frame: about where helmets have theirs
BOUNDARY = "EDGE boundary"
_MOVED_MM = 10.0  # further than that, the sensors see other places of the brain


def signal_from_raw(
    raw: mne.io.BaseRaw,
    recording: Recording,
    *,
    montage: str | None = None,
    standardize: bool = False,
    rename: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    unit: str | float | Mapping[str, str | float] | None = None,
    event_channel: str | None = None,
) -> Signal:
    """A `Signal` in working units from an MNE Raw; the Raw is left as it is.

    Args:
        raw: Any MNE Raw, loaded or not.
        recording: What it is.
        montage: As in `Channels`, like the following.
        event_channel: Stimulus channel read as events besides the annotations. "auto" takes the
            usual trigger channel if there are no annotations.

    Raises:
        ValueError: No samples, no channel left, names that collide, an unknown kind or unit.
    """
    where = str(recording.path or recording.id)
    channels = Channels(montage, standardize, rename or {}, kinds or {}, exclude, unit)
    events = [*annotated_events(raw, event_channel, where), *clock_gaps(raw, BOUNDARY, where)]
    details = details_of(raw)
    if details.get("head_movement_mm", 0.0) > _MOVED_MM:
        report(
            Problem(
                "warning",
                f"The head moved by up to {details['head_movement_mm']:.0f} mm.",
                "Sensor positions are those at the start: compensate the movement (MaxFilter, or "
                "MNE's maxwell_filter with head positions).",
                "head_movement",
            ),
            where,
        )
    return assemble(
        raw,
        recording,
        channels=channels,
        n_times=int(raw.n_times),
        pieces=lambda picks: _pieces(raw, picks),
        events=events,
        details=details,
    )


def assemble(
    source: Source,
    recording: Recording,
    *,
    channels: Channels,
    n_times: int,
    pieces: Callable[[list[int]], Iterable[np.ndarray]],
    events: Iterable[Event],
    details: Mapping[str, Any],
) -> Signal:
    """A `Signal` from the channels of an MNE object and a source of their samples.

    Args:
        source: Names, types and geometry of the channels.
        recording: What it is.
        channels: What the card says about them.
        n_times: Samples in all pieces together.
        pieces: Called once with the indices of the channels that stay; gives consecutive pieces of
            them (`channel time`, SI units).
        events: In any order; exact repetitions are dropped and counted.
        details: As in `Signal`.

    Raises:
        ValueError: As `signal_from_raw`.
    """
    where = str(recording.path or recording.id)
    if n_times < 1:
        raise ValueError(f"{where}: the recording has no samples.")
    chosen, names, kind, dropped = choose_channels(source, where, channels)
    position, orientation, frame = geometry_of(source, chosen, kind, where)
    if channels.montage is not None:
        free = (kind == Kind.EEG) & ~np.isfinite(position).all(axis=1)
        position[free] = positions_of([names[i] for i in np.flatnonzero(free)], channels.montage)
    history = [f"read {recording.path.name if recording.path else recording.id}"]
    if dropped:
        history.append(f"left out {len(dropped)} channels: {listed(dropped)}")
    factor = working_factors(kind, channels.unit, where)
    gradients = reference_gradiometers(source, chosen, kind)
    if gradients:
        factor[gradients] = UNITS[Kind.GRAD].per_si
        units = {names[i]: UNITS[Kind.GRAD].name for i in gradients}
        details = {**details, "units": units}
    data = np.empty((len(chosen), n_times), dtype=np.float32)
    start = 0
    for piece in pieces(chosen):
        data[:, start : start + piece.shape[1]] = piece * factor[:, None]
        start += piece.shape[1]
    return Signal(
        data=data,
        sfreq=float(source.info["sfreq"]),
        sensors=Sensors(tuple(names), kind, position, orientation, frame),
        events=_ordered(events, where),
        recording=recording,
        history=tuple(history),
        details=details,
    )


def _ordered(events: Iterable[Event], where: str) -> tuple[Event, ...]:
    events = list(events)
    kept = sorted(set(events), key=lambda event: (event.onset, event.label, event.duration))
    if len(kept) < len(events):
        report(
            Problem(
                "warning",
                f"{len(events) - len(kept)} of {len(events)} events are there twice, with the same "
                "onset, duration and label.",
                "The copies were dropped.",
                "duplicate_events",
            ),
            where,
            stacklevel=5,
        )
    return tuple(kept)


def _pieces(raw: mne.io.BaseRaw, picks: list[int]) -> Iterator[np.ndarray]:
    step = max(BLOCK_VALUES // len(picks), 1)
    for start in range(0, raw.n_times, step):
        yield raw.get_data(picks=picks, start=start, stop=min(start + step, raw.n_times))


def annotated_events(raw: mne.io.BaseRaw, event_channel: str | None, where: str) -> list[Event]:
    """Annotations and, if asked for, the rising steps of a stimulus channel, in no order."""
    # Annotations count from the start of acquisition, the data from the first stored sample.
    events = [
        Event(float(onset) - raw.first_time, float(duration), str(label).strip())
        for onset, duration, label in zip(
            raw.annotations.onset,
            raw.annotations.duration,
            raw.annotations.description,
            strict=True,
        )
    ]
    stimulus = event_channel
    if event_channel == "auto":
        present = [name for name in _TRIGGERS if name in raw.ch_names]
        stimulus = present[0] if present and not events else None
    if stimulus is not None:
        import mne

        if stimulus not in raw.ch_names:
            raise ValueError(
                f"{where}: event channel {stimulus!r} is not in the file. Channels: "
                f"{listed(raw.ch_names)}."
            )
        found = mne.find_events(
            raw, stimulus, shortest_event=1, uint_cast=True, verbose="ERROR", output="onset"
        )
        events += [
            Event((int(sample) - raw.first_samp) / raw.info["sfreq"], 0.0, str(int(code)))
            for sample, _, code in found
        ]
    return events


def signal_to_raw(signal: Signal) -> mne.io.RawArray:
    """An MNE Raw in SI units, with head-frame positions and the events as annotations.

    Kinds MNE does not know (BOLD, UNIT, OTHER) become "misc". The device frame of MEG sensors is
    the head frame shifted upwards, as a helmet's would be; it is absent if the frame is not head.
    """
    import mne

    kinds = [Kind(int(value)) for value in signal.sensors.kind]
    types = [_TYPE_OF_KIND.get(kind, "misc") for kind in kinds]
    info = mne.create_info(list(signal.sensors.names), signal.sfreq, types)
    with info._unlock():
        shift = np.zeros(3)
        if signal.sensors.frame == "head":
            shift = _HELMET_CENTRE
            transform = np.eye(4)
            transform[:3, 3] = shift
            info["dev_head_t"] = mne.Transform("meg", "head", transform)
        for channel, kind, position, direction in zip(
            info["chs"], kinds, signal.sensors.position, signal.sensors.orientation, strict=True
        ):
            channel["loc"][:3] = position
            if kind in MEG_KINDS:
                channel["loc"][:3] = position - shift
                channel["coil_type"] = _COIL_OF_KIND[kind]
                channel["loc"][3:12] = _coil_axes(position, direction, kind).ravel()
    factor = np.array([UNITS[kind].per_si for kind in kinds])
    raw = mne.io.RawArray(signal.data / factor[:, None], info, verbose="ERROR")
    raw.set_annotations(
        mne.Annotations(
            [event.onset for event in signal.events],
            [event.duration for event in signal.events],
            [event.label for event in signal.events],
        ),
        verbose="ERROR",
    )
    return raw


def _coil_axes(position: np.ndarray, direction: np.ndarray, kind: Kind) -> np.ndarray:
    """Rows ex, ey, ez of a coil whose sensed direction is given; the free angle is arbitrary."""
    if not direction.any():
        return np.eye(3)
    other = np.nan_to_num(position) + np.array([1e-6, 2e-6, 3e-6])
    other = other - direction * (other @ direction)
    other = other / np.linalg.norm(other)
    if kind == Kind.GRAD:  # `direction` is ex, the outward direction ez
        return np.stack([direction, np.cross(other, direction), other])
    return np.stack([other, np.cross(direction, other), direction])
