"""References by shaft, and the high-gamma envelope of a planted modulation."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from neurofm.cards import build, spec_of
from neurofm.data import Bipolar, Clip, HighGamma, Laplacian, Notch, Rereference
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

SEED = 20240607


def shaft_signal(
    names: list[str], *, kind: Kind = Kind.SEEG, seconds: float = 4.0, sfreq: float = 200.0
) -> Signal:
    rng = np.random.default_rng(SEED)
    data = (20 * rng.standard_normal((len(names), int(seconds * sfreq)))).astype(np.float32)
    position = np.stack([np.arange(len(names)), np.zeros(len(names)), np.ones(len(names))], 1)
    sensors = Sensors.of_kind(names, kind, 0.004 * position, frame="mni")
    recording = Recording("toy", "01")
    return Signal(data, sfreq, sensors, (Event(1.0, 0.0, "x"),), recording, ("read toy",))


def with_extra(signal: Signal, name: str, kind: Kind) -> Signal:
    sensors = Sensors(
        (*signal.sensors.names, name),
        np.append(signal.sensors.kind, np.int8(kind)),
        np.vstack([signal.sensors.position, [[np.nan] * 3]]),
        np.zeros((len(signal.sensors) + 1, 3)),
        "mni",
    )
    rng = np.random.default_rng(1)
    row = 20 * rng.standard_normal((1, signal.data.shape[1]))
    return replace(signal, data=np.vstack([signal.data, row]).astype(np.float32), sensors=sensors)


def test_bipolar_subtracts_neighbours_of_one_shaft_only():
    signal = with_extra(shaft_signal(["A'2", "B1", "A'1", "B2", "A'4"]), "EKG1", Kind.ECG)
    result = Bipolar(detect=False)(signal)
    assert result.sensors.names == ("A'1-A'2", "B1-B2", "EKG1")  # 2 and 4 are no neighbours
    np.testing.assert_allclose(result.data[0], signal.data[2] - signal.data[0])
    np.testing.assert_array_equal(result.data[2], signal.data[5])
    np.testing.assert_allclose(
        result.sensors.position[0], signal.sensors.position[[0, 2]].mean(axis=0)
    )
    assert result.sensors.kind.tolist() == [Kind.SEEG, Kind.SEEG, Kind.ECG]
    assert result.events == signal.events and result.sensors.frame == "mni"
    assert result.history[1:] == ("bipolar: 2 pairs of 5 contacts",)


def test_a_pair_keeps_a_region_its_contacts_share():
    signal = shaft_signal(["A1", "A2", "A3"])
    sensors = replace(signal.sensors, region=("amygdala", "amygdala", "hippocampus"))
    result = Bipolar(detect=False)(replace(signal, sensors=sensors))
    assert result.sensors.region == ("amygdala", "")


def test_what_is_common_to_a_shaft_vanishes_and_what_is_local_stays():
    """A far source reaches all contacts alike; a near one only A5."""
    names = [f"A{i}" for i in range(1, 9)]
    time = np.arange(2000) / 200
    far, near = 300 * np.sin(2 * np.pi * 7 * time), 20 * np.sin(2 * np.pi * 13 * time)
    data = np.tile(far, (8, 1))
    data[4] += near
    signal = replace(shaft_signal(names), data=data.astype(np.float32))
    for step, row, gain in (
        (Bipolar(detect=False), 4, 1.0),
        (Laplacian(detect=False), 4, 1.0),
        (Rereference(within="shaft", detect=False), 4, 7 / 8),
    ):
        result = step(signal)
        np.testing.assert_allclose(result.data[row], gain * near, atol=1e-3)
        assert np.abs(result.data[0]).max() < np.abs(near).max() / 7


def test_laplacian_ends_are_one_sided_or_dropped_as_declared():
    signal = with_extra(shaft_signal(["A1", "A2", "A3", "B1"]), "EKG1", Kind.ECG)
    one = Laplacian(detect=False)(signal)
    assert one.sensors.names == ("A1", "A2", "A3", "EKG1")  # B1 has no neighbour at all
    np.testing.assert_allclose(one.data[0], signal.data[0] - signal.data[1], atol=1e-5)
    middle = signal.data[1] - signal.data[[0, 2]].mean(axis=0)
    np.testing.assert_allclose(one.data[1], middle, atol=1e-5)
    assert one.history[-1] == "Laplacian: 3 of 4 contacts, 2 of them one-sided"
    dropped = Laplacian(ends="drop", detect=False)(signal)
    assert dropped.sensors.names == ("A2", "EKG1")


def test_a_grid_needs_its_columns_and_has_neighbours_in_both_directions():
    signal = shaft_signal([f"G{i}" for i in range(1, 33)], kind=Kind.ECOG)
    for step in (Bipolar(detect=False), Laplacian(detect=False)):
        with pytest.raises(ValueError, match=r"G has 32 contacts.*Set columns=\{'G': 8\}"):
            step(signal)
    pairs = Bipolar(columns={"G": 8}, detect=False)(signal).sensors.names
    assert len(pairs) == 4 * 7 and "G8-G9" not in pairs
    result = Laplacian(columns={"G": 8}, detect=False)(signal)
    beside = [9, 11, 2, 18]  # of G10, from 1
    expected = signal.data[9] - signal.data[np.array(beside) - 1].mean(axis=0)
    np.testing.assert_allclose(result.data[9], expected, atol=1e-5)
    corner = signal.data[0] - signal.data[[1, 8]].mean(axis=0)
    np.testing.assert_allclose(result.data[0], corner, atol=1e-5)


def test_flat_contacts_take_no_part_in_any_reference():
    signal = shaft_signal([f"A{i}" for i in range(1, 7)])
    signal.data[2] = 0
    average = Rereference(within="shaft")(signal)
    good = signal.data[[0, 1, 3, 4, 5]]
    np.testing.assert_allclose(average.data[0], signal.data[0] - good.mean(axis=0), atol=1e-4)
    assert average.history[-1].endswith("6 SEEG channels by the mean of 5; bad: A3")
    pairs = Bipolar()(signal)
    assert pairs.sensors.names == ("A1-A2", "A4-A5", "A5-A6")
    assert "2 pairs with a bad contact left out; bad: A3" in pairs.history[-1]
    local = Laplacian(ends="drop")(signal)
    assert local.sensors.names == ("A5",)


def test_contacts_known_to_be_bad_are_left_out_whoever_says_so():
    signal = shaft_signal(["A1", "A2", "A3", "A4"])
    told = Bipolar(bad=["A1"])(signal).sensors.names
    marked = replace(signal, details={"bad_channels": ["A1", "GONE"]})
    assert told == Bipolar()(marked).sensors.names == ("A2-A3", "A3-A4")
    with pytest.raises(ValueError, match="'A9'"):
        Bipolar(bad=["A9"])(signal)


def test_each_shaft_has_its_own_average_and_other_channels_stay():
    signal = with_extra(shaft_signal(["A1", "A2", "B1", "B2", "REF"]), "EKG1", Kind.ECG)
    result = Rereference(within="shaft")(signal)
    for rows in ([0, 1], [2, 3]):
        np.testing.assert_allclose(result.data[rows].sum(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(result.data[4:], signal.data[4:])


@pytest.mark.parametrize("step", [Bipolar(), Laplacian(), Rereference(within="shaft")])
def test_names_without_shafts_and_absent_kinds_are_refused(step):
    with pytest.raises(ValueError, match=r"toy_sub-01: .*no shaft can be read from the names 01"):
        step(shaft_signal(["01", "02", "03"]))
    with pytest.raises(ValueError, match=r"toy_sub-01: .*(no channel of kind|found nothing)"):
        step(shaft_signal(["A1", "A2"], kind=Kind.MAG))
    with pytest.raises(ValueError, match="are both contact 1 of A"):
        step(shaft_signal(["A1", "A01", "A2"]))
    broken = shaft_signal(["A1", "A2"])
    broken.data[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"A2 at 0\.025 s"):
        step(broken)


@pytest.mark.parametrize("step", [Bipolar(), Laplacian(), Rereference()])
def test_a_shaft_of_which_all_are_bad_is_refused(step):
    signal = replace(shaft_signal(["A1", "A2"]), details={"bad_channels": ["A1", "A2"]})
    with pytest.raises(ValueError, match=r"toy_sub-01: .*(no two good|none of 2|too many)"):
        step(signal)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Rereference(within="grid"), "within is 'grid'"),
        (lambda: Rereference(["A1"], within="shaft"), 'needs to="average"'),
        (lambda: Laplacian(ends="mirror"), "ends is 'mirror'"),
        (lambda: HighGamma(150, 70), "0 < low < high"),
        (lambda: HighGamma(width_hz=1.0), "sub-bands of 1.0 Hz"),
        (lambda: HighGamma(relative="dB"), "relative is 'dB'"),
        (lambda: HighGamma(sfreq=0), "rate 0"),
    ],
)
def test_steps_that_make_no_sense_are_refused_when_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "step",
    [Bipolar(columns={"G": 8}), Laplacian(ends="drop"), Rereference(within="shaft"), HighGamma()],
)
def test_steps_can_be_written_down_and_built_again(step):
    assert spec_of(build(spec_of(step))) == spec_of(step)


def modulated(*, amplitude: float = 10.0, seconds: float = 20.0, sfreq: float = 1000.0) -> Signal:
    """Forty tones in 80-116 Hz whose amplitude swings at 1 Hz, below slow rhythms and the mains."""
    rng = np.random.default_rng(SEED)
    time = np.arange(int(seconds * sfreq)) / sfreq
    swing = 1 + 0.6 * np.sin(2 * np.pi * 1.0 * time)
    tones = rng.uniform(80, 116, 40)
    carrier = sum(np.sin(2 * np.pi * (f * time + rng.random())) for f in tones) / np.sqrt(40)
    fast = amplitude * swing * carrier
    slow = 80 * np.sin(2 * np.pi * 9 * time) + 40 * np.sin(2 * np.pi * 21 * time)
    mains = sum(a * np.sin(2 * np.pi * f * time) for f, a in ((60, 200), (120, 100)))
    names = ["A1", "A2"]
    data = np.stack([fast + slow + mains, slow + mains])
    return replace(shaft_signal(names, sfreq=sfreq), data=data.astype(np.float32))


@pytest.mark.parametrize(
    ("step", "unit"),
    [
        (HighGamma(), None),
        (HighGamma(width_hz=10.0, relative="mean"), "% of mean"),
        (HighGamma(width_hz=10.0, relative="z"), "z"),
    ],
)
def test_a_planted_modulation_is_recovered_below_slow_rhythms_and_mains(step, unit):
    signal = modulated()
    result = step(Notch([60.0])(signal))
    assert result.sfreq == 100 and result.details.get("unit") == unit
    time = np.arange(result.data.shape[1]) / 100
    inner = slice(200, -200)
    planted = np.sin(2 * np.pi * time)[inner]
    envelope = result.data[0, inner].astype(np.float64)
    smooth = np.convolve(envelope, np.ones(15) / 15, mode="same")
    assert np.corrcoef(smooth, planted)[0, 1] > 0.8
    phase = np.angle(np.mean((envelope - envelope.mean()) * np.exp(-2j * np.pi * time[inner])))
    assert abs(phase + np.pi / 2) < 0.2  # a sine: no delay
    assert "zero phase" in result.history[-2]


def test_the_amplitude_of_a_tone_in_the_band_is_its_own_in_microvolts():
    time = np.arange(8000) / 1000
    swing = 1 + 0.5 * np.sin(2 * np.pi * 2 * time)
    data = np.stack([12 * swing * np.sin(2 * np.pi * 100 * time), 12 * np.sin(2 * np.pi * time)])
    signal = replace(shaft_signal(["A1", "A2"], sfreq=1000.0), data=data.astype(np.float32))
    signal = replace(signal, history=("read", "notch 60 Hz"))
    result = HighGamma()(signal)
    now = np.arange(result.data.shape[1]) / 100
    expected = 12 * (1 + 0.5 * np.sin(2 * np.pi * 2 * now))
    assert result.data.shape == (2, 800)
    np.testing.assert_allclose(result.data[0, 50:-50], expected[50:-50], atol=0.05)
    assert np.abs(result.data[1, 50:-50]).max() < 0.05


def test_the_mains_are_announced_if_nothing_removed_them():
    signal = modulated(seconds=8.0)
    with pytest.warns(UserWarning, match="HighGamma without Notch"):
        loud = HighGamma()(signal)
    quiet = HighGamma()(Notch([60.0])(signal))
    assert loud.data[1].mean() > 5 * quiet.data[1, 30:-30].mean()


def test_the_envelope_leaves_other_kinds_out_and_channels_do_not_meet():
    signal = with_extra(modulated(seconds=3.0), "EKG1", Kind.ECG)
    signal = replace(signal, history=("notch 60 Hz",))
    both = HighGamma()(signal)
    assert both.sensors.names == ("A1", "A2") and "1 other channels left out" in both.history[1]
    alone = HighGamma()(signal.pick([1]))
    np.testing.assert_allclose(both.data[1], alone.data[0], atol=1e-3)
    assert HighGamma.by_channel


def test_a_rate_too_low_for_the_band_and_absent_contacts_are_refused():
    signal = shaft_signal(["A1"], sfreq=256.0)
    with pytest.raises(ValueError, match=r"up to 150 Hz .* not possible at 256 Hz"):
        HighGamma()(signal)
    with pytest.raises(ValueError, match="no channel of kind seeg, ecog"):
        HighGamma()(shaft_signal(["Cz"], kind=Kind.EEG, sfreq=1000.0))


def test_a_silent_contact_has_no_envelope_and_no_division_by_zero():
    signal = replace(modulated(seconds=3.0), history=("notch 60 Hz",))
    signal.data[1] = 0
    for relative in ("none", "mean", "z"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = HighGamma(relative=relative)(signal)
        assert np.isfinite(result.data).all() and np.abs(result.data[1]).max() < 1e-6


def test_clip_refuses_numbers_whose_unit_is_not_that_of_their_kind():
    signal = replace(shaft_signal(["A1"]), details={"unit": "arbitrary"})
    with pytest.raises(ValueError, match="'arbitrary'"):
        Clip(100.0)(signal)
