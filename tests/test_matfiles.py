"""MATLAB files of both versions, and recordings whose events lie in other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import AnnotatedReader, MatReader, RecordingWarning
from neurofm.io.matlab import find, open_mat
from neurofm.io.pieces import EDGE, Piece, changes, joined
from neurofm.types import Signal
from neurofm.units import Kind


def mat73(path: Path, tree: dict[str, Any]) -> Path:
    """As MATLAB writes version 7.3: reversed axes, class names, cells as references."""
    import h5py

    with h5py.File(path, "w", userblock_size=512) as file:

        def write(group: Any, name: str, value: Any) -> None:
            if isinstance(value, dict):
                inner = group.create_group(name)
                inner.attrs["MATLAB_class"] = np.bytes_("struct")
                for key, item in value.items():
                    write(inner, key, item)
                return
            if isinstance(value, list):
                refs, cells = file.require_group("#refs#"), []
                for item in value:
                    key = f"cell{len(refs)}"
                    refs.create_group(f"used by {key}")
                    write(refs, key, item)
                    cells.append(refs[key].ref)
                made = group.create_dataset(
                    name, data=np.array([cells], h5py.ref_dtype), dtype=h5py.ref_dtype
                )
                made.attrs["MATLAB_class"] = np.bytes_("cell")
                return
            if isinstance(value, str):
                made = group.create_dataset(name, data=np.array([[ord(c)] for c in value], "u2"))
                made.attrs["MATLAB_class"] = np.bytes_("char")
                return
            made = group.create_dataset(name, data=np.atleast_2d(value).T)
            made.attrs["MATLAB_class"] = np.bytes_("double")

        for name, value in tree.items():
            write(file, name, value)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(512, b" "))
    return path


def mat5(path: Path, tree: dict[str, Any]) -> Path:
    def cells(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cells(item) for key, item in value.items()}
        if isinstance(value, list):
            made = np.empty(len(value), object)
            made[:] = [cells(item) for item in value]
            return made
        return value

    scipy.io.savemat(path, cells(tree))
    return path


def load(tmp_path: Path, **arguments: Any) -> Signal:
    reader = MatReader("{subject}.mat", dataset="d", root=tmp_path, **arguments)
    return reader.load(reader.recordings()[0])


@pytest.fixture
def runs(rng) -> dict[str, Any]:
    """Two runs as structures in a cell, time x channel, with onsets and labels."""
    return {
        "data": [
            {
                "X": 20 * rng.standard_normal((300, 3)),
                "fs": 100.0,
                "trial": np.array([11.0, 101.0]),
                "y": np.array([1.0, 2.0]),
                "channels": ["C3", "Cz", "EOG1"],
            }
            for _ in range(2)
        ]
    }


RUNS: dict[str, Any] = {
    "records": "data",
    "data": "X",
    "axes": ["time", "channel"],
    "sfreq": "fs",
    "channels": "channels",
    "onsets": "trial",
    "labels": "y",
    "kinds": {"EOG*": "eog"},
    "montage": "standard_1005",
}


@pytest.mark.parametrize("write", [mat5, mat73])
def test_both_versions_give_the_same_recording(write, runs, tmp_path):
    write(tmp_path / "a.mat", runs)
    signal = load(tmp_path, **RUNS)
    expected = np.concatenate([run["X"].T for run in runs["data"]], axis=1)
    np.testing.assert_allclose(signal.data, expected, rtol=1e-6)
    assert signal.sfreq == 100 and signal.sensors.names == ("C3", "Cz", "EOG1")
    assert [Kind(int(k)).name for k in signal.sensors.kind] == ["EEG", "EEG", "EOG"]
    assert [(e.onset, e.label) for e in signal.events] == [
        (0.1, "1"),
        (1.0, "2"),
        (3.0, EDGE),
        (3.1, "1"),
        (4.0, "2"),
    ]


def test_trials_of_an_array_are_laid_end_to_end_in_the_order_of_their_axes(rng, tmp_path):
    data = rng.standard_normal((2, 4, 50, 3))  # target channel time block
    mat5(tmp_path / "a.mat", {"eeg": data})
    signal = load(
        tmp_path,
        data="eeg",
        axes=["target", "channel", "time", "block"],
        label_axis="target",
        sfreq=50.0,
        channels=["Fz", "Cz", "Pz", "Oz"],
    )
    np.testing.assert_allclose(signal.data[:, 50:100], data[0, :, :, 1], rtol=1e-5)
    named = [e for e in signal.events if e.label != EDGE]
    assert [e.label for e in named] == ["1", "1", "1", "2", "2", "2"]
    assert [e.onset for e in named] == [0, 1, 2, 3, 4, 5] and named[0].duration == 1
    assert sum(e.label == EDGE for e in signal.events) == 5


def test_labels_of_a_card_follow_the_numbers_in_names(rng, tmp_path):
    pieces = {f"x_eeg{i}": np.full((1, 10), float(i)) for i in (1, 2, 10)}
    mat5(tmp_path / "a.mat", pieces)
    signal = load(
        tmp_path, records="*_eeg*", sfreq=10.0, channels=["Cz"], labels=["one", "two", "ten"]
    )
    assert signal.data[0, ::10].tolist() == [1, 2, 10]
    assert [e.label for e in signal.events if e.label != EDGE] == ["one", "two", "ten"]
    with pytest.raises(ValueError, match="more than 2 pieces"):
        load(tmp_path, records="*_eeg*", sfreq=10.0, channels=["Cz"], labels=["one", "two"])


def test_one_array_per_class_names_its_events(rng, tmp_path):
    trigger = np.zeros(40)
    trigger[[5, 25]] = 1
    tree = {"left": rng.standard_normal((2, 40)), "right": rng.standard_normal((2, 40))}
    mat5(tmp_path / "a.mat", {"eeg": {**tree, "mark": trigger}})
    signal = load(
        tmp_path,
        records="eeg",
        data={"left": "left_hand", "right": "right_hand"},
        trigger="mark",
        sfreq=10.0,
        channels=["C3", "C4"],
    )
    assert [(e.onset, e.label) for e in signal.events] == [
        (0.5, "left_hand"),
        (2.5, "left_hand"),
        (4.0, EDGE),
        (4.5, "right_hand"),
        (6.5, "right_hand"),
    ]


def test_people_in_one_file_become_recordings_with_positions(rng, tmp_path):
    mat5(
        tmp_path / "a.mat",
        {
            "Data": rng.standard_normal((100, 3)),
            "Patient": np.array([2, 1, 2]),
            "Place": np.array([[1.0, 2, 3], [4, 5, 6], [np.nan, 0, 0]]),
        },
    )
    reader = MatReader(
        "{subject}.mat",
        dataset="d",
        root=tmp_path,
        data="Data",
        axes=["time", "channel"],
        sfreq=100.0,
        channels=["A1", "A2", "A3"],
        subjects="Patient",
        positions="Place",
        frame="mni",
        kind="seeg",
        unit="arbitrary",
    )
    assert [r.subject for r in reader.recordings()] == ["2", "1"]
    signal = reader.load(reader.recordings()[0])
    assert signal.sensors.names == ("A1", "A3") and signal.sensors.frame == "mni"
    np.testing.assert_allclose(signal.sensors.position[0], [0.001, 0.002, 0.003])
    assert np.isnan(signal.sensors.position[1]).all() and signal.details["unit"] == "arbitrary"


def test_a_variable_per_channel_is_read_in_groups_of_the_same_numbers(rng, tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.mat", "w") as file:
        for i in (0, 1, 2, 10):
            file[f"data/electrode_{i}"] = rng.standard_normal(500)
    reader = MatReader(
        "{subject}.mat",
        dataset="d",
        root=tmp_path,
        data="data.electrode_*",
        axes=["time"],
        sfreq=100.0,
        kind="seeg",
    )
    (recording,) = reader.recordings()
    whole = reader.load(recording)
    assert whole.sensors.names == ("electrode_0", "electrode_1", "electrode_2", "electrode_10")
    parts = list(reader.slabs(recording, max_bytes=2 * 500 * 4))
    assert [len(part.sensors) for part in parts] == [2, 2]
    np.testing.assert_array_equal(np.concatenate([part.data for part in parts]), whole.data)


@pytest.mark.parametrize(
    ("changes_", "words"),
    [
        ({"records": "nothing"}, "no variable fits 'nothing'; there are data"),
        ({"data": "Y"}, "'Y' is not one array in a record that has X, fs, trial"),
        ({"channels": ["C3"]}, "3 channels in an array of shape"),
        ({"sfreq": "rate"}, "nothing at 'rate'"),
        ({"labels": "artifacts", "onsets": "y"}, None),
    ],
)
def test_what_does_not_fit_the_card_is_named(changes_, words, runs, tmp_path):
    mat5(tmp_path / "a.mat", runs)
    if words is None:
        assert {e.label for e in load(tmp_path, **RUNS | changes_).events} == {"event", EDGE}
        return
    with pytest.raises(ValueError, match=words):
        load(tmp_path, **RUNS | changes_)


def test_labels_and_onsets_must_be_as_many(runs, tmp_path):
    runs["data"][0]["y"] = np.array([1.0])
    mat5(tmp_path / "a.mat", runs)
    with pytest.raises(ValueError, match="2 values at 'trial', 1 at 'y'"):
        load(tmp_path, **RUNS)


@pytest.mark.parametrize(
    ("axes", "words"),
    [(["time", "trial"], "need `channel`"), (["time", "channel", "time"], "no name twice")],
)
def test_axes_that_cannot_be_are_refused_before_any_file_is_opened(axes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        MatReader("x.mat", dataset="d", root=tmp_path, axes=axes, sfreq=1.0, channels=["a"])


@pytest.mark.parametrize("content", [b"", b"no matlab", b"MATLAB 5.0 but nothing more"])
def test_a_file_that_is_no_matlab_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mat"), open_mat(tmp_path / "a.mat"):
        pass


@given(
    st.recursive(
        st.integers() | st.text(max_size=2),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
        max_leaves=10,
    ),
    st.text(alphabet="abc.*[", max_size=6),
)
def test_any_path_through_any_tree_finds_a_list(tree, path):
    assert isinstance(find(tree, path), list)


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, np.nan]), max_size=20))
def test_changes_cover_exactly_the_samples_that_are_not_zero(steps):
    covered = np.zeros(len(steps))
    for start, length, label in changes(np.array(steps)):
        covered[int(start) : int(start + length)] = float(label)
    np.testing.assert_array_equal(covered, np.nan_to_num(np.array(steps, dtype=float)))


def test_pieces_keep_their_marks_when_joined():
    pieces = [
        Piece(np.zeros((1, 10)), [(2.0, 1.0, "a")]),
        Piece(np.ones((1, 5)), [(0.0, 5.0, "b")]),
    ]
    data, events = joined(pieces, 10.0)
    assert data.shape == (1, 15)
    assert [(e.onset, e.duration, e.label) for e in events] == [
        (0.2, 0.1, "a"),
        (1.0, 0.0, EDGE),
        (1.0, 0.5, "b"),
    ]


def annotated(root: Path, **arguments: Any) -> Signal:
    reader = AnnotatedReader(
        files={"pattern": "{subject}.edf", "montage": "standard_1005"},
        dataset="d",
        root=root,
        **arguments,
    )
    return reader.load(reader.recordings()[0])


def test_rows_of_a_table_become_events_beside_those_of_the_file(tiny, tmp_path):
    tiny.edf(tmp_path / "a.edf")
    (tmp_path / "a.csv").write_text(
        "# version\nchannel,start_time,stop_time,label\nCz,1.0,1.5,seiz\nC3,1.0,1.5,seiz\n"
    )
    signal = annotated(
        tmp_path,
        annotations="{stem}.csv",
        columns={"start": "start_time", "stop": "stop_time", "label": "label"},
        comment="#",
    )
    assert [(e.onset, e.duration, e.label) for e in signal.events] == [
        (0.5, 1.0, "T1"),
        (1.0, 0.5, "seiz"),
        (2.25, 0.5, "T2"),
    ]


def test_the_file_of_events_is_a_source_of_the_recording(tiny, tmp_path):
    tiny.edf(tmp_path / "a.edf")
    reader = AnnotatedReader(
        files={"pattern": "{subject}.edf"}, dataset="d", root=tmp_path, annotations="{stem}.rec"
    )
    (recording,) = reader.recordings()
    assert reader.sources(recording) == []
    (tmp_path / "a.rec").write_text("")
    assert reader.sources(recording) == [tmp_path / "a.rec"]


def test_a_recording_without_its_file_of_events_is_read_with_a_warning(tiny, tmp_path):
    tiny.edf(tmp_path / "a.edf")
    with pytest.warns(RecordingWarning, match=r"No file of events fits '\{stem\}\.rec'"):
        signal = annotated(tmp_path, annotations="{stem}.rec", columns={"start": 1, "label": 2})
    assert [e.label for e in signal.events] == ["T1", "T2"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("start,what\n1,x\n", "no column label"),
        ("start,label\nsoon,x\n", "'soon' is not a time"),
        ("start,label\n1\n", "a row of 1 values"),
    ],
)
def test_a_broken_table_of_events_says_what_is_wrong(rows, words, tiny, tmp_path):
    tiny.edf(tmp_path / "a.edf")
    (tmp_path / "a.csv").write_text(rows)
    with pytest.raises(ValueError, match=words):
        annotated(tmp_path, annotations="a.csv", columns={"start": "start", "label": "label"})


def test_only_the_part_of_a_summary_on_the_recording_counts(tiny, tmp_path):
    tiny.edf(tmp_path / "a.edf")
    (tmp_path / "all.txt").write_text(
        "File Name: b.edf\nSeizure Start Time: 1 seconds\nSeizure End Time: 2 seconds\n"
        "File Name: a.edf\nSeizure 1 Start Time: 2 seconds\nSeizure 1 End Time: 3 seconds\n"
    )
    text = {
        "annotations": "all.txt",
        "block": r"File Name: (?P<file>\S+)",
        "start": r"Seizure *\d* *Start Time: *(\d+)",
        "stop": r"Seizure *\d* *End Time: *(\d+)",
        "label": "seizure",
    }
    found = [e for e in annotated(tmp_path, **text).events if e.label == "seizure"]
    assert [(e.onset, e.duration) for e in found] == [(2.0, 1.0)]
    (tmp_path / "all.txt").write_text("File Name: a.edf\nSeizure Start Time: 1 seconds\n")
    with pytest.raises(ValueError, match="1 events start and 0 end"):
        annotated(tmp_path, **text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"annotations": "{name}.rec"}, r"\{name\} is not one of"),
        ({"annotations": "x", "columns": {"start": 1}}, "need `start` and `label`"),
        ({"annotations": "x", "block": "y"}, "needs `start` and `label`"),
    ],
)
def test_declarations_that_cannot_work_are_refused_at_once(arguments, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        AnnotatedReader(files={"pattern": "{subject}.edf"}, dataset="d", root=tmp_path, **arguments)
