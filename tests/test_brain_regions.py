"""What regions carry and what they like: ablation, images for regions, simulated people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurofm.reconstruct import (
    ROIAblation,
    SceneBrain,
    draw_scenes,
    encode_words,
    optimal_images,
    region_activity,
)
from neurofm.reconstruct.scenes import COLOURS, SHAPES, WORDS


def people(n: int = 60, seed: int = 0):
    """Voxels of which the first ten say what was seen."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(n)
    voxels = rng.standard_normal((n, 50))
    voxels[:, :10] += 2 * truth[:, None]
    voxels = (voxels - voxels.mean(0)) / voxels.std(0)

    def score(x: np.ndarray) -> dict[str, float]:
        spread = x[:, :10].mean(1).std() > 1e-9
        return {"r": float(np.corrcoef(x[:, :10].mean(1), truth)[0, 1]) if spread else 0.0}

    return voxels, score, {"carrier": np.arange(50) < 10, "other": np.arange(50) >= 40}


@pytest.mark.parametrize("how", ["zero", "mean", "shuffle"])
def test_the_region_that_carries_is_found_and_no_other(how):
    voxels, score, regions = people()
    mean = voxels.mean(0) if how == "mean" else None
    carrier, other = ROIAblation(score, how=how, mean=mean, n_masks=39).run(voxels, regions)
    assert carrier.p == pytest.approx(1 / 40) and carrier.adjusted < 0.06
    assert carrier.change < -0.5
    assert other.p > 0.3 and abs(other.change) < 0.02
    assert carrier.n_voxels == 10 and len(carrier.null) == 39
    assert carrier.null.min() > carrier.without


def test_zeroing_z_scored_voxels_is_filling_in_their_mean():
    voxels, score, regions = people()
    z, m = (
        ROIAblation(score, how=how, mean=mean, n_masks=3).run(voxels, regions)
        for how, mean in (("zero", None), ("mean", voxels.mean(0)))
    )
    assert [one.without for one in z] == pytest.approx([one.without for one in m])


def test_shuffled_voxels_keep_their_values_and_nobody_keeps_their_own():
    voxels, score, regions = people()
    changed = ROIAblation(score, how="shuffle").without(voxels, regions["carrier"])
    np.testing.assert_array_equal(np.sort(changed, axis=0), np.sort(voxels, axis=0))
    assert not (changed[:, :10] == voxels[:, :10]).any()
    np.testing.assert_array_equal(changed[:, 10:], voxels[:, 10:])


def test_zeroing_betas_that_are_not_z_scored_is_refused():
    voxels, score, regions = people()
    with pytest.raises(ValueError, match="not z-scored"):
        ROIAblation(score).run(300 * voxels + 1000, regions)


@pytest.mark.parametrize(
    ("options", "regions", "words"),
    [
        ({"how": "remove"}, {}, "'remove' is not one of"),
        ({"how": "mean"}, {}, "needs `mean`"),
        ({"n_masks": 0}, {}, "at least one"),
        ({}, {}, "no regions"),
        ({}, {"V1": np.ones(49, dtype=bool)}, "bool of 50 voxels"),
        ({}, {"V1": np.arange(50)}, "int64 of shape"),
        ({}, {"V1": np.zeros(50, dtype=bool)}, "0 of 50"),
        ({"how": "mean", "mean": np.zeros(3)}, {"V1": np.arange(50) < 9}, "expected 50"),
    ],
)
def test_bad_ablations_are_refused(options, regions, words):
    voxels, score, _ = people()
    with pytest.raises(ValueError, match=words):
        ROIAblation(score, **options).run(voxels, regions)


def test_activity_is_1_in_a_region_alone():
    rows = region_activity({"a": np.arange(5) < 2, "b": np.arange(5) == 4}, 5)
    np.testing.assert_array_equal(rows, [[1, 1, 0, 0, 0], [0, 0, 0, 0, 1]])


def test_images_for_a_region_drive_it_more_than_those_for_random_voxels():
    def make(mask: np.ndarray) -> torch.Tensor:
        """Red by how much of the mask is the region."""
        images = torch.zeros(4, 3, 8, 8)
        images[:, 0] = float(mask[:10].mean())
        return images

    def respond(images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].mean((1, 2))[:, None].expand(-1, 40)

    (found,) = optimal_images(
        *(make, respond, {"red": np.arange(40) < 10}), natural=torch.rand(5, 3, 8, 8), n_controls=19
    )
    assert found.p == pytest.approx(1 / 20)
    assert found.gain == pytest.approx(1 - found.control_response.mean())
    assert len(found.control_images) == 19 and len(found.natural_response) == 5
    assert found.tuning == {"red": pytest.approx(found.response.mean())}
    assert found.tuning_natural["red"][0] == pytest.approx(found.natural_response.mean())
    assert found.percentile == 100 and "above 100 % of natural" in str(found)
    assert len(found.plot().axes) == 4 + 4 + 2
    with pytest.raises(ValueError, match="for a mask of 30 voxels"):
        optimal_images(make, respond, {"red": np.arange(30) < 10})
    with pytest.raises(ValueError, match="is empty"):
        optimal_images(make, respond, {"red": np.zeros(40, dtype=bool)})


# The simulated world ---------------------------------------------------------------------------


def test_scenes_are_what_their_captions_say():
    scenes = draw_scenes(60, seed=3)
    assert scenes.images.shape == (60, 3, 32, 32)
    assert scenes.images.min() >= 0 and scenes.images.max() <= 1
    dark = scenes.images.amin(1) < 0.62  # the ground is bright in all colours
    for i, caption in enumerate(scenes.captions):
        _, _, colour, shape, _, _, place = caption.split()
        assert (colour, shape) == (list(COLOURS)[scenes.colour[i]], SHAPES[scenes.shape[i]])
        inside = scenes.images[i][:, dark[i]].mean(1)
        nearest = min(COLOURS, key=lambda c: float((inside - torch.tensor(COLOURS[c])).norm()))
        assert nearest == colour
        x = (dark[i].float().sum(0) * torch.arange(32)).sum() / dark[i].sum() / 32
        assert abs(float(x) - {"left": 0.25, "middle": 0.5, "right": 0.75}[place]) < 0.12
    assert torch.equal(draw_scenes(60, seed=3).images, scenes.images)
    words = encode_words(scenes.captions)
    assert " ".join(WORDS[w] for w in words[0]) == scenes.captions[0]
    with pytest.raises(ValueError, match="word 'pink'"):
        encode_words(["a pink circle"])


def test_planted_regions_answer_to_what_they_should():
    brain = SceneBrain(120, seed=1)
    scenes = draw_scenes(150, seed=5)
    with torch.no_grad():
        clean = brain.respond(scenes.images).numpy()
        grey = brain.respond(scenes.images.mean(1, keepdim=True).expand(-1, 3, -1, -1)).numpy()
        moved = brain.respond(scenes.images.roll(8, dims=3)).numpy()
    regions = brain.regions()
    np.testing.assert_allclose(clean[:, regions["V1"]], grey[:, regions["V1"]], atol=1e-3)
    assert np.abs(clean - grey)[:, regions["V4"]].mean() > 0.3
    assert (clean[:, regions["none"]] == 0).all()
    kept = {
        name: np.mean([np.corrcoef(clean[:, v], moved[:, v])[0, 1] for v in np.flatnonzero(mask)])
        for name, mask in regions.items()
        if name != "none"
    }
    assert kept["object"] > 0.6 > kept["V1"]
    assert abs(clean[:, ~regions["none"]].std(0).mean() - 1) < 0.15


def test_measurements_are_noisy_and_less_so_by_repeats():
    brain, scenes = SceneBrain(60, noise=1.0), draw_scenes(40)
    with torch.no_grad():
        clean = brain.respond(scenes.images).numpy()
    for repeats in (1, 4):
        noise = brain.measure(scenes.images, repeats=repeats) - clean
        assert noise.std() == pytest.approx(1 / repeats**0.5, rel=0.1)
