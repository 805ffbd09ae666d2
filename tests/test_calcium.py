"""Fluorescence of cells, and real recordings of spikes and calcium."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurofm.data import DeltaF
from neurofm.io import CalciumReader, SpikeReader, open_corpus
from neurofm.io.quality import RecordingWarning, collect
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

HERE = Recording("toy", "01")


def suite2p(folder: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "F": (100 + rng.standard_normal((12, 300))).astype(np.float32),
        "spks": rng.random((12, 300)).astype(np.float32),
        "iscell": np.stack([np.arange(12) % 3 == 0, np.linspace(0, 1, 12)], 1),
    } | changes
    for name, value in arrays.items():
        if value is not None:
            np.save(folder / f"{name}.npy", value)
    return folder


def calcium(root: Path, **changes: Any) -> CalciumReader:
    return CalciumReader(**{"dataset": "toy", "root": root, "sfreq": 30.0} | changes)


def test_fluorescence_is_read_with_its_cells_and_unit(tmp_path):
    reader = calcium(suite2p(tmp_path))
    signal = reader.load(reader.recordings()[0])
    np.testing.assert_array_equal(signal.data, np.load(tmp_path / "F.npy"))
    assert signal.sfreq == 30 and (signal.sensors.kind == Kind.UNIT).all()
    assert signal.details == {"unit": "arbitrary", "cells": ["roi00", "roi03", "roi06", "roi09"]}
    cells_only = calcium(tmp_path, cells_only=True, signal="spks")
    picked = cells_only.load(cells_only.recordings()[0])
    assert picked.sensors.names == ("roi00", "roi03", "roi06", "roi09")
    np.testing.assert_array_equal(picked.data, np.load(tmp_path / "spks.npy")[::3])


@pytest.mark.parametrize("sfreq", [None, 0.0, -1.0, "fast"])
def test_a_frame_rate_is_never_guessed(sfreq, tmp_path):
    with pytest.raises(ValueError, match="The files do not say their frame rate: set `sfreq`"):
        calcium(tmp_path, sfreq=sfreq)


def test_an_unknown_rate_counts_frames_and_says_so(tmp_path):
    reader = calcium(suite2p(tmp_path), sfreq="frames")
    with pytest.warns(RecordingWarning, match="frame rate is not known"):
        signal = reader.load(reader.recordings()[0])
    assert signal.sfreq == 1 and signal.details["sfreq"] == "unknown"


def test_neuropil_is_subtracted_if_asked(tmp_path):
    reader = calcium(suite2p(tmp_path, Fneu=np.full((12, 300), 10, np.float32)), neuropil=0.7)
    signal = reader.load(reader.recordings()[0])
    np.testing.assert_allclose(signal.data, np.load(tmp_path / "F.npy") - 7, rtol=1e-6)


@pytest.mark.parametrize(
    ("arrays", "arguments", "words"),
    [
        ({"F": np.zeros(5)}, {}, r"shape \(5,\)"),
        ({"F": np.zeros((2, 0))}, {}, r"shape \(2, 0\)"),
        ({"F": np.array([[None]])}, {}, "Python objects"),
        ({"iscell": np.ones((3, 2))}, {}, "a row for each of 12 ROIs"),
        ({"iscell": np.zeros((12, 2))}, {"cells_only": True}, "none of 12 ROIs is a cell"),
        ({"Fneu": np.zeros((3, 3))}, {"neuropil": 0.7}, r"Fneu.npy has shape \(3, 3\)"),
    ],
)
def test_suite2p_files_that_do_not_fit_are_refused(arrays, arguments, words, tmp_path):
    reader = calcium(suite2p(tmp_path, **arrays), **arguments)
    with pytest.raises(ValueError, match=words):
        reader.load(reader.recordings()[0])


def test_cells_that_are_asked_for_need_their_file(tmp_path):
    reader = calcium(suite2p(tmp_path, iscell=None), cells_only=True)
    with pytest.raises(FileNotFoundError, match="iscell"):
        reader.load(reader.recordings()[0])


def fluorescence(rows: np.ndarray, sfreq: float = 10.0) -> Signal:
    names = [f"roi{i}" for i in range(len(rows))]
    sensors = Sensors.of_kind(names, Kind.UNIT, frame="unknown")
    return Signal(
        rows.astype(np.float32), sfreq, sensors, (), HERE, (), {"unit": "arbitrary", "cells": []}
    )


def test_a_planted_transient_is_recovered_in_percent_over_bleaching():
    time = np.arange(3000) / 10
    bleaching = 200 * np.exp(-time / 600)
    transient = np.where((time > 100) & (time < 103), 0.5, 0.0)
    signal = fluorescence((bleaching * (1 + transient))[None])
    result = DeltaF()(signal)
    assert result.details["unit"] == "%"
    np.testing.assert_allclose(result.data[0, (time > 100.5) & (time < 102.5)], 50, atol=6)
    assert np.abs(result.data[0, (time > 110) & (time < 290)]).max() < 6


def test_regions_without_a_baseline_are_left_out_and_counted():
    rows = np.stack([np.full(600, 100.0), np.zeros(600), np.full(600, -5.0)])
    with pytest.warns(UserWarning, match=r"2 of 3 regions have no baseline .*roi1, roi2"):
        result = DeltaF()(fluorescence(rows))
    assert result.sensors.names == ("roi0",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="none of 2 regions"):
            DeltaF()(fluorescence(rows[1:]))
    with pytest.raises(ValueError, match="no channel of kind UNIT"):
        eeg = Sensors.of_kind(["Cz"], Kind.EEG)
        DeltaF()(replace(fluorescence(rows[:1]), sensors=eeg))
    with pytest.raises(ValueError, match="window of 0 s"):
        DeltaF(window_s=0)


@pytest.mark.corpus
def test_the_linear_track_has_the_units_and_video_of_its_readme(corpora):
    corpus = open_corpus("spikes_linear_track")
    (recording,) = corpus.recordings()
    reader = corpus.reader
    assert isinstance(reader, SpikeReader)
    with collect() as problems:
        spikes, signal = reader.trains(recording), corpus.load(recording)
    kinds = Counter(int(kind) for kind in signal.sensors.kind)
    assert kinds == {Kind.UNIT: 31, Kind.OTHER: 2}
    assert signal.data[:31].sum() == spikes.counts.sum() and spikes.counts.min() > 0
    x, y = spikes.behaviour
    assert x.times[-1] - x.times[0] == pytest.approx(1982, abs=1)
    assert signal.duration == pytest.approx(1968.3, abs=0.1)
    assert x.unit == "pixel" and x.values.max() < 640 and y.values.max() < 480
    assert np.median(np.diff(x.times)) == pytest.approx(1 / 60, rel=0.05)
    assert "silent_units" in {problem.code for problem in problems}
    assert not any(event.label == "BAD behaviour" for event in signal.events)


@pytest.mark.corpus
def test_the_human_units_have_the_codes_and_areas_of_their_file(corpora):
    corpus = open_corpus("human_single_units")
    (recording,) = corpus.recordings(subjects=["4"])
    with collect() as problems:
        signal = corpus.load(recording)
    assert len(signal.sensors) == 35 and signal.data.sum() == 214_278
    assert len(signal.events) == 1717
    count = Counter(event.label for event in signal.events)
    assert count["stimulus_on"] == 450 and count["response"] == 360
    assert set(signal.sensors.region) == {"hippocampus_right", "amygdala_right"}
    assert (signal.sensors.position[:, 0] > 0.02).all()  # right, metres
    assert signal.duration == pytest.approx(2821.07, abs=0.1)
    assert {"events_off_clock", "events_beyond_end"} <= {problem.code for problem in problems}


@pytest.mark.corpus
def test_the_calcium_sample_has_the_regions_and_frames_of_its_readme(corpora):
    corpus = open_corpus("calcium_suite2p")
    (recording,) = corpus.recordings()
    with collect() as problems:
        signal = corpus.load(recording)
    assert signal.data.shape == (219, 2000) and len(signal.details["cells"]) == 20
    assert {"unknown_rate", "flat_channels"} <= {problem.code for problem in problems}
    with pytest.warns(UserWarning, match="regions have no baseline"):
        relative = DeltaF()(signal)
    assert 0 < np.median(relative.data.max(axis=1)) < 1000
