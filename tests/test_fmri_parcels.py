"""Parcels and regions of functional images: atlases, their names and grids."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_images import SHAPE, WHO, N, atlas_image, percent, series, write

from neurofm.io import (
    RecordingWarning,
    open_image,
    parcel_means,
    read_atlas,
    read_bold,
)
from neurofm.io.mri.atlases import read_names


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
