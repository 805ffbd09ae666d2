"""Continuous head position: its frequencies, taking them out, and how far the head moved.

Coils on the head send sine waves during the recording, from which the system computes where the
head is. They are far stronger than the brain. `remove_chpi` fits and subtracts them.

Source: MNE-Python's `filter_chpi` (iterative fit of amplitude-modulated sines).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import mne

_MOMENTS = 60  # at which the head's position is looked up, spread over the recording
# CTF: coil n, axis m in channels HLC00nm, metres in the helmet's frame
_CTF_COILS = [[f"HLC00{coil}{axis}" for axis in (1, 2, 3)] for coil in (1, 2, 3)]
# MEGIN: translation in the fourth to sixth quaternion channel, metres
_QUATERNIONS = [[f"{name}{i:03d}" for i in (4, 5, 6)] for name in ("QUAT", "CHPI")]


def chpi_frequencies(info: Mapping[str, Any]) -> list[float]:
    """Frequencies of the head position coils, Hz; empty if the file does not name any."""
    measured = info["hpi_meas"]
    if not measured:
        return []
    coils = measured[-1].get("hpi_coils") or []
    return [float(np.ravel(coil["coil_freq"])[0]) for coil in coils if "coil_freq" in coil]


def remove_chpi(raw: mne.io.BaseRaw, *, where: str) -> str:
    """Subtract the head position coils' signals from a Raw, in place; it is loaded for that.

    Mains noise at the file's line frequency is fitted along where the file names it, or it would
    disturb the fit, and is removed as well.

    Args:
        raw: A recording of a MEGIN system.
        where: For the message.

    Returns:
        What was done, for `Signal.history`.

    Raises:
        ValueError: The file does not say which frequencies, or its rate is too low to hold any.
    """
    import mne

    frequencies = chpi_frequencies(raw.info)
    if not frequencies:
        raise ValueError(
            f"{where}: no continuous head position (cHPI) information in the file, so nothing to "
            "remove. Set `remove_chpi: false` in the card's reader, or take the original file of "
            "the acquisition."
        )
    nyquist = raw.info["sfreq"] / 2
    inside = [freq for freq in frequencies if freq < nyquist]
    if not inside:
        raise ValueError(
            f"{where}: the head position coils send at {min(frequencies):.0f} to "
            f"{max(frequencies):.0f} Hz, which a rate of {raw.info['sfreq']:g} Hz cannot hold: "
            "nothing to remove. Set `remove_chpi: false` in the card's reader."
        )
    raw.load_data(verbose="ERROR")
    line = raw.info["line_freq"] is not None
    try:
        mne.chpi.filter_chpi(raw, include_line=line, verbose="ERROR")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{where}: MNE cannot remove the head position signals ({error}). Set `remove_chpi: "
            "false` in the card's reader."
        ) from error
    names = ", ".join(f"{freq:.0f}" for freq in inside)
    mains = f" and mains at {raw.info['line_freq']:g} Hz" if line else ""
    return f"removed continuous head position signals at {names} Hz{mains} (MNE filter_chpi)"


def head_movement(raw: mne.io.BaseRaw) -> float | None:
    """Largest distance of the head from where it was at the start, millimetres.

    Looked up at a few moments of the recording. None if the file does not follow the head.
    """
    plain = {name.split("-")[0]: name for name in raw.ch_names}
    groups = [[plain[name] for name in group] for group in _CTF_COILS if set(group) <= set(plain)]
    groups = groups or [
        [plain[name] for name in group] for group in _QUATERNIONS if set(group) <= set(plain)
    ]
    if not groups:
        return None
    moments = np.unique(np.linspace(0, raw.n_times - 1, _MOMENTS).astype(int))
    picks = [name for group in groups for name in group]
    track = np.stack(
        [raw.get_data(picks=picks, start=i, stop=i + 1)[:, 0] for i in map(int, moments)]
    )
    track = track.reshape(len(moments), len(groups), 3)
    # All zero: the coils were off at that moment.
    known = track[np.abs(track).sum(axis=(1, 2)) > 0]
    if not len(known):
        return None
    distance = np.linalg.norm(known - known[0], axis=2)
    return float(1000 * distance.max())
