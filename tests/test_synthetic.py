"""The simulation keeps its promises, and the field equations agree with MNE's sphere model."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from scipy.signal import welch

from neurofm import units
from neurofm.io import SyntheticReader, simulate_motor_imagery
from neurofm.io.simulated.forward import FOUR_SHELLS, fit_sphere, lead_field, shell_gains
from neurofm.io.simulated.synthetic import CHANNELS

SFREQ = 128.0
CENTER, RADIUS = np.array([0.0, 0.01, 0.04]), 0.095


@pytest.fixture(scope="module")
def reader() -> SyntheticReader:
    return SyntheticReader(dataset="simulated", subjects=3, runs=2, sfreq=SFREQ, erd=0.8, weak=(3,))


@pytest.fixture(scope="module")
def electrodes() -> np.ndarray:
    direction = np.random.default_rng(0).normal(size=(60, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return CENTER + RADIUS * direction


def _sources(depths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    where, along = rng.normal(size=(2, len(depths), 3))
    where /= np.linalg.norm(where, axis=1, keepdims=True)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return CENTER + RADIUS * depths[:, None] * where, along


def _power(signal, label: str, channel: str, low: float, high: float) -> float:
    """Mean power in a band 1 to 4 s after the onset of each event with this label."""
    row = signal.data[CHANNELS.index(channel)]
    starts = [round((e.onset + 1) * SFREQ) for e in signal.events if e.label == label]
    windows = np.stack([row[i : i + round(3 * SFREQ)] for i in starts])
    freqs, power = welch(windows, SFREQ, nperseg=round(SFREQ))
    return float(power[:, (freqs >= low) & (freqs <= high)].mean())


@pytest.mark.parametrize("conductivity", [(0.33, 0.33, 0.33, 0.33), (0.33, 1.0, 0.004, 0.33)])
def test_lead_field_agrees_with_mne(electrodes, conductivity):
    names = [f"E{i}" for i in range(len(electrodes))]
    info = mne.create_info(names, 100.0, "eeg", verbose="error")
    places = dict(zip(names, electrodes, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    position, orientation = _sources(np.linspace(0.2, 0.8, 8))
    with mne.use_log_level("error"):
        sphere = mne.make_sphere_model(CENTER, RADIUS, info, sigmas=conductivity)
        space = mne.setup_volume_source_space(
            pos={"rr": position, "nn": orientation}, sphere_units="m"
        )
        solution = mne.make_forward_solution(info, None, space, sphere, meg=False, mindist=0)
    free = solution["sol"]["data"].reshape(len(names), 8, 3)
    expected = np.einsum("cse,se->cs", free, orientation) * 1e-9 * 1e6
    shells = tuple((r, c) for (r, _), c in zip(FOUR_SHELLS, conductivity, strict=True))
    ours = lead_field(
        electrodes, position, orientation, center=CENTER, radius=RADIUS, shells=shells
    )
    # MNE stands three dipoles in for the series, which costs it a few parts in a thousand.
    error = np.linalg.norm(ours - expected, axis=0) / np.linalg.norm(expected, axis=0)
    assert error.max() < 0.005


def test_gains_of_a_homogeneous_sphere_are_known():
    n = np.arange(1, 6)
    np.testing.assert_allclose(shell_gains(((1.0, 0.33),), orders=5), (2 * n + 1) / n)
    same = shell_gains(((0.8, 0.2), (0.9, 0.2), (1.0, 0.2)), orders=5)
    np.testing.assert_allclose(same, (2 * n + 1) / n, rtol=1e-12)


def test_potential_of_a_closed_current_averages_to_zero_over_the_sphere():
    # Points of a Fibonacci lattice cover the sphere evenly.
    i = np.arange(4000) + 0.5
    z, angle = 1 - 2 * i / 4000, np.pi * (1 + 5**0.5) * i
    flat = np.sqrt(1 - z**2)
    points = CENTER + RADIUS * np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)
    field = lead_field(points, *_sources(np.linspace(0.1, 0.8, 6)), center=CENTER, radius=RADIUS)
    assert np.abs(field.mean(0)).max() < 1e-3 * np.abs(field).max(0).min()


def test_radial_source_gives_one_pole_and_tangential_source_two():
    above = CENTER + np.array([[0.0, 0.0, 0.8 * RADIUS]] * 2)
    along = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    tilt = np.linspace(-1, 1, 81)
    arc = CENTER + RADIUS * np.stack([np.zeros(81), np.sin(tilt), np.cos(tilt)], 1)
    radial, tangential = lead_field(arc, above, along, center=CENTER, radius=RADIUS).T
    assert radial.argmax() == 40
    np.testing.assert_allclose(tangential, -tangential[::-1], atol=1e-9)
    assert tangential.argmax() > 45


def test_deeper_sources_are_seen_weaker_and_wider(electrodes):
    up = np.array([[0.0, 0.0, 1.0]] * 3)
    depths = np.array([0.3, 0.55, 0.8])
    field = lead_field(
        electrodes, CENTER + RADIUS * depths[:, None] * up, up, center=CENTER, radius=RADIUS
    )
    peak = np.abs(field).max(0)
    assert (np.diff(peak) > 0).all()
    assert (np.diff((np.abs(field) > peak / 2).sum(0)) < 0).all()


def test_a_source_in_the_skull_is_refused(electrodes):
    with pytest.raises(ValueError, match=r"0\.950 of the head radius"):
        lead_field(
            electrodes,
            CENTER + np.array([[0.0, 0.0, 0.95 * RADIUS]]),
            np.array([[0.0, 0.0, 1.0]]),
            center=CENTER,
            radius=RADIUS,
        )


def test_sphere_is_recovered_from_points_on_it(electrodes):
    center, radius = fit_sphere(np.vstack([electrodes, np.full((2, 3), np.nan)]))
    np.testing.assert_allclose(center, CENTER, atol=1e-12)
    assert radius == pytest.approx(RADIUS)


def test_a_run_looks_like_a_run_of_the_real_corpus(reader):
    signal = reader.load(reader.recordings()[0])
    assert signal.data.shape == (64, round(15 * 8.3 * SFREQ))
    labels = [event.label for event in signal.events]
    assert labels[::2] == ["rest"] * 15
    assert sorted([labels.count("left_hand"), labels.count("right_hand")]) == [7, 8]
    assert signal.sensors.has_position.all()
    units.check_amplitude(signal.data, signal.sensors.kind, sfreq=SFREQ, where="simulation")
    amplitude = np.median(units.typical_amplitude(signal.data, SFREQ))
    assert 5 < amplitude < 40  # microvolts; 15 to 45 in the corpus of Schalk et al.


def test_the_same_arguments_give_the_same_samples_and_others_do_not(reader):
    first, other_run, *_ = reader.recordings()
    once = reader.load(first).data
    np.testing.assert_array_equal(once, reader.load(first).data)
    assert not np.allclose(once, reader.load(other_run).data)
    other_seed = SyntheticReader(dataset="simulated", subjects=3, runs=2, sfreq=SFREQ, seed=1)
    assert not np.allclose(once, other_seed.load(first).data)


def test_subjects_differ_in_what_was_planted(reader):
    one, two = reader.truth("001"), reader.truth("002")
    assert one.mu_freq != two.mu_freq
    assert not np.allclose(one.position, two.position)
    assert reader.truth("003").erd < 0.3 * min(one.erd, two.erd)  # the weak one


@pytest.mark.parametrize("label", ["left_hand", "right_hand"])
@pytest.mark.parametrize("rhythm", ["mu", "beta"])
def test_rhythms_fall_over_the_planted_hemisphere(reader, label, rhythm):
    truth = reader.truth("001")
    freq = truth.mu_freq if rhythm == "mu" else truth.beta_freq
    sides = {"left": "C3", "right": "C4"}
    opposite = sides[truth.hemisphere[label]]
    same = next(name for name in sides.values() if name != opposite)
    ratio = {}
    for channel in (opposite, same):
        runs = [reader.load(r) for r in reader.recordings() if r.subject == "001"]
        task = np.mean([_power(s, label, channel, freq - 1.5, freq + 1.5) for s in runs])
        rest = np.mean([_power(s, "rest", channel, freq - 1.5, freq + 1.5) for s in runs])
        ratio[channel] = task / rest
    assert truth.channel[label] == opposite
    assert ratio[opposite] < 0.7
    assert ratio[opposite] < 0.8 * ratio[same]


def test_desynchronisation_rises_within_a_second_and_beta_rebounds():
    runs = [simulate_motor_imagery("a", str(i), sfreq=SFREQ, erd=0.9) for i in range(6)]
    control = [simulate_motor_imagery("a", str(i), sfreq=SFREQ, erd=0.0) for i in range(6)]
    rng_free = [s.data - c.data for s, c in zip(runs, control, strict=True)]
    lag = np.arange(round(6.5 * SFREQ))
    trace = []
    for signal, difference in zip(runs, rng_free, strict=True):
        row = difference[CHANNELS.index("C4")]
        for event in signal.events[:-1]:
            if event.label == "left_hand":
                start = round(event.onset * SFREQ)
                if start + len(lag) <= len(row):
                    trace.append(row[start + lag] ** 2)
    change = np.sqrt(np.mean(trace, axis=0))
    second = round(SFREQ)
    assert change[: round(0.15 * SFREQ)].mean() < 0.2 * change[second : 4 * second].mean()
    late = slice(round(4.7 * SFREQ), round(5.3 * SFREQ))  # rebound: 0.6 to 1.2 s after the end
    assert change[late].mean() > 0.05 * change[second : 4 * second].mean()


def test_without_an_effect_left_and_right_are_one_and_the_rest_is_unchanged():
    with_effect = simulate_motor_imagery("a", "1", sfreq=SFREQ, erd=0.9)
    without = simulate_motor_imagery("a", "1", sfreq=SFREQ, erd=0.0)
    assert with_effect.events == without.events
    # Before the first cue nothing has happened yet: the two are the same sample by sample.
    before = round(3.5 * SFREQ)
    np.testing.assert_allclose(
        with_effect.data[:, :before], without.data[:, :before], rtol=0, atol=0.02
    )
    assert not np.allclose(with_effect.data, without.data, atol=0.5)


def test_background_falls_as_one_over_f():
    data = simulate_motor_imagery("a", "1", sfreq=256.0).data
    freqs, power = welch(data, 256.0, nperseg=1024)
    # Away from the rhythms, the line, drift and the amplifier's floor.
    away = ((freqs > 2) & (freqs < 6)) | ((freqs > 28) & (freqs < 40))
    slope = np.polyfit(np.log(freqs[away]), np.log(np.median(power, 0)[away]), 1)[0]
    assert -2.0 < slope < -0.9


def test_line_noise_stands_out_at_60_hz_only_where_the_rate_can_hold_it():
    freqs, power = welch(simulate_motor_imagery("a", "1").data, 160.0, nperseg=320)
    middle = np.median(power, 0)
    assert middle[np.argmin(abs(freqs - 60))] > 3 * middle[np.argmin(abs(freqs - 56))]
    slow = simulate_motor_imagery("a", "1", sfreq=100.0)
    freqs, power = welch(slow.data, 100.0, nperseg=200)
    middle = np.median(power, 0)
    alias = middle[np.argmin(abs(freqs - 40))]
    assert alias < 2 * middle[np.argmin(abs(freqs - 37))]


def test_blinks_are_largest_at_the_forehead(reader):
    data = reader.load(reader.recordings()[0]).data
    peak = np.percentile(data, 99.8, axis=1) - np.median(data, axis=1)
    strongest = {CHANNELS[i] for i in np.argsort(peak)[-5:]}
    assert strongest & {"Fp1", "Fpz", "Fp2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"erd": 1.2}, "erd 1.2"), ({"sfreq": 20.0}, "at least 64 Hz"), ({"n_trials": 0}, "n_trials")],
)
def test_impossible_simulations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_motor_imagery("a", "1", **arguments)


def test_recordings_of_another_corpus_are_refused(reader):
    foreign = SyntheticReader(dataset="other").recordings()[0]
    with pytest.raises(ValueError, match="take one from `recordings"):
        reader.load(foreign)
    with pytest.raises(ValueError, match="001 to 003"):
        reader.truth("009")
