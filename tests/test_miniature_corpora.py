"""Cards of public corpora against small copies of them in the publishers' formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus_miniatures as made
import numpy as np
import pytest
from test_matfiles import mat73

from neurofm import cards
from neurofm.cli import main
from neurofm.io import RecordingWarning, open_corpus
from neurofm.io.corpus import Corpus
from neurofm.types import Signal
from neurofm.units import Kind, typical_amplitude

NIGHT = [*"WWW1122233344RRM?"]
CORPORA: dict[str, Callable[[Path], None]] = {
    "bnci2014_001": lambda root: made.bnci2014_001(root, people=1, trials=4, runs=1),
    "bnci2014_004": lambda root: made.bnci2014_004(root, people=1, trials=2),
    "bnci2014_008": lambda root: made.bnci2014_008(root, people=1, flashes=12),
    "bnci2014_009": lambda root: made.bnci2014_009(root, people=1, flashes=36),
    "brain_invaders_2014a": lambda root: made.brain_invaders_2014a(root, people=1, flashes=12),
    "cho2017": lambda root: made.cho2017(root, people=1, trials=3),
    "lee2019_mi": lambda root: made.openbmi(root, "MI", people=1, trials=4),
    "lee2019_erp": lambda root: made.openbmi(root, "ERP", people=1, trials=12),
    "weibo2014": lambda root: made.weibo2014(root, people=1, trials=7),
    "sleep_edf": lambda root: made.sleep_edf(root, people=1, stages=NIGHT),
}
# sessions of a person, and events of the first: how many of each label
FOUND: dict[str, tuple[list[str | None], dict[str, int]]] = {
    "bnci2014_001": (["1", "2"], {"left_hand": 1, "right_hand": 1, "feet": 1, "tongue": 1}),
    "bnci2014_004": (["1", "2", "3", "4", "5"], {"left_hand": 1, "right_hand": 1}),
    "bnci2014_008": ([None], {"non_target": 10, "target": 2}),
    "bnci2014_009": ([None], {"non_target": 30, "target": 6}),
    "brain_invaders_2014a": ([None], {"non_target": 10, "target": 2}),
    "cho2017": ([None], {"left_hand": 3, "right_hand": 3}),
    "lee2019_mi": (["1", "2"], {"left_hand": 4, "right_hand": 4}),
    "lee2019_erp": (["1", "2"], {"non_target": 20, "target": 4}),
    "weibo2014": (
        [None],
        dict.fromkeys(cards.read("datasets", "weibo2014")["events"][0].values(), 1),
    ),
    "sleep_edf": (["1"], {"wake": 1, "n1": 1, "n2": 1, "n3": 2, "rem": 1, "movement": 1}),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of all corpora, which no test changes."""
    folder = tmp_path_factory.mktemp("home")
    for name, make in CORPORA.items():
        make(folder / cards.read("datasets", name)["folder"])
    return folder


def of_home(name: str, home: Path) -> Corpus:
    return open_corpus(name, root=home / cards.read("datasets", name)["folder"])


def opened(name: str, folder: Path) -> Corpus:
    """A corpus of its own for a test that changes it."""
    CORPORA[name](folder)
    return open_corpus(name, root=folder)


def first(corpus: Corpus) -> Signal:
    return corpus.load(min(corpus.recordings(), key=lambda item: (item.subject, str(item.session))))


def marks(signal: Signal) -> list[tuple[float, str]]:
    """Onset and label of the events that are not joins."""
    return [(e.onset, e.label) for e in signal.events if e.label != "EDGE boundary"]


@pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning")
@pytest.mark.parametrize("name", CORPORA)
def test_a_card_finds_in_the_publishers_files_what_it_promises(name, home, monkeypatch, capsys):
    corpus = of_home(name, home)
    sessions, counts = FOUND[name]
    assert sorted(item.session or "" for item in corpus.recordings()) == [s or "" for s in sessions]
    signal, expected = first(corpus), corpus.card["expected"]
    kinds = Counter(Kind(int(kind)).name.lower() for kind in signal.sensors.kind)
    assert kinds == expected["kinds"]
    assert signal.sfreq == expected["sfreq"]
    assert Counter(label for _, label in marks(signal)) == counts
    assert set(counts) <= set(expected["labels"])
    eeg = signal.sensors.kind == Kind.EEG
    assert 7 < np.median(typical_amplitude(signal.data[eeg], signal.sfreq)) < 30  # µV
    assert np.isfinite(signal.sensors.position[eeg]).all() or name == "sleep_edf"  # pairs
    monkeypatch.setenv("NEUROFM_DATA", str(home))
    main(["check", name, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert name == "sleep_edf" or not any(item["problems"] for item in found["recordings"])


@pytest.mark.parametrize(
    ("name", "onset"),
    [
        ("bnci2014_001", 13.0),  # three runs of 4 s without trials come first
        ("bnci2014_004", 1.0),
        ("bnci2014_008", 1.0),
        ("brain_invaders_2014a", 1.0),
        ("cho2017", 2.0),
        ("lee2019_mi", 1.5),
        ("weibo2014", 0.0),
    ],
)
def test_the_first_event_is_at_its_sample(name, onset, home):
    signal = first(of_home(name, home))
    assert marks(signal)[0][0] == pytest.approx(onset, abs=1e-9)


def test_the_training_phase_comes_before_the_test_phase(home, monkeypatch):
    kept: dict[str, Any] = {}
    monkeypatch.setattr(made, "save", lambda path, tree: kept.update({path.name: tree}))
    CORPORA["lee2019_mi"](home)
    monkeypatch.undo()
    tree = kept["sess01_subj01_EEG_MI.mat"]
    said = [tree[f"EEG_MI_{phase}"]["y_dec"].ravel() for phase in ("train", "test")]
    assert said[0].tolist() != said[1].tolist()
    labels = [label for _, label in marks(first(of_home("lee2019_mi", home)))]
    assert labels == ["right_hand" if i == 1 else "left_hand" for i in np.concatenate(said)]


def test_a_test_phase_without_labels_keeps_its_trials_as_events(tmp_path):
    made.openbmi(tmp_path, "MI", people=1, trials=2, tested=False)
    labels = [label for _, label in marks(first(open_corpus("lee2019_mi", root=tmp_path)))]
    assert labels[2:] == ["event"] * 2 and set(labels[:2]) == {"left_hand", "right_hand"}


@pytest.mark.parametrize("name", ["bnci2014_001", "lee2019_mi"])
def test_version_7_3_holds_the_same_recording(name, home, tmp_path, monkeypatch):
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, np.ndarray) and value.dtype == object:
            return [plain(item) for item in value.ravel(order="F")]
        return value

    def save(path: Path, tree: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mat73(path, plain(tree))

    older = first(of_home(name, home))
    monkeypatch.setattr(made, "save", save)
    newer = first(opened(name, tmp_path))
    np.testing.assert_allclose(newer.data, older.data, rtol=1e-6)
    assert newer.events == older.events and newer.sensors.names == older.sensors.names


def test_few_shots_come_from_the_first_session(home):
    from neurofm.data import Row, chronological_few_shot

    corpus = of_home("bnci2014_001", home)
    rows = [
        Row(item.subject, item.session, None, item.id, onset, onset + 1, label)
        for item in corpus.recordings()
        for onset, label in marks(corpus.load(item))
    ]
    (fold,) = chronological_few_shot(rows, 1)
    assert {rows[i].session for i in fold.train} == {"1"}
    assert {Path(str(r.path)).stem[-1] for r in corpus.recordings(sessions=["1"])} == {"T"}


def test_a_file_with_another_number_of_sessions_is_refused(tmp_path, monkeypatch):
    held = made.save
    monkeypatch.setattr(made, "save", lambda p, tree: held(p, {"data": tree["data"][:, :-1]}))
    corpus = opened("bnci2014_004", tmp_path)
    with pytest.raises(ValueError, match="2 records, 3 sessions named"):
        first(corpus)


def test_people_whose_trials_are_laid_end_to_end_are_not_taken_for_each_other(tmp_path):
    from neurofm.data import fingerprint, same_recording, similarity

    made.cho2017(tmp_path, people=2, trials=5)
    corpus = open_corpus("cho2017", root=tmp_path)
    one, two = (corpus.load(item) for item in corpus.recordings())
    assert sum(event.label == "EDGE boundary" for event in one.events) == 9
    assert similarity(fingerprint(one), fingerprint(two)) < 0.3
    stored = np.round(one.data * 4) / 4 * 1e-3
    again = Signal(stored, one.sfreq, one.sensors, one.events, one.recording, one.history)
    assert same_recording(fingerprint(one), fingerprint(again))


def test_a_cut_file_is_refused_by_name(tmp_path):
    corpus = opened("weibo2014", tmp_path)
    (path,) = tmp_path.rglob("*.mat")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"subject_1\.mat: truncated"):
        first(corpus)


def test_stages_follow_the_hypnogram_and_what_is_not_scored_has_no_label(home):
    corpus = of_home("sleep_edf", home)
    with pytest.warns(RecordingWarning) as told:
        signal = first(corpus)
    assert [(e.onset, e.duration, e.label) for e in signal.events] == [
        (0.0, 90.0, "wake"),
        (90.0, 60.0, "n1"),
        (150.0, 90.0, "n2"),
        (240.0, 90.0, "n3"),
        (330.0, 60.0, "n3"),
        (390.0, 60.0, "rem"),
        (450.0, 30.0, "movement"),
    ]
    slow = next(str(w.message) for w in told if "lower sampling rate" in str(w.message))
    assert "EMG submental" in slow and "Temp" not in slow  # left out, so no news


def test_a_night_without_hypnogram_says_so(tmp_path):
    corpus = opened("sleep_edf", tmp_path)
    next(tmp_path.rglob("*-Hypnogram.edf")).unlink()
    with pytest.warns(RecordingWarning, match="No file of events fits"):
        assert first(corpus).events == ()


@pytest.mark.parametrize(
    "name", ["bnci2014_001", "bnci2014_004", "cho2017", "lee2019_mi", "weibo2014"]
)
def test_methods_of_motor_imagery_read_eeg_alone_and_channels_that_are_there(name):
    from neurofm.data import mirrored_names
    from neurofm.evaluate.suite_cards import read_suite

    suite = read_suite("motor_imagery")
    own = made.OPENBMI if name == "lee2019_mi" else made.names_of(name)
    for method in suite.methods:
        found = suite.method(method, name)
        if found is None:
            continue
        first_step, *steps = found["data"]["preprocess"]
        assert first_step["init_args"] == {"kinds": ["eeg"]}, method
        asked = suite.methods[method]["data"]["preprocess"][0]
        assert asked in steps, method  # of the method, behind those of the data set
        there = [channel for channel in own if channel[:3] not in ("EOG", "EMG", "VEO", "HEO")]
        there = [channel for channel in there if channel[:2] != "CB"]
        for step in steps:
            if step["class_path"].endswith("PickChannels"):
                assert set(step["init_args"]["names"]) <= set(there), method
                there = step["init_args"]["names"]
        if "SPDNet" in str(found.get("estimator")):
            assert sorted(mirrored_names(there)) == list(range(len(there)))
