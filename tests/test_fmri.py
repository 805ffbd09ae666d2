"""Functional images: what is read, from any layout of the same brain, in bounded memory."""

from __future__ import annotations

import json
import struct

import nibabel
import numpy as np
import pytest
from tiny_images import SHAPE, TR, WHO, N, atlas_image, percent, series, write

from neurofm.io import (
    bold_slabs,
    describe_image,
    open_image,
    parcel_means,
    read_bold,
)
from neurofm.io.mri.voxels import VoxelSeries
from neurofm.units import Kind


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


def test_without_a_mask_the_bright_voxels_are_read(rng, tmp_path):
    data = 20 + 3 * rng.random((*SHAPE, N))
    data[1:4, 1:5, 1:3] = series(rng, (3, 4, 2))
    signal = read_bold(write(tmp_path / "a.nii.gz", data), WHO)
    np.testing.assert_allclose(
        signal.data, percent(data[1:4, 1:5, 1:3].astype(np.float32)), atol=1e-4
    )


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
