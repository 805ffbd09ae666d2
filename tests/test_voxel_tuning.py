"""What voxels like: the encoder, the projection onto natural images, and retrieval."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm import cards
from neurofm.batch import ResponseModel
from neurofm.reconstruct import (
    LinearVoxelEncoder,
    caption_voxels,
    load_part,
    nearest_captions,
    nearest_images,
    project_onto_images,
    save_part,
)
from neurofm.reconstruct.voxel_encoder import augment


@pytest.mark.golden
def test_projection_agrees_with_the_original():
    path = Path(__file__).with_name("check_golden.py")
    spec = importlib.util.spec_from_file_location("check_golden", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    lines = module.check(Path(__file__).parent / "golden" / "brainscuba_projection")
    assert len(lines) == 2 and [line for line in lines if not line.passed] == []


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive(weights: Tensor, bank: Tensor, multiplier: float) -> Tensor:
    directions, lengths = F.normalize(bank.double(), dim=1), bank.double().norm(dim=1)
    share = (multiplier * F.normalize(weights.double(), dim=1) @ directions.T).softmax(1)
    return (F.normalize(share @ directions, dim=1) * (share @ lengths)[:, None]).float()


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("block", [7, 1000])
def test_projection_does_not_depend_on_how_it_is_divided(chunk, block):
    weights, bank = random(10, 8), 3 * random(50, 8, seed=1)
    made = project_onto_images(weights, bank, chunk=chunk, block=block)
    torch.testing.assert_close(made, naive(weights, bank, 150), atol=1e-6, rtol=1e-6)


def test_projection_is_stable_where_exponents_overflow():
    weights, bank = random(4, 8), random(20, 8, seed=1)
    made = project_onto_images(weights, bank, temperature=1e-5)
    rows, _ = nearest_images(weights, bank, k=1)
    torch.testing.assert_close(made, bank[rows[:, 0]], atol=1e-5, rtol=1e-5)


def test_projection_does_not_depend_on_the_length_of_weights():
    weights, bank = random(4, 8), random(20, 8, seed=1)
    torch.testing.assert_close(
        project_onto_images(weights, bank), project_onto_images(1e3 * weights, bank)
    )


def test_captions_of_a_region_name_what_its_voxels_like():
    bank, captions = torch.eye(4), ["a red house", "a blue house", "a red face", "a blue face"]
    weights = torch.tensor([[3.0, 2, 0, 0], [0, 0, 4, 3], [2, 3, 0, 0.0]])
    found = caption_voxels(weights, bank, captions)
    assert found.captions == ("a red house", "a red face", "a blue house")
    assert found.embedding.shape == (3, 4) and (found.cosine > 0.99).all()
    places = np.array([True, False, True])
    words = found.words(places)
    assert next(iter(words)) == "house" and words == {"house": 0.5, "a": 0, "red": 0, "blue": 0}
    figure = found.plot({"places": places, "faces": ~places})
    texts = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert "places (2)" in texts and "faces (1)" in texts
    with pytest.raises(ValueError, match="for 3 captions"):
        found.words(np.zeros(3, bool))


def test_nearest_images_and_their_captions():
    bank = torch.eye(4)
    weights = torch.tensor([[0.0, 5.0, 1.0, 0.0], [0.0, 0.0, 0.1, 0.2]])
    rows, cosines = nearest_images(weights, bank, k=2, chunk=1)
    assert rows.tolist() == [[1, 2], [3, 2]]
    assert torch.all(cosines[:, 0] > cosines[:, 1])
    assert nearest_captions(weights, bank, ["a", "b", "c", "d"]) == ["b", "d"]


@pytest.mark.parametrize(
    ("weights", "bank", "options", "words"),
    [
        (torch.ones(2, 3), torch.ones(5, 4), {}, "3 dimensions, a bank of 4"),
        (torch.ones(2, 3), torch.ones(0, 3), {}, "bank has no rows"),
        (torch.zeros(2, 3), torch.ones(5, 3), {}, "2 of 2 rows of weights are zero"),
        (torch.ones(2, 3), torch.full((5, 3), torch.nan), {}, "5 of 5 rows of bank"),
        (torch.ones(2, 3), torch.ones(5, 3), {"temperature": 0.0}, "pass 1 / 150"),
    ],
)
def test_bad_projections_are_refused(weights, bank, options, words):
    with pytest.raises(ValueError, match=words):
        project_onto_images(weights, bank, **options)


def test_more_neighbours_or_captions_than_images_are_refused():
    with pytest.raises(ValueError, match="k is 9, the bank has 5"):
        nearest_images(torch.ones(2, 3), torch.ones(5, 3), k=9)
    with pytest.raises(ValueError, match="1 captions for 5"):
        nearest_captions(torch.ones(2, 3), torch.ones(5, 3), ["one"])


@cards.configured
class MeanColour(nn.Module):
    """An embedding of two images' worth of numbers."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean((2, 3)), images.amax((2, 3))], dim=1)


def planted(n: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    images = images * torch.rand(n, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    weight = random(5, 6, seed=2)
    return images, F.normalize(MeanColour()(images), dim=1) @ weight.T + 0.3, weight


def test_planted_weights_are_recovered_in_closed_form():
    images, responses, weight = planted()
    encoder = LinearVoxelEncoder(6, 5, embed=MeanColour())
    encoder.solve(images, responses, penalty=1e-6)
    assert isinstance(encoder, ResponseModel)
    torch.testing.assert_close(encoder.respond(images), responses, atol=1e-3, rtol=1e-3)
    cosine = (encoder.directions() * F.normalize(weight, dim=1)).sum(1)
    assert cosine.min() > 0.97  # up to the direction that unit length takes away


def test_gradients_learn_and_the_loss_falls():
    images, responses, _ = planted()
    encoder = LinearVoxelEncoder(6, 5, embed=MeanColour())
    history = encoder.fit(images, responses, epochs=20, lr=3e-2, shift=1)
    assert history[-1] < 0.3 * history[0]


def test_weights_start_half_as_large():
    torch.manual_seed(0)
    whole = LinearVoxelEncoder(6, 5, scale=1.0).linear.weight
    torch.manual_seed(0)
    torch.testing.assert_close(LinearVoxelEncoder(6, 5).linear.weight, whole / 2)


def test_augmentation_moves_pixels_by_up_to_the_shift():
    images = torch.zeros(200, 3, 13, 13)
    images[..., 6, 6] = 1
    moved = augment(images, noise=0, brightness=0, generator=torch.Generator().manual_seed(0))
    at = moved[:, 0].flatten(1).argmax(1)
    rows, columns = at // 13 - 6, at % 13 - 6
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(-4, 5))
    assert torch.all(moved.sum((2, 3)) == 1)


def test_encoder_is_saved_and_loaded(tmp_path):
    encoder = LinearVoxelEncoder(6, 5)
    save_part(encoder, tmp_path / "encoder.safetensors")
    back = load_part(tmp_path / "encoder.safetensors")
    x = random(3, 6)
    torch.testing.assert_close(back(x), encoder(x))


def test_stimuli_of_another_size_are_refused():
    encoder = LinearVoxelEncoder(6, 5)
    with pytest.raises(ValueError, match="expected embeddings of 6"):
        encoder(torch.ones(2, 7))
    with pytest.raises(ValueError, match="a row for each of 5 voxels"):
        encoder.fit(torch.ones(4, 6), torch.ones(4, 3))
