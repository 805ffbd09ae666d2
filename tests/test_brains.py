"""Maps of the brain: every value is where its voxel is, units are on the figure."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from planted_patterns import brain

from neurofm.io.mri.images import Grid
from neurofm.io.mri.maps import grid_of, map_image, volume_of, write_map
from neurofm.report import brains


def ramp(position: np.ndarray) -> np.ndarray:
    return 1000 * position[:, 0] + 10 * position[:, 2]


@pytest.mark.parametrize("step", [(0.003, 0.003, 0.003), (0.0031, 0.00375, 0.00375)])
def test_the_grid_is_found_from_places(step: tuple[float, float, float]):
    index = np.argwhere(np.random.default_rng(0).random((6, 5, 4)) < 0.7)
    position = index * np.array(step) - 0.02

    grid = grid_of(position)
    volume, _ = volume_of(np.arange(float(len(index))), position)

    np.testing.assert_allclose(grid.zooms, 1000 * np.array(step), rtol=1e-6)
    np.testing.assert_allclose(grid.affine[:3, 3], -20, atol=1e-9)
    assert volume[tuple(index[7])] == 7 and np.isnan(volume).sum() == 120 - len(index)


def test_regions_half_a_voxel_apart_share_a_finer_grid():
    x = np.array([0.0, 0.004, 0.022, 0.026])
    position = np.stack([x, np.zeros(4), np.zeros(4)], axis=1)

    assert grid_of(position).zooms[0] == pytest.approx(2.0)
    assert grid_of(position).shape == (14, 1, 1)


def test_a_single_slice_is_a_grid():
    position = brain(300)
    slice_ = position[position[:, 2] == position[0, 2]]
    assert grid_of(slice_).shape[2] == 1


def test_places_on_no_grid_are_refused():
    with pytest.raises(ValueError, match="no grid along the axes"):
        grid_of(np.random.default_rng(0).random((30, 3)))


def test_a_grid_of_another_space_is_refused():
    grid = Grid((3, 3, 3), np.diag([3.0, 3, 3, 1]))
    with pytest.raises(ValueError, match="another space"):
        volume_of(np.zeros(40), brain(40), grid=grid)


def test_a_written_map_is_read_back_where_it_was(tmp_path):
    position = brain(200)
    path = write_map(tmp_path / "map.nii.gz", ramp(position), position, frame="mni")

    image = nibabel.load(path)
    at = np.linalg.inv(image.affine) @ np.append(1000 * position[17], 1)
    data = image.get_fdata()
    assert data[tuple(np.round(at[:3]).astype(int))] == pytest.approx(ramp(position)[17])
    assert image.header["sform_code"] == 4
    with pytest.raises(ValueError, match="ending"):
        write_map(tmp_path / "map.png", ramp(position), position)


def test_slices_carry_the_unit_and_the_values():
    position = brain(400)
    figure = brains.plot_slices(
        ramp(position),
        position,
        title="T",
        unit="accuracy",
        n_slices=3,
        significant=ramp(position) > 0,
        note="outlined: p < 0.05",
    )
    panels = [axes for axes in figure.axes if axes.images]
    labels = [axes.get_ylabel() for axes in figure.axes]

    assert len(panels) == 3 and "accuracy" in labels
    assert "mm" in panels[0].get_xlabel() and "z = " in panels[0].get_title("left")
    x = float(position[:, 0].min() * 1000)
    left = panels[1].images[-1]
    assert left.get_extent()[0] <= x + 1.6
    shown = np.ma.filled(left.get_array().astype(float), np.nan)
    assert np.nanargmax(np.nanmean(shown, axis=0)) > np.nanargmin(np.nanmean(shown, axis=0))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_slices_of_every_plane(plane):
    position = brain(200)
    figure = brains.plot_slices(
        ramp(position), position, title="T", unit="u", plane=plane, n_slices=2, chance=0.0
    )
    assert len([axes for axes in figure.axes if axes.images]) == 2


def test_templates_take_mni_places_alone():
    position = brain(50)
    for draw in (brains.plot_glass, brains.plot_surface):
        with pytest.raises(ValueError, match="MNI"):
            draw(ramp(position), position, title="T", unit="u", frame="scanner")


def test_a_map_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no value is finite"):
        brains.plot_slices(np.full(40, np.nan), brain(40), title="T", unit="u")


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_surfaces_show_both_sides(flat: bool):
    position = brain(8000, 5.0)
    figure = brains.plot_surface(
        ramp(position), position, title="T", unit="accuracy", frame="mni", flat=flat
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert {"left", "right"} <= set(titles)
    assert any("accuracy" in axes.get_ylabel() for axes in figure.axes)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [True, False])
def test_glass_brains_show_the_unit(signed: bool):
    position = brain(4000, 5.0)
    values = ramp(position) if signed else np.abs(ramp(position))
    figure = brains.plot_glass(
        values, position, title="T", unit="accuracy", frame="mni", signed=signed
    )
    assert any("accuracy" in axes.get_ylabel() for axes in figure.axes)


def test_an_image_of_a_map_has_zeros_outside():
    position = brain(60)
    image = map_image(np.ones(60), position)
    assert float(image.get_fdata().sum()) == 60
