"""Amplitudes that cannot be: caught with the factor, for every kind; plausible ones pass."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.io import open_corpus, open_path
from neurofm.units import BRAIN_KINDS, UNITS, Kind, check_amplitude, si_factor, typical_amplitude

BOUNDED = [kind for kind, unit in UNITS.items() if np.isfinite(unit.high)]
USUAL = {
    Kind.EEG: 20.0,
    Kind.MAG: 300.0,
    Kind.GRAD: 100.0,
    Kind.AXIAL: 300.0,
    Kind.SEEG: 60.0,
    Kind.ECOG: 80.0,
}


def test_every_kind_has_a_unit():
    assert set(UNITS) == set(Kind) - {Kind.PAD}
    assert {Kind.EEG, Kind.MAG, Kind.GRAD, Kind.AXIAL, Kind.SEEG, Kind.ECOG} == set(BOUNDED)
    assert set(BOUNDED) <= set(BRAIN_KINDS)


@pytest.mark.parametrize("kind", BOUNDED)
def test_usual_amplitudes_pass(kind, rng):
    data = USUAL[kind] * rng.standard_normal((4, 1000))
    check_amplitude(data, np.full(4, kind, np.int8), sfreq=250.0, where="r")


@pytest.mark.parametrize("exponent", [-12, -6, 6, 12])
@pytest.mark.parametrize("kind", BOUNDED)
def test_implausible_amplitudes_stop_with_the_power_of_ten_that_is_missing(kind, exponent, rng):
    data = 10.0**exponent * USUAL[kind] * rng.standard_normal((4, 1000))
    with pytest.raises(ValueError, match="typical amplitude") as caught:
        check_amplitude(data, np.full(4, kind, np.int8), sfreq=250.0, where="file.edf")
    assert f"Multiplying by 1e{-exponent:+d} would" in str(caught.value).replace("e+0", "e+")
    assert str(caught.value).startswith(f"file.edf: {kind.name} channels")


def test_one_kind_of_several_is_enough_to_stop(rng):
    data = 20 * rng.standard_normal((4, 1000))
    kind = np.array([Kind.EEG, Kind.EEG, Kind.MAG, Kind.MAG], np.int8)
    data[2:] *= 1e-12
    with pytest.raises(ValueError, match="MAG channels"):
        check_amplitude(data, kind, sfreq=250.0, where="r")


def test_flat_broken_and_single_odd_channels_do_not_stop(rng):
    data = 20 * rng.standard_normal((8, 1000))
    data[0] = 0
    data[1] = np.nan
    data[2] *= 1e6  # one loose electrode
    check_amplitude(data, np.zeros(8, np.int8), sfreq=250.0, where="r")


def test_drift_barely_moves_the_typical_amplitude(rng):
    data = 10 * rng.standard_normal((1, 60_000))
    still = typical_amplitude(data, 250.0)
    moving = typical_amplitude(data + np.linspace(0, 5000, 60_000), 250.0)
    np.testing.assert_allclose(moving, still, rtol=0.2)


def test_a_recording_shorter_than_a_second_has_an_amplitude(rng):
    assert typical_amplitude(10 * rng.standard_normal((2, 100)), 1000.0).shape == (2,)


@pytest.mark.parametrize(
    ("unit", "value"), [("uV", 1e-6), ("µV", 1e-6), ("fT/cm", 1e-13), (2.0, 2.0)]
)
def test_names_of_units_have_their_si_factor(unit, value):
    assert si_factor(unit, where="r") == value


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning")
@pytest.mark.parametrize("exponent", [-6, 3, 6])
def test_planted_errors_of_unit_are_found_in_real_recordings(corpora, exponent):
    opened = [open_corpus(name) for name in ("eegmmidb", "eegmat", "muse_erp", "eeglab_sample")]
    opened += [open_path(corpora / "meg_samples"), open_path(corpora / "ieeg")]
    checked = 0
    for corpus in opened:
        for recording in corpus.recordings()[:6]:
            if recording.subject.endswith("-ave"):
                continue
            signal = corpus.load(recording)  # passes as it is
            with pytest.raises(ValueError, match=r"Multiplying by") as caught:
                check_amplitude(
                    signal.data * 10.0**exponent,
                    signal.sensors.kind,
                    sfreq=signal.sfreq,
                    where=recording.id,
                )
            assert f"1e{-exponent:+d} would" in str(caught.value), recording.id
            checked += 1
    assert checked > 20
