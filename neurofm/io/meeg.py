"""MNE recordings to `Signal` and back: EEG, MEG, sEEG and ECoG.

Numbers go from SI to working units on entry and back on exit, positions to the head frame (MEG
through `dev_head_t`), stimulus channels to events. Positions of electrodes are `loc[0:3]`. The
orientation of a MEG sensor is the direction it senses: the coil's normal (`loc[9:12]`) for
magnetometers and axial gradiometers, the direction of the derivative (`loc[3:6]`) for planar
gradiometers, as BrainOmni uses it.

Source: MNE-Python (Gramfort et al. 2013).
Axes: channel time; channel x 3 in metres.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.electrodes import kind_from_name, positions_of, standard_name
from neurofm.io.quality import Problem, listed, matches, report
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import UNITS, Kind, si_factor

if TYPE_CHECKING:
    import mne

MEG_KINDS = (Kind.MAG, Kind.GRAD, Kind.AXIAL, Kind.MEG_REF)
_ELECTRODES = (Kind.EEG, Kind.SEEG, Kind.ECOG, Kind.EOG, Kind.EMG, Kind.ECG)
_KIND_OF_TYPE = {
    "eeg": Kind.EEG,
    "mag": Kind.MAG,
    "grad": Kind.GRAD,
    "ref_meg": Kind.MEG_REF,
    "seeg": Kind.SEEG,
    "dbs": Kind.SEEG,
    "ecog": Kind.ECOG,
    "eog": Kind.EOG,
    "emg": Kind.EMG,
    "ecg": Kind.ECG,
}
_TYPE_OF_KIND = {
    **{kind: name for name, kind in _KIND_OF_TYPE.items() if name != "dbs"},
    Kind.AXIAL: "mag",
}
# MNE types an axial gradiometer "mag", because its unit is tesla; the coil tells them apart.
_COIL_OF_KIND = {Kind.MAG: 3022, Kind.GRAD: 3012, Kind.AXIAL: 5001, Kind.MEG_REF: 5002}
_TRIGGERS = ("STI101", "STI 014", "Status", "STATUS", "Trigger", "UPPT001", "STI 001")
_BLOCK_VALUES = 2**22  # float64 values converted at a time, so that memory stays near the result's
_HELMET_CENTRE = np.array([0.0, 0.0, 0.04])  # metres, head frame: about where helmets have theirs
_DEVICE_FRAME = 1  # FIFFV_COORD_DEVICE


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
        montage: MNE template whose positions are given to EEG electrodes without one.
        standardize: Spell EEG names as the montage does ("Fc5." becomes "FC5").
        rename: File name of a channel -> name; applied first.
        kinds: Channel name or wildcard -> `Kind` name, for files that do not declare it (or
        wrongly). exclude: Names or wildcards of channels to leave out.
        unit: What the numbers MNE returns really are, if the file declares it wrongly: a unit such
            as "uV", or SI units per number; for all channels or per kind name.
        event_channel: Stimulus channel read as events besides the annotations. "auto" takes the
            usual trigger channel if there are no annotations.

    Raises:
        ValueError: No samples, no channel left, names that collide, an unknown kind or unit.
    """
    where = str(recording.path or recording.id)
    if raw.n_times < 1:
        raise ValueError(f"{where}: the recording has no samples.")
    chosen, names, kind, dropped = _channels(
        raw, where, standardize, rename, kinds, exclude, montage
    )
    position, orientation, frame = _geometry(raw, chosen, kind, where)
    if montage is not None:
        free = (kind == Kind.EEG) & ~np.isfinite(position).all(axis=1)
        position[free] = positions_of([names[i] for i in np.flatnonzero(free)], montage)
    sensors = Sensors(tuple(names), kind, position, orientation, frame)
    history = [f"read {recording.path.name if recording.path else recording.id}"]
    if dropped:
        history.append(f"left out {len(dropped)} channels: {listed(dropped)}")
    return Signal(
        data=_working_units(raw, chosen, kind, unit, where),
        sfreq=float(raw.info["sfreq"]),
        sensors=sensors,
        events=_events(raw, event_channel, where),
        recording=recording,
        history=tuple(history),
    )


def _channels(
    raw: mne.io.BaseRaw,
    where: str,
    standardize: bool,
    rename: Mapping[str, str] | None,
    kinds: Mapping[str, str] | None,
    exclude: Sequence[str],
    montage: str | None,
) -> tuple[list[int], list[str], np.ndarray, list[str]]:
    """Indices, names and kinds of the channels that stay, and the names of those that do not."""
    rename = dict(rename or {})
    chosen, names, found, dropped = [], [], [], []
    for i, mne_type in enumerate(raw.get_channel_types()):
        original = raw.ch_names[i]
        name = rename.get(original, original)
        kind = _KIND_OF_TYPE.get(mne_type)
        if kind == Kind.EEG:
            kind = kind_from_name(name) or kind
        elif kind == Kind.MAG and _is_gradiometer(raw.info["chs"][i]):
            kind = Kind.AXIAL
        kind = _declared_kind(name, kinds or {}, where) or kind
        if standardize and kind == Kind.EEG:
            name = standard_name(name, montage or "standard_1005")
        if kind is None or matches(original, exclude) or matches(name, exclude):
            dropped.append(original)
            continue
        chosen.append(i)
        names.append(name)
        found.append(int(kind))
    if not chosen:
        raise ValueError(
            f"{where}: none of the {len(raw.ch_names)} channels measures a brain or body signal "
            f"({listed(raw.ch_names)}). Declare them with `kinds` in the card's reader."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        origin = [raw.ch_names[i] for i, name in zip(chosen, names, strict=True) if name in twice]
        raise ValueError(
            f"{where}: channels {listed(origin)} end up with the same names {listed(twice)}. "
            "Give one of "
            "them another name with `rename`, or leave it out with `exclude`, in the card's reader."
        )
    return chosen, names, np.array(found, dtype=np.int8), dropped


def _declared_kind(name: str, kinds: Mapping[str, str], where: str) -> Kind | None:
    for pattern, kind in kinds.items():
        if matches(name, [pattern]):
            try:
                return Kind[kind.upper()]
            except KeyError:
                raise ValueError(
                    f"{where}: kind {kind!r} of channel {name!r} is not one of "
                    f"{', '.join(k.name.lower() for k in Kind if k >= 0)}."
                ) from None
    return None


def _is_gradiometer(channel: Mapping[str, Any]) -> bool:
    from mne.io.constants import FIFF

    coil = int(channel["coil_type"]) & 0xFFFF
    return any(
        "GRAD" in name and int(value) == coil
        for name, value in FIFF.items()
        if name.startswith("FIFFV_COIL_")
    )


def _geometry(
    raw: mne.io.BaseRaw, chosen: Sequence[int], kind: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions and sensed directions in the head frame, and the name of the frame."""
    loc = np.array([raw.info["chs"][i]["loc"][:12] for i in chosen], dtype=np.float64)
    device = np.array([int(raw.info["chs"][i]["coord_frame"]) == _DEVICE_FRAME for i in chosen])
    position = loc[:, :3].copy()
    position[~np.isfinite(position).all(axis=1) | (position == 0).all(axis=1)] = np.nan
    is_meg = np.isin(kind, MEG_KINDS)
    direction = np.where((kind == Kind.GRAD)[:, None], loc[:, 3:6], loc[:, 9:12])
    length = np.linalg.norm(np.nan_to_num(direction), axis=1, keepdims=True)
    direction = np.where(
        is_meg[:, None] & (length > 0.5), direction / np.maximum(length, 1e-12), 0.0
    )
    frame = "head"
    if device.any():
        transform = raw.info["dev_head_t"]
        # Systems without head localization store no transform, or one that does nothing.
        if transform is None or np.allclose(transform["trans"], np.eye(4)):
            frame = "unknown"
            report(
                Problem(
                    "warning",
                    f"The head's position in the helmet is not in the file: {int(device.sum())} "
                    "sensor "
                    "positions stay in the helmet's frame.",
                    "Take the file with head localization if there is one.",
                    "no_head_position",
                ),
                where,
                stacklevel=4,
            )
        else:
            rotation, shift = transform["trans"][:3, :3], transform["trans"][:3, 3]
            position[device] = position[device] @ rotation.T + shift
            direction[device] = direction[device] @ rotation.T
    return position, direction, frame


def _working_units(
    raw: mne.io.BaseRaw,
    chosen: Sequence[int],
    kind: np.ndarray,
    unit: str | float | Mapping[str, str | float] | None,
    where: str,
) -> np.ndarray:
    factor = np.array([UNITS[Kind(int(k))].per_si for k in kind])
    overrides = unit if isinstance(unit, Mapping) else {None: unit}
    for name, given in overrides.items():
        if given is not None:
            wanted = _ELECTRODES if name is None else [Kind[name.upper()]]
            factor[np.isin(kind, wanted)] *= si_factor(given, where=where)
    data = np.empty((len(chosen), raw.n_times), dtype=np.float32)
    step = max(_BLOCK_VALUES // len(chosen), 1)
    for start in range(0, raw.n_times, step):
        stop = min(start + step, raw.n_times)
        data[:, start:stop] = (
            raw.get_data(picks=list(chosen), start=start, stop=stop) * factor[:, None]
        )
    return data


def _events(raw: mne.io.BaseRaw, event_channel: str | None, where: str) -> tuple[Event, ...]:
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
    return tuple(sorted(events, key=lambda event: (event.onset, event.label)))


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
