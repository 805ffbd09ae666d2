"""BIDS trees: sidecars and inheritance, people, bad channels, positions, images, derivatives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.io import BIDSReader, RecordingWarning, open_path, signal_to_raw
from neurofm.io import sidecars as tree
from neurofm.io.bids import sidecars
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

pytestmark = pytest.mark.filterwarnings("ignore::neurofm.io.quality.RecordingWarning")


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    text(tmp_path / "dataset_description.json", '{"Name": "x", "BIDSVersion": "1.8.0"}')
    return tmp_path


def eeg(root: Path, tiny, name: str = "sub-01/eeg/sub-01_task-a_eeg.edf") -> Path:
    return tiny.edf(root / name)


def image(path: Path, *, tr_s: float = 2.0, volumes: int = 12, value: float = 1000.0) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (4, 4, 4, volumes) if volumes > 1 else (4, 4, 4)
    data = value + 10 * np.random.default_rng(0).standard_normal(shape)
    made = nibabel.Nifti1Image(np.round(data).astype(np.int16), np.diag([3.0, 3.0, 3.0, 1.0]))
    if volumes > 1:
        made.header.set_zooms((3.0, 3.0, 3.0, tr_s))
    made.header.set_xyzt_units("mm", "sec")
    made.to_filename(path)
    return path


def only(reader: BIDSReader) -> Signal:
    (recording,) = reader.recordings()
    return reader.load(recording)


def test_the_nearest_sidecar_wins_key_by_key(root):
    path = root / "sub-01/eeg/sub-01_task-a_run-1_eeg.edf"
    text(root / "task-a_eeg.json", '{"A": "root", "B": "root", "C": "root"}')
    text(root / "sub-01/sub-01_task-a_eeg.json", '{"B": "subject", "C": "subject"}')
    text(path.with_suffix(".json"), '{"C": "own"}')
    text(root / "task-b_eeg.json", '{"A": "another task"}')
    assert tree.metadata(path, root) == {"A": "root", "B": "subject", "C": "own"}


def test_of_tables_only_the_nearest_and_most_specific_counts(root):
    path = root / "sub-01/eeg/sub-01_task-a_run-1_eeg.edf"
    general = text(root / "task-a_events.tsv", "onset\n1\n")
    assert tree.events_of(path, root) == general
    near = text(root / "sub-01/eeg/sub-01_task-a_events.tsv", "onset\n2\n")
    assert tree.events_of(path, root) == near
    own = text(root / "sub-01/eeg/sub-01_task-a_run-1_events.tsv", "onset\n3\n")
    text(root / "sub-01/eeg/sub-01_task-a_run-2_events.tsv", "onset\n4\n")
    assert tree.events_of(path, root) == own


def test_a_recording_names_the_sidecars_it_inherits_and_no_others(root):
    path = root / "sub-01/ieeg/sub-01_task-a_run-1_ieeg.edf"
    mine = [
        text(root / "task-a_ieeg.json", "{}"),
        text(root / "sub-01/ieeg/sub-01_space-MNI152Lin_electrodes.tsv", "name\n"),
        text(root / "sub-01/ieeg/sub-01_space-MNI152Lin_coordsystem.json", "{}"),
        text(root / "sub-01/ieeg/sub-01_task-a_run-1_channels.tsv", "name\n"),
        text(root / "task-a_events.json", "{}"),
    ]
    text(root / "participants.tsv", "participant_id\n")
    text(root / "sub-01/ieeg/sub-01_task-b_channels.tsv", "name\n")
    text(root / "sub-01/ieeg/sub-01_task-a_ieeg.edf", "")
    assert sidecars(path, root) == sorted(mine)


def test_a_derivative_takes_events_from_the_raw_data_and_its_mask_from_its_own_space(root):
    base = root / "derivatives/fmriprep/sub-01/func"
    stem = "sub-01_task-a_run-1"
    path = image(base / f"{stem}_space-MNI_desc-preproc_bold.nii.gz")
    events = text(root / f"sub-01/func/{stem}_events.tsv", "onset\tduration\ttrial_type\n4\t2\tx\n")
    mask = image(base / f"{stem}_space-MNI_desc-brain_mask.nii.gz", volumes=1)
    image(base / f"{stem}_space-T1w_desc-brain_mask.nii.gz", volumes=1)
    table = text(base / f"{stem}_desc-confounds_timeseries.tsv", "csf\tgsr\n" + "1\t2\n" * 12)
    top = root / "derivatives/fmriprep"
    assert tree.mask_of(path, top) == mask
    assert tree.confounds_of(path, top) == table
    assert tree.events_of(path, top) == events
    assert {events, mask, table} <= set(sidecars(path, top))
    reader = BIDSReader(dataset="d", root=root, derivative="fmriprep", confounds=["csf"])
    signal = only(reader)
    assert [event.label for event in signal.events] == ["x"]
    assert signal.sensors.names[0] == "confound:csf"
    assert signal.details["space"] == "MNI" and signal.details["desc"] == "preproc"


def test_an_image_is_percent_change_with_the_time_of_its_sidecars(root):
    image(root / "sub-01/func/sub-01_task-a_bold.nii.gz", tr_s=2.0)
    text(root / "task-a_bold.json", '{"RepetitionTime": 2.0}')
    text(root / "sub-01/func/sub-01_task-a_events.tsv", "onset\tduration\n4\t2\n")
    text(root / "participants.tsv", "participant_id\tage\tsex\nsub-01\t30.5\tF\n")
    reader = BIDSReader(dataset="d", root=root, datatype="bold")
    signal = only(reader)
    assert signal.sfreq == 0.5 and (signal.sensors.kind == Kind.BOLD).all()
    assert 0.1 < np.median(signal.data.std(axis=1)) < 3
    assert signal.details["participant"] == {"age": 30.5, "sex": "F"}
    parts = list(reader.slabs(reader.recordings()[0], max_bytes=4 * 12 * 20))
    assert len(parts) > 1
    np.testing.assert_allclose(np.concatenate([p.data for p in parts]), signal.data, rtol=1e-5)


def test_a_repetition_time_that_disagrees_names_both(root):
    image(root / "sub-01/func/sub-01_task-a_bold.nii.gz", tr_s=2.0)
    text(root / "task-a_bold.json", '{"RepetitionTime": 3.0}')
    with pytest.raises(ValueError, match=r"header 2 s, sidecar 3 s"):
        only(BIDSReader(dataset="d", root=root))


def test_channels_tables_give_kinds_and_bad_channels_also_from_above(root, tiny):
    eeg(root, tiny)
    rows = [f"{n}\t{'EOG' if n == 'Fp1' else 'EEG'}\tuV\tgood" for n in tiny.names]
    rows[2] = rows[2].replace("good", "bad")
    text(root / "task-a_channels.tsv", "name\ttype\tunits\tstatus\n" + "\n".join(rows))
    with pytest.warns(RecordingWarning, match="1 of 6 channels are marked as bad: Cz"):
        signal = only(BIDSReader(dataset="d", root=root, montage="standard_1005"))
    assert signal.details["bad_channels"] == ["Cz"]
    assert signal.sensors.kind[0] == Kind.EOG and (signal.sensors.kind[1:] == Kind.EEG).all()


def test_channels_of_a_table_that_the_recording_lacks_are_named(root, tiny):
    eeg(root, tiny)
    text(root / "task-a_channels.tsv", "name\ttype\tunits\nCz\tEEG\tuV\nghost\tEEG\tuV\n")
    with pytest.warns(RecordingWarning, match=r"1 channels that are not in the recording: ghost"):
        only(BIDSReader(dataset="d", root=root))


def test_an_events_table_replaces_the_events_of_the_file_and_may_be_asked_for_a_column(root, tiny):
    tiny.events = ((0.5, 0.1, "from file"), (1.0, 0.1, "BAD_ACQ_SKIP"))
    eeg(root, tiny)
    text(
        root / "sub-01/eeg/sub-01_task-a_events.tsv",
        "onset\tduration\ttrial_type\tword\n2.0\t0.5\tshow\thouse\n1.5\tn/a\tn/a\tcat\nn/a\t1\tx\ty\n",
    )
    signal = only(BIDSReader(dataset="d", root=root))
    assert [(e.onset, e.label) for e in signal.events] == [
        (1.0, "BAD_ACQ_SKIP"),
        (1.5, "event"),
        (2.0, "show"),
    ]
    named = only(BIDSReader(dataset="d", root=root, event_column="word"))
    assert [e.label for e in named.events] == ["BAD_ACQ_SKIP", "cat", "house"]
    with pytest.raises(ValueError, match="no column 'sound'"):
        only(BIDSReader(dataset="d", root=root, event_column="sound"))


def test_contacts_have_the_positions_and_regions_of_their_table(root, tiny):
    tiny.names = ["A1", "A2", "A3", "B1", "B2", "B3"]
    tiny.edf(root / "sub-01/ieeg/sub-01_task-a_ieeg.edf")
    kinds = "\n".join(f"{name}\tSEEG\tuV" for name in tiny.names)
    text(root / "sub-01/ieeg/sub-01_task-a_channels.tsv", "name\ttype\tunits\n" + kinds)
    for space in ("MNI152Lin", "ScanRAS"):
        rows = "\n".join(
            f"{name}\t{10 * i}\t-20\t{30 if space == 'MNI152Lin' else 99}\tinsula"
            for i, name in enumerate(tiny.names[:5])
        )
        base = root / f"sub-01/ieeg/sub-01_space-{space}"
        text(Path(f"{base}_electrodes.tsv"), "name\tx\ty\tz\tregion\n" + rows)
        system = {"iEEGCoordinateSystem": space, "iEEGCoordinateUnits": "mm"}
        text(Path(f"{base}_coordsystem.json"), json.dumps(system))
    signal = only(BIDSReader(dataset="d", root=root))
    assert signal.sensors.frame == "mni" and signal.details["space"] == "MNI152Lin"
    np.testing.assert_allclose(signal.sensors.position[1], [0.01, -0.02, 0.03], atol=1e-9)
    assert np.isnan(signal.sensors.position[5]).all()
    assert signal.sensors.region == ("insula",) * 5 + ("",)
    assert (signal.sensors.kind == Kind.SEEG).all()
    other = only(BIDSReader(dataset="d", root=root, space="ScanRAS"))
    assert other.sensors.position[0, 2] == pytest.approx(0.099)


def test_a_split_meg_recording_is_one_recording(root, rng):
    names = [f"MEG{i}" for i in range(4)]
    sensors = Sensors.of_kind(names, Kind.MAG, rng.normal(0, 0.1, (4, 3)))
    data = (500 * rng.standard_normal((4, 600_000))).astype(np.float32)
    raw = signal_to_raw(Signal(data, 1000.0, sensors, (), Recording("d", "01")))
    folder = root / "sub-01/meg"
    folder.mkdir(parents=True)
    raw.save(
        folder / "sub-01_task-a_meg.fif", split_size="5MB", split_naming="bids", verbose="error"
    )
    assert len(list(folder.iterdir())) > 1
    signal = only(BIDSReader(dataset="d", root=root, datatype="meg"))
    assert signal.data.shape == data.shape


def test_entities_choose_recordings_and_an_empty_room_is_none(root, tiny):
    for name in (
        "sub-01/ses-1/eeg/sub-01_ses-1_task-a_run-01",
        "sub-01/ses-1/eeg/sub-01_ses-1_task-b",
    ):
        eeg(root, tiny, f"{name}_eeg.edf")
    eeg(root, tiny, "sub-emptyroom/eeg/sub-emptyroom_task-noise_eeg.edf")
    assert len(BIDSReader(dataset="d", root=root).recordings()) == 2
    (found,) = BIDSReader(dataset="d", root=root, task="a", session="1", run="1").recordings()
    assert (found.session, found.task, found.run) == ("1", "a", "01")
    with pytest.raises(FileNotFoundError, match="with task-c"):
        BIDSReader(dataset="d", root=root, task="c").recordings()


def test_recordings_that_differ_in_acquisition_get_names_of_their_own(root, tiny):
    for acq in ("fast", "slow"):
        eeg(root, tiny, f"sub-01/eeg/sub-01_task-a_acq-{acq}_eeg.edf")
    reader = BIDSReader(dataset="d", root=root, datatype="eeg")
    assert [r.run for r in reader.recordings()] == ["acq-fast", "acq-slow"]
    assert len(BIDSReader(dataset="d", root=root, acquisition="fast").recordings()) == 1


def test_a_bids_folder_and_a_file_in_it_are_read_with_their_sidecars_without_a_card(root, tiny):
    path = eeg(root, tiny)
    text(root / "task-a_events.tsv", "onset\tduration\ttrial_type\n1\t1\tgo\n")
    for where in (root, path):
        corpus = open_path(where)
        (recording,) = corpus.recordings()
        assert [event.label for event in corpus.load(recording).events] == ["go"]


def test_people_are_numbers_and_words_and_what_is_missing_is_left_out(root):
    text(
        root / "participants.tsv",
        'participant_id\tage\tsex\tcode\nsub-01\t31\tn/a\t1_0\nsub-02\t28.5\tM\t"a b"\n',
    )
    assert tree.read_participants(root) == {
        "01": {"age": 31, "code": "1_0"},
        "02": {"age": 28.5, "sex": "M", "code": "a b"},
    }
    text(root / "participants.tsv", "participant_id\nsub-01\nsub-01\n")
    with pytest.raises(ValueError, match="has two rows"):
        tree.read_participants(root)


def test_the_time_of_a_recording_comes_from_scans(root, tiny):
    eeg(root, tiny)
    text(
        root / "sub-01/sub-01_scans.tsv",
        "filename\tacq_time\neeg/sub-01_task-a_eeg.edf\t2020-01-01T10:00:00\n",
    )
    assert only(BIDSReader(dataset="d", root=root)).details["acq_time"] == "2020-01-01T10:00:00"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"onset\tduration\n1\n", "row 2 has 1 values under 2"),
        (b"onset\tonset\n1\t2\n", "appears twice"),
        (b"duration\n1\n", "no column `onset`"),
        (b"onset\nsoon\n", "'soon' is not a number"),
        (b"onset\ninf\n", "'inf' is not a number"),
        (b"onset\n\xff\xfe\n", "not UTF-8"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"../.git/annex/objects/aa/bb/MD5E-s1--x.tsv", "git-annex"),
    ],
)
def test_a_broken_events_table_says_what_is_wrong(content, words, tmp_path):
    (tmp_path / "x_events.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tree.read_events(tmp_path / "x_events.tsv")


@pytest.mark.parametrize("content", [b"[1, 2]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_a_broken_json_sidecar_says_so(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json"):
        tree.read_json(tmp_path / "x.json")


LINES = st.lists(
    st.sampled_from(["onset", "duration", "trial_type", "1", "2.5", "n/a", "-", "\t", '"', "é"])
)


@given(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_table_is_read_or_refused_with_a_value_error(tmp_path_factory, rows, newline):
    path = tmp_path_factory.mktemp("fuzz") / "x_events.tsv"
    path.write_bytes(newline.join("\t".join(row) for row in rows).encode())
    try:
        events = tree.read_events(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(np.isfinite(event.onset) and event.duration >= 0 for event in events)


@given(st.binary(max_size=60))
def test_any_bytes_as_a_sidecar_are_read_or_refused_with_a_value_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "x.json").write_bytes(content)
    (folder / "participants.tsv").write_bytes(content)
    for read in (
        lambda: tree.read_json(folder / "x.json"),
        lambda: tree.read_table(folder / "x.json"),
        lambda: tree.read_participants(folder),
    ):
        try:
            read()
        except ValueError as error:
            assert str(folder) in str(error)


@given(st.text(max_size=40))
def test_any_file_name_has_entities_without_an_error(name):
    entities = tree.entities_of(name)
    assert all(key and value for key, value in entities.items())
    assert isinstance(tree.suffix_word(name), str)
