"""Steps for BOLD and the expected response: exact, the same in groups, equal to known packages."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.data import (
    CleanBold,
    DoubleGamma,
    DropVolumes,
    ShiftEvents,
    StandardizeRun,
    design_matrix,
    lagged,
)
from neurofm.data.steps.bold import drifts
from neurofm.io import SyntheticFMRIReader, simulate_bold
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

TR, N = 2.0, 120


def make(data: np.ndarray, confounds: dict[str, np.ndarray], events=()) -> Signal:
    names = [*(f"confound:{name}" for name in confounds), *(f"v{i}" for i in range(len(data)))]
    rows = [*confounds.values(), *data]
    sensors = Sensors.of_kind(names, Kind.BOLD)
    sensors.kind[: len(confounds)] = int(Kind.OTHER)
    return Signal(
        np.array(rows, dtype=np.float32), 1 / TR, sensors, tuple(events), Recording("t", "1")
    )


@pytest.fixture
def noisy(rng: np.random.Generator) -> tuple[Signal, np.ndarray]:
    """Ten voxels with drift and motion, and the part of their signal that neither explains."""
    motion = np.cumsum(rng.standard_normal((2, N)), axis=1)
    at = np.linspace(-1, 1, N)
    slow = np.stack([np.ones(N), at, np.cos(np.pi * (np.arange(N) + 0.5) / N)])
    nuisance = np.concatenate([slow, motion])
    own = rng.standard_normal((10, N))
    q = np.linalg.qr(nuisance.T)[0]
    own -= own @ q @ q.T
    data = own + rng.standard_normal((10, 5)) @ nuisance * 3
    return make(data, {"x": motion[0], "y": motion[1]}), own


def test_what_neither_drift_nor_motion_explains_comes_back(noisy):
    signal, own = noisy
    step = CleanBold(detrend=1, high_pass_hz=1 / (2 * N * TR) * 1.5, confounds=["*"])
    cleaned = step(signal)
    assert cleaned.sensors.names == tuple(f"v{i}" for i in range(10))
    np.testing.assert_allclose(cleaned.data, own, atol=2e-5)
    assert "2 confounds" in cleaned.history[-1]


def test_one_projection_is_the_residual_of_one_regression(noisy):
    signal, _ = noisy
    design = np.concatenate(
        [drifts(N, 1 / TR, detrend=2, high_pass_hz=0.01), signal.data[:2].T.astype(float)], axis=1
    )
    y = signal.data[2:].T.astype(float)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    cleaned = CleanBold(detrend=2, high_pass_hz=0.01, confounds=["x", "y"])(signal)
    np.testing.assert_allclose(cleaned.data, residual.T, atol=2e-5)


def test_cleaning_agrees_with_nilearn(noisy):
    clean = pytest.importorskip("nilearn.signal").clean
    signal, _ = noisy
    theirs = clean(
        signal.data[2:].T.astype(float),
        confounds=signal.data[:2].T.astype(float),
        detrend=False,
        standardize=None,
        filter="cosine",
        high_pass=0.01,
        t_r=TR,
    )
    theirs = theirs - theirs.mean(axis=0)
    ours = CleanBold(detrend=0, high_pass_hz=0.01, confounds=["*"])(signal)
    np.testing.assert_allclose(ours.data, theirs.T, atol=5e-5)


def test_groups_of_channels_are_cleaned_as_the_whole_is(noisy):
    signal, _ = noisy
    step = CleanBold(detrend=1, high_pass_hz=0.01, confounds=["*"])
    whole = step(signal)
    parts = [step(signal.pick([0, 1, *range(2 + lo, 2 + lo + 5)])) for lo in (0, 5)]
    np.testing.assert_array_equal(np.concatenate([p.data for p in parts]), whole.data)
    assert parts[0].history == whole.history


def test_a_confound_without_its_first_value_is_used_all_the_same(noisy):
    signal, own = noisy
    data = signal.data.copy()
    data[0, 0] = np.nan
    broken = Signal(data, signal.sfreq, signal.sensors, (), signal.recording)
    cleaned = CleanBold(detrend=1, high_pass_hz=0.004, confounds=["*"])(broken)
    assert np.isfinite(cleaned.data).all()
    assert np.corrcoef(cleaned.data[:, 5:].ravel(), own[:, 5:].ravel())[0, 1] > 0.99


def test_copies_of_a_confound_change_nothing(noisy):
    signal, _ = noisy
    twice = make(
        signal.data[2:],
        {"x": signal.data[0], "y": signal.data[1], "z": 3 * signal.data[0] + 1, "c": np.ones(N)},
    )
    step = CleanBold(confounds=["*"])
    np.testing.assert_allclose(step(twice).data, step(signal).data, atol=1e-4)


def test_confounds_that_are_not_there_or_too_many_are_refused(noisy, rng):
    signal, _ = noisy
    with pytest.raises(ValueError, match="no confound csf; there are x, y"):
        CleanBold(confounds=["csf"])(signal)
    many = make(signal.data[2:], {str(i): rng.standard_normal(N) for i in range(N)})
    with pytest.raises(ValueError, match="120 regressors for 120 volumes leave nothing"):
        CleanBold(confounds=["*"])(many)
    bad = make(np.full((1, N), np.nan), {})
    with pytest.raises(ValueError, match="CleanBold: 1 of 1 channels contain NaN"):
        CleanBold()(bad)


def test_confounds_may_stay(noisy):
    signal, _ = noisy
    kept = CleanBold(confounds=["*"], keep=True)(signal)
    assert kept.sensors.names == signal.sensors.names
    np.testing.assert_array_equal(kept.data[:2], signal.data[:2])
    np.testing.assert_allclose(
        kept.data[2:], CleanBold(confounds=["*"])(signal).data, rtol=0, atol=1e-6
    )


def test_a_run_is_standardised_by_itself(noisy):
    signal, _ = noisy
    flat = make(np.r_[signal.data[2:], np.full((1, N), 5.0)], {"x": signal.data[0]})
    z = StandardizeRun()(flat)
    np.testing.assert_array_equal(z.data[0], flat.data[0])
    np.testing.assert_allclose(z.data[1:-1].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(z.data[1:-1].std(axis=1), 1, atol=1e-5)
    assert (z.data[-1] == 0).all() and "1 constant" in z.history[-1]


def test_dropped_volumes_take_their_events_along():
    events = [Event(0.0, 1.0, "a"), Event(5.0, 4.0, "b"), Event(20.0, 0.0, "c")]
    signal = make(np.arange(N)[None], {}, events)
    cut = DropVolumes(first=4, last=6)(signal)
    np.testing.assert_array_equal(cut.data[0], np.arange(4, N - 6))
    assert cut.events == (Event(-3.0, 4.0, "b"), Event(12.0, 0.0, "c"))
    assert "1 events with them" in cut.history[-1]
    with pytest.raises(ValueError, match="takes 100 \\+ 20 of 120 volumes"):
        DropVolumes(first=100, last=20)(signal)


def test_events_move_by_the_delay_but_marks_of_bad_data_stay():
    events = [
        Event(2.0, 1.0, "a"),
        Event(3.0, 2.0, "BAD empty volume"),
        Event(4.0, 0.0, "EDGE boundary"),
    ]
    moved = ShiftEvents(4.5)(make(np.zeros((1, N)), {}, events))
    assert moved.events == (events[1], events[2], Event(6.5, 1.0, "a"))


# Expected responses


def test_the_response_has_its_known_shape():
    time = np.arange(0, 60, 0.001)
    hrf = DoubleGamma()
    density = hrf.density(time)
    assert time[density.argmax()] == pytest.approx(5.0, abs=0.05)
    assert time[density.argmin()] == pytest.approx(15.7, abs=0.3)
    np.testing.assert_allclose(density.sum() * 0.001, 1, atol=1e-4)
    assert hrf.area(np.array([200.0]))[0] == pytest.approx(1)
    late = DoubleGamma(delay_s=2.0)
    np.testing.assert_allclose(late.density(time + 2), density, atol=1e-12)


def test_a_block_is_the_sum_of_its_impulses():
    time = np.arange(0, 60, 0.5)
    hrf = DoubleGamma()
    onsets = np.arange(5, 15, 0.01) + 0.005
    impulses = sum(hrf.response(time, onset, 0.0) * 0.01 for onset in onsets)
    np.testing.assert_allclose(hrf.response(time, 5.0, 10.0), impulses, atol=1e-4)


def test_the_design_agrees_with_nilearn():
    module = pytest.importorskip("nilearn.glm.first_level")
    import pandas

    events = [Event(15.0, 22.5, "a"), Event(60.3, 22.5, "b"), Event(100.0, 2.0, "a")]
    ours, names = design_matrix(events, 100, 0.4)
    table = pandas.DataFrame(
        [{"onset": e.onset, "duration": e.duration, "trial_type": e.label} for e in events]
    )
    theirs = module.make_first_level_design_matrix(
        np.arange(100) / 0.4, table, hrf_model="spm", drift_model=None, oversampling=200
    )
    for i, name in enumerate(names):
        np.testing.assert_allclose(ours[:, i], theirs[name], atol=2e-3)


def test_impulse_responses_mark_each_delay():
    x, names = design_matrix(
        [Event(4.0, 0.0, "a"), Event(9.0, 0.0, "a"), Event(300.0, 0.0, "a")],
        N,
        1 / TR,
        model="fir",
        delays=3,
    )
    assert names == ("a:+0", "a:+1", "a:+2")
    # 4 s is volume 2; 9 s lies between volumes 4 and 5: the first volume behind it is 5.
    assert [np.flatnonzero(column).tolist() for column in x.T] == [[2, 5], [3, 6], [4, 7]]
    with pytest.raises(ValueError, match="no event is labelled b; there are a"):
        design_matrix([Event(4.0, 0.0, "a")], N, 1 / TR, labels=["b"])


def test_lagged_features_stand_beside_each_other(rng):
    features = rng.standard_normal((6, 2))
    x = lagged(features, [0, 2, 9])
    np.testing.assert_array_equal(x[:, :2], features)
    np.testing.assert_array_equal(x[2:, 2:4], features[:-2])
    assert (x[:2, 2:4] == 0).all() and (x[:, 4:] == 0).all()


def test_a_delayed_response_is_found_again_by_impulse_responses(rng):
    onsets = np.cumsum(rng.uniform(4, 12, 40))
    events = [Event(float(np.round(o / TR) * TR), 0.0, "a") for o in onsets]
    n = int(onsets[-1] / TR) + 20
    x, _ = design_matrix(events, n, 1 / TR, model="fir", delays=12)
    truth = DoubleGamma(delay_s=1.0).density(np.arange(12) * TR)
    y = x @ truth + 0.01 * rng.standard_normal(n)
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(found, truth, atol=0.02)


# The simulation


def test_the_simulation_repeats_itself_and_differs_between_people():
    one, same = simulate_bold("001", "01"), simulate_bold("001", "01")
    np.testing.assert_array_equal(one.data, same.data)
    assert one.events == same.events
    assert not np.array_equal(one.data[:, :50], simulate_bold("002", "01").data[:, :50])
    silent = simulate_bold("001", "01", tuning=0.0)
    untuned = ~SyntheticFMRIReader(dataset="t").truth("001").tuned
    np.testing.assert_allclose(silent.data[6:][untuned], one.data[6:][untuned], atol=1e-5)
    assert np.abs(silent.data - one.data).max() > 0.5
    assert one.sensors.frame == "mni" and set(one.sensors.region) == {"", "ventral", "frontal"}


def test_the_planted_response_is_in_the_simulation():
    reader = SyntheticFMRIReader(dataset="t", noise=0.0, labels="stimulus", repeats=3)
    signal = reader.load(reader.recordings()[0])
    truth = reader.truth("001")
    hrf = DoubleGamma(peak_s=truth.peak_s)
    x, names = design_matrix(signal.events, signal.data.shape[1], signal.sfreq, hrf=hrf)
    betas = np.linalg.lstsq(x, signal.data[6:].T.astype(float), rcond=None)[0]
    order = [int(n.split("_")[1].split("/")[0]) * 6 - 7 + int(n.split("/")[1]) for n in names]
    np.testing.assert_allclose(betas, truth.patterns[order], atol=1e-4)
