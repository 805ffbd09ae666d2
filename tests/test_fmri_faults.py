"""Functional images that are broken, cut, empty or of another space."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from tiny_images import AFFINE, SHAPE, WHO, N, atlas_image, percent, series, write

from neurofm.io import (
    RecordingWarning,
    bold_slabs,
    open_image,
    read_atlas,
    read_bold,
)
from neurofm.io.mri.voxels import VoxelSeries
from neurofm.types import Event


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
