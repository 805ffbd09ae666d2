from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from neurofm.data import (
    MIREPNET_TEMPLATE,
    InterpolateBads,
    ToTemplate,
    bad_channels,
    mirepnet_layout,
    normalize_positions,
    template_matrix,
)
from neurofm.io.electrodes import positions_of
from neurofm.io.meeg import signal_to_raw
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden" / "mirepnet"
_NAMES = """
Fp1 Fp2 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8 CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 O1 O2 AF3 AF4
PO3 PO4 Oz
"""
NAMES = _NAMES.split()


def smooth_eeg(seconds: float = 10.0, sfreq: float = 200.0) -> Signal:
    """Ten sources far inside the head, so that neighbouring electrodes see nearly the same."""
    rng = np.random.default_rng(0)
    position = positions_of(NAMES, "standard_1005")
    source = rng.normal(0, 0.02, (10, 3)) + np.array([0, 0, 0.04])
    gain = 1 / np.linalg.norm(position[:, None] - source, axis=-1)
    gain -= gain.mean(0)
    n = round(seconds * sfreq)
    course = np.cumsum(rng.standard_normal((10, n)), axis=1)
    course -= course.mean(1, keepdims=True)
    data = gain @ course
    data *= 20 / data.std()
    data += 0.2 * rng.standard_normal(data.shape)
    return Signal(
        data=data.astype(np.float32),
        sfreq=sfreq,
        sensors=Sensors.of_kind(NAMES, Kind.EEG, position),
        events=(),
        recording=Recording("toy", "01"),
    )


@pytest.mark.golden
def test_template_matrix_equals_the_original():
    expected = load_file(GOLDEN / "preprocessing.safetensors")
    fixture = json.loads((GOLDEN / "fixture.json").read_text())
    assert list(MIREPNET_TEMPLATE) == fixture["template_channels"]
    matrix = template_matrix(fixture["source_channels"])
    np.testing.assert_allclose(matrix, expected["interpolation_matrix"], rtol=0, atol=1e-14)
    mapped = matrix @ expected["ea"]
    np.testing.assert_allclose(mapped, expected["interpolated"], rtol=0, atol=1e-6)


def test_template_rows_sum_to_one_and_keep_existing_electrodes():
    matrix = template_matrix(NAMES)
    assert matrix.shape == (45, len(NAMES))
    np.testing.assert_allclose(matrix.sum(1), 1)
    row = matrix[MIREPNET_TEMPLATE.index("C3")]
    assert row[NAMES.index("C3")] == 1 and (row > 0).sum() == 1
    assert (matrix[MIREPNET_TEMPLATE.index("C1")] > 0).all()


def test_template_does_not_depend_on_channel_order_or_spelling():
    order = np.random.default_rng(0).permutation(len(NAMES))
    shuffled = template_matrix([f"EEG {NAMES[i].upper()}.." for i in order])
    np.testing.assert_allclose(shuffled, template_matrix(NAMES)[:, order])


def test_old_temporal_names_are_understood():
    np.testing.assert_array_equal(
        template_matrix(["T3", "C3", "T6"]), template_matrix(["T7", "C3", "P8"])
    )


def test_corrected_layout_moves_the_two_misplaced_electrodes_alone():
    published, corrected = mirepnet_layout(), mirepnet_layout(corrected=True)
    moved = {name for name in published if published[name] != corrected[name]}
    assert moved == {"FT10", "TPP8"}
    for left, right in (("FT9", "FT10"), ("TPP7", "TPP8")):
        x, y = corrected[left]
        assert corrected[right] == (-x, y)


def test_electrodes_without_a_place_are_named_or_dropped():
    with pytest.raises(ValueError, match=r"1 of 3 electrodes have no place.*Iz"):
        template_matrix(["C3", "Cz", "Iz"])
    matrix = template_matrix(["C3", "Cz", "Iz"], drop_unplaced=True)
    np.testing.assert_array_equal(matrix[:, 2], 0)
    with pytest.raises(ValueError, match="T7 comes twice"):
        template_matrix(["T3", "T7"])
    with pytest.raises(ValueError, match="no electrode"):
        template_matrix(["A", "B"], drop_unplaced=True)


def test_signal_on_the_template_marks_what_was_interpolated():
    original = smooth_eeg()
    result = ToTemplate()(original)
    assert result.sensors.names == MIREPNET_TEMPLATE
    assert result.data.shape == (45, original.data.shape[1])
    i = MIREPNET_TEMPLATE.index("C3")
    np.testing.assert_allclose(result.data[i], original.data[NAMES.index("C3")], rtol=1e-6)
    np.testing.assert_array_equal(
        result.sensors.position[i], original.sensors.position[NAMES.index("C3")]
    )
    made = 45 - len({name.upper() for name in NAMES} & set(MIREPNET_TEMPLATE))
    assert (~result.sensors.has_position).sum() == made
    assert f"{made} interpolated" in result.history[-1]


def test_template_of_a_recording_without_eeg_is_refused_by_name():
    original = smooth_eeg()
    magnetic = replace(original.sensors, kind=np.full(len(NAMES), Kind.MAG, dtype=np.int8))
    with pytest.raises(ValueError, match=r"toy_sub-01.*no EEG"):
        ToTemplate()(replace(original, sensors=magnetic))


def test_clean_channels_are_not_called_bad():
    original = smooth_eeg()
    assert not bad_channels(original.data, original.sfreq).any()


def planted() -> tuple[Signal, Signal, list[str]]:
    """A clean recording and one with a loud, a flat and a NaN channel."""
    clean = smooth_eeg()
    data = clean.data.copy()
    data[NAMES.index("C3")] += 3000 * np.random.default_rng(1).standard_normal(data.shape[1])
    data[NAMES.index("Pz")] = 7.0
    data[NAMES.index("F4"), 100:200] = np.nan
    return clean, replace(clean, data=data), ["C3", "Pz", "F4"]


def test_planted_bad_channels_are_found_and_no_others():
    _, broken, names = planted()
    found = bad_channels(broken.data, broken.sfreq)
    assert {NAMES[i] for i in np.flatnonzero(found)} == set(names)


def test_planted_bad_channels_are_repaired():
    clean, broken, names = planted()
    result = InterpolateBads()(broken)
    for name in names:
        i = NAMES.index(name)
        assert np.corrcoef(result.data[i], clean.data[i])[0, 1] > 0.95
    good = [i for i, name in enumerate(NAMES) if name not in names]
    np.testing.assert_array_equal(result.data[good], broken.data[good])
    assert "3 of 32 (F4, C3, Pz)" in result.history[-1]


def test_interpolation_equals_mne():
    original = smooth_eeg()
    raw = signal_to_raw(original)
    raw.info["bads"] = ["C3", "O2"]
    raw.interpolate_bads(origin=(0, 0, 0.04), verbose="ERROR")
    result = InterpolateBads(detect=False, names=["C3", "O2"])(original)
    for name in ("C3", "O2"):
        expected = raw.get_data(name)[0] * 1e6
        np.testing.assert_allclose(result.data[NAMES.index(name)], expected, atol=1e-3)


def test_bad_channel_without_position_stays_and_is_announced():
    _, broken, _ = planted()
    position = broken.sensors.position.copy()
    position[NAMES.index("Pz")] = np.nan
    broken = replace(broken, sensors=replace(broken.sensors, position=position))
    with pytest.warns(UserWarning, match=r"1 bad channels of 32 have no known position.*Pz"):
        result = InterpolateBads()(broken)
    np.testing.assert_array_equal(result.data[NAMES.index("Pz")], broken.data[NAMES.index("Pz")])
    assert "without position: Pz" in result.history[-1]


def test_mostly_bad_recording_is_refused():
    original = smooth_eeg()
    data = original.data.copy()
    data[:20] = np.nan
    with pytest.raises(ValueError, match=r"toy_sub-01: 20 of 32 EEG channels are bad"):
        InterpolateBads()(replace(original, data=data))


def test_all_flat_recording_is_refused():
    original = smooth_eeg()
    with pytest.raises(ValueError, match="32 of 32"):
        InterpolateBads()(replace(original, data=np.zeros_like(original.data)))


def test_recording_without_bads_is_unchanged_and_silent():
    original = smooth_eeg()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = InterpolateBads()(original)
    np.testing.assert_array_equal(result.data, original.data)
    assert result.history == ("interpolate bad channels: 0 of 32",)


def test_positions_are_centred_and_scaled_per_instrument():
    rng = np.random.default_rng(0)
    position = rng.normal(0.1, 0.05, (20, 3))
    position[3] = np.nan
    kind = np.array([Kind.EEG] * 8 + [Kind.MAG] * 6 + [Kind.GRAD] * 6, dtype=np.int8)
    result = normalize_positions(position, kind)
    for own in (np.array([i for i in range(8) if i != 3]), np.arange(8, 20)):
        np.testing.assert_allclose(result[own].mean(0), 0, atol=1e-12)
        assert (result[own] ** 2).sum(1).mean() == pytest.approx(1 / 3)
    assert np.isnan(result[3]).all()
    moved = normalize_positions(position * 3 + 0.5, kind)
    np.testing.assert_allclose(moved, result, atol=1e-9)
