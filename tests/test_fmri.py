"""Functional images: what is read, from any layout of the same brain, in bounded memory."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurofm.data import CleanBold, prepare_recording
from neurofm.io import (
    Corpus,
    FMRIReader,
    RecordingWarning,
    bold_slabs,
    describe_image,
    open_corpus,
    open_image,
    parcel_means,
    read_atlas,
    read_bold,
)
from neurofm.io.mri.atlases import read_names
from neurofm.io.mri.fmri_sidecars import read_confounds, repetition_time
from neurofm.io.mri.voxels import VoxelSeries
from neurofm.io.quality import collect
from neurofm.types import Event, Recording, Signal
from neurofm.units import Kind

WHO = Recording("tiny", "1")
SHAPE, N, TR = (5, 6, 4), 12, 2.0
AFFINE = np.array([[3.0, 0, 0, -6], [0, 3, 0, -9], [0, 0, 4, -4], [0, 0, 0, 1]])


def series(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE, n: int = N) -> np.ndarray:
    """Voxels around 1000 with noise of 20: 2 %."""
    return 1000 + 20 * rng.standard_normal((*shape, n))


def write(
    path: Path,
    data: np.ndarray,
    *,
    dtype: Any = np.float32,
    affine: np.ndarray = AFFINE,
    tr: float = TR,
    unit: str = "sec",
    code: int = 1,
    nifti: Any = nibabel.Nifti1Image,
) -> Path:
    stored = np.asarray(data)
    if np.dtype(dtype).kind in "iu":
        stored = np.rint(stored)
    image = nifti(stored.astype(dtype), affine)
    image.header.set_data_dtype(dtype)
    if stored.ndim > 3:
        image.header["pixdim"][4] = tr
        image.header.set_xyzt_units("mm", unit)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    nibabel.save(image, path)
    return path


@pytest.fixture
def bold(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    data = series(rng).astype(np.float32)
    return write(tmp_path / "bold.nii.gz", data), data


def percent(data: np.ndarray) -> np.ndarray:
    """Canonical voxels (first axis fastest) in percent of their mean."""
    flat = data.reshape(-1, data.shape[-1], order="F").astype(np.float64)
    return 100 * (flat / flat.mean(axis=1, keepdims=True) - 1)


# Values, places, layouts


def test_voxels_are_percent_change_with_places_in_metres(bold):
    path, data = bold
    signal = read_bold(path, WHO, mask="all")
    np.testing.assert_allclose(signal.data, percent(data), atol=2e-5)
    assert signal.sfreq == 1 / TR and signal.data.dtype == np.float32
    assert set(signal.sensors.kind) == {Kind.BOLD} and signal.sensors.frame == "scanner"
    i = signal.sensors.names.index("v002-001-003")
    np.testing.assert_allclose(signal.sensors.position[i], [0.0, -0.006, 0.008])
    np.testing.assert_allclose(signal.data[i], percent(data[2, 1, 3])[0], atol=2e-5)
    assert signal.details["tr_s"] == TR and signal.details["grid"] == list(SHAPE)
    assert json.dumps(signal.details)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_same_brain_stored_in_another_orientation_reads_the_same(flips, axes, bold, tmp_path):
    path, _ = bold
    image = nibabel.load(path)
    turn = nibabel.orientations.axcodes2ornt(
        [("LR", "PA", "IS")[a][(flips[a] + 1) // 2] for a in axes]
    )
    other = tmp_path / "turned.nii"
    nibabel.save(image.as_reoriented(turn), other)
    assert open_image(other).shape != SHAPE or axes == (0, 1, 2)
    one, two = (read_bold(p, WHO, mask="all") for p in (path, other))
    np.testing.assert_array_equal(one.data, two.data)
    np.testing.assert_allclose(one.sensors.position, two.sensors.position, atol=1e-9)
    assert one.sensors.names == two.sensors.names
    small = max(1, 4 * N * 7)
    parts = list(bold_slabs(other, WHO, max_bytes=small, mask="all"))
    assert len(parts) > 10
    np.testing.assert_array_equal(np.concatenate([p.data for p in parts]), one.data)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">i2", ">f4", "i4"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
def test_every_stored_type_gives_the_values_nibabel_gives(dtype, suffix, rng, tmp_path):
    data = (
        series(rng) if np.dtype(dtype).itemsize > 1 else 100 + 10 * rng.standard_normal((*SHAPE, N))
    )
    kind = nibabel.Nifti1Pair if suffix == ".img" else nibabel.Nifti1Image
    path = write(tmp_path / f"a{suffix}", data, dtype=dtype, nifti=kind)
    truth = nibabel.load(path).get_fdata()
    signal = read_bold(path, WHO, mask="all", scale="stored")
    np.testing.assert_allclose(signal.data, truth.reshape(-1, N, order="F"), rtol=1e-6)
    pieces = list(bold_slabs(path, WHO, max_bytes=4 * N * 11, mask="all", scale="stored"))
    np.testing.assert_array_equal(np.concatenate([p.data for p in pieces]), signal.data)


def test_slope_and_intercept_of_the_header_are_applied(rng, tmp_path):
    path = write(tmp_path / "a.nii", series(rng) / 10, dtype=np.int16)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<2f", 0.5, 600.0)  # nibabel writes its own
    path.write_bytes(content)
    image = open_image(path)
    assert (image.slope, image.inter) == (0.5, 600.0)
    truth = nibabel.load(path).get_fdata()
    np.testing.assert_allclose(read_bold(path, WHO, mask="all").data, percent(truth), atol=1e-4)
    labels = np.ones(image.n_voxels, dtype=np.int64)
    means, counts, _ = parcel_means(image, labels)
    np.testing.assert_allclose(means[0], truth.mean(axis=(0, 1, 2)))
    assert counts.tolist() == [image.n_voxels]


def test_nifti_2_is_read(rng, tmp_path):
    data = series(rng)
    path = write(tmp_path / "a.nii", data, nifti=nibabel.Nifti2Image)
    np.testing.assert_allclose(
        read_bold(path, WHO, mask="all").data, percent(data.astype(np.float32)), atol=2e-5
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_slabs_are_the_whole_cut_into_groups(suffix, rng, tmp_path):
    path = write(tmp_path / f"a{suffix}", series(rng), dtype=np.int16)
    mask = np.zeros(SHAPE)
    mask[1:4, 1:5] = 1
    inside = write(tmp_path / "mask.nii", mask)
    whole = read_bold(path, WHO, mask=inside)
    limit = 4 * N * 5
    parts = list(bold_slabs(path, WHO, max_bytes=limit, mask=inside))
    assert len(parts) == 10 and all(part.data.nbytes <= limit for part in parts)
    np.testing.assert_array_equal(np.concatenate([p.data for p in parts]), whole.data)
    assert sum((p.sensors.names for p in parts), ()) == whole.sensors.names
    assert all(p.history == whole.history and p.details == whole.details for p in parts)


def test_scattered_voxels_of_an_uncompressed_image_go_through_a_temporary_file(rng, tmp_path):
    image = open_image(write(tmp_path / "a.nii", series(rng)))
    near = VoxelSeries(image, np.arange(image.n_voxels), max_bytes=4 * N * 10)
    assert near._file is None and near._whole is None
    turned = nibabel.load(image.path).as_reoriented(nibabel.orientations.axcodes2ornt("SAR"))
    nibabel.save(turned, tmp_path / "b.nii")
    far = VoxelSeries(
        open_image(tmp_path / "b.nii"), np.arange(image.n_voxels), max_bytes=4 * N * 10
    )
    assert far._file is not None
    for (_, _, one), (_, _, two) in zip(near.slabs(), far.slabs(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert far._file.closed


# Masks, atlases, regions


def atlas_image(tmp_path: Path, *, affine: np.ndarray = AFFINE, shape=SHAPE) -> Path:
    labels = np.zeros(shape)
    labels[:2], labels[2:4] = 3, 7
    return write(tmp_path / "atlas.nii.gz", labels, dtype=np.int16, affine=affine)


def test_parcels_are_means_at_their_centroids(bold, tmp_path):
    path, data = bold
    signal = read_bold(path, WHO, atlas=atlas_image(tmp_path), names={3: "left", 7: "right"})
    assert signal.sensors.names == ("left", "right") == signal.sensors.region
    truth = [data[:2].reshape(-1, N).mean(0), data[2:4].reshape(-1, N).mean(0)]
    np.testing.assert_allclose(signal.data, percent(np.array(truth)), atol=2e-4)
    np.testing.assert_allclose(signal.sensors.position[0], [-0.0045, -0.0015, 0.002], atol=1e-9)


def test_voxels_of_one_region_keep_its_name(bold, tmp_path):
    path, data = bold
    where = {"atlas": atlas_image(tmp_path), "names": {3: "left", 7: "right"}, "roi": ["r*"]}
    signal = read_bold(path, WHO, average=False, **where)
    assert set(signal.sensors.region) == {"right"} and len(signal.sensors) == 48
    np.testing.assert_allclose(signal.data, percent(data[2:4]), atol=2e-5)
    with pytest.raises(ValueError, match="no parcel is called upper; there are left, right"):
        read_bold(path, WHO, **(where | {"roi": ["upper"]}))


def test_one_region_can_be_one_channel(bold, tmp_path):
    path, data = bold
    mask = np.zeros(SHAPE)
    mask[1, 1:3] = 1
    inside = write(tmp_path / "ffa.nii.gz", mask)
    signal = read_bold(path, WHO, mask=inside, average=True)
    assert signal.sensors.names == ("ffa",)
    np.testing.assert_allclose(
        signal.data, percent(data[1, 1:3].reshape(-1, N).mean(0)[None]), atol=2e-5
    )


def test_an_atlas_of_another_grid_is_brought_to_the_image_by_the_nearest_voxel(rng, tmp_path):
    path = write(tmp_path / "bold.nii", series(rng))
    fine = np.diag([1.0, 1, 1, 1])
    fine[:3, 3] = [-8, -12, -8]
    labels = np.zeros((20, 24, 24))
    labels[:8], labels[8:] = 1, 2
    atlas = write(tmp_path / "fine.nii", labels, dtype=np.int16, affine=fine)
    with pytest.warns(RecordingWarning, match="brought to the image's voxels"):
        signal = read_bold(path, WHO, atlas=atlas, average=False)
    left = signal.sensors.position[:, 0] < -0.0005
    assert set(np.array(signal.sensors.region)[left]) == {"parcel-1"}
    assert set(np.array(signal.sensors.region)[~left]) == {"parcel-2"}


def test_resampling_labels_agrees_with_nilearn(rng, tmp_path):
    nilearn = pytest.importorskip("nilearn.image")
    path = write(tmp_path / "bold.nii", series(rng, (7, 8, 9)), affine=np.diag([5.0, 4.2, 3.1, 1]))
    oblique = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.2, 0.1, -0.3) * 2.0, [-3, -5, 4]
    )
    labels = np.zeros((18, 19, 17), dtype=int)
    labels[1:-1, 1:-1, 1:-1] = rng.integers(0, 9, (16, 17, 15))
    atlas = write(tmp_path / "atlas.nii", labels, dtype=np.int16, affine=oblique)
    ours = read_atlas(atlas).on(open_image(path).grid)
    theirs = nilearn.resample_img(
        nibabel.load(atlas),
        np.diag([5.0, 4.2, 3.1, 1]),
        (7, 8, 9),
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    assert len(np.unique(ours)) > 5
    np.testing.assert_array_equal(ours, theirs.get_fdata().ravel(order="F").astype(int))


def test_parcel_means_agree_with_nilearns_masker(rng, tmp_path):
    maskers = pytest.importorskip("nilearn.maskers")
    path = write(tmp_path / "bold.nii.gz", series(rng), dtype=np.int16)
    atlas = atlas_image(tmp_path)
    masker = maskers.NiftiLabelsMasker(atlas, standardize=None, resampling_target=None, verbose=0)
    theirs = masker.fit_transform(nibabel.load(path))
    means, _, _ = parcel_means(open_image(path), read_atlas(atlas).on(open_image(path).grid))
    np.testing.assert_allclose(means.T, theirs, rtol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".txt", "1\tLH_Vis\t10 20 30 0\n2\tRH_Vis\t1 2 3 0\n"),
        (".tsv", "index\tname\tcolor\n1\tLH_Vis\t#fff\n2\tRH_Vis\t#000\n"),
        (".csv", "name,index\nLH_Vis,1\nRH_Vis,2\n"),
        (".lut", "# comment\n1 LH_Vis 10 20 30 0\n2 RH_Vis 1 2 3 0\n"),
    ],
)
def test_names_of_parcels_come_from_any_common_table(suffix, text, tmp_path):
    table = tmp_path / f"atlas{suffix}"
    table.write_text(text)
    assert read_names(table) == {1: "LH_Vis", 2: "RH_Vis"}
    labels = np.zeros(SHAPE)
    labels[0], labels[1], labels[2] = 1, 2, 5
    path = write(tmp_path / "atlas.nii.gz", labels, dtype=np.uint8)
    assert dict(read_atlas(path).names) == {1: "LH_Vis", 2: "RH_Vis", 5: "parcel-5"}


@given(st.text(max_size=200))
def test_a_table_of_names_is_read_or_refused_whatever_it_holds(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("names") / "a.txt"
    path.write_text(text, encoding="utf-8")
    try:
        names = read_names(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert names and all(isinstance(k, int) and v for k, v in names.items())


def test_without_a_mask_the_bright_voxels_are_read(rng, tmp_path):
    data = 20 + 3 * rng.random((*SHAPE, N))
    data[1:4, 1:5, 1:3] = series(rng, (3, 4, 2))
    signal = read_bold(write(tmp_path / "a.nii.gz", data), WHO)
    np.testing.assert_allclose(
        signal.data, percent(data[1:4, 1:5, 1:3].astype(np.float32)), atol=1e-4
    )


# Repetition time, events, confounds


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


# Corpora


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


def test_frame_comes_from_the_code_the_name_or_the_card(rng, tmp_path):
    data = series(rng)
    mni = write(tmp_path / "a.nii.gz", data, code=4)
    named = write(tmp_path / "sub-1_space-MNI152NLin2009cAsym_bold.nii.gz", data)
    plain = write(tmp_path / "b.nii.gz", data, code=0)
    frames = [read_bold(p, WHO, mask="all").sensors.frame for p in (mni, named, plain)]
    assert frames == ["mni", "mni", "unknown"]
    assert read_bold(plain, WHO, mask="all", frame="scanner").sensors.frame == "scanner"


def test_images_are_described_in_words(bold, tmp_path, rng):
    path, _ = bold
    assert describe_image(path)[1].startswith("time series: 12 volumes, TR 2 s")
    assert "atlas: 2 labels, 96 voxels inside" in describe_image(atlas_image(tmp_path))
    mask = write(tmp_path / "mask.nii", np.eye(6)[:5, :, None] * np.ones(4))
    assert "mask: 20 of 120 voxels inside" in describe_image(mask)
    values = write(tmp_path / "map.nii", rng.random(SHAPE))
    assert describe_image(values)[1].startswith("map: values from 0.")


# Bad input


def test_a_truncated_image_is_refused_at_every_length(bold, tmp_path, rng):
    packed, _ = bold
    plain = write(tmp_path / "b.nii", series(rng))
    for path in (packed, plain):
        content = path.read_bytes()
        for share in (0.001, 0.1, 0.5, 0.99):
            cut = tmp_path / f"cut{''.join(path.suffixes)}"
            cut.write_bytes(content[: int(len(content) * share)])
            with pytest.raises(ValueError, match=r"truncated|empty|damaged|not a"):
                read_bold(cut, WHO, mask="all")


def test_an_image_cut_behind_the_last_check_is_refused_while_it_is_read(tmp_path, rng):
    path = write(tmp_path / "a.nii", series(rng))
    image = open_image(path)
    path.write_bytes(path.read_bytes()[: image.offset + 5 * image.volume_bytes + 3])
    with pytest.raises(ValueError, match="the file ends in volume 5"):
        VoxelSeries(image, np.arange(10))
    packed = gzip.compress(write(tmp_path / "b.nii", series(rng)).read_bytes())
    damaged = tmp_path / "c.nii.gz"
    damaged.write_bytes(packed[:-4000] + b"\0" * 3992 + packed[-8:])  # its length still fits
    with pytest.raises(ValueError, match="cannot be read"):
        read_bold(damaged, WHO, mask="all")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body>", "web page"),
        (b"/annex/objects/MD5E-s12--0123456789abcdef.nii.gz\n", "git annex get"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04 a zip archive" * 40, "not a"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_no_image_is_refused_by_name(content, words, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}: .*{words}"):
        read_bold(path, WHO, mask="all")


def test_one_volume_is_no_recording(rng, tmp_path):
    flat = write(tmp_path / "a.nii.gz", series(rng)[..., 0])
    with pytest.raises(ValueError, match="a 3-D image, expected a time series"):
        read_bold(flat, WHO)
    single = write(tmp_path / "b.nii.gz", series(rng)[..., :1])
    with pytest.raises(ValueError, match="a 4-D image of one volume"):
        read_bold(single, WHO)
    vectors = write(tmp_path / "c.nii.gz", rng.random((3, 3, 3, 2, 3)))
    with pytest.raises(ValueError, match=r"5 axes .* deformation fields"):
        read_bold(vectors, WHO)


def test_a_mask_of_another_grid_names_both_affines(bold, tmp_path):
    path, _ = bold
    moved = AFFINE.copy()
    moved[0, 3] += 3
    mask = write(tmp_path / "mask.nii", np.ones(SHAPE), affine=moved)
    with pytest.raises(ValueError, match=r"\[3 0 0 -3; .*bold\.nii\.gz.*\[3 0 0 -6; .*resample"):
        read_bold(path, WHO, mask=mask)
    with pytest.warns(RecordingWarning, match="mask mask.nii was brought to"):
        signal = read_bold(path, WHO, mask=mask, resample=True)
    assert len(signal.sensors) == 4 * 6 * 4  # the first column of voxels is outside


def test_a_mask_that_differs_by_rounding_or_orientation_fits(bold, tmp_path):
    path, _ = bold
    noisy = AFFINE + 1e-5 * np.array([[1, 0, 0, 1]] * 3 + [[0, 0, 0, 0]])
    mask = np.zeros(SHAPE)
    mask[0, 2, 1] = 1
    near = write(tmp_path / "near.nii", mask, affine=noisy)
    turned = nibabel.load(near).as_reoriented(nibabel.orientations.axcodes2ornt("LPS"))
    nibabel.save(turned, tmp_path / "turned.nii")
    for file in (near, tmp_path / "turned.nii"):
        assert read_bold(path, WHO, mask=file).sensors.names == ("v000-002-001",)


def test_an_empty_mask_and_an_atlas_elsewhere_are_refused(bold, tmp_path):
    path, _ = bold
    empty = write(tmp_path / "empty.nii", np.zeros(SHAPE))
    with pytest.raises(ValueError, match="the mask is empty"):
        read_bold(path, WHO, mask=empty)
    away = AFFINE.copy()
    away[:3, 3] += 500
    with pytest.raises(ValueError, match=r"no voxel of .* lies in any of its 2 parcels"):
        read_bold(path, WHO, atlas=atlas_image(tmp_path, affine=away))
    mask = np.zeros(SHAPE)
    mask[4] = 1
    other = write(tmp_path / "other.nii", mask)
    with pytest.raises(ValueError, match="both in the mask and in a parcel"):
        read_bold(path, WHO, mask=other, atlas=atlas_image(tmp_path))


def test_an_atlas_of_fractions_or_nothing_is_refused(tmp_path, rng):
    soft = write(tmp_path / "soft.nii", rng.random(SHAPE))
    with pytest.raises(ValueError, match="not whole numbers"):
        read_atlas(soft)
    with pytest.raises(ValueError, match="every voxel is 0"):
        read_atlas(write(tmp_path / "none.nii", np.zeros(SHAPE)))
    with pytest.raises(ValueError, match="12 volumes"):
        read_atlas(write(tmp_path / "many.nii", series(rng)))


def test_voxels_without_a_baseline_are_left_out_and_counted(rng, tmp_path):
    data = series(rng)
    data[0, 0, 0] = 0
    data[1, 0, 0, 3] = np.nan
    data[2, 0, 0] = 500
    path = write(tmp_path / "a.nii.gz", data)
    for limit in (None, 4 * N * 9):
        with pytest.warns(RecordingWarning, match="2 of 120 channels .*v000-000-000, v001-000-000"):
            parts = list(bold_slabs(path, WHO, max_bytes=limit, mask="all"))
        names = sum((part.sensors.names for part in parts), ())
        assert len(names) == 118 and names[0] == "v002-000-000"
        assert all(np.isfinite(part.data).all() for part in parts)
        assert (parts[0].data[0] == 0).all()  # constant at 500: no change
    np.testing.assert_allclose(
        parts[0].data[1], percent(data[3, 0, 0].astype(np.float32))[0], atol=2e-5
    )


def test_nan_voxels_are_left_out_of_their_parcel_at_all_times(rng, tmp_path):
    data = series(rng)
    data[0, 0, 0, 5:] = np.nan
    path = write(tmp_path / "a.nii", data)
    with pytest.warns(RecordingWarning, match="1 of 96 voxels hold NaN"):
        signal = read_bold(path, WHO, atlas=atlas_image(tmp_path))
    rest = data[:2].astype(np.float32).reshape(-1, N)[1:]
    np.testing.assert_allclose(signal.data[0], percent(rest.mean(0)[None])[0], atol=2e-4)


def test_volumes_of_zeros_are_marked_as_bad(rng, tmp_path):
    data = series(rng)
    data[..., [3, 4, 9]] = 0
    path = write(tmp_path / "a.nii.gz", data)
    for limit in (None, 4 * N * 9):
        with pytest.warns(RecordingWarning, match="3 of 12 volumes are zero everywhere"):
            part, *_ = bold_slabs(path, WHO, max_bytes=limit, mask="all")
        assert part.events == (
            Event(6.0, 4.0, "BAD empty volume"),
            Event(18.0, 2.0, "BAD empty volume"),
        )


def test_images_without_a_mean_are_not_divided_by_it(rng, tmp_path):
    path = write(tmp_path / "a.nii.gz", rng.standard_normal((*SHAPE, 200)))
    with pytest.raises(ValueError, match=r"the mean was taken away.*scale: stored"):
        read_bold(path, WHO, mask="all")
    assert read_bold(path, WHO, mask="all", scale="stored").data.std() == pytest.approx(1, abs=0.1)


def test_an_all_zero_image_is_refused(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.zeros((*SHAPE, N)))
    with pytest.raises(ValueError, match="none of 120 channels has finite values"):
        read_bold(path, WHO, mask="all")
    with pytest.raises(ValueError, match="no voxel stands out"):
        read_bold(path, WHO)


def test_colour_images_and_affines_without_volume_are_refused(tmp_path, rng):
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colour, AFFINE), tmp_path / "rgb.nii")
    with pytest.raises(ValueError, match="colour, complex or extended"):
        open_image(tmp_path / "rgb.nii")
    flat = AFFINE.copy()
    flat[2, 2] = 0
    path = write(tmp_path / "a.nii", series(rng), code=1)
    image = nibabel.load(path)
    image.header["srow_z"] = flat[2]
    header = image.header.binaryblock
    path.write_bytes(header + path.read_bytes()[len(header) :])
    with pytest.raises(ValueError, match="has no volume"):
        open_image(path)


# Real recordings


@pytest.mark.corpus
def test_haxby_is_read_as_its_readme_says(corpora):
    opened = open_corpus("haxby2001_subset")
    recordings = opened.recordings()
    assert len(recordings) >= 9 and {r.subject for r in recordings} == {"001"}
    signal = opened.load(recordings[0])
    assert signal.data.shape == (6 + 129, 121) and signal.sfreq == 0.4
    labels = [event.label for event in signal.events]
    assert len(labels) == 8 == len(set(labels)) and {"face", "house", "cat"} <= set(labels)
    assert all(event.duration == 22.5 for event in signal.events)
    # Against nibabel: one voxel, percent of its mean.
    truth = nibabel.as_closest_canonical(nibabel.load(recordings[0].path)).get_fdata()
    name = signal.sensors.names[40]
    i, j, k = (int(part) for part in name[1:].split("-"))
    row = truth[i, j, k]
    np.testing.assert_allclose(signal.data[40], 100 * (row / row.mean() - 1), atol=1e-4)
    assert 0.1 < np.median(signal.data[6:].std(axis=1)) < 5


def block_patterns(signal: Signal) -> tuple[np.ndarray, list[str]]:
    """Mean of the volumes from 4 s after each block's onset to 4 s after its end."""
    times = np.arange(signal.data.shape[1]) / signal.sfreq
    rows = [
        signal.data[:, (times >= e.onset + 4) & (times < e.onset + e.duration + 4)].mean(axis=1)
        for e in signal.events
    ]
    return np.array(rows), [event.label for event in signal.events]


@pytest.mark.corpus
def test_categories_are_decoded_across_runs_of_haxby_as_known(corpora):
    """Shrinkage LDA on 530 voxels: 0.722 is known for these runs, chance is 0.125."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from neurofm.data import CleanBold, StandardizeRun

    opened = open_corpus("haxby2001_slice")
    x, y, run = [], [], []
    with collect():
        for recording in opened.recordings()[:9]:
            signal = StandardizeRun()(CleanBold()(opened.load(recording)))
            assert len(signal.sensors) == 530
            rows, labels = block_patterns(signal)
            x.append(rows)
            y += labels
            run += [recording.run] * len(labels)
    x, y, run = np.concatenate(x), np.array(y), np.array(run)
    rng = np.random.default_rng(0)
    shuffled = np.concatenate([rng.permutation(y[run == r]) for r in np.unique(run)])

    def accuracy(target: np.ndarray) -> float:
        right = 0
        for held in np.unique(run):
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            model.fit(x[run != held], target[run != held])
            right += int((model.predict(x[run == held]) == target[run == held]).sum())
        return right / len(target)

    assert accuracy(y) == pytest.approx(0.722, abs=0.05)
    assert accuracy(shuffled) < 0.3


@pytest.mark.corpus
def test_the_schaefer_atlas_is_read_and_brought_to_an_image(corpora):
    path = next((corpora / "atlas").glob("Schaefer*.nii.gz"))
    atlas = read_atlas(path)
    assert atlas.shape == (91, 109, 91) and atlas.numbers == tuple(range(1, 101))
    opened = open_corpus("haxby2001_subset")
    opened.reader.files |= {"mask": None, "atlas": f"atlas/{path.name}"}
    with collect() as problems:
        signal = opened.load(opened.recordings()[0])
    assert {p.code for p in problems} >= {"parcels_lost", "atlas_resampled"}
    assert 40 < len(signal.sensors) - 6 < 100 and np.isfinite(signal.data).all()
