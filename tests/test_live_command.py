"""`neurofm stream` from a file to a table, by an exported decoder."""

from __future__ import annotations

import csv

import mne
import pytest
from live_toys import NAMES, decoder, exported, recording

from neurofm.cli import main
from neurofm.live import PredictionTable


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    exported(decoder(), folder / "toy.pt", format="torchscript", head=recording())
    signal = recording(4.0)
    info = mne.create_info(list(NAMES), signal.sfreq, "eeg")
    raw = mne.io.RawArray(signal.data.astype(float) * 1e-6, info, verbose="error")
    raw.save(folder / "sub-1_raw.fif", verbose="error")
    return folder


def streamed(files, out, *more) -> int:
    source = str(files / "sub-1_raw.fif")
    given = ["--model", str(files / "toy.pt"), "--source", source, "--speed", "0", "--quiet"]
    return main(["stream", *given, "--out", str(out), *more])


def test_a_recording_becomes_a_table_and_a_picture(files, tmp_path, capsys):
    out, picture = tmp_path / "out.csv", tmp_path / "out.png"
    assert streamed(files, out, "--figure", str(picture)) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader(out.open()))

    assert [float(row["time_s"]) for row in rows] == [1 + step / 4 for step in range(13)]
    assert "13 predictions" in said and "latency" in said
    assert "same class in 100.0% of 13 windows" in said
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_recording_shorter_than_a_window_says_how_long_one_must_be(files, tmp_path, capsys):
    path = tmp_path / "short_raw.fif"
    mne.io.read_raw_fif(files / "sub-1_raw.fif", verbose="error").crop(0, 0.5).save(path)

    assert main(["stream", "--model", str(files / "toy.pt"), "--source", str(path)]) == 1
    assert "The first window to be predicted ends after 1 s." in capsys.readouterr().out


def test_a_full_disk_ends_the_table_and_not_the_stream(files, tmp_path, capsys, monkeypatch):
    usual = PredictionTable.__call__

    def full(self, prediction):
        if prediction.time_s > 2.0:
            raise OSError(28, "No space left on device")
        usual(self, prediction)

    monkeypatch.setattr(PredictionTable, "__call__", full)
    out = tmp_path / "out.csv"
    assert streamed(files, out) == 2
    said = capsys.readouterr()

    assert "13 predictions" in said.out
    assert "No space left on device; nothing from 2.25 s on" in said.err
    assert len(out.read_text().splitlines()) == 1 + 5
