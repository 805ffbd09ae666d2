"""Features of pictures answer to what they are named after, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from neurofm.stimuli import (
    FeatureCache,
    as_pictures,
    colour,
    fourier_energy,
    gabor_layout,
    gabor_pyramid,
    layer_features,
    layer_sites,
    load_pictures,
    luminance,
    random_network,
    weights_hash,
)


def grating(cycles: float, angle: float, size: int = 64) -> np.ndarray:
    """Stripes whose normal has this angle from the rows' direction."""
    y, x = np.meshgrid(*[np.arange(size) / size] * 2, indexing="ij")
    wave = np.sin(2 * np.pi * cycles * (np.cos(angle) * x + np.sin(angle) * y) + 0.3)
    return np.repeat((0.5 + 0.4 * wave)[None, None], 3, axis=1).astype(np.float32)


@pytest.mark.parametrize("cycles", [4.0, 16.0])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3])
def test_strongest_gabor_is_that_of_the_grating(cycles, orientation):
    found = gabor_pyramid(grating(cycles, orientation * np.pi / 4))[0]
    layout = gabor_layout()
    assert found.shape == layout.cycles.shape
    energy = {
        (f, round(o, 3)): found[(layout.cycles == f) & (layout.orientation == o)].mean()
        for f in np.unique(layout.cycles)
        for o in np.unique(layout.orientation)
    }
    assert max(energy, key=energy.get) == (cycles, round(orientation * np.pi / 4, 3))


def test_gabor_cells_say_where_the_contrast_is():
    picture = np.full((1, 3, 64, 64), 0.5, np.float32)
    picture[..., 8:24, 40:56] = grating(8, 0)[..., 8:24, 40:56]
    layout, found = gabor_layout(), gabor_pyramid(picture)[0]
    best = np.argmax(np.where(layout.cycles == 8, found, -1))
    assert (layout.row[best], layout.column[best]) == (0.1875, 0.6875) or (
        abs(layout.row[best] - 0.25) < 0.13 and abs(layout.column[best] - 0.75) < 0.13
    )


def test_energy_does_not_depend_on_the_phase_or_on_other_pictures():
    one = gabor_pyramid(grating(8, 0))
    shifted = np.roll(grating(8, 0), 2, axis=3)
    np.testing.assert_allclose(gabor_pyramid(shifted), one, atol=0.02)
    both = gabor_pyramid(np.concatenate([grating(4, 1), grating(8, 0)]))
    np.testing.assert_allclose(both[1:], one, atol=1e-6)


def test_fourier_energy_peaks_in_the_right_ring_and_sector():
    found = fourier_energy(grating(10, np.pi / 2), radial=4, orientations=4)[0].reshape(4, 4)
    edges = np.logspace(0, 5, 5, base=2)
    ring = int(np.searchsorted(edges, 10) - 1)
    assert np.unravel_index(found.argmax(), found.shape) == (ring, 2)
    with pytest.raises(ValueError, match="hold no frequency"):
        fourier_energy(grating(2, 0, 16), radial=30, orientations=30)


def test_light_and_colour_by_cell():
    picture = np.zeros((1, 3, 8, 8), np.uint8)
    picture[0, 0, :4, :4] = 255  # red, top left
    found = colour(picture, grid=2)[0].reshape(3, 4)
    np.testing.assert_allclose(found[1], [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found[2], [-0.5, 0, 0, 0], atol=1e-6)
    light = luminance(picture, grid=2)[0]
    np.testing.assert_allclose(light, [0.299, 0, 0, 0, 0, 0, 0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 8, 8, 3)), "Move the last axis"),
        (np.full((1, 3, 8, 8), 200.0), "Divide by 255"),
        (np.full((1, 3, 8, 8), np.nan), "from nan to nan"),
        (np.zeros((0, 3, 8, 8)), "no picture"),
    ],
)
def test_wrong_pictures_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        as_pictures(images)


def test_frequencies_a_picture_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="at most 8"):
        gabor_pyramid(grating(2, 0, 16), cycles=(12,))


def test_picture_files_are_cut_in_the_middle(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    found = load_pictures([tmp_path / "a.png"], size=8)
    assert found.shape == (1, 3, 8, 8) and found.min() == 1
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files are missing, such as .*b\.png"):
        load_pictures([tmp_path / "a.png", tmp_path / "b.png"], size=8)


def test_random_network_depends_on_its_seed_alone():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).numpy()
    few = {"channels": (8, 8, 8, 8)}
    first = layer_features(random_network(seed=1, **few), images, pool="grid", batch_size=2)
    assert list(first) == ["block1", "block2", "block3", "block4"]
    assert first["block2"].shape == (3, 8 * 16)
    again = layer_features(random_network(seed=1, **few), images, pool="grid", batch_size=3)
    np.testing.assert_allclose(first["block3"], again["block3"], atol=1e-5)
    other = layer_features(random_network(seed=2, **few), images, pool="grid")
    assert np.abs(first["block1"] - other["block1"]).mean() > 0.01
    plain = layer_features(random_network(), np.full((1, 3, 32, 32), 0.7), ["block1"], pool="none")
    assert np.abs(plain["block1"][0, :, 2:-2, 2:-2]).max() < 1e-5


def test_layer_features_equal_a_plain_forward_pass():
    model = random_network(channels=(4, 6))
    images = np.random.default_rng(0).random((5, 3, 16, 16)).astype(np.float32)
    found = layer_features(model, images, ["block1", "block2"], batch_size=2)
    first = model[0](torch.from_numpy(images))
    np.testing.assert_allclose(found["block1"], first.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(found["block2"], model[1](first).mean((2, 3)), atol=1e-6)


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)])
        self.shown = 0

    def forward(self, x):
        self.shown += len(x)
        return self.layers[1](self.layers[0](x))


def test_cache_shows_nothing_twice_and_repairs_what_is_damaged(tmp_path):
    torch.manual_seed(0)
    model = Counting()
    stimuli = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)
    assert layer_sites(model) == ["layers.0", "layers.1"]
    plain = layer_features(model, stimuli, batch_size=2)
    assert model.shown == 6
    twice = np.concatenate([stimuli, stimuli[:2]])
    kept = layer_features(model, twice, batch_size=2, cache=tmp_path)
    assert model.shown == 12  # of two equal stimuli one is shown
    np.testing.assert_allclose(kept["layers.1"][:6], plain["layers.1"], atol=1e-7)
    np.testing.assert_array_equal(kept["layers.1"][6:], kept["layers.1"][:2])
    layer_features(model, stimuli[::-1], ["layers.1"], cache=tmp_path)
    assert model.shown == 12
    damaged = sorted(tmp_path.glob("*/*.safetensors"))[0]
    data = bytearray(damaged.read_bytes())
    data[-3] ^= 0xFF
    damaged.write_bytes(data)
    with pytest.warns(UserWarning, match="do not fit their checksum.*computed again"):
        again = layer_features(model, stimuli, batch_size=2, cache=tmp_path)
    assert model.shown == 14
    np.testing.assert_array_equal(again["layers.0"], kept["layers.0"][:6])
    sorted(tmp_path.glob("*/*.safetensors"))[0].write_bytes(b"short")
    with pytest.warns(UserWarning, match="damaged"):
        layer_features(model, stimuli, batch_size=2, cache=tmp_path)
    # Other weights are other features.
    key = weights_hash(model)
    with torch.no_grad():
        model.layers[0].bias += 1
    assert weights_hash(model) != key
    before = model.shown
    layer_features(model, stimuli, cache=FeatureCache(tmp_path))
    assert model.shown == before + 6


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    model = Counting()
    stimuli = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)

    def dies(x):
        if model.shown == 4:
            raise KeyboardInterrupt
        return x

    dies.__qualname__ = dies.__name__ = "same"
    with pytest.raises(KeyboardInterrupt):
        layer_features(model, stimuli, batch_size=2, cache=tmp_path, prepare=dies)
    model.shown, stopped = 10, model.shown
    layer_features(model, stimuli, batch_size=2, cache=tmp_path, prepare=dies)
    assert (stopped, model.shown) == (4, 12)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"pool": "median"}, ValueError, "pool 'median' is not one of mean, cls"),
        ({"sites": ["layers.7"]}, ValueError, "no module 'layers.7'"),
        ({"stimuli": np.zeros((0, 5, 4))}, ValueError, "no stimulus"),
        ({"pool": "grid"}, ValueError, "does not fit 'layers.0'"),
        ({"model": 3}, TypeError, "expected a torch module"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_wrong_requests_are_named(arguments, error, words):
    given = {"model": Counting(), "stimuli": np.zeros((2, 5, 4), np.float32)} | arguments
    with pytest.raises(error, match=words):
        layer_features(given.pop("model"), given.pop("stimuli"), **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_an_absent_gpu_is_said():
    with pytest.raises(ValueError, match="no GPU can be used"):
        layer_features(Counting(), np.zeros((1, 5, 4)), device="cuda")
