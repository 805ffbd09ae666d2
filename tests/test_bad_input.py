"""Damaged, foreign and doubtful recordings: a clear error, or a repair that is counted."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from neurofm.io import Problem, RecordingWarning, open_path, read_raw_signal, signal_from_raw
from neurofm.io.integrity import check_file
from neurofm.io.quality import (
    channel_problems,
    clipped_channels,
    collect,
    line_noise,
    listed,
    report,
)
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

WHO = Recording("tiny", "1")


def cut(path: Path, size: float) -> Path:
    """Keep that share of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
    return path


@pytest.mark.parametrize("size", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("name", ["edf", "bdf", "gdf", "fif"])
def test_a_truncated_file_is_refused_wherever_it_ends(name, size, tiny, tmp_path):
    suffix = "_raw.fif" if name == "fif" else f".{name}"
    if name == "gdf":
        tiny.events = ()  # the event table would take the last bytes
    path = cut(getattr(tiny, name)(tmp_path / f"a{suffix}"), size)
    with pytest.raises(ValueError, match=r"a.*truncated.*[Ff]etch it again|a.*truncated inside"):
        read_raw_signal(path, WHO)


def test_a_truncated_brainvision_or_eeglab_file_is_refused(tiny, tmp_path):
    path = tiny.brainvision(tmp_path / "a.vhdr")
    data = path.with_suffix(".eeg")
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.eeg: 12283 bytes are not a multiple of 24"):
        read_raw_signal(path, WHO)
    path = cut(tiny.eeglab(tmp_path / "a.set"), 0.5)
    with pytest.raises(ValueError, match=r"a\.set: truncated: a variable runs to byte"):
        read_raw_signal(path, WHO)


def test_a_header_that_declares_fewer_records_than_stored_is_refused(tiny, tmp_path):
    path = tiny.edf(tmp_path / "a.edf")
    content = bytearray(path.read_bytes())
    content[236:244] = b"2       "
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"header and size disagree: .* \(2 records\)"):
        read_raw_signal(path, WHO)


def test_a_damaged_number_in_the_header_names_its_place(tiny, tmp_path):
    path = tiny.edf(tmp_path / "a.edf")
    content = bytearray(path.read_bytes())
    content[252:256] = b"six "
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"number of signals \(bytes 252 to 256\) reads 'six'"):
        read_raw_signal(path, WHO)


def test_an_edf_that_was_never_closed_is_read_with_a_warning(tiny, tmp_path):
    path = tiny.edf(tmp_path / "a.edf")
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(content)
    with pytest.warns(RecordingWarning, match="does not say how many data records"):
        signal = read_raw_signal(path, WHO)
    np.testing.assert_allclose(signal.data, tiny.data, atol=0.01)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html><body>404</body>", "this is a web page"),
        (b"\n<html><head><title>Log in</title>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"/annex/objects/MD5E-s12--0123456789abcdef.edf\n", "git annex get"),
        (b"PK\x03\x04 a zip archive" * 20, "not a .* file: it starts with"),
    ],
)
@pytest.mark.parametrize("suffix", [".edf", ".bdf", ".gdf", ".vhdr", ".set", ".fif"])
def test_what_is_no_recording_is_refused_by_name(content, words, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}: .*{words}"):
        read_raw_signal(path, WHO)


def test_a_missing_file_and_a_broken_link_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        check_file(tmp_path / "a.edf")
    (tmp_path / "b.edf").symlink_to(tmp_path / "nowhere.edf")
    with pytest.raises(FileNotFoundError, match="a link to nothing"):
        check_file(tmp_path / "b.edf")


def test_a_missing_part_of_a_recording_is_named(tiny, tmp_path):
    path = tiny.brainvision(tmp_path / "a.vhdr")
    path.with_suffix(".eeg").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.vhdr: a file it belongs with is missing"):
        read_raw_signal(path, WHO)


def test_a_truncated_gzip_file_is_refused(tiny, tmp_path):
    path = tiny.fif(tmp_path / "a_raw.fif")
    packed = tmp_path / "a_raw.fif.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    check_file(packed)
    with pytest.raises(ValueError, match="the compressed file is incomplete"):
        check_file(cut(packed, 0.5))


def loaded(tiny, tmp_path: Path) -> list[Problem]:
    """Problems reported while loading the tiny recording through a corpus."""
    corpus = open_path(tiny.fif(tmp_path / "a_raw.fif"))
    with collect() as problems:
        corpus.load(corpus.recordings()[0])
    return problems


def test_channels_with_nan_are_named_and_not_fatal(tiny, tmp_path):
    tiny.data[2, 10:20] = np.nan
    (problem,) = loaded(tiny, tmp_path)
    assert problem.code == "nan_channels"
    assert "1 of 6 channels" in problem.what and "10 samples" in problem.what
    assert problem.what.endswith("Cz.")


@pytest.mark.parametrize("level", [0.0, 31.5])
def test_flat_channels_are_named_and_not_fatal(level, tiny, tmp_path):
    tiny.data[[1, 4]] = level
    (problem,) = loaded(tiny, tmp_path)
    assert problem.code == "flat_channels"
    assert "2 of 6 channels are flat: C3, O1" in problem.what


def test_unknown_channel_names_are_counted_with_a_remedy(tiny, tmp_path):
    tiny.names[0] = "Elektrode 1"
    (problem,) = loaded(tiny, tmp_path)
    assert problem.code == "no_position"
    assert "1 of 6 channels have no known position: Elektrode 1." in problem.what
    assert "`rename`" in problem.remedy


def test_names_that_appear_twice_get_running_numbers_and_a_warning(tiny, tmp_path):
    tiny.names[3] = "C3"
    path = tiny.edf(tmp_path / "a.edf")
    with pytest.warns(RecordingWarning, match="Channel names appear twice.*C3"):
        signal = read_raw_signal(path, WHO)
    assert signal.sensors.names == ("Fp1", "C3-0", "Cz", "C3-1", "O1", "O2")


def test_names_that_collide_after_standardizing_are_refused(tiny):
    tiny.names[3] = "C3.."
    with pytest.raises(ValueError, match=r"channels C3, C3\.\. end up with the same names C3"):
        signal_from_raw(tiny.raw(), WHO, standardize=True)


def test_a_recording_of_no_known_channel_is_refused(tiny):
    with pytest.raises(ValueError, match="none of the 6 channels measures"):
        signal_from_raw(tiny.raw("misc"), WHO)


def test_events_beyond_the_end_are_reported(tiny, tmp_path):
    tiny.events = (*tiny.events, (99.0, 1.0, "T1"))
    path = tiny.edf(tmp_path / "a.edf")
    with pytest.warns(RecordingWarning, match="Events lie beyond the end"):
        signal = read_raw_signal(path, WHO)
    assert len(signal.events) == 2


@pytest.mark.parametrize(
    ("unit", "scale", "factor"),
    [("V", 1.0, "1e-6"), ("mV", 1.0, "1e-3"), ("uV", 1e-6, r"1e\+6"), ("uV", 1e3, "1e-3")],
)
def test_a_wrong_unit_stops_with_the_factor(unit, scale, factor, tiny, tmp_path):
    corpus = open_path(tiny.edf(tmp_path / "a.edf", unit=unit, scale=scale))
    with pytest.raises(ValueError, match=rf"a\.edf: EEG channels .* Multiplying by {factor} "):
        corpus.load(corpus.recordings()[0])


def test_a_folder_without_recordings_says_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match=r"no file fits .* holds notes\.txt"):
        open_path(tmp_path).recordings()


def test_clipped_channels_are_found_and_clean_ones_are_not(tiny):
    data = tiny.data.copy()
    assert clipped_channels(signal(data)) == []
    slow = 60 * np.sin(2 * np.pi * np.arange(512) / 128)
    data[3] = np.clip(slow, -40, 40)
    assert clipped_channels(signal(data)) == [3]


def signal(data: np.ndarray) -> Signal:
    names = [f"E{i}" for i in range(len(data))]
    return Signal(data.astype(np.float32), 128.0, Sensors.of_kind(names, Kind.EEG), (), WHO)


def test_line_noise_is_told_from_its_absence(rng):
    noise = rng.standard_normal((4, 2560))
    hum = 5 * np.sin(2 * np.pi * 50 * np.arange(2560) / 128)
    assert line_noise(signal(noise), 50.0) < 5
    assert line_noise(signal(noise + hum), 50.0) > 100
    assert np.isnan(line_noise(signal(noise[:, :100]), 50.0))


def test_problems_of_a_healthy_recording_are_none(tiny):
    assert channel_problems(signal(tiny.data)) == []


def test_collecting_problems_lets_other_warnings_pass():
    with pytest.warns(DeprecationWarning, match="old"), collect() as problems:
        import warnings

        warnings.warn("old", DeprecationWarning, stacklevel=1)
        report(Problem("info", "What.", "Do.", "x"), "here")
    assert [problem.code for problem in problems] == ["x"]


def test_long_lists_are_shortened_with_a_count():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(i) for i in range(10)], most=2) == "0, 1 and 8 more"
