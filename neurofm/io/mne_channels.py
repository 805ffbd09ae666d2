"""The channels of an MNE object: which stay, their kinds, units, places and directions.

MNE types an axial gradiometer "mag", because its unit is tesla: the coil tells them apart.
Positions go to the head frame (MEG through `dev_head_t`). The orientation of a MEG sensor is the
direction it senses: the coil's normal (`loc[9:12]`) for magnetometers and axial gradiometers, the
direction of the derivative (`loc[3:6]`) for planar gradiometers, as BrainOmni uses it.

Source: MNE-Python (Gramfort et al. 2013).
Axes: channel x 3 in metres.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from neurofm.io.electrodes import kind_from_name, standard_name
from neurofm.io.quality import Problem, listed, matches, report
from neurofm.units import UNITS, Kind, si_factor

if TYPE_CHECKING:
    import mne


@runtime_checkable
class Source(Protocol):
    """What MNE's Raw, Epochs and Evoked have in common."""

    info: mne.Info
    ch_names: list[str]

    def get_channel_types(self) -> list[str]:
        """MNE's type of each channel."""
        ...


MEG_KINDS = (Kind.MAG, Kind.GRAD, Kind.AXIAL, Kind.MEG_REF)
_ELECTRODES = (Kind.EEG, Kind.SEEG, Kind.ECOG, Kind.EOG, Kind.EMG, Kind.ECG)
KIND_OF_TYPE = {
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
_DEVICE_FRAME = 1  # FIFFV_COORD_DEVICE
_TESLA_PER_METRE = 201  # FIFF_UNIT_T_M
_CTF_SERIAL = re.compile(r"-\d+$")  # "MLC11-2908": the system's serial number


@dataclass(frozen=True)
class Channels:
    """What a card says about the channels of its recordings.

    Args:
        montage: MNE template whose positions are given to EEG electrodes without one.
        standardize: Spell EEG names as the montage does ("Fc5." becomes "FC5"), MEG names as
            their maker documents them ("MLC11-2908" becomes "MLC11", "MEG0113" "MEG 0113").
        rename: File name of a channel -> name; applied first.
        kinds: Channel name or wildcard -> `Kind` name, for files that do not declare it (or
            wrongly).
        exclude: Names or wildcards of channels to leave out.
        unit: What the numbers MNE returns really are, if the file declares it wrongly: a unit such
            as "uV", or SI units per number; for all channels or per kind name.
    """

    montage: str | None = None
    standardize: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    unit: str | float | Mapping[str, str | float] | None = None


def choose_channels(
    source: Source, where: str, channels: Channels
) -> tuple[list[int], list[str], np.ndarray, list[str]]:
    """Indices, names and kinds of the channels that stay, and the names of those that do not.

    Raises:
        ValueError: No channel stays, names collide, or a declared kind is unknown.
    """
    chosen, names, found, dropped = [], [], [], []
    for i, mne_type in enumerate(source.get_channel_types()):
        original = source.ch_names[i]
        name = channels.rename.get(original, original)
        kind = KIND_OF_TYPE.get(mne_type)
        if kind == Kind.EEG:
            kind = kind_from_name(name) or kind
        elif kind == Kind.MAG and _is_gradiometer(int(source.info["chs"][i]["coil_type"])):
            kind = Kind.AXIAL
        kind = _declared_kind(name, channels.kinds, where) or kind
        if channels.standardize and kind == Kind.EEG:
            name = standard_name(name, channels.montage or "standard_1005")
        elif channels.standardize and kind in MEG_KINDS:
            name = _standard_meg_name(name)
        if kind is None or any(matches(n, channels.exclude) for n in (original, name)):
            dropped.append(original)
            continue
        chosen.append(i)
        names.append(name)
        found.append(int(kind))
    absent = sorted(set(channels.rename) - set(source.ch_names))
    if absent:
        report(
            Problem(
                "warning",
                f"{len(absent)} of {len(channels.rename)} channels to rename are not in the file: "
                f"{listed(absent)}.",
                "The file's own spelling counts: correct `rename` in the card's reader.",
                "rename_absent",
            ),
            where,
            stacklevel=5,
        )
    if not chosen:
        raise ValueError(
            f"{where}: none of the {len(source.ch_names)} channels measures a brain or body signal "
            f"({listed(source.ch_names)}). Declare them with `kinds` in the card's reader."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        origin = [
            source.ch_names[i] for i, name in zip(chosen, names, strict=True) if name in twice
        ]
        raise ValueError(
            f"{where}: channels {listed(origin)} end up with the same names {listed(twice)}. "
            "Give one of them another name with `rename`, or leave it out with `exclude`, in the "
            "card's reader."
        )
    return chosen, names, np.array(found, dtype=np.int8), dropped


def _standard_meg_name(name: str) -> str:
    """Name without what differs between systems of one maker."""
    plain = re.sub(r"^MEG\s*(\d{3,4})$", r"MEG \1", name.strip())
    return _CTF_SERIAL.sub("", plain)


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


@functools.cache
def _is_gradiometer(coil_type: int) -> bool:
    from mne.io.constants import FIFF

    coil = coil_type & 0xFFFF
    return any(
        "GRAD" in name and int(value) == coil
        for name, value in FIFF.items()
        if name.startswith("FIFFV_COIL_")
    )


def geometry_of(
    source: Source, chosen: Sequence[int], kind: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Positions and sensed directions in the head frame, and the name of the frame."""
    loc = np.array([source.info["chs"][i]["loc"][:12] for i in chosen], dtype=np.float64)
    device = np.array([int(source.info["chs"][i]["coord_frame"]) == _DEVICE_FRAME for i in chosen])
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
        transform = source.info["dev_head_t"]
        # Systems without head localization store no transform, or one that does nothing.
        if transform is None or np.allclose(transform["trans"], np.eye(4)):
            frame = "unknown"
            report(
                Problem(
                    "warning",
                    f"The head's position in the helmet is not in the file: {int(device.sum())} "
                    "sensor "
                    "positions stay in the helmet's frame.",
                    "Take the file with head localization if there is one; for KIT, put its marker "
                    "file, .elp and .hsp beside it.",
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


def reference_gradiometers(source: Source, chosen: Sequence[int], kind: np.ndarray) -> list[int]:
    """Which of the chosen channels are references in T/m: of 4D, whose others are in T."""
    return [
        at
        for at, i in enumerate(chosen)
        if kind[at] == Kind.MEG_REF and int(source.info["chs"][i]["unit"]) == _TESLA_PER_METRE
    ]


def working_factors(
    kind: np.ndarray, unit: str | float | Mapping[str, str | float] | None, where: str
) -> np.ndarray:
    """Working units per number of each channel."""
    factor = np.array([UNITS[Kind(int(k))].per_si for k in kind])
    overrides = unit if isinstance(unit, Mapping) else {None: unit}
    for name, given in overrides.items():
        if given is not None:
            wanted = _ELECTRODES if name is None else [Kind[name.upper()]]
            factor[np.isin(kind, wanted)] *= si_factor(given, where=where)
    return factor
