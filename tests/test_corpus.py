"""Corpora: entities, event rules, missing data, fetching; and the real recordings where present."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm import cards
from neurofm.io import RecordingWarning, fetch, open_corpus, open_path
from neurofm.io.rules import check_rules, label_events, same_entity
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def signal(*labels: str, run: str = "04", task: str | None = None) -> Signal:
    events = tuple(Event(float(i), 1.0, label) for i, label in enumerate(labels))
    sensors = Sensors.of_kind(["Cz"], Kind.EEG)
    data = np.zeros((1, 1000), np.float32)
    return Signal(data, 100.0, sensors, events, Recording("d", "1", run=run, task=task))


def labels_of(found: tuple[Event, ...]) -> list[str]:
    return [event.label for event in found]


def test_recordings_are_chosen_by_numbers_however_padded(tiny_corpus):
    corpus = open_corpus("eegmmidb")
    assert len(corpus.recordings()) == 6
    chosen = corpus.recordings(subjects=[2], runs=["4", 6])
    assert [item.id for item in chosen] == ["eegmmidb_sub-002_run-04", "eegmmidb_sub-002_run-06"]


def test_a_subject_that_is_not_there_is_named_with_those_that_are(tiny_corpus):
    with pytest.raises(ValueError, match=r"subject 7 not found in .*; there are 001, 002"):
        open_corpus("eegmmidb").recordings(subjects=[1, 7])


def test_labels_depend_on_the_run(tiny_corpus):
    corpus = open_corpus("eegmmidb")
    found = {r.run: labels_of(corpus.load(r).events) for r in corpus.recordings(subjects=[1])}
    assert found == {
        "03": ["executed_left_hand", "executed_right_hand"],
        "04": ["left_hand", "right_hand"],
        "06": ["both_hands", "feet"],
    }


def test_names_positions_and_numbers_arrive_through_the_card(tiny_corpus, tiny):
    corpus = open_corpus("eegmmidb")
    loaded = corpus.load(corpus.recordings()[-1])
    assert loaded.sensors.names == tuple(tiny.names)
    assert loaded.sensors.has_position.all()
    np.testing.assert_allclose(loaded.data, tiny.data, atol=0.01)
    assert corpus.line_freq == 60


def test_the_first_rule_that_knows_a_label_decides_and_unknown_labels_stay():
    rules = [
        {"run": [1, 2], "T0": "other"},
        {"run": 4, "T0": "first"},
        {"T0": "last", "S *": "any"},
    ]
    found = label_events(signal("T0", "S  7", "odd"), rules)
    assert labels_of(found) == ["first", "any", "odd"]


def test_null_drops_an_event_and_whole_adds_one_over_the_recording():
    rules = [{"run": 4, "whole": "rest", "*": None}]
    assert label_events(signal("a", "b"), rules) == (Event(0.0, 10.0, "rest"),)
    assert labels_of(label_events(signal("a", run="05"), rules)) == ["a"]


def test_rules_can_ask_for_a_task():
    rules = [{"task": "P300", 1: "target"}, {"task": "N170", "1": "face"}]
    assert labels_of(label_events(signal("1", task="P300"), rules)) == ["target"]
    assert labels_of(label_events(signal("1", task="N170"), rules)) == ["face"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(4, "04", True), ("4", "4", True), ("a", "A", False), (None, "1", False), ("1", "1a", False)],
)
def test_entities_compare_as_numbers_only_if_both_are(one, other, same):
    assert same_entity(one, other) is same


@settings(deadline=None)
@given(ANYTHING)
def test_any_event_rules_either_work_or_are_refused_with_a_value_error(rules):
    try:
        check_rules(rules, where="card")
    except ValueError as error:
        assert "card" in str(error)
    else:
        label_events(signal("T0"), rules)


def test_events_outside_the_recording_are_counted():
    from neurofm.io.corpus import _late_events

    late = _late_events(signal(*"abcdefghijkl"))
    assert late is not None and late.what.startswith("2 of 12 events lie outside the 10.0 s")


def test_a_missing_folder_says_what_was_looked_for_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"eegmmidb: no folder .*eegmmidb\. .*fetches it"):
        open_corpus("eegmmidb")
    monkeypatch.delenv("NEUROFM_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Set NEUROFM_DATA to the folder that holds"):
        open_corpus("eegmat")


def test_a_card_of_the_users_own_needs_no_place_in_the_package(tiny, tmp_path):
    tiny.edf(tmp_path / "data" / "anna.edf")
    card = {
        "description": "d",
        "license": "l",
        "citation": "c",
        "modality": "eeg",
        "reader": {
            "class_path": "neurofm.io.FolderReader",
            "init_args": {"pattern": "{subject}.edf", "montage": "standard_1005"},
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    corpus = open_corpus(tmp_path / "mine.yaml", root=tmp_path / "data")
    assert [item.id for item in corpus.recordings()] == ["mine_sub-anna"]


@pytest.mark.parametrize("events", ["T1", {"T1": "left"}, [["T1"]], [{"T1": 3}], [{"run": None}]])
def test_broken_event_rules_are_refused_when_the_card_is_opened(events, tmp_path):
    card = {key: "x" for key in cards.REQUIRED["datasets"]}
    card |= {"reader": {"class_path": "neurofm.io.FolderReader"}, "events": events}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(ValueError, match=r"mine\.yaml: .*(rule|events)"):
        open_corpus(tmp_path / "mine.yaml", root=tmp_path)


def test_fetching_puts_recordings_where_the_card_looks(tiny, tmp_path, monkeypatch):
    import mne

    calls = []

    def load_data(subjects, runs, *, path, update_path, verbose):
        calls.append((subjects[0], runs[0]))
        name = f"S{subjects[0]:03d}R{runs[0]:02d}.edf"
        return [tiny.edf(Path(path) / "MNE-eegbci-data" / "files" / name)]

    monkeypatch.setattr(mne.datasets.eegbci, "load_data", load_data)
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path / "home"))
    paths = fetch("eegmmidb", subjects=[1, 2], runs=[4, 8])
    assert len(paths) == 4 and len(calls) == 4
    corpus = open_corpus("eegmmidb")
    assert [item.path for item in corpus.recordings()] == paths
    fetch("eegmmidb", subjects=[1, 2], runs=[4, 8])
    assert len(calls) == 4  # what is there is kept
    leftovers = [p for p in (tmp_path / "home").rglob("*") if p.is_file() and p.suffix != ".edf"]
    assert leftovers == []


def test_a_web_page_that_arrives_instead_of_data_is_not_kept(tmp_path, monkeypatch):
    import mne

    def load_data(subjects, runs, *, path, update_path, verbose):
        page = Path(path) / "S001R04.edf"
        page.write_text("<!DOCTYPE html><html>503</html>")
        return [page]

    monkeypatch.setattr(mne.datasets.eegbci, "load_data", load_data)
    with pytest.raises(ValueError, match="this is a web page"):
        fetch("eegmmidb", subjects=[1], runs=[4], root=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_corpus_without_a_fetcher_names_its_page(tmp_path):
    with pytest.raises(ValueError, match=r"muse_erp: its card names no fetcher.*muse-lsl"):
        fetch("muse_erp", subjects=[0], runs=[1], root=tmp_path)


def test_a_folder_of_unknown_files_is_opened_without_a_card(tiny, tmp_path):
    tiny.edf(tmp_path / "a [1]" / "x.edf")
    tiny.fif(tmp_path / "y_raw.fif")
    (tmp_path / "notes.txt").write_text("not a recording")
    corpus = open_path(tmp_path)
    assert [item.subject for item in corpus.recordings()] == ["a [1]-x", "y_raw"]
    (single,) = open_path(tmp_path / "a [1]" / "x.edf").recordings()
    assert single.subject == "x"
    with pytest.raises(ValueError, match=r"\.txt is not a format neurofm reads"):
        open_path(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        open_path(tmp_path / "gone")


def test_strict_reading_refuses_what_would_be_repaired(tiny, tmp_path):
    tiny.names[0] = "nowhere"
    tiny.edf(tmp_path / "x.edf")
    corpus = open_path(tmp_path / "x.edf")
    (recording,) = corpus.recordings()
    with pytest.raises(ValueError, match=r"refused, because strict: 1 of 6 .*code: no_position"):
        corpus.load(recording, strict=True)
    with pytest.warns(RecordingWarning, match="no known position"):
        corpus.load(recording, strict=True, tolerated=["no_position"])


def test_participants_come_from_the_table_in_the_folder(tiny, tmp_path):
    tiny.edf(tmp_path / "x.edf")
    assert open_path(tmp_path).participants() == {}
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\n")
    assert open_path(tmp_path).participants() == {"1": {"age": 30}}


KEYS = st.sampled_from(["run", "task", "whole", "T1", "T*", "[", "subject", 1])


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, st.none() | st.text(max_size=3) | st.integers()), max_size=3))
def test_rules_that_are_accepted_never_lose_the_order_of_events(rules):
    try:
        check_rules(rules, where="card")
    except ValueError:
        return
    onsets = [event.onset for event in label_events(signal("T1", "x", "T2"), rules)]
    assert onsets == sorted(onsets)


@pytest.mark.corpus
def test_eegmmidb_is_read_as_its_publisher_describes(corpora):
    corpus = open_corpus("eegmmidb")
    recordings = corpus.recordings(runs=[4, 8, 12])
    for recording in recordings[::7]:
        loaded = corpus.load(recording)
        count = Counter(labels_of(loaded.events))
        assert loaded.data.shape[0] == 64 and loaded.sfreq == 160
        assert loaded.sensors.has_position.all()
        assert count["rest"] == 15 and {count["left_hand"], count["right_hand"]} == {7, 8}
        assert 5 < np.median(loaded.data.std(axis=1)) < 200  # microvolts


@pytest.mark.corpus
@pytest.mark.parametrize(
    ("name", "number", "counts"),
    [
        ("eegmat", 6, {"rest": 3, "arithmetic": 3}),
        ("eeglab_sample", 1, {"stimulus": 80, "response": 74}),
        ("muse_erp", 18, {"target": 185, "non_target": 976, "face": 591, "house": 583}),
    ],
)
def test_other_corpora_have_the_recordings_and_events_of_their_publisher(
    corpora, name, number, counts
):
    corpus = open_corpus(name)
    recordings = corpus.recordings()
    assert len(recordings) == number
    total: Counter[str] = Counter()
    for recording in recordings:
        loaded = corpus.load(recording)
        total.update(labels_of(loaded.events))
        brain = loaded.sensors.kind == Kind.EEG
        assert loaded.sensors.has_position[brain].all()
    assert {label: total[label] for label in counts} == counts
