"""Simulated EEG, MEG and sEEG of the same current dipoles, with the answer known.

Each person has seven sources: mu rhythms in motor cortex, alpha in visual cortex, theta in one
hippocampus, and auditory cortices that answer to tones in the opposite ear (N100 and P200). What
they do in a run does not depend on the device: electrodes on the scalp (four-shell sphere, linked
earlobes), a helmet of 102 magnetometers and 204 planar gradiometers (field outside a sphere) and
depth electrodes on six shafts (potential in an unbounded conductor) measure one and the same brain.
A 1/f background of many dipoles, the noise of each kind of sensor and, for magnetometers, slow
fields from far away are added. The head lies differently in the helmet in every run.

Source: Hämäläinen et al. 1993 (dipole moments); Näätänen & Picton 1987 (N100).
Axes: channel time source. Metres in the head frame; microvolts, fT, fT/cm; nA·m, Hz, seconds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.electrodes import template_positions
from neurofm.io.simulated.forward import fit_sphere
from neurofm.io.simulated.noise import noise, seeded, unit
from neurofm.io.simulated.people import require_known
from neurofm.io.simulated.synthetic import CHANNELS
from neurofm.io.simulated.synthetic_sensors import (
    EARS,
    Device,
    depth_electrodes,
    eeg_cap,
    meg_helmet,
)
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors, Signal

MODALITIES = ("eeg", "meg", "seeg")
TONES = {"left_tone": "right_auditory", "right_tone": "left_auditory"}
# Electrodes over each source, distance from the centre (head radii), direction of its current
# along the surface (to the right, the front, the top of the head) and its rhythm (Hz, nA·m).
_SOURCES: dict[str, tuple[tuple[str, ...], float, tuple[float, float, float], float, float]] = {
    "left_motor": (("C3", "CP3"), 0.80, (0.0, 1.0, 0.3), 10.5, 40.0),
    "right_motor": (("C4", "CP4"), 0.80, (0.0, 1.0, 0.3), 11.0, 40.0),
    "left_visual": (("O1", "PO3"), 0.76, (1.0, 0.0, 0.3), 10.0, 60.0),
    "right_visual": (("O2", "PO4"), 0.76, (-1.0, 0.0, 0.3), 10.0, 60.0),
    "left_auditory": (("T7", "C5"), 0.72, (0.0, 0.4, -1.0), 0.0, 0.0),
    "right_auditory": (("T8", "C6"), 0.72, (0.0, 0.4, -1.0), 0.0, 0.0),
    "left_hippocampus": (("T7", "TP7"), 0.45, (0.0, 1.0, 0.0), 6.0, 40.0),
}
_EVOKED_NAM = 60.0
_RADIAL = 0.3  # share of the current that MEG does not see
_N_BACKGROUND, _BACKGROUND_NAM = 200, 9.0


@dataclass(frozen=True)
class MeegTruth:
    """What was planted in one run.

    Args:
        sources: Names, in the order of the arrays below.
        position: Metres, head frame.
        orientation: Unit vectors.
        series: nA·m.
        lead_field: Working units of each channel per nA·m.
        center: Metres, of the head sphere.
        radius: Metres, of the scalp.
        normal: Of MEG coils (for a gradiometer not its `orientation`), zeros elsewhere.
    """

    sources: tuple[str, ...]
    position: Float[np.ndarray, "source 3"]
    orientation: Float[np.ndarray, "source 3"]
    series: Float[np.ndarray, "source time"]
    lead_field: Float[np.ndarray, "channel source"]
    center: Float[np.ndarray, " 3"]
    radius: float
    normal: Float[np.ndarray, "channel 3"]


@dataclass(frozen=True)
class _Head:
    """What stays the same between runs of a person."""

    center: np.ndarray
    radius: float
    position: np.ndarray
    orientation: np.ndarray
    where: np.ndarray  # background dipoles
    along: np.ndarray
    strength: np.ndarray  # of each source, 1 on average
    exponent: float


@functools.lru_cache(maxsize=128)
def _head(subject: str, seed: int) -> _Head:
    rng = seeded(seed, subject, "head")
    template = template_positions("standard_1005")
    center, radius = fit_sphere(np.array([template[name] for name in CHANNELS + EARS]))
    position, orientation = [], []
    for over, depth, tangent, _, _ in _SOURCES.values():
        out = unit(np.mean([template[name] - center for name in over], axis=0))
        place = depth * out + rng.normal(0, 4e-3 / radius, 3)
        place *= min(1.0, 0.84 / float(np.linalg.norm(place)))
        radial = unit(place)
        flat = np.array(tangent) + rng.normal(0, 0.15, 3)
        flat = unit(flat - (flat @ radial) * radial)
        position.append(center + radius * place)
        orientation.append(unit(flat + _RADIAL * rng.uniform(0.5, 1.5) * radial))
    where = unit(rng.normal(size=(_N_BACKGROUND, 3)))
    where[:, 2] = np.maximum(where[:, 2], -0.4)
    where = center + radius * rng.uniform(0.4, 0.85, (_N_BACKGROUND, 1)) * unit(where)
    return _Head(
        center=center,
        radius=radius,
        position=np.array(position),
        orientation=np.array(orientation),
        where=where,
        along=unit(rng.normal(size=(_N_BACKGROUND, 3))),
        strength=rng.lognormal(0, 0.2, len(_SOURCES)),
        exponent=float(rng.uniform(0.9, 1.3)),
    )


def _device(part: str, head: _Head, *key: int | str) -> Device:
    seed, subject, run = key
    if part == "seeg":  # implanted once
        targets = dict(zip(_SOURCES, head.position, strict=True))
        return depth_electrodes(head.center, head.radius, targets, seeded(seed, subject, part))
    place = {"eeg": eeg_cap, "meg": meg_helmet}[part]
    return place(head.center, head.radius, seeded(seed, subject, run, part))


def _tones(rng: np.random.Generator, duration_s: float) -> tuple[Event, ...]:
    """A tone in one ear every 1.2-1.6 s, both ears equally often."""
    events, onset = [], 1.0
    while onset < duration_s - 0.8:
        pair = rng.permutation(list(TONES))
        for label in pair:
            if onset < duration_s - 0.8:
                events.append(Event(float(onset), 0.1, str(label)))
            onset += rng.uniform(1.2, 1.6)
    return tuple(events)


def _activity(
    head: _Head, rng: np.random.Generator, events: tuple[Event, ...], n_times: int, sfreq: float
) -> Float[np.ndarray, "source time"]:
    """Moments of the sources, the same whatever measures them."""
    time = np.arange(n_times) / sfreq
    series = np.zeros((len(_SOURCES), n_times))
    for i, (*_, freq, size) in enumerate(_SOURCES.values()):
        if size:
            waxing = 1 + 0.4 * np.clip(noise(rng, 1, n_times, sfreq, band="drift")[0], -2, 2)
            wave = noise(rng, 1, n_times, sfreq, band="peak", freq=freq, width=0.8)[0]
            series[i] = size * head.strength[i] * waxing * wave
    for event in events:
        i = list(_SOURCES).index(TONES[event.label])
        late = time - event.onset - rng.normal(0, 0.004)
        shape = np.exp(-0.5 * ((late - 0.10) / 0.022) ** 2)
        shape -= 0.5 * np.exp(-0.5 * ((late - 0.19) / 0.035) ** 2)
        series[i] += _EVOKED_NAM * head.strength[i] * rng.lognormal(0, 0.15) * shape
    return series


def simulate_meeg(
    subject: str,
    run: str,
    *,
    modality: str = "eeg",
    seed: int = 0,
    sfreq: float = 256.0,
    duration_s: float = 60.0,
    level: float = 1.0,
    dataset: str = "synthetic_meeg",
) -> tuple[Signal, MeegTruth]:
    """One run of one person, always the same for the same arguments.

    The sources do the same in a run whatever the modality: EEG, MEG and sEEG of one run are
    simultaneous.

    Args:
        subject: Any name; head and sources are drawn from it and the seed.
        run: Any name; what the sources do, the noise and the place of the head are drawn from it.
        modality: "eeg", "meg", "seeg", or several measured together: "eeg+meg".
        sfreq: Hz, at least 64.
        duration_s: Seconds, at least 5: rhythms wax and wane that slowly.
        level: Of the background and of the sensors' noise; 0 leaves the sources alone.

    Returns:
        The signal with events `left_tone` and `right_tone`, and what was planted.

    Raises:
        ValueError: Unknown modality, or too low a rate or too short.
    """
    parts = modality.split("+")
    if not set(parts) <= set(MODALITIES) or len(set(parts)) != len(parts):
        raise ValueError(
            f"simulate_meeg: modality {modality!r}; expected one of {', '.join(MODALITIES)}, or "
            'several of them joined by "+".'
        )
    if sfreq < 64 or duration_s < 5 or level < 0:
        raise ValueError(
            f"simulate_meeg: sfreq {sfreq} Hz, duration {duration_s} s, level {level}; expected at "
            "least 64 Hz, 5 s and 0."
        )
    head = _head(subject, seed)
    n_times = round(duration_s * sfreq)
    brain = seeded(seed, subject, run, "brain")
    events = _tones(brain, duration_s)
    series = _activity(head, brain, events, n_times, sfreq)
    power = {"band": "power", "exponent": head.exponent}
    slow = _BACKGROUND_NAM * noise(brain, _N_BACKGROUND, n_times, sfreq, **power)  # type: ignore[arg-type]
    devices = [_device(part, head, seed, subject, run) for part in parts]
    data, gains = [], []
    for part, device in zip(parts, devices, strict=True):
        gain = device.gain(head.position, head.orientation)
        own = device.own_noise(seeded(seed, subject, run, part, "noise"), n_times, sfreq)
        background = device.gain(head.where, head.along) @ slow
        data.append(gain @ series + level * (background + own))
        gains.append(gain)
    signal = Signal(
        data=np.concatenate(data).astype(np.float32),
        sfreq=float(sfreq),
        sensors=_together([device.sensors for device in devices]),
        events=events,
        recording=Recording(dataset, subject, session="".join(parts), run=run, task="tones"),
        history=(f"simulated: {modality}, seed {seed}, level {level:g}",),
    )
    truth = MeegTruth(
        sources=tuple(_SOURCES),
        position=head.position,
        orientation=head.orientation,
        series=series,
        lead_field=np.concatenate(gains),
        center=head.center,
        radius=head.radius,
        normal=np.concatenate([device.normal for device in devices]),
    )
    return signal, truth


def _together(sets: list[Sensors]) -> Sensors:
    return Sensors(
        names=tuple(name for sensors in sets for name in sensors.names),
        kind=np.concatenate([sensors.kind for sensors in sets]),
        position=np.concatenate([sensors.position for sensors in sets]),
        orientation=np.concatenate([sensors.orientation for sensors in sets]),
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticMEEGReader:
    """A corpus of simulated people measured with several devices, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs with each device; they are called "01", "02", ...
        modalities: Devices of the people in turn: with ("eeg", "meg") every second person has EEG
            alone, the others MEG alone. "eeg+meg" is both at once, in one recording.
        every: Each person is measured with every device instead, as sessions of one recording.
        sfreq: Hz.
        duration_s: Seconds of a run.
        seed: Another seed gives other people.
        level: Of background and noise.
    """

    dataset: str
    root: Path | str | None = None
    subjects: int = 6
    runs: int = 2
    modalities: tuple[str, ...] | list[str] = MODALITIES
    every: bool = False
    sfreq: float = 256.0
    duration_s: float = 60.0
    seed: int = 0
    level: float = 1.0

    def __post_init__(self) -> None:
        if self.subjects < 1 or self.runs < 1 or not self.modalities:
            raise ValueError(
                f"SyntheticMEEGReader: {self.subjects} subjects, {self.runs} runs and "
                f"{len(self.modalities)} modalities; at least 1 each."
            )

    def recordings(self) -> list[Recording]:
        """Every run of every subject with the devices of that subject."""
        found = []
        for number in range(1, self.subjects + 1):
            turn = self.modalities[(number - 1) % len(self.modalities)]
            for modality in self.modalities if self.every else (turn,):
                found += [
                    Recording(
                        self.dataset,
                        f"{number:03d}",
                        session=modality.replace("+", ""),
                        run=f"{run:02d}",
                        task="tones",
                    )
                    for run in range(1, self.runs + 1)
                ]
        return found

    def load(self, recording: Recording) -> Signal:
        """One simulated run in working units.

        Raises:
            ValueError: A recording of another corpus.
        """
        return self._simulated(recording)[0]

    def truth(self, recording: Recording) -> MeegTruth:
        """What was planted in a recording."""
        return self._simulated(recording)[1]

    def _simulated(self, recording: Recording) -> tuple[Signal, MeegTruth]:
        require_known(recording, self.recordings())
        spelled = {modality.replace("+", ""): modality for modality in self.modalities}
        return simulate_meeg(
            recording.subject,
            str(recording.run),
            modality=spelled[str(recording.session)],
            seed=self.seed,
            sfreq=self.sfreq,
            duration_s=self.duration_s,
            level=self.level,
            dataset=self.dataset,
        )
