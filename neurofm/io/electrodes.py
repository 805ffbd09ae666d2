"""Names and template positions of scalp electrodes.

Files spell the 10-10 names in many ways ("Fc5.", "EEG Fp1-REF", "FP1"). `standard_name` finds the
spelling of a montage; `template_positions` gives where that electrode sits on an average head.

Source: the montages shipped with MNE-Python.
Axes: channel x 3, metres, head frame.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

from neurofm.io.quality import matches
from neurofm.shapes import Float
from neurofm.types import Sensors
from neurofm.units import Kind

# Added by recording systems around the electrode's name. A bipolar pair ("T8-P8", "A2-A1") is left
# alone: it has no single position.
_PREFIX = re.compile(r"^(EEG|SEEG)[\s_-]+", re.IGNORECASE)
_REFERENCE = re.compile(r"[\s_-]*-\s*(REF|LE|AR|AVG|AVERAGE|CAR)$", re.IGNORECASE)
_KIND_BY_NAME = (
    (re.compile(r"^[VH]?EOG", re.IGNORECASE), Kind.EOG),
    (re.compile(r"^(ECG|EKG)", re.IGNORECASE), Kind.ECG),
    (re.compile(r"^EMG", re.IGNORECASE), Kind.EMG),
    (re.compile(r"^DC\d+$"), Kind.OTHER),  # auxiliary input of a clinical amplifier
)


@functools.cache
def template_positions(montage: str) -> dict[str, tuple[float, float, float]]:
    """Position of every electrode of a montage, metres in the head frame.

    Raises:
        ValueError: No montage of that name; the message lists some.
    """
    import mne

    try:
        # Newer MNE calls standard_1005 by another name, and says so twice.
        with warnings.catch_warnings(), mne.utils.use_log_level("ERROR"):
            warnings.simplefilter("ignore")
            layout = mne.channels.make_standard_montage(montage)
    except ValueError as error:
        known = ", ".join(mne.channels.get_builtin_montages())
        raise ValueError(f"montage {montage!r} is not one of MNE's montages: {known}.") from error
    info = mne.create_info(layout.ch_names, 100.0, "eeg")
    # set_montage also turns the template into the head frame, by its fiducials.
    info.set_montage(layout)
    return {
        channel["ch_name"]: (
            float(channel["loc"][0]),
            float(channel["loc"][1]),
            float(channel["loc"][2]),
        )
        for channel in info["chs"]
    }


@functools.cache
def _spelling(montage: str) -> dict[str, str]:
    return {name.lower(): name for name in template_positions(montage)}


def standard_name(name: str, montage: str = "standard_1005") -> str:
    """The montage's spelling of an electrode, or the name without padding if it has none.

    "Fc5." gives "FC5", "EEG Fp1-REF" gives "Fp1"; "EEG A2-A1" stays "EEG A2-A1".
    """
    spelling = _spelling(montage)
    plain = name.strip().rstrip(".").strip()
    bare = _REFERENCE.sub("", _PREFIX.sub("", plain))
    for candidate in (plain, bare):
        if candidate.lower() in spelling:
            return spelling[candidate.lower()]
    return plain


def positions_of(names: Sequence[str], montage: str) -> Float[np.ndarray, "channel 3"]:
    """Template position of each name, whatever its case; NaN where the montage has none."""
    table = template_positions(montage)
    spelling = _spelling(montage)
    unknown = (np.nan, np.nan, np.nan)
    return np.array(
        [table.get(spelling.get(name.lower(), name), unknown) for name in names], dtype=np.float64
    ).reshape(-1, 3)


def named_sensors(
    names: Sequence[str],
    position: Float[np.ndarray, "channel 3"] | None,
    *,
    kind: Kind,
    kinds: Mapping[str, str],
    montage: str | None,
    frame: str,
) -> Sensors:
    """Channels of which only the names are known.

    Args:
        names: In order.
        position: Where they are; EEG of a montage goes where the montage has it.
        kind: Of those that `kinds` does not name.
        kinds: Name or wildcard -> kind.
        montage: MNE template for EEG.
        frame: Of the positions.
    """
    found = np.full(len(names), kind, dtype=np.int8)
    for i, name in enumerate(names):
        word = next((w for pattern, w in kinds.items() if matches(name, [pattern])), None)
        found[i] = found[i] if word is None else Kind[word.upper()]
    if position is None:
        position = np.full((len(names), 3), np.nan)
    if montage:
        eeg = np.flatnonzero(found == Kind.EEG)
        position[eeg] = positions_of([names[int(i)] for i in eeg], montage)
    return Sensors(tuple(names), found, position, np.zeros((len(names), 3)), frame)


def kind_from_name(name: str) -> Kind | None:
    """Kind of an EOG, ECG, EMG or auxiliary channel by its name; EDF and its kin declare none."""
    bare = _PREFIX.sub("", name.strip())
    for pattern, kind in _KIND_BY_NAME:
        if pattern.match(bare):
            return kind
    return None
