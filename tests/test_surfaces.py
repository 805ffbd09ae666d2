"""CIFTI-2 and GIFTI: vertices, voxels and parcels as channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.cifti2 import (
    BrainModelAxis,
    Cifti2Image,
    LabelAxis,
    ParcelsAxis,
    ScalarAxis,
    SeriesAxis,
)
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiLabel, GiftiLabelTable

from neurofm.io import FMRIReader, RecordingWarning, bold_slabs, read_bold, read_maps
from neurofm.types import Recording
from neurofm.units import Kind

WHO = Recording("tiny", "1")
N = 15
LEFT, RIGHT = [0, 2, 3, 5], [1, 2]
AFFINE = np.diag([2.0, 2, 2, 1])


def brain_models() -> BrainModelAxis:
    left = BrainModelAxis.from_surface(np.array(LEFT), 8, "CortexLeft")
    right = BrainModelAxis.from_surface(np.array(RIGHT), 8, "CortexRight")
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1:] = True
    return left + right + BrainModelAxis.from_mask(mask, "ThalamusLeft", AFFINE)


def save(path: Path, data: np.ndarray, rows: Any, columns: Any) -> Path:
    nibabel.save(Cifti2Image(data.astype(np.float32), (rows, columns)), path)
    return path


@pytest.fixture
def dense(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    data = 1000 + 20 * rng.standard_normal((N, 8))
    path = tmp_path / "rest.dtseries.nii"
    return save(path, data, SeriesAxis(0, 0.72, N), brain_models()), data.astype(np.float32)


def percent(data: np.ndarray) -> np.ndarray:
    wide = data.astype(np.float64)
    return 100 * (wide / wide.mean(axis=0) - 1).T


def label_file(path: Path, values: list[int]) -> Path:
    labels = {0: ("???", (0, 0, 0, 0)), 1: ("V1", (1, 0, 0, 1)), 4: ("MT", (0, 1, 0, 1))}
    return save(path, np.array([values]), LabelAxis(["areas"], [labels]), brain_models())


def surface(path: Path, points: np.ndarray, side: str = "CortexLeft") -> Path:
    point_set = GiftiDataArray(
        points.astype(np.float32), intent="NIFTI_INTENT_POINTSET", datatype="NIFTI_TYPE_FLOAT32"
    )
    faces = GiftiDataArray(
        np.array([[0, 1, 2]], dtype=np.int32),
        intent="NIFTI_INTENT_TRIANGLE",
        datatype="NIFTI_TYPE_INT32",
    )
    point_set.meta["AnatomicalStructurePrimary"] = side
    nibabel.save(GiftiImage(darrays=[point_set, faces]), path)
    return path


def functional(path: Path, data: np.ndarray, step: str | None = "2.0", **meta: str) -> Path:
    arrays = []
    for row in data:
        array = GiftiDataArray(
            row.astype(np.float32),
            intent="NIFTI_INTENT_TIME_SERIES",
            datatype="NIFTI_TYPE_FLOAT32",
        )
        if step is not None:
            array.meta["TimeStep"] = step
        arrays.append(array)
    image = GiftiImage(darrays=arrays)
    for name, value in meta.items():
        image.meta[name] = value
    nibabel.save(image, path)
    return path


def test_grayordinates_are_channels_of_percent_change(dense):
    path, data = dense
    signal = read_bold(path, WHO)
    np.testing.assert_allclose(signal.data, percent(data), atol=2e-5)
    names = signal.sensors.names
    assert names[:6] == ("L-0", "L-2", "L-3", "L-5", "R-1", "R-2")
    assert names[6:] == ("thalamus_left-1-1-1", "thalamus_left-1-1-2")
    np.testing.assert_allclose(signal.sensors.position[7], [0.002, 0.002, 0.004])
    assert not signal.sensors.has_position[:6].any()
    assert signal.details["tr_s"] == 0.72 and signal.sfreq == pytest.approx(1 / 0.72)


def test_grayordinates_in_groups_are_those_of_the_whole(dense):
    path, _ = dense
    whole = read_bold(path, WHO)
    parts = list(bold_slabs(path, WHO, max_bytes=4 * N * 3))
    assert [len(part.sensors) for part in parts] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate([p.data for p in parts]), whole.data)
    assert sum((p.sensors.names for p in parts), ()) == whole.sensors.names


def test_vertices_get_their_place_from_a_surface(dense, tmp_path, rng):
    path, _ = dense
    points = 50 * rng.standard_normal((8, 3))
    left = surface(tmp_path / "a.L.midthickness.surf.gii", points)
    signal = read_bold(path, WHO, surface={"left": left})
    np.testing.assert_allclose(signal.sensors.position[:4], points[LEFT] / 1000, atol=1e-6)
    assert not signal.sensors.has_position[4:6].any()
    small = surface(tmp_path / "small.surf.gii", points[:4])
    with pytest.raises(ValueError, match="4 vertices, but the data name vertex 5"):
        read_bold(path, WHO, surface={"left": small})


def test_areas_of_a_label_file_are_means(dense, tmp_path):
    path, data = dense
    atlas = label_file(tmp_path / "areas.dlabel.nii", [1, 1, 0, 4, 1, 0, 4, 0])
    signal = read_bold(path, WHO, atlas=atlas)
    assert signal.sensors.names == ("MT", "V1") == signal.sensors.region
    truth = np.stack([data[:, [3, 6]].mean(1), data[:, [0, 1, 4]].mean(1)], axis=1)
    np.testing.assert_allclose(signal.data, percent(truth), atol=5e-5)
    one = read_bold(path, WHO, atlas=atlas, roi=["V*"], average=False)
    assert one.sensors.names == ("L-0", "L-2", "R-1") and set(one.sensors.region) == {"V1"}
    np.testing.assert_allclose(one.data, percent(data)[[0, 1, 4]], atol=2e-5)
    with pytest.raises(ValueError, match="no parcel is called A1"):
        read_bold(path, WHO, atlas=atlas, roi=["A1"])


def test_an_atlas_is_matched_by_place_and_not_by_order(dense, tmp_path):
    path, data = dense
    labels = {0: ("???", (0, 0, 0, 0)), 1: ("V1", (1, 0, 0, 1))}
    whole = BrainModelAxis.from_surface(np.arange(8), 8, "CortexLeft")
    atlas = save(
        tmp_path / "a.dlabel.nii",
        np.array([[0, 0, 0, 1, 0, 1, 1, 0]]),
        LabelAxis(["areas"], [labels]),
        whole,
    )
    signal = read_bold(path, WHO, atlas=atlas, average=False)
    assert signal.sensors.names == ("L-3", "L-5")
    np.testing.assert_allclose(signal.data, percent(data)[[2, 3]], atol=2e-5)
    other = BrainModelAxis.from_surface(np.arange(8), 8, "CortexRight")[5:]
    elsewhere = save(
        tmp_path / "b.dlabel.nii", np.ones((1, 3)), LabelAxis(["areas"], [labels]), other
    )
    with pytest.raises(ValueError, match="another mesh, hemisphere or grid"):
        read_bold(path, WHO, atlas=elsewhere)


def test_the_medial_wall_is_left_out_and_counted(tmp_path, rng):
    data = 1000 + rng.standard_normal((N, 8))
    data[:, 2], data[4, 5] = 0, np.nan
    path = save(tmp_path / "a.dtseries.nii", data, SeriesAxis(0, 1, N), brain_models())
    with pytest.warns(RecordingWarning, match="2 of 8 channels .*: L-3, R-2"):
        assert len(read_bold(path, WHO).sensors) == 6


def test_parcellated_series_are_named_by_parcel(tmp_path, rng):
    parcels = ParcelsAxis(
        ["V1", "MT"],
        np.zeros((2, 0), dtype=object),
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([0])}] * 2,
        affine=AFFINE,
        volume_shape=(3, 3, 3),
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 8},
    )
    data = 100 + rng.standard_normal((N, 2))
    empty = np.empty((0, 3), dtype=int)
    parcels.voxels[:] = [empty, empty] if parcels.voxels.ndim == 1 else parcels.voxels
    path = save(tmp_path / "a.ptseries.nii", data, SeriesAxis(0, 2, N), parcels)
    signal = read_bold(path, WHO)
    assert signal.sensors.names == ("V1", "MT") == signal.sensors.region
    maps = save(tmp_path / "b.pscalar.nii", data[:3], ScalarAxis(["a", "b", "c"]), parcels)
    scores = read_maps(maps, WHO)
    assert scores.data.shape == (2, 3) and set(scores.sensors.kind) == {Kind.OTHER}
    assert [event.label for event in scores.events] == ["a", "b", "c"]
    assert scores.details["samples"] == "maps" and scores.sensors.region == ("V1", "MT")
    with pytest.raises(ValueError, match="SeriesAxis, expected maps"):
        read_maps(path, WHO)


def test_a_series_that_is_not_in_time_needs_a_repetition_time(tmp_path, rng):
    axis = SeriesAxis(0, 1, N, unit="HERTZ")
    path = save(tmp_path / "a.dtseries.nii", rng.random((N, 8)) + 10, axis, brain_models())
    with pytest.raises(ValueError, match="no repetition time: the series has a step of 1 hertz"):
        read_bold(path, WHO)
    assert read_bold(path, WHO, tr_s=2.0).sfreq == 0.5


def test_gifti_series_are_read_by_hemisphere(tmp_path, rng):
    data = 500 + rng.standard_normal((N, 6))
    path = functional(tmp_path / "sub-1_hemi-R_bold.func.gii", data)
    with pytest.warns(RecordingWarning, match="time step of 2 has no unit, taken as 2 s"):
        signal = read_bold(path, WHO)
    assert signal.sensors.names[0] == "R-0" and signal.sfreq == 0.5
    np.testing.assert_allclose(signal.data, percent(data.astype(np.float32)), atol=2e-5)
    named = functional(tmp_path / "a.func.gii", data, None, AnatomicalStructurePrimary="CortexLeft")
    with pytest.raises(ValueError, match="no repetition time: the file gives no time step"):
        read_bold(named, WHO)
    assert read_bold(named, WHO, tr_s=1.0).sensors.names[5] == "L-5"


def test_gifti_labels_make_parcels(tmp_path, rng):
    data = 500 + rng.standard_normal((N, 6))
    path = functional(tmp_path / "sub-1_hemi-L_bold.func.gii", data)
    array = GiftiDataArray(
        np.array([0, 3, 3, 9, 0, 9], dtype=np.int32),
        intent="NIFTI_INTENT_LABEL",
        datatype="NIFTI_TYPE_INT32",
    )
    table = GiftiLabelTable()
    for key, name in ((0, "???"), (3, "V1"), (9, "MT")):
        label = GiftiLabel(key)
        label.label = name
        table.labels.append(label)
    image = GiftiImage(darrays=[array], labeltable=table)
    image.meta["AnatomicalStructurePrimary"] = "CortexLeft"
    nibabel.save(image, tmp_path / "a.label.gii")
    signal = read_bold(path, WHO, atlas=tmp_path / "a.label.gii", tr_s=2.0)
    assert signal.sensors.names == ("MT", "V1")
    truth = np.stack([data[:, [3, 5]].mean(1), data[:, [1, 2]].mean(1)], axis=1)
    np.testing.assert_allclose(signal.data, percent(truth), atol=1e-4)


def test_the_reader_finds_surface_files(tmp_path, rng):
    data = 1000 + rng.standard_normal((N, 8))
    save(tmp_path / "sub-1_rest.dtseries.nii", data, SeriesAxis(0, 0.8, N), brain_models())
    surface(tmp_path / "sub-1.surf.gii", np.ones((8, 3)))
    reader = FMRIReader(
        "sub-{subject}_rest.dtseries.nii",
        dataset="t",
        root=tmp_path,
        surface={"left": "sub-{subject}.surf.gii"},
    )
    (recording,) = reader.recordings()
    assert reader.load(recording).sensors.has_position[:4].all()
    assert [p.name for p in reader.sources(recording)] == ["sub-1.surf.gii"]


# Bad input


def test_damaged_surface_files_are_refused(dense, tmp_path, rng):
    path, data = dense
    content = path.read_bytes()
    for share in (0.2, 0.6, 0.995):
        cut = tmp_path / "cut.dtseries.nii"
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match=r"cut\.dtseries\.nii"):
            read_bold(cut, WHO)
    gifti = functional(tmp_path / "a.func.gii", data)
    gifti.write_bytes(gifti.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"a\.func\.gii: .*damaged"):
        read_bold(gifti, WHO, tr_s=1.0)
    (tmp_path / "b.func.gii").write_text("<!DOCTYPE html><html><body>404</body>")
    with pytest.raises(ValueError, match="web page"):
        read_bold(tmp_path / "b.func.gii", WHO)


def test_surfaces_and_masks_are_not_series(dense, tmp_path, rng):
    path, data = dense
    places = surface(tmp_path / "a.surf.gii", rng.random((8, 3)))
    with pytest.raises(ValueError, match="are places, not recordings"):
        read_bold(places, WHO)
    with pytest.raises(ValueError, match="`mask` is for volume images"):
        read_bold(path, WHO, mask=Path("mask.nii"))
    one = save(tmp_path / "one.dtseries.nii", data[:1], SeriesAxis(0, 1, 1), brain_models())
    with pytest.raises(ValueError, match="one sample only"):
        read_bold(one, WHO)
    maps = save(tmp_path / "m.dtseries.nii", data[:1], ScalarAxis(["a"]), brain_models())
    with pytest.raises(ValueError, match="ScalarAxis, expected a time series"):
        read_bold(maps, WHO)
