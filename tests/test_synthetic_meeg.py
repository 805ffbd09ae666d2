"""Simulated EEG, MEG and sEEG: the physics, the planted sources found again, plausible numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurofm.data import fingerprint, same_recording
from neurofm.io import SyntheticMEEGReader, open_corpus, simulate_meeg
from neurofm.io.simulated.fields import (
    BASELINE_M,
    gradiometer_gain,
    magnetic_field,
    magnetometer_gain,
    medium_gain,
)
from neurofm.io.simulated.forward import lead_field
from neurofm.io.simulated.noise import unit
from neurofm.io.simulated.synthetic_meeg import TONES
from neurofm.units import Kind, check_amplitude

CENTER = np.array([0.001, -0.004, 0.04])
RADIUS = 0.09


def dipoles(rng: np.random.Generator, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    where = CENTER + RADIUS * rng.uniform(0.2, 0.85, (n, 1)) * unit(rng.standard_normal((n, 3)))
    return where, unit(rng.standard_normal((n, 3)))


def points(rng: np.random.Generator, n: int = 30) -> np.ndarray:
    return CENTER + rng.uniform(1.1, 1.5, (n, 1)) * RADIUS * unit(rng.standard_normal((n, 3)))


# Physics


def test_a_radial_dipole_has_no_magnetic_field(rng):
    where, _ = dipoles(rng)
    radial = magnetic_field(points(rng), where, unit(where - CENTER), center=CENTER)
    any_way = magnetic_field(points(rng), where, dipoles(rng)[1], center=CENTER)
    assert np.abs(radial).max() < 1e-10 * np.abs(any_way).max()
    tilted = unit(unit(where - CENTER) + 0.05 * dipoles(rng)[1])
    assert np.abs(magnetic_field(points(rng), where, tilted, center=CENTER)).max() > 0.1


def test_the_radial_field_is_that_of_the_primary_current_alone(rng):
    """Volume currents of a sphere add nothing to it: Biot and Savart in empty space."""
    where, moment = dipoles(rng)
    at = points(rng)
    field = magnetic_field(at, where, moment, center=CENTER)
    away = at[:, None] - where
    primary = np.cross(moment, away) / np.linalg.norm(away, axis=2, keepdims=True) ** 3
    expected = 1e-7 * 1e-9 * 1e15 * np.einsum("csk,ck->cs", primary, unit(at - CENTER))
    radial = np.einsum("csk,ck->cs", field, unit(at - CENTER))
    np.testing.assert_allclose(radial, expected, rtol=1e-9, atol=1e-9)


def test_the_field_outside_has_neither_sources_nor_currents(rng):
    where, moment = dipoles(rng, 5)
    at, step = points(rng, 10), 1e-5
    slope = np.stack(
        [
            magnetic_field(at + step * axis, where, moment, center=CENTER)
            - magnetic_field(at - step * axis, where, moment, center=CENTER)
            for axis in np.eye(3)
        ],
        axis=2,
    ) / (2 * step)  # channel source derivative component
    size = np.abs(slope).max()
    assert np.abs(np.einsum("csii->cs", slope)).max() < 1e-6 * size
    assert np.abs(slope - slope.swapaxes(2, 3)).max() < 1e-6 * size


def test_a_gradiometer_is_the_difference_of_two_magnetometers(rng):
    where, moment = dipoles(rng)
    at = points(rng)
    normal = unit(at - CENTER)
    along = unit(np.cross(normal, rng.standard_normal(3)))
    args = (where, moment)
    ends = [
        magnetometer_gain(at + sign * BASELINE_M / 2 * along, normal, *args, center=CENTER)
        for sign in (1, -1)
    ]
    got = gradiometer_gain(at, normal, along, *args, center=CENTER)
    np.testing.assert_allclose(got, (ends[0] - ends[1]) / (100 * BASELINE_M))  # fT/cm
    tiny = gradiometer_gain(at, normal, along, *args, center=CENTER, baseline=1e-6)
    assert 0.8 < np.corrcoef(tiny.ravel(), got.ravel())[0, 1] < 1.0


def test_a_field_point_inside_the_head_is_refused(rng):
    where, moment = dipoles(rng)
    with pytest.raises(ValueError, match="is not outside a source"):
        magnetic_field(CENTER[None] + 0.01, where, moment, center=CENTER)


def test_the_potential_in_the_brain_falls_with_the_square_of_the_distance():
    distance = np.array([0.005, 0.01, 0.02, 0.04])
    axis = np.array([[0.0, 0.0, 1.0]])
    on_axis = CENTER + distance[:, None] * axis
    potential = medium_gain(on_axis, CENTER[None], axis)[:, 0]
    np.testing.assert_allclose(potential * distance**2, potential[0] * distance[0] ** 2)
    expected = 1e-9 / (4 * np.pi * 0.33 * 0.01**2) * 1e6  # microvolts, 1 cm from 1 nA·m
    assert potential[1] == pytest.approx(expected)
    beside = medium_gain(CENTER + np.eye(3)[:1] / 100, CENTER[None], axis)
    assert np.abs(beside).max() < 1e-12
    with pytest.raises(ValueError, match="Give an extent"):
        medium_gain(CENTER[None], CENTER[None], axis)
    assert np.isfinite(medium_gain(CENTER[None], CENTER[None], axis, extent=0.003)).all()


# The planted sources


def whitener(data: np.ndarray) -> np.ndarray:
    """Makes the noise of all channels alike and unrelated."""
    values, vectors = np.linalg.eigh(np.cov(data))
    keep = values > 1e-6 * values[-1]
    return (vectors[:, keep] / np.sqrt(values[keep])).T


def scan(
    topography: np.ndarray, gain: Any, white: np.ndarray, center: np.ndarray, radius: float
) -> np.ndarray:
    """Best place of one dipole of any direction: least squares over a grid, then finer ones."""
    best, width = center, 0.84 * radius
    for step in (0.010, 0.003, 0.001):
        axis = np.arange(-width, width + step, step)
        grid = best + np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
        depth = np.linalg.norm(grid - center, axis=1)
        grid = grid[(depth < 0.86 * radius) & (depth > 0.1 * radius)]
        fields = np.stack(
            [white @ gain(grid, np.tile(e, (len(grid), 1))) for e in np.eye(3)], axis=2
        )  # channel place direction
        size, turned = np.linalg.eigh(np.einsum("cpi,cpj->pij", fields, fields))
        along = np.einsum("pij,cpi,c->pj", turned, fields, white @ topography, optimize=True)
        # A radial current makes no magnetic field: two directions are left there.
        kept = size > 1e-6 * size[:, -1:]
        share = (along**2 / np.where(kept, size, np.inf)).sum(axis=1)
        best, width = grid[share.argmax()], 2.5 * step
    return best


@pytest.fixture(scope="module", params=["eeg", "mag", "grad"])
def evoked(request):
    """Average answer to the tones in one ear, 100 ms after them, channels of one kind."""
    kind = Kind[request.param.upper()]
    signal, truth = simulate_meeg(
        "7", "1", modality="eeg" if kind == Kind.EEG else "meg", duration_s=240.0, sfreq=128.0
    )
    chosen = np.flatnonzero(signal.sensors.kind == kind)
    return signal, truth, chosen


@pytest.mark.parametrize("label", TONES)
def test_the_planted_source_is_where_a_dipole_scan_finds_it(evoked, label):
    signal, truth, chosen = evoked
    onset = np.array([event.onset for event in signal.events if event.label == label])
    at = np.rint((onset + 0.1) * signal.sfreq).astype(int)
    before = np.rint((onset - 0.15) * signal.sfreq).astype(int)
    data = signal.data[chosen].astype(np.float64)
    around = range(-2, 3)
    topography = sum(
        data[:, at + k].mean(axis=1) - data[:, before + k].mean(axis=1) for k in around
    )
    noise = data[:, (before + np.arange(-10, 11)[:, None]).ravel()]
    position = signal.sensors.position[chosen]
    normal, along = truth.normal[chosen], signal.sensors.orientation[chosen]
    center = truth.center
    if signal.sensors.kind[chosen[0]] == Kind.EEG:
        # A dipole scan knows nothing of the reference: compare against the mean on both sides.
        topography, noise = topography - topography.mean(), noise - noise.mean(axis=0)

        def gain(where, moment):
            full = lead_field(position, where, moment, center=center, radius=truth.radius)
            return full - full.mean(axis=0)

    elif signal.sensors.kind[chosen[0]] == Kind.MAG:

        def gain(where, moment):
            return magnetometer_gain(position, normal, where, moment, center=center)

    else:

        def gain(where, moment):
            return gradiometer_gain(position, normal, along, where, moment, center=center)

    source = truth.sources.index(TONES[label])
    found = scan(topography, gain, whitener(noise), center, truth.radius)
    error = np.linalg.norm(found - truth.position[source])
    others = np.delete(truth.position, source, axis=0)
    assert error < 0.004
    assert error < 0.3 * np.linalg.norm(others - truth.position[source], axis=1).min()


@pytest.mark.parametrize("modality", ["eeg", "meg", "seeg", "eeg+meg"])
def test_without_noise_a_recording_is_its_sources_through_the_lead_field(modality):
    signal, truth = simulate_meeg("1", "1", modality=modality, duration_s=5.0, level=0.0)
    clean = truth.lead_field @ truth.series
    np.testing.assert_allclose(signal.data, clean, rtol=1e-4, atol=1e-5 * np.abs(clean).max())


def test_every_device_measures_the_same_activity():
    made = [simulate_meeg("1", "1", modality=m, duration_s=10.0) for m in ("eeg", "meg", "seeg")]
    for signal, truth in made[1:]:
        np.testing.assert_array_equal(truth.series, made[0][1].series)
        np.testing.assert_array_equal(truth.position, made[0][1].position)
        assert signal.events == made[0][0].events
    together, _ = simulate_meeg("1", "1", modality="eeg+meg", duration_s=10.0)
    np.testing.assert_array_equal(together.data[:64], made[0][0].data)
    np.testing.assert_array_equal(together.data[64:], made[1][0].data)
    assert set(together.sensors.kind) == {Kind.EEG, Kind.MAG, Kind.GRAD}


def test_contacts_near_a_source_see_more_of_it():
    signal, truth = simulate_meeg("1", "1", modality="seeg", level=0.0, duration_s=20.0)
    names = signal.sensors.names
    for shaft, source in (("LA", "left_auditory"), ("LM", "left_motor")):
        own = np.array([i for i, name in enumerate(names) if name.startswith(shaft)])
        k = truth.sources.index(source)
        distance = np.linalg.norm(signal.sensors.position[own] - truth.position[k], axis=1)
        gain = np.abs(truth.lead_field[own, k])
        # The potential changes sign across the source; its envelope is what falls.
        size = 1e-3 / (4 * np.pi * 0.33 * (distance**2 + 0.003**2))
        assert (gain <= size * 1.001).all()
        assert gain[distance.argmax()] < 0.3 * gain.max()


@pytest.mark.parametrize("modality", ["eeg", "meg", "seeg"])
def test_amplitudes_are_those_of_real_recordings(modality):
    for subject in ("1", "2"):
        signal, _ = simulate_meeg(subject, "1", modality=modality, duration_s=20.0)
        where = signal.recording.id
        check_amplitude(signal.data, signal.sensors.kind, sfreq=signal.sfreq, where=where)
        wrong = signal.data * (1e-3 if modality != "seeg" else 1e6)
        with pytest.raises(ValueError, match="unit is probably wrong"):
            check_amplitude(wrong, signal.sensors.kind, sfreq=signal.sfreq, where=where)


def test_the_helmet_is_one():
    signal, truth = simulate_meeg("1", "1", modality="meg", duration_s=5.0)
    kind, at = signal.sensors.kind, signal.sensors.position
    assert (kind == Kind.MAG).sum() == 102 and (kind == Kind.GRAD).sum() == 204
    along = signal.sensors.orientation
    np.testing.assert_allclose(np.linalg.norm(along, axis=1), 1.0)
    mag, one, two = slice(0, None, 3), slice(1, None, 3), slice(2, None, 3)
    np.testing.assert_array_equal(at[mag], at[one])
    for a, b in ((mag, one), (mag, two), (one, two)):
        np.testing.assert_allclose((along[a] * along[b]).sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(along[mag], truth.normal[mag])
    gap = np.linalg.norm(at - truth.center, axis=1) - truth.radius
    assert gap.min() > 0.015 and gap.max() < 0.045
    apart = np.linalg.norm(at[mag][:, None] - at[mag], axis=2) + np.eye(102)
    assert apart.min() > 0.018  # chips do not overlap
    face = unit(at[mag] - truth.center)
    assert not ((face[:, 1] > 0.5) & (face[:, 2] < 0)).any()


def test_far_fields_reach_magnetometers_alone():
    kinds = {}
    for level in (0.0, 1.0):
        signal, _ = simulate_meeg("1", "1", modality="meg", duration_s=60.0, level=level)
        spectrum = np.abs(np.fft.rfft(signal.data, axis=1)) ** 2
        slow = spectrum[:, 1:20].sum(axis=1)  # below 0.33 Hz
        kinds[level] = [np.median(slow[signal.sensors.kind == k]) for k in (Kind.MAG, Kind.GRAD)]
    assert kinds[1.0][0] > 1e3 * kinds[0.0][0]


def test_runs_move_the_head_and_not_the_implant():
    def places(modality: str, run: str) -> np.ndarray:
        return simulate_meeg("1", run, modality=modality, duration_s=5.0)[0].sensors.position

    moved = np.linalg.norm(places("meg", "1") - places("meg", "2"), axis=1)
    assert moved.min() > 1e-4 and moved.max() < 0.03
    np.testing.assert_array_equal(places("seeg", "1"), places("seeg", "2"))


# The corpus


def test_the_same_arguments_give_the_same_recording_and_others_another():
    one, again = (simulate_meeg("1", "1", duration_s=20.0)[0] for _ in range(2))
    np.testing.assert_array_equal(one.data, again.data)
    for change in ({"subject": "2", "run": "1"}, {"subject": "1", "run": "2"}):
        other = simulate_meeg(**change, duration_s=20.0)[0]
        assert abs(np.corrcoef(one.data[10], other.data[10])[0, 1]) < 0.3
        assert not same_recording(fingerprint(one), fingerprint(other))


def test_people_are_measured_with_devices_in_turn_or_with_every_one():
    reader = SyntheticMEEGReader(dataset="x", subjects=4, runs=1, modalities=["eeg", "meg"])
    assert [r.session for r in reader.recordings()] == ["eeg", "meg", "eeg", "meg"]
    whole = replace(reader, every=True, modalities=["eeg+meg", "seeg"], duration_s=5.0)
    assert [r.session for r in whole.recordings()[:2]] == ["eegmeg", "seeg"]
    signal = whole.load(whole.recordings()[0])
    assert signal.data.shape == (64 + 306, 1280) and signal.recording == whole.recordings()[0]
    truth = whole.truth(whole.recordings()[1])
    assert truth.lead_field.shape[1] == len(truth.sources) == 7


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="modality 'ecog'; expected one of eeg, meg, seeg"):
        simulate_meeg("1", "1", modality="ecog")
    with pytest.raises(ValueError, match="modality 'eeg\\+eeg'"):
        simulate_meeg("1", "1", modality="eeg+eeg")
    with pytest.raises(ValueError, match="expected at least 64 Hz"):
        simulate_meeg("1", "1", sfreq=32.0)
    with pytest.raises(ValueError, match="0 subjects"):
        SyntheticMEEGReader(dataset="x", subjects=0)
    reader = SyntheticMEEGReader(dataset="x", subjects=1, runs=1)
    with pytest.raises(ValueError, match="is not one of the 1 recordings"):
        reader.load(replace(reader.recordings()[0], subject="9"))


def test_the_card_gives_recordings_of_three_devices():
    corpus = open_corpus("synthetic_meeg")
    kinds = {}
    for recording in corpus.recordings(subjects=["1", "2", "3"], runs=["1"]):
        signal = corpus.load(recording)
        kinds[recording.session] = set(signal.sensors.kind.tolist())
        assert {event.label for event in signal.events} == set(TONES)
    assert kinds == {"eeg": {Kind.EEG}, "meg": {Kind.MAG, Kind.GRAD}, "seeg": {Kind.SEEG}}
