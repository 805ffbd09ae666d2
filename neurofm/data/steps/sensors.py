"""Sensor geometry without a network: channel templates, bad channels, normalised positions.

MIRepNet feeds every motor-imagery montage to one network by mapping it to 45 fixed electrodes: an
electrode that exists is taken over, another is a mean of all available ones, weighted by inverse
distance in a flat layout. BrainOmni finds bad channels by the distance of their spectra from all
others, and centres and scales sensor positions.

Source: MIRepNet (arXiv 2507.20254); BrainOmni (arXiv 2505.18185).
Axes: channel = sensor of the recording, template = electrode of the template.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.signal import welch

from neurofm.cards import configured
from neurofm.data.steps.step import noted, require_finite
from neurofm.io.electrodes import standard_name
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Sensors, Signal
from neurofm.units import Kind, typical_amplitude

_TEMPLATE_ROWS = (
    "F7 F5 F3 F1 FZ F2 F4 F6 F8",
    "FT7 FC5 FC3 FC1 FCZ FC2 FC4 FC6 FT8",
    "T7 C5 C3 C1 CZ C2 C4 C6 T8",
    "TP7 CP5 CP3 CP1 CPZ CP2 CP4 CP6 TP8",
    "P7 P5 P3 P1 PZ P2 P4 P6 P8",
)
MIREPNET_TEMPLATE: tuple[str, ...] = tuple(" ".join(_TEMPLATE_ROWS).split())
# One row per height y: electrodes from left to right with their x. The published layout, with its
# two misplaced electrodes, FT10 (in the row of F10) and TPP8 (x of 9.0): see `mirepnet_layout`.
_ROWS: tuple[tuple[float, str], ...] = (
    (1.0, "FPZ 0"),
    (0.9, "FP1 -.3 FP2 .3"),
    (0.8, "AF7 -.3 AF3 -.2 AFZ 0 AF4 .2 AF8 .3"),
    (0.7, "F9 -.6 F7 -.5 F5 -.4 F3 -.3 F1 -.15 FZ 0 F2 .15 F4 .3 F6 .4 F8 .5 F10 .6 FT10 .6"),
    (0.6, "FT9 -.7 FT7 -.6 FC5 -.5 FC3 -.4 FC1 -.2 FCZ 0 FC2 .2 FC4 .4 FC6 .5 FT8 .6"),
    (0.55, "FTT9 -1.1 FTT10 1.1"),
    (0.5, "T7 -1 C5 -.7 C3 -.4 C1 -.2 CZ 0 C2 .2 C4 .4 C6 .7 T8 1"),
    (0.45, "TPP7 -.9 TPP8 9"),
    (0.4, "TP9 -.8 TPP9 -.7 TP7 -.6 CP5 -.5 CP3 -.4 CP1 -.2 CPZ 0 CP2 .2 CP4 .4 CP6 .5 TP8 .6"),
    (0.4, "TPP10 .7 TP10 .8"),
    (0.3, "P9 -.6 P7 -.5 P5 -.4 P3 -.3 P1 -.15 PZ 0 P2 .15 P4 .3 P6 .4 P8 .5 P10 .6"),
    (0.2, "PO9 -.5 PO7 -.4 PO5 -.3 PO3 -.2 POZ 0 PO4 .2 PO6 .3 PO8 .4 PO10 .5"),
    (0.1, "O1 -.2 OZ 0 O2 .2"),
)
_OLD_NAMES = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
# Sensors that are centred and scaled together.
_GEOMETRIES = (
    (Kind.EEG,),
    (Kind.MAG, Kind.GRAD, Kind.AXIAL, Kind.MEG_REF),
    (Kind.SEEG, Kind.ECOG),
)


def mirepnet_layout(*, corrected: bool = False) -> dict[str, tuple[float, float]]:
    """The flat layout of the electrodes, without unit; capital names.

    Args:
        corrected: Put FT10 and TPP8 where their left counterparts say. The published places are
            the default, because the released weights were trained with them.
    """
    layout: dict[str, tuple[float, float]] = {}
    for y, row in _ROWS:
        words = row.split()
        layout |= {name: (float(x), y) for name, x in zip(words[::2], words[1::2], strict=True)}
    if corrected:
        layout |= {"FT10": (0.7, 0.6), "TPP8": (0.9, 0.45)}
    return layout


def template_matrix(
    names: Sequence[str],
    *,
    template: Sequence[str] = MIREPNET_TEMPLATE,
    layout: Mapping[str, tuple[float, float]] | None = None,
    drop_unplaced: bool = False,
) -> Float[np.ndarray, "template channel"]:
    """Matrix that maps a montage to a template.

    Args:
        names: Electrodes of the recording, in any usual spelling ("Fc5.", "EEG C3-REF", "T3").
        template: Capital names.
        layout: Place of each capital name in the plane; `mirepnet_layout()` if not given.
        drop_unplaced: Give electrodes outside the layout (such as IZ) no weight, instead of
            stopping.

    Returns:
        float64. One-hot rows for electrodes that exist, else weights 1 / (distance + 1e-6) over all
        placed electrodes, with sum 1.

    Raises:
        ValueError: An electrode without a place, one that comes twice, or none at all.
    """
    layout = mirepnet_layout() if layout is None else layout
    capital = [_capital(name) for name in names]
    unplaced = [name for name, own in zip(names, capital, strict=True) if own not in layout]
    if unplaced and not drop_unplaced:
        near = difflib.get_close_matches(_capital(unplaced[0]), layout, n=3)
        hint = f" Near: {', '.join(near)}." if near else ""
        raise ValueError(
            f"template_matrix: {len(unplaced)} of {len(names)} electrodes have no place in the "
            f"layout: {', '.join(unplaced[:8])}.{hint} Rename or leave them out, or pass "
            "drop_unplaced=True."
        )
    placed = [i for i, own in enumerate(capital) if own in layout]
    if not placed:
        raise ValueError("template_matrix: no electrode of the recording is in the layout.")
    twice = sorted({capital[i] for i in placed if capital.count(capital[i]) > 1})
    if twice:
        raise ValueError(
            f"template_matrix: {', '.join(twice)} comes twice. Keep one with PickChannels."
        )
    at = {capital[i]: i for i in placed}
    here = np.array([layout[capital[i]] for i in placed])
    matrix = np.zeros((len(template), len(names)))
    for row, name in enumerate(template):
        if name in at:
            matrix[row, at[name]] = 1.0
            continue
        weight = 1.0 / (np.linalg.norm(here - np.array(layout[name]), axis=1) + 1e-6)
        matrix[row, placed] = weight / weight.sum()
    return matrix


@configured
@dataclass(frozen=True)
class ToTemplate:
    """Map the EEG channels to MIRepNet's 45 electrodes; other kinds are left out.

    Interpolated electrodes have no position and are counted in the history. They are mixtures of
    the others: the data's rank stays the number of real electrodes.

    Args:
        corrected_layout: See `mirepnet_layout`.
        drop_unplaced: Ignore electrodes outside the layout instead of stopping.
    """

    corrected_layout: bool = False
    drop_unplaced: bool = False

    def __call__(self, signal: Signal) -> Signal:
        """The signal on the template."""
        eeg = signal.pick_kinds([Kind.EEG])
        if not len(eeg.sensors):
            raise ValueError(f"{signal.recording.id}: ToTemplate: there is no EEG channel.")
        require_finite(eeg, "ToTemplate")
        try:
            matrix = template_matrix(
                eeg.sensors.names,
                layout=mirepnet_layout(corrected=self.corrected_layout),
                drop_unplaced=self.drop_unplaced,
            )
        except ValueError as error:
            raise ValueError(f"{signal.recording.id}: {error}") from error
        real = np.isclose(matrix.max(axis=1), 1.0) & ((matrix > 0).sum(axis=1) == 1)
        position = np.full((len(matrix), 3), np.nan)
        position[real] = eeg.sensors.position[matrix[real].argmax(axis=1)]
        sensors = Sensors.of_kind(MIREPNET_TEMPLATE, Kind.EEG, position, frame=signal.sensors.frame)
        made = [name for name, own in zip(MIREPNET_TEMPLATE, real, strict=True) if not own]
        line = (
            f"template of {len(matrix)} electrodes from {len(eeg.sensors)}: {len(made)} "
            f"interpolated by inverse distance ({', '.join(made) or 'none'})"
        )
        data = (matrix @ eeg.data).astype(np.float32)
        return noted(replace(eeg, data=data, sensors=sensors), data, line)


def bad_channels(
    data: Float[np.ndarray, "channel time"], sfreq: float, *, factor: float = 10.0
) -> Bool[np.ndarray, " channel"]:
    """True for channels with NaN, without signal, or with a spectrum unlike all others.

    The last: the mean distance of a channel's log spectrum to those of all channels lies more than
    `factor` interquartile ranges outside the quartiles.

    Args:
        data: Channels of one kind, working units.
        sfreq: Hz.
        factor: BrainOmni's value by default: only gross outliers.
    """
    bad = ~np.isfinite(data).all(axis=1)
    amplitude = np.zeros(len(data))
    if not bad.all():
        amplitude[~bad] = typical_amplitude(data[~bad], sfreq)
        usual = float(np.median(amplitude[~bad]))
        bad |= amplitude <= 1e-3 * usual
    rest = np.flatnonzero(~bad)
    if len(rest) < 4:
        return bad  # quartiles of three channels say nothing
    n = min(round(2 * sfreq), data.shape[1])
    spectra = np.stack(
        [welch(data[i].astype(np.float64), sfreq, nperseg=n)[1] for i in rest]
    )  # channel frequency
    # The floor keeps empty bands of a filtered signal from dominating; 1e-16 of SI for EEG, in µV.
    log = np.log(spectra + 1e-4)
    square = (log**2).sum(axis=1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * log @ log.T, 0.0)).mean(axis=1)
    low, high = np.percentile(distance, [25, 75])
    reach = factor * (high - low) + 1e-9 * high
    bad[rest] |= (distance > high + reach) | (distance < low - reach)
    return bad


def normalize_positions(
    position: Float[np.ndarray, "channel 3"], kind: Int[np.ndarray, " channel"]
) -> Float[np.ndarray, "channel 3"]:
    """Centre sensor positions and divide them by sqrt(3 * mean squared radius).

    EEG, MEG and intracranial sensors are treated separately, as BrainOmni expects them.

    Args:
        position: Metres; NaN where unknown, which stays NaN and does not enter the mean.

    Returns:
        float64, without unit.
    """
    result = np.array(position, dtype=np.float64)
    known = np.isfinite(result).all(axis=1)
    for kinds in _GEOMETRIES:
        own = known & np.isin(kind, [int(k) for k in kinds])
        if not own.any():
            continue
        centred = result[own] - result[own].mean(axis=0)
        scale = np.sqrt(3 * (centred**2).sum(axis=1).mean())
        result[own] = centred / scale if scale > 0 else centred
    return result


def _capital(name: str) -> str:
    capital = standard_name(name).upper()
    return _OLD_NAMES.get(capital, capital)
