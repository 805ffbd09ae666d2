"""MOABB both ways: its data sets as corpora, our models in its evaluations."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mne
import numpy as np
import pytest
import yaml

from neurofm.data import BrainData
from neurofm.io import MOABBReader, open_corpus
from neurofm.io.fetch import data_home

REASON = "needs MOABB: pip install 'neurofm[fetch]'"
SFREQ = 100.0


class Base:
    """What our reader uses of MOABB's data sets."""

    opened: list[int]

    def __init__(self, *, people: int = 2, unit_factor: float = 1e6) -> None:
        self.code, self.subject_list, self.unit_factor = "Tiny", list(range(1, people + 1)), 1e6
        self.unit_factor, self.opened = unit_factor, []

    def get_data(self, subjects: list[int]) -> dict[int, Any]:
        self.opened += subjects
        return {
            subject: {
                session: {run: self.raw(subject, 2 * day + i) for i, run in enumerate("01")}
                for day, session in enumerate(("0train", "1test"))
            }
            for subject in subjects
        }

    def raw(self, subject: int, run: int) -> mne.io.RawArray:
        generator = np.random.default_rng(10 * subject + run)
        info = mne.create_info(["C3", "Cz", "C4", "stim"], SFREQ, ["eeg"] * 3 + ["stim"])
        data = 2e1 / self.unit_factor * generator.standard_normal((4, 2000))
        data[3] = 0
        raw = mne.io.RawArray(data, info, verbose="ERROR")
        labels = ["left_hand", "right_hand"] * 3
        raw.set_annotations(mne.Annotations(2.0 + 2.5 * np.arange(6), 2.0, labels))
        return raw


class Tiny(Base):
    """Two people, two sessions of two runs."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two modules that are imported, with one data set."""
    package, datasets, base = (ModuleType(f"moabb{tail}") for tail in ("", ".datasets", ".base"))
    vars(datasets)["Tiny"], vars(base)["BaseDataset"] = Tiny, Base
    monkeypatch.setitem(sys.modules, "moabb", package)
    monkeypatch.setitem(sys.modules, "moabb.datasets", datasets)
    monkeypatch.setitem(sys.modules, "moabb.datasets.base", base)


def card(folder: Path, source: str, **arguments: Any) -> str:
    file = folder / "tiny.yaml"
    reader = {
        "class_path": "neurofm.io.MOABBReader",
        "init_args": {"source": source, **arguments},
    }
    about = {"description": "tiny", "license": "CC0-1.0", "citation": "none", "modality": "eeg"}
    file.write_text(yaml.safe_dump({**about, "folder": None, "reader": reader}), encoding="utf-8")
    return str(file)


@pytest.mark.usefixtures("stand_in")
def test_runs_become_recordings_with_sensors_units_and_trials() -> None:
    reader = MOABBReader("Tiny")
    found = reader.recordings()
    assert len(found) == 8
    assert found[3].id == "Tiny_sub-1_ses-1test_run-1"
    signal = reader.load(found[3])
    assert signal.sensors.names == ("C3", "Cz", "C4")
    assert signal.sensors.has_position.all()
    assert 15 < signal.data.std() < 25  # µV
    assert [event.label for event in signal.events][:2] == ["left_hand", "right_hand"]
    assert signal.events[1].onset == pytest.approx(4.5)


def test_numbers_that_moabb_holds_in_microvolts_stay_so() -> None:
    volts, micro = MOABBReader(Tiny()), MOABBReader(Tiny(unit_factor=1.0))
    first = volts.recordings()[0]
    np.testing.assert_allclose(micro.load(first).data, volts.load(first).data, rtol=1e-5)


def test_each_person_is_opened_once_in_order_and_none_with_a_layout() -> None:
    source = Tiny()
    reader = MOABBReader(source)
    found = reader.recordings()
    reader.recordings()
    assert source.opened == [1, 2]
    for recording in found:
        reader.load(recording)
    assert source.opened == [1, 2, 1, 2]
    known = MOABBReader(Tiny(), layout={"0train": ["0", "1"], "1test": ["0", "1"]})
    assert known.recordings() == found
    assert known.source.opened == []


@pytest.mark.usefixtures("stand_in")
def test_a_card_names_it_and_brain_data_cut_its_trials(tmp_path: Path) -> None:
    name = card(tmp_path, "Tiny", arguments={"people": 3}, subjects=[1, 3])
    corpus = open_corpus(name)
    assert {item.subject for item in corpus.recordings()} == {"1", "3"}
    data = BrainData(
        [name],
        preprocess=[],
        store=tmp_path / "store",
        labels=["left_hand", "right_hand"],
        window_s=1.5,
        split_by="session",
        validate=[],
        test=["1test"],
        dtype="float32",
    )
    data.setup()
    assert len(data.rows) == 2 * 4 * 6
    (batch, *_) = data.test_dataloader()
    assert batch.names == ("C3", "Cz", "C4")
    expected = corpus.load(corpus.recordings()[2]).data[:, 200:350]
    np.testing.assert_allclose(batch.x[0].numpy(), expected, rtol=1e-5)


@pytest.mark.usefixtures("stand_in")
def test_a_reader_can_be_sent_to_another_process() -> None:
    reader = MOABBReader("Tiny")
    first = reader.recordings()[0]
    again = pickle.loads(pickle.dumps(reader))
    assert again._held is None
    assert np.array_equal(again.load(first).data, reader.load(first).data)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "Tyni"}, r"MOABB has no data set 'Tyni'"),
        ({"source": "ModuleType"}, "MOABB has no data set"),
        ({"source": "Tiny", "root": "/data"}, "in its own folder.*Set MNE_DATA"),
        ({"source": "Tiny", "subjects": [7]}, r"no subjects 7; there are 1, 2"),
        ({"source": "Tiny", "layout": {"5": ["0"]}}, r"MOABB's Tiny has \{'0train': \['0', '1'\]"),
        ({"source": SimpleNamespace(code="x"), "arguments": {"a": 1}}, "a data set already"),
    ],
)
def test_what_moabb_does_not_have_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader = MOABBReader(**arguments)
        reader.load(reader.recordings()[0])


# With MOABB itself


@pytest.fixture
def moabb() -> Any:
    return pytest.importorskip("moabb", reason=REASON)


@pytest.mark.filterwarnings("ignore:Montage name")
def test_windows_are_moabbs_own_epochs(moabb: Any) -> None:
    from moabb.datasets.fake import FakeDataset
    from moabb.paradigms import LeftRightImagery

    source = FakeDataset(["left_hand", "right_hand"], n_subjects=1, n_sessions=2, n_runs=1, seed=3)
    x, y, _ = LeftRightImagery(fmin=1, fmax=60, resample=None).get_data(source, [1])
    reader = MOABBReader(source)
    trials = []
    for recording in reader.recordings():
        signal = reader.load(recording)
        assert signal.sensors.names == ("C3", "Cz", "C4")
        for event in signal.events:
            start = round(event.onset * signal.sfreq)
            trials.append((signal.data[:, start : start + x.shape[2]], event.label))
    assert [label for _, label in trials] == list(y)
    for (ours, _), theirs in zip(trials, x, strict=True):
        # MOABB filters a little; of white noise the sample before would correlate not at all.
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.7


@pytest.mark.filterwarnings("ignore")  # MOABB's, of its own dependencies
@pytest.mark.parametrize("kind", ["WithinSessionEvaluation", "CrossSubjectEvaluation"])
def test_a_model_is_a_pipeline_of_moabbs_evaluations(kind: str, moabb: Any, tmp_path: Path) -> None:
    from moabb import evaluations
    from moabb.datasets.fake import FakeDataset
    from moabb.paradigms import LeftRightImagery
    from sklearn.pipeline import make_pipeline

    from neurofm.evaluate import ModelClassifier

    model = {
        "class_path": "neurofm.models.BraindecodeModel",
        "init_args": {"name": "ShallowFBCSPNet"},
    }
    ours = ModelClassifier(model, sfreq=128.0, channels=["C3", "Cz", "C4"], steps=5)
    source = FakeDataset(
        ["left_hand", "right_hand"], n_subjects=3, n_sessions=1, n_runs=1, n_events=20, seed=1
    )
    evaluation = getattr(evaluations, kind)(
        paradigm=LeftRightImagery(), datasets=[source], hdf5_path=str(tmp_path), overwrite=True
    )
    scores = evaluation.process({"ours": make_pipeline(ours)})
    assert set(scores["subject"].astype(str)) == {"1", "2", "3"}
    assert scores["score"].between(0, 1).all()


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
def test_recordings_of_moabb_are_those_of_the_card(moabb: Any) -> None:
    from moabb.datasets.base import BaseDataset

    folder = data_home() / "eegmmidb"
    if not (folder / "S001" / "S001R04.edf").is_file():
        pytest.skip(f"no EEGMMIDB in {folder}")

    class LocalImagery(BaseDataset):  # type: ignore[misc]
        """One person of EEGMMIDB from files that are there."""

        def __init__(self) -> None:
            events = {"left_hand": 2, "right_hand": 3}
            super().__init__([1], 1, events, "LocalImagery", [0, 4], "imagery")

        def _get_single_subject_data(self, subject: int) -> dict[str, Any]:
            runs = {}
            for number in range(3):
                raw = mne.io.read_raw_edf(self.data_path(subject)[number], verbose="ERROR")
                raw.annotations.rename({"T1": "left_hand", "T2": "right_hand"})
                mne.datasets.eegbci.standardize(raw)
                runs[str(number)] = raw
            return {"0": runs}

        def data_path(self, subject: int, *args: Any, **options: Any) -> list[str]:
            return [
                str(folder / f"S{subject:03d}/S{subject:03d}R{r}.edf") for r in ("04", "08", "12")
            ]

    reader = MOABBReader(LocalImagery())
    ours = open_corpus("eegmmidb")
    (card,) = ours.recordings(subjects=[1], runs=[8])
    expected, signal = ours.load(card), reader.load(reader.recordings()[1])
    np.testing.assert_allclose(signal.data, expected.data, atol=1e-3)
    wanted = [(e.onset, e.label) for e in expected.events if e.label != "rest"]
    assert [e.label for e in signal.events] == [label for _, label in wanted]
    np.testing.assert_allclose([e.onset for e in signal.events], [o for o, _ in wanted], atol=0.01)
    np.testing.assert_allclose(signal.sensors.position, expected.sensors.position, atol=1e-6)
