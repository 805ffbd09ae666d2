"""The small autoencoder, diffusion, prior and CLIP: shapes, training, guidance, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurofm.metrics import pixel_correlation, two_way_identification
from neurofm.reconstruct import (
    BrainDiffuser,
    DiffusionPrior,
    ImageGenerator,
    LatentDiffusion,
    SceneBrain,
    SmallAutoencoder,
    SmallCLIP,
    SmallDenoiser,
    SmallGenerator,
    draw_scenes,
    encode_words,
    images_for_region,
    load_part,
    save_part,
    train_prior,
    train_small_clip,
    train_small_generator,
)
from neurofm.reconstruct.scenes import WORDS
from neurofm.reconstruct.small_generator import train


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny() -> SmallGenerator:
    torch.manual_seed(0)
    return SmallGenerator(
        SmallAutoencoder(width=8, size=16),
        SmallDenoiser(vision_dim=6, text_dim=5, width=16, places=4),
        n_steps=50,
        steps=4,
    ).eval()


def test_it_is_a_generator_and_a_latent_diffusion(tiny):
    assert isinstance(tiny, ImageGenerator) and isinstance(tiny, LatentDiffusion)
    assert tiny.encode(torch.rand(2, 3, 16, 16)).shape == (2, *tiny.latent_shape())


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize(("vision", "text"), [(True, True), (True, False), (False, True)])
def test_any_combination_of_conditions_gives_images(tiny, low, vision, text):
    made = tiny.generate(
        torch.rand(2, 3, 64, 64) if low else None,  # of any size
        random(2, 3, 6) if vision else None,
        random(2, 7, 5) if text else None,
        generator=torch.Generator().manual_seed(0),
    )
    assert made.shape == (2, 3, 16, 16) and made.min() >= 0 and made.max() <= 1


def test_an_image_does_not_depend_on_its_batch(tiny):
    low, vision = torch.rand(3, 3, 16, 16), random(3, 3, 6)
    z, t = random(3, *tiny.latent_shape()), torch.tensor([3, 20, 40])
    whole = tiny.denoise(z, t, vision, None)
    torch.testing.assert_close(tiny.denoise(z[1:2], t[1:2], vision[1:2], None), whole[1:2])
    torch.testing.assert_close(tiny.encode(low)[:1], tiny.encode(low[:1]))


def test_mixing_is_the_share_of_text_in_attention(tiny):
    attend = tiny.denoiser.attend[0]
    x, vision, text = random(2, 16, 4, 4), random(2, 3, 6), random(2, 7, 5)
    seen, said = attend(x, vision, None, 0.4) - x, attend(x, None, text, 0.4) - x
    mixed = attend(x, vision, text, 0.4) - x
    torch.testing.assert_close(mixed, 0.6 * seen + 0.4 * said, atol=1e-5, rtol=1e-4)


def test_order_of_vision_tokens_does_not_matter(tiny):
    """A property of attention without positions: tokens must carry places themselves."""
    z, t, vision = random(2, *tiny.latent_shape()), torch.tensor([3, 20]), random(2, 3, 6)
    torch.testing.assert_close(
        tiny.denoise(z, t, vision, None), tiny.denoise(z, t, vision.flip(1), None)
    )


def test_latents_are_standardised():
    torch.manual_seed(0)
    network, images = SmallAutoencoder(width=8, size=16), torch.rand(40, 3, 16, 16)
    network.standardise(images)
    with torch.no_grad():
        latents = network.encode(images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_training_reproduces_itself_and_learns():
    images = draw_scenes(24, size=16).images[:, :, ::2, ::2]
    runs = [
        train_small_generator(
            images, random(24, 2, 3), None, autoencoder_steps=8, denoiser_steps=3, width=12
        )
        for _ in range(2)
    ]
    for a, b in zip(runs[0].parameters(), runs[1].parameters(), strict=True):
        assert torch.equal(a, b)
    history = runs[0].history
    assert history["autoencoder"][-1] < 0.9 * history["autoencoder"][0]
    assert all(not p.requires_grad for p in runs[0].parameters())


def test_generator_is_saved_and_loaded(tiny, tmp_path):
    save_part(tiny, tmp_path / "generator.safetensors")
    back = load_part(tmp_path / "generator.safetensors")
    made = [
        g.generate(None, random(1, 3, 6), generator=torch.Generator().manual_seed(0))
        for g in (tiny, back)
    ]
    torch.testing.assert_close(*made)


def test_damaged_and_foreign_files_are_refused(tiny, tmp_path):
    path = save_part(tiny, tmp_path / "generator.safetensors")
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="digest does not match"):
        load_part(path)
    with pytest.raises(FileNotFoundError):
        load_part(tmp_path / "none.safetensors")


def test_tokens_of_another_size_are_refused(tiny):
    with pytest.raises(ValueError, match="vision tokens of 7 features, it was built for 6"):
        tiny.generate(None, random(1, 3, 7))
    with pytest.raises(ValueError, match="3 vision tokens for 24 images"):
        train_small_generator(torch.rand(24, 3, 16, 16), random(3, 2, 3), None)


def test_a_diverging_training_stops():
    layer = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="the loss of step 0 is nan"):
        train(
            layer.parameters(), lambda rows: layer(torch.full((1, 2), torch.nan)).sum(), 4, steps=3
        )
    with pytest.raises(ValueError, match="0 rows"):
        train(layer.parameters(), lambda rows: layer(torch.ones(1, 2)).sum(), 0, steps=3)


@pytest.mark.slow
def test_prior_draws_embeddings_from_the_cloud_of_real_ones():
    """Two clusters; a noisy condition between them: the mean lies in neither, the prior in one."""
    generator = torch.Generator().manual_seed(0)
    side = (torch.rand(400, 1, generator=generator) > 0.5).float() * 4 - 2
    target = torch.cat([side + 0.1 * random(400, 1, seed=1), 0.1 * random(400, 1, seed=2)], dim=1)
    condition = torch.cat([side / 8 + random(400, 1, seed=3), random(400, 1, seed=4)], dim=1)
    prior = train_prior(condition, target, steps=1500, width=96)
    drawn = prior.sample(condition[:100], steps=25, generator=generator)
    assert float((drawn[:, 0].abs() - 2).abs().mean()) < 0.6  # the mean's is about 2
    assert (drawn[:, 0] > 0).float().mean() > 0.1 and (drawn[:, 0] < 0).float().mean() > 0.1
    with pytest.raises(ValueError, match="a condition of 3 features, expected 2"):
        prior.sample(torch.zeros(1, 3))


@pytest.mark.slow
def test_prior_follows_its_condition_and_is_saved(tmp_path):
    condition = random(300, 3)
    target = condition @ torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, -1]]) + 5
    prior = train_prior(condition, target, steps=400, width=96)
    drawn = prior.sample(condition[:40], steps=10, generator=torch.Generator().manual_seed(0))
    assert two_way_identification(target[:40].numpy(), drawn.numpy()) > 0.75
    save_part(prior, tmp_path / "prior.safetensors")
    back = load_part(tmp_path / "prior.safetensors")
    assert isinstance(back, DiffusionPrior)
    again = back.sample(condition[:40], steps=10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


@pytest.mark.slow
def test_small_clip_learns_and_is_saved(tmp_path):
    scenes = draw_scenes(200, size=16)
    words = encode_words(scenes.captions)
    network = train_small_clip(scenes.images, words, n_words=len(WORDS), steps=200, dim=12)
    test = draw_scenes(40, size=16, seed=1)
    with torch.no_grad():
        pictures = network.embed_images(test.images)
        sentences = network.embed_words(encode_words(test.captions))
    found = two_way_identification(sentences.numpy(), pictures.numpy())
    assert found > 0.75  # chance 0.5
    save_part(network, tmp_path / "clip.safetensors")
    back = load_part(tmp_path / "clip.safetensors")
    assert isinstance(back, SmallCLIP)
    torch.testing.assert_close(back(test.images), pictures)


@pytest.mark.slow
def test_the_whole_chain_reconstructs_held_out_scenes():
    """Trained on the spot; better than a shuffled brain by far."""
    scenes, test = draw_scenes(800), draw_scenes(40, seed=1)
    words = encode_words(scenes.captions)
    clip = train_small_clip(scenes.images, words, n_words=len(WORDS), steps=200)
    with torch.no_grad():
        vision, text = clip.vision_tokens(scenes.images), clip.text_tokens(words)
    generator = train_small_generator(scenes.images, vision, text)
    brain = SceneBrain(400)
    with torch.no_grad():
        latents = generator.encode(scenes.images).flatten(1)
    targets = {"autoencoder": latents, "vision": vision, "text": text}
    decoder = BrainDiffuser(dict.fromkeys(targets, 300.0)).fit(
        brain.measure(scenes.images), {k: v.numpy() for k, v in targets.items()}
    )
    seen = brain.measure(test.images, repeats=3, seed=1)
    scores = {}
    for name, voxels in (("brain", seen), ("shuffled", np.roll(seen, 7, axis=0))):
        made = {k: torch.from_numpy(v).float() for k, v in decoder.predict(voxels).items()}
        low = generator.decode(made["autoencoder"].unflatten(1, generator.latent_shape()))
        images = generator.generate(
            *(low, made["vision"], made["text"]), generator=torch.Generator().manual_seed(0)
        )
        a, b = (x.permute(0, 2, 3, 1).numpy() for x in (test.images, images))
        scores[name] = float(pixel_correlation(a, b).mean())
    assert scores["brain"] > 0.6 and scores["shuffled"] < 0.35, scores


def test_an_untrained_prior_and_clip_are_saved_and_loaded(tmp_path):
    prior, clip = DiffusionPrior(3, width=8, n_steps=20), SmallCLIP(9, dim=4, width=4)
    prior.standardise(random(10, 3))
    for part in (prior, clip):
        save_part(part, tmp_path / "part.safetensors")
        back = load_part(tmp_path / "part.safetensors")
        assert type(back) is type(part)
        for key, value in part.state_dict().items():
            assert torch.equal(back.state_dict()[key], value)


def test_a_region_that_likes_red_gets_redder_images(tiny):
    def redness(images: Tensor) -> Tensor:
        return (images[:, :1] - images[:, 1:]).mean((2, 3))  # red over green, red over blue

    def made(gamma: float, **options):
        given = {"n": 3, "steps": 8, "generator": torch.Generator().manual_seed(0), **options}
        return images_for_region(tiny, redness, gamma=gamma, vision=torch.zeros(1, 6), **given)

    plain, some, more = (made(gamma).response.mean() for gamma in (0.0, 5.0, 20.0))
    assert plain < some < more
    one = made(20.0, voxels=torch.tensor([1]), keep=2)
    assert one.images.shape == (2, 3, 16, 16)
    torch.testing.assert_close(one.response, redness(one.images)[:, 1])
    with pytest.raises(ValueError, match="0 images, expected one"):
        made(1.0, n=0)
