"""What lies beside functional images: repetition times, confounds, masks, runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_images import SHAPE, WHO, N, atlas_image, series, write

from neurofm.data import CleanBold, prepare_recording
from neurofm.io import (
    Corpus,
    FMRIReader,
    RecordingWarning,
    bold_slabs,
    read_bold,
)
from neurofm.io.mri.fmri_sidecars import read_confounds, repetition_time
from neurofm.io.quality import collect
from neurofm.types import Event
from neurofm.units import Kind


@pytest.mark.parametrize(("value", "unit"), [(2.0, "sec"), (2000.0, "msec"), (2e6, "usec")])
def test_the_repetition_time_follows_the_unit_of_the_header(value, unit, rng, tmp_path):
    path = write(tmp_path / "a.nii", series(rng), tr=value, unit=unit)
    assert read_bold(path, WHO, mask="all").sfreq == pytest.approx(0.5)


def test_a_header_and_a_sidecar_that_disagree_name_both(bold, tmp_path):
    path, _ = bold
    (tmp_path / "bold.json").write_text('{"RepetitionTime": 2.5}')
    with pytest.raises(ValueError, match=r"header 2 s, sidecar 2\.5 s.*tr_from"):
        read_bold(path, WHO, mask="all")
    signal = read_bold(path, WHO, mask="all", tr_from="sidecar")
    assert signal.sfreq == 0.4
    with pytest.raises(ValueError, match=r"header 2 s, sidecar 2\.5 s, card 2 s"):
        read_bold(path, WHO, mask="all", tr_s=2.0)


def test_a_repetition_time_of_zero_must_be_declared(rng, tmp_path):
    path = write(tmp_path / "a.nii.gz", series(rng), tr=0.0)
    with pytest.raises(ValueError, match=r"no repetition time: .*pixdim\[4\]\) is 0.*tr_s"):
        read_bold(path, WHO, mask="all")
    assert read_bold(path, WHO, mask="all", tr_s=1.5).details["tr_s"] == 1.5


def test_a_repetition_time_without_a_unit_is_taken_with_a_warning(rng, tmp_path):
    path = write(tmp_path / "a.nii.gz", series(rng), tr=1500.0, unit="unknown")
    with pytest.warns(RecordingWarning, match="taken as milliseconds"):
        assert read_bold(path, WHO, mask="all").details["tr_s"] == 1.5
    with collect() as problems:
        read_bold(path, WHO, mask="all", sidecar={"RepetitionTime": 1.5})
    assert not problems
    hertz = write(tmp_path / "b.nii.gz", series(rng), unit="hz")
    with pytest.raises(ValueError, match="is in hz, not in time"):
        read_bold(hertz, WHO, mask="all")


@pytest.mark.parametrize("value", ["2", True, 0, -1, float("nan"), None, [2]])
def test_a_sidecar_with_no_usable_repetition_time_is_refused(value):
    sidecar = {"RepetitionTime": value}
    if value is None:
        assert repetition_time((2.0, ""), sidecar=sidecar, card=None, where="a") == 2.0
        return
    with pytest.raises(ValueError, match="RepetitionTime is"):
        repetition_time((2.0, ""), sidecar=sidecar, card=None, where="a")


def test_confounds_come_first_in_every_group(bold, tmp_path, rng):
    path, _ = bold
    table = rng.standard_normal((N, 6))
    plain = tmp_path / "motion.txt"
    np.savetxt(plain, table)
    names = ["a", "b", "c", "d", "e", "f"]
    where = {"mask": "all", "confounds": plain, "confound_columns": names}
    whole = read_bold(path, WHO, **where)
    assert whole.sensors.names[:6] == tuple(f"confound:{name}" for name in names)
    np.testing.assert_allclose(whole.data[:6], table.T, rtol=1e-6)
    assert (whole.sensors.kind[:6] == Kind.OTHER).all()
    parts = list(bold_slabs(path, WHO, max_bytes=4 * N * 20, **where))
    assert all(part.sensors.names[:6] == whole.sensors.names[:6] for part in parts)
    np.testing.assert_array_equal(np.concatenate([p.data[6:] for p in parts]), whole.data[6:])


def confound_table(path: Path, columns: dict[str, list[str]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join(["\t".join(columns), *("\t".join(row) for row in rows)]) + "\n")
    return path


def test_of_fmripreps_table_the_usual_columns_are_taken_and_first_rows_filled(tmp_path):
    path = confound_table(
        tmp_path / "sub-1_desc-confounds_timeseries.tsv",
        {
            "trans_x": ["0", "1", "2", "3"],
            "trans_x_derivative1": ["n/a", "1", "1", "4"],
            "a_comp_cor_07": ["1", "2", "3", "4"],
            "std_dvars": ["n/a", "1", "2", "3"],
        },
    )
    names, table = read_confounds(path, 4)
    assert names == ("trans_x", "trans_x_derivative1")
    np.testing.assert_allclose(table[1], [1, 1, 1, 4])
    names, table = read_confounds(path, 4, columns=["a_comp_cor_*", "std_dvars"])
    assert names == ("a_comp_cor_07", "std_dvars") and np.isfinite(table).all()
    with pytest.raises(ValueError, match=r"no column csf; there are trans_x"):
        read_confounds(path, 4, columns=["csf"])
    with pytest.raises(ValueError, match="4 rows for 5 volumes"):
        read_confounds(path, 5)


def test_gaps_inside_a_confound_are_filled_and_counted(tmp_path):
    path = confound_table(tmp_path / "a.tsv", {"x": ["1", "n/a", "3"], "y": ["n/a"] * 3})
    with (
        pytest.warns(RecordingWarning, match="hold no number: y"),
        pytest.warns(RecordingWarning, match="have gaps, filled by interpolation: x"),
    ):
        _, table = read_confounds(path, 3)
    np.testing.assert_allclose(table, [[1, 2, 3], [0, 0, 0]])


@given(st.text(alphabet="0123456789.eE+-\t\n na/x", max_size=120))
def test_a_confound_table_is_read_or_refused_whatever_it_holds(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("confounds") / "a.tsv"
    path.write_text(text, encoding="utf-8")
    with collect():
        try:
            names, table = read_confounds(path, 2)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert table.shape == (len(names), 2) and np.isfinite(table).all()


def corpus(root: Path, rng: np.random.Generator) -> FMRIReader:
    for run in (1, 2):
        folder = root / "sub-01" / f"run{run}"
        folder.mkdir(parents=True)
        write(folder / "bold.nii.gz", series(rng), dtype=np.int16)
        (folder / "events.tsv").write_text("onset\tduration\ttrial_type\n4.0\t2\tface\n")
    mask = np.zeros(SHAPE)
    mask[1:3] = 1
    write(root / "sub-01" / "mask.nii.gz", mask)
    return FMRIReader(
        "sub-{subject}/run{run}/bold.nii.gz",
        dataset="tiny",
        root=root,
        mask="sub-{subject}/mask.nii.gz",
        events="events.tsv",
    )


def test_a_reader_finds_runs_and_what_lies_beside_them(tmp_path, rng):
    reader = corpus(tmp_path, rng)
    one, two = reader.recordings()
    assert (one.subject, one.run, two.run) == ("01", "1", "2")
    signal = reader.load(one)
    assert signal.events == (Event(4.0, 2.0, "face"),) and len(signal.sensors) == 48
    names = [p.name for p in reader.sources(one)]
    assert names == ["mask.nii.gz", "events.tsv"]
    (tmp_path / "sub-01" / "run2" / "events.tsv").unlink()
    with pytest.warns(RecordingWarning, match="No events table"):
        assert reader.load(two).events == ()
    (tmp_path / "sub-01" / "mask.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask 'sub-\{subject\}/mask"):
        reader.load(one)


def test_an_atlas_may_lie_beside_the_corpora(tmp_path, rng, monkeypatch):
    reader = corpus(tmp_path / "tiny", rng)
    (tmp_path / "atlas").mkdir()
    atlas_image(tmp_path / "atlas")
    reader.files |= {"atlas": "atlas/atlas.nii.gz", "mask": None}
    with pytest.raises(FileNotFoundError, match=r"no atlas 'atlas/atlas\.nii\.gz'"):
        reader.load(reader.recordings()[0])
    monkeypatch.setenv("NEUROFM_DATA", str(tmp_path))
    assert reader.load(reader.recordings()[0]).sensors.names == ("parcel-3", "parcel-7")


def test_a_run_prepared_in_groups_has_the_bytes_of_the_whole(tmp_path, rng):
    reader = corpus(tmp_path / "tiny", rng)
    table = tmp_path / "tiny" / "sub-01" / "run1" / "motion.txt"
    np.savetxt(table, rng.standard_normal((N, 2)))
    reader.files |= {"confounds": "motion.txt"}
    opened = Corpus("tiny", {}, tmp_path / "tiny", reader)
    recording = reader.recordings()[0]
    for steps in ([], [CleanBold(confounds=["*"])]):
        found = []
        for memory in (2_000_000_000, 4 * 4 * N * 10):
            store = tmp_path / f"store-{len(steps)}-{memory}"
            made = prepare_recording(opened, recording, steps, store, memory=memory)
            found.append((store / "recordings" / f"{made.key}.bin").read_bytes())
        assert found[0] == found[1]


def test_another_mask_makes_another_recording(tmp_path, rng):
    reader = corpus(tmp_path / "tiny", rng)
    opened = Corpus("tiny", {}, tmp_path / "tiny", reader)
    recording = reader.recordings()[0]
    first = prepare_recording(opened, recording, [], tmp_path / "store")
    assert not prepare_recording(opened, recording, [], tmp_path / "store").made
    mask = np.zeros(SHAPE)
    mask[2:4] = 1
    write(tmp_path / "tiny" / "sub-01" / "mask.nii.gz", mask)
    again = prepare_recording(opened, recording, [], tmp_path / "store")
    assert again.made and again.key != first.key
