"""Sensors of the simulated recordings: an EEG cap, an MEG helmet, depth electrodes.

A `Device` knows where its sensors are, what they measure of a dipole, and the noise of their own.

Source: Hämäläinen et al. 1993, Rev. Mod. Phys. 65:413 (3 fT and 3 fT/cm per root Hz).
Axes: channel time source. Metres in the head frame; microvolts, fT, fT/cm per nA·m.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from neurofm.io.electrodes import template_positions
from neurofm.io.simulated.fields import gradiometer_gain, magnetometer_gain, medium_gain
from neurofm.io.simulated.forward import lead_field
from neurofm.io.simulated.noise import noise, unit
from neurofm.io.simulated.synthetic import CHANNELS
from neurofm.shapes import Float
from neurofm.types import Sensors
from neurofm.units import Kind

EARS = ("A1", "A2")
_HELMET_M = 0.030  # between scalp and sensors
_N_PLACES = 102
_CONTACTS, _SPACING_M, _EXTENT_M = 10, 0.0035, 0.003
# Shafts enter over an electrode and pass beside a source.
_SHAFTS = {
    "LA": ("T7", "left_auditory"),
    "RA": ("T8", "right_auditory"),
    "LH": ("TP7", "left_hippocampus"),
    "LM": ("C3", "left_motor"),
    "RM": ("C4", "right_motor"),
    "LO": ("O1", "left_visual"),
}
_EEG_UV, _SEEG_UV = 0.8, 2.0  # amplifier noise, root mean square
_MEG_PER_ROOT_HZ = 3.0  # fT of magnetometers, fT/cm of gradiometers
_FAR_FT = 400.0  # slow homogeneous field


@dataclass(frozen=True)
class Device:
    """Sensors in place.

    Args:
        sensors: Head frame.
        normal: Of MEG coils (for a gradiometer not its `orientation`), zeros elsewhere.
        gain: From positions and orientations of dipoles to channel x source, per nA·m.
        own_noise: From a generator, samples and Hz to channel x time.
    """

    sensors: Sensors
    normal: Float[np.ndarray, "channel 3"]
    gain: Callable[[np.ndarray, np.ndarray], np.ndarray]
    own_noise: Callable[[np.random.Generator, int, float], np.ndarray]


def eeg_cap(center: Float[np.ndarray, " 3"], radius: float, rng: np.random.Generator) -> Device:
    """64 electrodes on the scalp against linked earlobes, the cap a little displaced."""
    template = template_positions("standard_1005")
    electrode = np.array([template[name] for name in CHANNELS + EARS])
    electrode = electrode + rng.normal(0, 2e-3, 3)  # the cap as a whole
    n = len(CHANNELS)

    def gain(position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        full = lead_field(electrode, position, orientation, center=center, radius=radius)
        return full[:n] - full[n:].mean(axis=0)

    def own(rng: np.random.Generator, n_times: int, sfreq: float) -> np.ndarray:
        drift = rng.lognormal(1.0, 0.4, (n, 1)) * noise(rng, n, n_times, sfreq, band="drift")
        return drift + _EEG_UV * rng.standard_normal((n, n_times))

    sensors = Sensors.of_kind(CHANNELS, Kind.EEG, electrode[:n])
    return Device(sensors, np.zeros((n, 3)), gain, own)


@functools.lru_cache(maxsize=1)
def _helmet() -> Float[np.ndarray, "place 3"]:
    """Directions from the centre to 102 places around the head, the face left free."""
    for n in range(_N_PLACES, 4 * _N_PLACES):
        # A spiral of equal areas over the sphere.
        height = 1 - 2 * (np.arange(n) + 0.5) / n
        angle = np.pi * (1 + 5**0.5) * np.arange(n)
        ring = np.sqrt(1 - height**2)
        all_around = np.column_stack([ring * np.cos(angle), ring * np.sin(angle), height])
        lowest = np.where(all_around[:, 1] > 0.3, 0.15, -0.45)  # higher over the eyes
        chosen = all_around[all_around[:, 2] > lowest]
        if len(chosen) >= _N_PLACES:
            return chosen[:_N_PLACES]  # from the top; a ring short at most at the bottom
    raise ValueError(f"_helmet: {_N_PLACES} places do not fit.")


def meg_helmet(center: Float[np.ndarray, " 3"], radius: float, rng: np.random.Generator) -> Device:
    """102 magnetometers and 204 planar gradiometers, the head shifted and turned in between."""
    shift, turn = rng.normal(0, 3e-3, 3), rng.normal(0, 0.03, 3)
    normal = unit(_helmet() + np.cross(turn, _helmet()))
    point = center + (radius + _HELMET_M) * normal + shift
    # Two directions in the plane of each chip, at right angles.
    first = unit(np.cross(np.array([0.0, 0.0, 1.0]) + 1e-3, normal))
    second = np.cross(normal, first)
    n = len(normal)
    names = [f"MEG{place + 1:03d}{last}" for place in range(n) for last in "123"]
    place = np.repeat(np.arange(n), 3)
    direction = np.stack([normal, first, second], axis=1).reshape(-1, 3)
    is_mag = np.tile([True, False, False], n)
    sensors = Sensors(
        names=tuple(names),
        kind=np.where(is_mag, int(Kind.MAG), int(Kind.GRAD)).astype(np.int8),
        position=point[place],
        orientation=direction,
    )

    def gain(position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        result = np.empty((3 * n, len(position)))
        args = (position, orientation)
        result[is_mag] = magnetometer_gain(point, normal, *args, center=center)
        for k, along in ((1, first), (2, second)):
            result[k::3] = gradiometer_gain(point, normal, along, *args, center=center)
        return result

    def own(rng: np.random.Generator, n_times: int, sfreq: float) -> np.ndarray:
        size = _MEG_PER_ROOT_HZ * np.sqrt(sfreq / 2)
        data = size * rng.standard_normal((3 * n, n_times))
        far = _FAR_FT * noise(rng, 3, n_times, sfreq, band="drift")
        data[is_mag] += normal @ far  # the same vector everywhere: gradiometers do not see it
        return data

    return Device(sensors, normal[place], gain, own)


def depth_electrodes(
    center: Float[np.ndarray, " 3"],
    radius: float,
    targets: Mapping[str, Float[np.ndarray, " 3"]],
    rng: np.random.Generator,
) -> Device:
    """Shafts of up to ten contacts that enter over an electrode and pass by a source.

    Args:
        targets: Position of each source, metres.
    """
    template = template_positions("standard_1005")
    names, contacts = [], []
    for shaft, (entry, source) in _SHAFTS.items():
        target = targets[source]
        start = center + 0.88 * radius * unit(template[entry] - center)
        inwards = unit(target - start + rng.normal(0, 2e-3, 3))
        # The tip passes the source at about half a centimetre.
        beside = 5e-3 * unit(np.cross(inwards, rng.normal(size=3)))
        tip = target + beside + 0.006 * inwards
        for k in range(_CONTACTS):  # 1 is the deepest
            names.append(f"{shaft}{k + 1}")
            contacts.append(tip - k * _SPACING_M * inwards)
    place = np.array(contacts)
    outside = np.linalg.norm(place - center, axis=1) > 0.89 * radius
    names, place = [n for n, out in zip(names, outside, strict=True) if not out], place[~outside]

    def gain(position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        return medium_gain(place, position, orientation, extent=_EXTENT_M)

    def own(rng: np.random.Generator, n_times: int, sfreq: float) -> np.ndarray:
        return _SEEG_UV * rng.standard_normal((len(names), n_times))

    return Device(Sensors.of_kind(names, Kind.SEEG, place), np.zeros_like(place), gain, own)
