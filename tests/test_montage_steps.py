"""Recordings standardized as a whole, and pairs of scalp electrodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurofm.cards import build, spec_of
from neurofm.data import DOUBLE_BANANA, ElectrodePairs, StandardizeRecording, Windows
from neurofm.io import seal, write_recording
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

ELECTRODES = ["Fp1", "F7", "T7", "P7", "O1", "FP2", "F8", "T4", "T6", "O2"]
ELECTRODES += ["F3", "C3", "P3", "F4", "C4", "P4"]


def recording(names: list[str], *, seed: int = 0) -> Signal:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(5, 50, (len(names), 1))
    data = (100 + scale * rng.standard_normal((len(names), 4000))).astype(np.float32)
    position = rng.normal(0, 0.05, (len(names), 3))
    sensors = Sensors.of_kind(names, Kind.EEG, position)
    return Signal(data, 200.0, sensors, (), Recording("toy", "01"), ("read toy",))


def test_a_standardized_recording_keeps_changes_of_amplitude_between_windows() -> None:
    signal = recording(["C3", "C4"])
    signal.data[:, 2000:] = 100 + 3 * (signal.data[:, 2000:] - 100)  # louder in the second half
    found = StandardizeRecording()(signal)
    np.testing.assert_allclose(found.data.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(found.data.std(1), 1, atol=1e-5)
    ratio = found.data[:, 2000:].std(1) / found.data[:, :2000].std(1)
    np.testing.assert_allclose(ratio, 3, rtol=0.1)
    assert found.details["unit"] == "z"
    assert "mean and deviation (0 constant)" in found.history[-1]


def test_bad_parts_do_not_count_and_robust_scale_ignores_artefacts() -> None:
    signal = recording(["C3", "C4"])
    expected = StandardizeRecording()(signal).data[:, :3600]
    broken = replace(signal, data=signal.data.copy(), events=(Event(18.0, 2.0, "BAD muscle"),))
    broken.data[:, 3600:] *= 1000
    np.testing.assert_allclose(
        StandardizeRecording()(broken).data[:, :3600], expected, rtol=0.1, atol=0.1
    )
    unmarked = replace(broken, events=())
    assert StandardizeRecording()(unmarked).data[:, :3600].std() < 0.1
    robust = StandardizeRecording(robust=True, clip=8.0)(unmarked).data
    np.testing.assert_allclose(robust[:, :3600].std(1), 1, atol=0.25)
    assert robust.max() == 8.0


def test_constant_channels_become_zero_and_hopeless_recordings_are_refused() -> None:
    signal = recording(["C3", "C4"])
    signal.data[1] = 1234.5
    found = StandardizeRecording()(signal)
    assert not found.data[1].any() and "(1 constant)" in found.history[-1]
    with pytest.raises(ValueError, match="every sample as BAD"):
        StandardizeRecording()(replace(signal, events=(Event(0.0, 99.0, "bad all"),)))
    with pytest.raises(ValueError, match="clip is 0"):
        StandardizeRecording(clip=0)
    signal.data[0, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        StandardizeRecording()(signal)


def test_pairs_take_old_and_new_names_in_the_order_of_the_montage() -> None:
    signal = recording([*ELECTRODES, "EKG"])
    kind = signal.sensors.kind.copy()
    kind[-1] = Kind.ECG
    signal = replace(signal, sensors=replace(signal.sensors, kind=kind))
    found = ElectrodePairs()(signal)
    assert found.sensors.names == (*DOUBLE_BANANA, "EKG")
    at = {name.upper(): row for name, row in zip(ELECTRODES, signal.data, strict=False)}
    np.testing.assert_array_equal(found.data[1], at["F7"] - at["T7"])  # T3
    np.testing.assert_array_equal(found.data[6], at["T4"] - at["T6"])
    np.testing.assert_array_equal(found.data[16], signal.data[16])
    middle = (signal.sensors.position[0] + signal.sensors.position[1]) / 2
    np.testing.assert_allclose(found.sensors.position[0], middle)
    assert found.sensors.kind.tolist() == [Kind.EEG] * 16 + [Kind.ECG]


def test_what_a_common_reference_adds_vanishes_in_pairs() -> None:
    signal = recording(ELECTRODES)
    moved = replace(signal, data=signal.data + 50 * np.sin(np.arange(4000) / 7)[None].astype("f4"))
    np.testing.assert_allclose(
        ElectrodePairs()(moved).data, ElectrodePairs()(signal).data, atol=1e-4
    )


def test_missing_electrodes_and_odd_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no EEG channel T7, P7.*Rename channels"):
        ElectrodePairs(["T3-T5"])(recording(["Fp1", "T9"]))
    with pytest.raises(ValueError, match=r"no EEG channel FPP1\. Did you mean Fp1"):
        ElectrodePairs(["FPP1-Fp1"])(recording(["Fp1", "T9"]))
    for pairs in (["F7"], ["F7-"], []):
        with pytest.raises(ValueError, match="no pair of two names"):
            ElectrodePairs(pairs)


@pytest.mark.parametrize("step", [StandardizeRecording(robust=True), ElectrodePairs(["C3-C4"])])
def test_steps_are_built_from_what_they_say_of_themselves(step: object) -> None:
    assert build(spec_of(step)) == step


def test_batches_of_standardized_recordings_say_z(tmp_path: Path) -> None:
    signal = recording(["C3", "C4"])
    for name, given in {"z": StandardizeRecording()(signal), "raw": signal}.items():
        write_recording(tmp_path / name, given, key="one")
        seal(tmp_path / name)
    assert Windows(tmp_path / "z", window_s=2.0).batch([0, 1]).unit == "z"
    assert Windows(tmp_path / "raw", window_s=2.0).batch([0, 1]).unit == "physical"
    both = Windows([tmp_path / "z", tmp_path / "raw"], window_s=2.0)
    with pytest.raises(ValueError, match="in working units"):
        both.batch([0, len(both) - 1])
