"""What MEG files say besides their samples: compensation, head position, SSS, lost samples."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from mne.io.constants import FIFF

from neurofm.io import (
    RecordingWarning,
    read_raw_signal,
    signal_from_raw,
)
from neurofm.types import Event, Recording
from neurofm.units import Kind

WHO = Recording("tiny", "1")
NAMES = ["MEG0111", "MEG0112", "EEG001"]
SCALE = np.array([1e-13, 1e-12, 1e-5])[:, None]  # SI numbers that are 100 fT, 10 fT/cm and 10 µV
ROTATED = np.array([[0.0, -1, 0, 0.01], [1, 0, 0, 0.02], [0, 0, 1, 0.03], [0, 0, 0, 1]])


def info(sfreq: float = 100.0) -> mne.Info:
    """A magnetometer and a planar gradiometer in a turned helmet, and an electrode."""
    made = mne.create_info(NAMES, sfreq, ["mag", "grad", "eeg"])
    coils = [FIFF.FIFFV_COIL_VV_MAG_T3, FIFF.FIFFV_COIL_VV_PLANAR_T1]
    with made._unlock():
        for channel, coil in zip(made["chs"], coils, strict=False):
            channel["coil_type"] = coil
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            channel["loc"][:] = [0.1, 0, 0.02, 1, 0, 0, 0, 1, 0, 0, 0, 1]
        made["chs"][2]["loc"][:3] = [0, 0, 0.1]
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    return made


def test_a_fif_file_of_another_content_is_named(tmp_path):
    mne.make_ad_hoc_cov(info(), verbose="error").save(tmp_path / "a-cov.fif", verbose="error")
    with pytest.raises(ValueError, match=r"a FIF file that holds a covariance, not a recording"):
        read_raw_signal(tmp_path / "a-cov.fif", WHO)


def compensated(rng: np.random.Generator) -> tuple[mne.io.RawArray, np.ndarray]:
    """An axial gradiometer and two references whose fields leak into it with known weights."""
    made = mne.create_info(["MLC11", "BR1", "BR2"], 100.0, ["mag", "ref_meg", "ref_meg"])
    coils = [FIFF.FIFFV_COIL_CTF_GRAD, *[FIFF.FIFFV_COIL_CTF_REF_MAG] * 2]
    weights = np.array([[0.5, -2.0]])
    with made._unlock():
        for channel, coil in zip(made["chs"], coils, strict=True):
            channel["coil_type"] = coil
            channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
            channel["loc"][:] = [0.1, 0, 0.02, 1, 0, 0, 0, 1, 0, 0, 0, 1]
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
        table = {
            "nrow": 1,
            "ncol": 2,
            "row_names": ["MLC11"],
            "col_names": ["BR1", "BR2"],
            "data": weights,
        }
        made["comps"] = [
            {
                "kind": 1,
                "ctfkind": 1194410578,
                "save_calibrated": True,
                "rowcals": np.ones(1),
                "colcals": np.ones(2),
                "data": table,
            }
        ]
    brain = 1e-13 * rng.standard_normal((1, 300))
    far = 1e-12 * rng.standard_normal((2, 300))
    raw = mne.io.RawArray(np.r_[brain + weights @ far, far], made, verbose="error")
    return raw, brain[0] * 1e15


def test_compensation_is_kept_in_the_details_and_applied_on_request(rng, tmp_path):
    raw, brain = compensated(rng)
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    plain = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert plain.details["compensation_grade"] == 0
    assert np.abs(plain.data[0] - brain).max() > 1000
    clean = read_raw_signal(tmp_path / "a_raw.fif", WHO, compensation=1)
    np.testing.assert_allclose(clean.data[0], brain, atol=0.05)
    assert clean.details["compensation_grade"] == 1
    assert clean.history[-1].endswith("brought from grade 0 to 1")
    assert [Kind(int(k)).name for k in clean.sensors.kind] == ["AXIAL", "MEG_REF", "MEG_REF"]
    with pytest.raises(
        ValueError, match="no compensation of grade 3 in the file, which offers 0, "
    ):
        read_raw_signal(tmp_path / "a_raw.fif", WHO, compensation=3)


CHPI = (293.0, 307.0, 314.0)


def with_chpi(
    rng: np.random.Generator, sfreq: float = 1000.0
) -> tuple[mne.io.RawArray, np.ndarray]:
    """Twelve magnetometers with a brain below 40 Hz and head position coils a hundred times it."""
    made = mne.create_info([f"MEG{i:04d}" for i in range(12)], sfreq, "mag")
    with made._unlock():
        for channel in made["chs"]:
            place = rng.standard_normal(3)
            place /= np.linalg.norm(place)
            channel["loc"][:] = [*0.12 * place, *np.eye(3).ravel()]
        made["line_freq"] = 50.0
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
        coils = [{"number": i + 1, "coil_freq": freq} for i, freq in enumerate(CHPI)]
        made["hpi_meas"] = [{"hpi_coils": coils}]
    time = np.arange(3000) / sfreq
    brain = np.zeros((12, len(time)))
    for freq in (3.0, 11.0, 27.0):
        phase = rng.uniform(0, 2 * np.pi, (12, 1))
        brain += 1e-13 * np.sin(2 * np.pi * freq * time + phase)
    coils_seen = sum(
        1e-11 * rng.standard_normal((12, 1)) * np.sin(2 * np.pi * freq * time + freq)
        for freq in CHPI
    )
    return mne.io.RawArray(brain + coils_seen, made, verbose="error"), brain * 1e15


def test_head_position_signals_are_removed_and_the_brain_stays(rng, tmp_path):
    raw, brain = with_chpi(rng)
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    before = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert before.details["chpi_hz"] == list(CHPI)
    after = read_raw_signal(tmp_path / "a_raw.fif", WHO, remove_chpi=True)
    inside = slice(500, -500)
    left = np.std(after.data[:, inside] - brain[:, inside])
    assert np.std(before.data[:, inside] - brain[:, inside]) > 1000 * left
    assert left < 0.1 * np.std(brain)
    assert "293, 307, 314 Hz and mains at 50 Hz" in after.history[-1]


def test_removing_head_position_signals_that_are_not_there_is_an_error(rng, tiny, tmp_path):
    path = tiny.fif(tmp_path / "a_raw.fif")
    with pytest.raises(ValueError, match=r"a_raw\.fif: no continuous head position \(cHPI\) info"):
        read_raw_signal(path, WHO, remove_chpi=True)
    raw, _ = with_chpi(rng, sfreq=250.0)
    raw.save(tmp_path / "b_raw.fif", verbose="error")
    with pytest.raises(ValueError, match="293 to 314 Hz, which a rate of 250 Hz cannot hold"):
        read_raw_signal(tmp_path / "b_raw.fif", WHO, remove_chpi=True)


CTF_TRACK = [f"HLC00{coil}{axis}-1609" for coil in (1, 2, 3) for axis in (1, 2, 3)]
QUATERNIONS = [f"QUAT{i:03d}" for i in range(1, 7)]


@pytest.mark.parametrize(("names", "moving"), [(CTF_TRACK, 4), (QUATERNIONS, 4)])
def test_head_movement_is_the_largest_way_of_the_head(names, moving, rng):
    """Along two axes of a coil, or of the head as a whole, by 9 mm and 12 mm: 15 mm."""
    made = mne.create_info(["MEG", *names], 100.0, ["mag"] + ["misc"] * len(names))
    with made._unlock():
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    data = np.full((1 + len(names), 1000), 0.05)
    data[0] = 1e-13 * rng.standard_normal(1000)
    data[moving, 400:] += 0.009
    data[moving + 1, 400:] += 0.012
    data[1:, 700:720] = 0  # the coils were off
    raw = mne.io.RawArray(data, made, verbose="error")
    with pytest.warns(RecordingWarning, match="The head moved by up to 15 mm"):
        details = signal_from_raw(raw, WHO).details
    assert details["head_movement_mm"] == pytest.approx(15.0)


def test_signal_space_separation_is_told(rng):
    made = info()
    with made._unlock():
        made["proc_history"] = [
            {
                "creator": "maxfilter 2.2",
                "max_info": {
                    "sss_info": {"nfree": 68, "in_order": 8, "out_order": 3},
                    "max_st": {"buflen": 10.0, "subspcorr": 0.98},
                },
            }
        ]
    details = signal_from_raw(
        mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), made, verbose="error"), WHO
    ).details
    assert details["sss"] is True
    assert details["sss_info"] == {
        "by": "maxfilter 2.2",
        "components": 68,
        "orders": [8, 3],
        "tsss_buffer_s": 10.0,
        "tsss_correlation": 0.98,
    }


def test_bad_channels_and_projectors_are_told_and_not_applied(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    raw.info["bads"] = ["MEG0112"]
    raw.set_eeg_reference(projection=True, verbose="error")
    signal = signal_from_raw(raw, WHO)
    assert signal.details["bads"] == ["MEG0112"]
    assert signal.details["projections"] == [{"name": "Average EEG reference", "active": False}]
    np.testing.assert_allclose(signal.data[2], raw.get_data()[2] * 1e6, rtol=1e-5)


def test_samples_lost_by_the_system_s_clock_become_a_boundary(rng):
    made = mne.create_info(["MLC11", "SCLK01-177"], 100.0, ["mag", "misc"])
    with made._unlock():
        made["dev_head_t"] = mne.Transform("meg", "head", ROTATED)
    clock = 500 + np.arange(300) / 100 + 0.001 * rng.uniform(size=300)
    raw = mne.io.RawArray(np.stack([1e-13 * clock, clock]), made, verbose="error")
    assert signal_from_raw(raw, WHO).events == ()
    raw._data[1, 120:] += 7.0
    with pytest.warns(RecordingWarning, match="clock jumps 1 times"):
        events = signal_from_raw(raw, WHO).events
    assert events == (Event(1.2, 0.0, "EDGE boundary"),)


def test_repeated_events_are_dropped_and_counted(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 300)), info(), verbose="error")
    raw.set_annotations(mne.Annotations([1, 1, 1], [0, 0, 0.5], ["go", "go", "go"]))
    with pytest.warns(RecordingWarning, match="1 of 3 events are there twice"):
        events = signal_from_raw(raw, WHO).events
    assert events == (Event(1.0, 0.0, "go"), Event(1.0, 0.5, "go"))


def test_meg_names_are_spelled_alike_on_request(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    raw.rename_channels({"MEG0112": "MLC11-2908"}, verbose="error")
    assert signal_from_raw(raw, WHO).sensors.names[:2] == ("MEG0111", "MLC11-2908")
    names = signal_from_raw(raw, WHO, standardize=True).sensors.names
    assert names[:2] == ("MEG 0111", "MLC11")


def test_a_name_to_be_changed_that_is_not_there_is_reported(rng):
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 50)), info(), verbose="error")
    with pytest.warns(RecordingWarning, match="1 of 2 channels to rename are not in the file: C3"):
        names = signal_from_raw(raw, WHO, rename={"EEG001": "Cz", "C3": "FC3"}).sensors.names
    assert names[2] == "Cz"


def test_active_shielding_is_read_with_a_warning(rng, tmp_path):
    made = info()
    with made._unlock():
        made["maxshield"] = True
    raw = mne.io.RawArray(SCALE * rng.standard_normal((3, 200)), made, verbose="error")
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    with pytest.warns(RecordingWarning, match="active shielding"):
        signal = read_raw_signal(tmp_path / "a_raw.fif", WHO)
    assert signal.details["maxshield"] is True
