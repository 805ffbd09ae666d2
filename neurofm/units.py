"""Channel kinds and the units that go with them.

Recordings are held in *working units*, which keep numbers near 1-100 in float32: microvolts for
electrodes, femtotesla for magnetometers and axial gradiometers, femtotesla per centimetre for
planar gradiometers, percent signal change for BOLD. `neurofm.io` converts from SI on entry and back
on exit; nobody else multiplies by powers of ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from neurofm.shapes import Float, Int


class Kind(IntEnum):
    """What a channel measures. The first three values are BrainOmni's sensor types."""

    PAD = -1
    EEG = 0
    MAG = 1
    GRAD = 2
    AXIAL = 3
    MEG_REF = 4
    SEEG = 5
    ECOG = 6
    EOG = 7
    EMG = 8
    ECG = 9
    BOLD = 10
    UNIT = 11
    OTHER = 12
    SOURCE = 13


@dataclass(frozen=True)
class Unit:
    """A working unit.

    Args:
        name: As printed beside numbers.
        per_si: Working units in one SI unit (MNE's unit of that kind).
        low: Smallest plausible standard deviation of one second of signal, working units.
        high: Largest plausible one.
    """

    name: str
    per_si: float
    low: float = 0.0
    high: float = np.inf


_MICROVOLT = Unit("µV", 1e6, low=0.3, high=1000.0)
_INTRACRANIAL = Unit("µV", 1e6, low=0.3, high=20_000.0)
_FEMTOTESLA = Unit("fT", 1e15, low=10.0, high=100_000.0)
UNITS: dict[Kind, Unit] = {
    Kind.EEG: _MICROVOLT,
    Kind.MAG: _FEMTOTESLA,
    Kind.GRAD: Unit("fT/cm", 1e13, low=3.0, high=50_000.0),
    Kind.AXIAL: _FEMTOTESLA,
    Kind.MEG_REF: Unit("fT", 1e15),
    Kind.SEEG: _INTRACRANIAL,
    Kind.ECOG: _INTRACRANIAL,
    Kind.EOG: Unit("µV", 1e6),
    Kind.EMG: Unit("µV", 1e6),
    Kind.ECG: Unit("µV", 1e6),
    Kind.BOLD: Unit("%", 1.0),
    Kind.UNIT: Unit("count", 1.0),
    Kind.OTHER: Unit("", 1.0),
    Kind.SOURCE: Unit("noise SD", 1.0),
}
# SI units in one of the units a file may hold its numbers in
_SI: dict[str, float] = {
    "V": 1.0,
    "mV": 1e-3,
    "uV": 1e-6,
    "µV": 1e-6,
    "nV": 1e-9,
    "T": 1.0,
    "pT": 1e-12,
    "fT": 1e-15,
    "T/m": 1.0,
    "fT/cm": 1e-13,
}
BRAIN_KINDS = (
    Kind.EEG,
    Kind.MAG,
    Kind.GRAD,
    Kind.AXIAL,
    Kind.SEEG,
    Kind.ECOG,
    Kind.BOLD,
    Kind.UNIT,
    Kind.SOURCE,
)


def si_factor(unit: str | float, *, where: str) -> float:
    """SI units per number held in `unit`.

    Args:
        unit: A name such as "uV", or the factor itself.
        where: For the message.
    """
    if not isinstance(unit, str):
        return float(unit)
    if unit not in _SI:
        raise ValueError(f"{where}: unit {unit!r} is not one of {', '.join(_SI)} or a number.")
    return _SI[unit]


def typical_amplitude(data: Float[np.ndarray, "channel time"], sfreq: float | int) -> np.ndarray:
    """Median over one-second pieces of each channel's standard deviation.

    Slow drift and single artefacts barely move it, unlike the standard deviation of the whole.

    Returns:
        float64, one value per channel, in the unit of the data. A constant channel gives 0.
    """
    n = max(round(sfreq), 2)
    n = min(n, data.shape[1])
    pieces = data.shape[1] // n
    # At most a minute of pieces spread over the recording: enough for a median, cheap for hours.
    chosen = np.unique(np.linspace(0, pieces - 1, min(pieces, 60)).astype(int))
    block = np.stack([data[:, i * n : (i + 1) * n] for i in chosen], axis=1)
    return np.median(block.astype(np.float64).std(axis=-1), axis=1)


def check_amplitude(
    data: Float[np.ndarray, "channel time"],
    kind: Int[np.ndarray, " channel"],
    *,
    sfreq: float | int,
    where: str,
) -> None:
    """Stop if the amplitudes are implausible for the kind of channel.

    Args:
        data: Working units.
        kind: `Kind` of each channel.
        sfreq: Hz.
        where: Name of the recording, for the message.

    Raises:
        ValueError: The median amplitude of a kind is outside the plausible range; the message names
            the power of ten that would bring it inside.
    """
    for value in np.unique(kind):
        unit = UNITS.get(Kind(int(value)))
        if unit is None or not np.isfinite(unit.high):
            continue
        amplitude = typical_amplitude(data[kind == value], sfreq)
        amplitude = amplitude[np.isfinite(amplitude) & (amplitude > 0)]
        if not len(amplitude):
            continue  # all flat: a matter for the bad-channel check, which names the channels
        median = float(np.median(amplitude))
        if unit.low <= median <= unit.high:
            continue
        name = Kind(int(value)).name
        centre = np.sqrt(unit.low * unit.high)
        exponent = int(3 * round(np.log10(centre / median) / 3))
        factor = f" Multiplying by 1e{exponent:+d} would make it plausible:" if exponent else ""
        raise ValueError(
            f"{where}: {name} channels have a typical amplitude of {median:.3g} {unit.name} "
            f"(standard deviation of one second), expected {unit.low:g} to {unit.high:g} "
            f"{unit.name}.{factor} the file's declared unit is probably wrong. Set `unit` in the "
            "dataset card's reader (`unit: uV` when volts were declared but microvolts are stored)."
        )
