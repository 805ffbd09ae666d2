"""Captions of what was seen: retrieval, scores, and networks of transformers from a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from neurofm.compat import guard_torchaudio
from neurofm.reconstruct import (
    Captioner,
    DiffusersGenerator,
    RetrievalCaptioner,
    TransformersCaptioner,
    images_for_region,
    score_captions,
)
from neurofm.reconstruct.local_weights import check_device


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_caption_of_the_nearest_training_stimulus_is_retrieved():
    tokens = random(30, 4, 5) + 10  # with a mean that all share
    captioner = RetrievalCaptioner(tokens, [f"image {i}" for i in range(30)])
    assert isinstance(captioner, Captioner)
    noisy = tokens[[7, 3]] + 0.3 * random(2, 4, 5, seed=1)
    assert captioner.generate(noisy) == ["image 7", "image 3"]


def test_retrieval_refuses_other_tokens_and_numbers_of_captions():
    with pytest.raises(ValueError, match="2 captions for 30"):
        RetrievalCaptioner(random(30, 4, 5), ["a", "b"])
    captioner = RetrievalCaptioner(random(2, 4, 5), ["a", "b"])
    with pytest.raises(ValueError, match=r"shape \(5, 4\), expected \(4, 5\)"):
        captioner.generate(random(2, 5, 4))


def test_ground_absolute_and_relative():
    human = ["a red dog runs on green grass", "two cats sleep near the warm fire", "one bus"]
    image = ["a red dog runs on grass", "two cats sleep near a fire", "one bus"]
    brain = ["a red dog sits on grass", "two birds sleep near a fire", "one bus"]
    embed = {s: v for s, v in zip([*human, *image, *brain], random(9, 6).numpy(), strict=True)}
    embed["one bus"] = np.ones(6, np.float32)
    scores = score_captions(
        brain, image, [[h, "something else"] for h in human],
        embed=lambda s: np.stack([embed[x] for x in s]),
    )  # fmt: skip
    by = {score.name: score for score in scores}
    assert list(by) == ["BLEU-1", "BLEU-4", "METEOR-like", "similarity"]
    for score in scores:
        if score.ground > 0:
            assert score.relative == pytest.approx(score.absolute / score.ground)
    assert by["BLEU-1"].absolute > by["BLEU-1"].chance
    assert np.isnan(by["BLEU-1"].low)  # of a corpus: no interval over stimuli
    assert by["METEOR-like"].low <= by["METEOR-like"].absolute <= by["METEOR-like"].high
    same = score_captions(image, image, human)
    assert same[0].absolute == pytest.approx(1.0)


def test_relative_is_unknown_where_ground_is_nothing():
    scores = score_captions(["a b c d e"] * 3, ["a b c d e"] * 3, ["v w x y z"] * 3)
    assert np.isnan(scores[0].relative) and scores[0].ground == 0


# Folders ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "config", "published"),
    [
        (TransformersCaptioner, "config.json", "microsoft/git-base-coco"),
        (DiffusersGenerator, "model_index.json", "shi-labs/versatile-diffusion"),
    ],
)
def test_missing_weights_say_which_file_and_how_to_get_it(made, config, published, tmp_path):
    folder = tmp_path / "weights"
    with pytest.raises(FileNotFoundError, match=f"no such folder.*{published}"):
        made(folder)
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=f"{config} is missing.*{published}"):
        made(folder)
    (folder / config).write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match="no weights there, only the description"):
        made(folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_gpu_is_said():
    with pytest.raises(ValueError, match="no such accelerator"):
        check_device("cuda")
    assert check_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"use": "sound"}, "'sound'"), ({"mixing": 2.0}, "mixing 2.0")],
)
def test_impossible_options_of_a_pipeline_are_refused(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        DiffusersGenerator(tmp_path, **options)


def tokenizer_in(folder) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *[f"word{i}" for i in range(20)]]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def save_git(folder) -> None:
    from transformers import GitConfig, GitForCausalLM

    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 8,
        "num_attention_heads": 2, "patch_size": 4,
    }  # fmt: skip
    config = GitConfig(
        vision_config=vision, vocab_size=25, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=32,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    GitForCausalLM(config).save_pretrained(folder)


def save_blip(folder) -> None:
    from transformers import BlipConfig, BlipForConditionalGeneration

    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 8,
        "num_attention_heads": 2, "patch_size": 4,
    }  # fmt: skip
    text = {
        "vocab_size": 25, "hidden_size": 16, "encoder_hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32,
        "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(
        BlipConfig(vision_config=vision, text_config=text)
    ).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_git, save_blip])
def test_a_captioner_reads_decoded_tokens_as_its_own(save, tmp_path):
    guard_torchaudio()
    save(tmp_path)
    tokenizer_in(tmp_path)
    captioner = TransformersCaptioner(tmp_path, max_length=8)
    assert isinstance(captioner, Captioner)
    pixels = random(2, 3, 8, 8)
    tokens = captioner.visual_tokens(pixels)
    assert tokens.shape == (2, 5, 16)  # a summary and 2 x 2 patches
    given = captioner.model.generate(pixel_values=pixels, max_length=8, do_sample=False)
    expected = captioner.tokenizer.batch_decode(given, skip_special_tokens=True)
    assert captioner.generate(tokens) == [s.strip() for s in expected]
    # The image encoder is back in its place.
    torch.testing.assert_close(captioner.visual_tokens(pixels), tokens)
    with pytest.raises(ValueError, match=r"shape \(4, 16\), expected \(5, 16\)"):
        captioner.generate(tokens[:, :4])


# Pipelines of diffusers ------------------------------------------------------------------------


def save_pipeline(folder, *, dual: bool = False, prediction: str = "epsilon"):
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    words = folder.parent / "words"
    words.mkdir()
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    (words / "vocab.json").write_text(json.dumps(vocabulary))
    (words / "merges.txt").write_text("#version: 0.2\n")
    parts = {
        "unet": UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
            dual_cross_attention=dual,
        ),
        "vae": AutoencoderKL(
            block_out_channels=[8, 8],
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=4,
        ),
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type=prediction,
            set_alpha_to_one=True,
            timestep_spacing="linspace",
            clip_sample=False,
            steps_offset=1,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                hidden_size=12,
                intermediate_size=12,
                num_attention_heads=2,
                num_hidden_layers=1,
                vocab_size=30,
                max_position_embeddings=8,
            )
        ),
        "tokenizer": CLIPTokenizer(
            str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=8
        ),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.save_pretrained(folder)
    return pipeline


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_saved_pipeline_generates_as_its_own_scheduler_does(tmp_path, prediction):
    guard_torchaudio()
    pipeline = save_pipeline(tmp_path / "p", prediction=prediction)
    generator = DiffusersGenerator(tmp_path / "p", guidance=1.0, steps=10, strength=0.75)
    low, text = torch.rand(2, 3, 16, 16), random(2, 8, 12)
    made = generator.generate(low, None, text, generator=torch.Generator().manual_seed(0))
    assert made.shape == (2, 3, 16, 16) and made.min() >= 0 and made.max() <= 1
    # The same by hand, with the pipeline's parts and its scheduler.
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(10)
    times = scheduler.timesteps[3:]
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = pipeline.vae.encode(2 * low - 1).latent_dist.mode() * generator.scale
        z = scheduler.add_noise(latents, noise, times[:1])
        for t, after in zip(times, [*times[1:], None], strict=True):
            said = pipeline.unet(z, t, encoder_hidden_states=text).sample
            share = scheduler.alphas_cumprod[t]
            e = said if prediction == "epsilon" else share**0.5 * said + (1 - share) ** 0.5 * z
            clean = (z - (1 - share) ** 0.5 * e) / share**0.5
            next_share = torch.tensor(1.0) if after is None else scheduler.alphas_cumprod[after]
            z = next_share**0.5 * clean + (1 - next_share) ** 0.5 * e
        expected = ((pipeline.vae.decode(z / generator.scale).sample + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(made, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_pipeline_is_guided_by_a_region_from_an_empty_sentence(tmp_path):
    guard_torchaudio()
    save_pipeline(tmp_path / "p")
    generator = DiffusersGenerator(tmp_path / "p")

    def response(gamma: float) -> float:
        made = images_for_region(
            generator,
            lambda images: images.mean((2, 3)),
            n=2,
            steps=6,
            gamma=gamma,
            generator=torch.Generator().manual_seed(0),
        )
        assert made.images.shape == (2, 3, 16, 16)
        return float(made.response.mean())

    assert response(0) < response(20) < response(60)
    vision = DiffusersGenerator(tmp_path / "p", use="vision")
    with pytest.raises(ValueError, match="needs vision tokens that say nothing"):
        images_for_region(vision, lambda images: images.mean((2, 3)))


@pytest.mark.slow
def test_guidance_needs_tokens_that_say_nothing(tmp_path):
    guard_torchaudio()
    save_pipeline(tmp_path / "p")
    text = random(1, 8, 12)
    generator = DiffusersGenerator(tmp_path / "p", steps=2)
    assert generator.generate(None, None, text).shape == (1, 3, 16, 16)
    # Those of the empty sentence, by the pipeline's own encoder.
    ids = torch.tensor([[0, *[1] * 7]])
    said = generator.pipeline.text_encoder(ids)[0][0]
    torch.testing.assert_close(generator.nothing["text"], said)
    vision = DiffusersGenerator(tmp_path / "p", steps=2, use="vision")
    with pytest.raises(ValueError, match="needs vision tokens that say"):
        vision.generate(None, text)
    vision.nothing["vision"] = torch.zeros(8, 12)
    assert vision.generate(None, text).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="text tokens of 11 features, this pipeline attends to 12"):
        DiffusersGenerator(tmp_path / "p", steps=2, guidance=1.0).generate(
            None, None, random(1, 8, 11)
        )
    with pytest.raises(ValueError, match="'both' is for Versatile"):
        DiffusersGenerator(tmp_path / "p", use="both")


@pytest.mark.slow
def test_dual_attention_mixes_vision_and_text_as_published(tmp_path):
    guard_torchaudio()
    save_pipeline(tmp_path / "p", dual=True)
    text, vision = random(1, 8, 12), random(1, 5, 12, seed=1)
    z, t = random(1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        alone, other = (
            DiffusersGenerator(tmp_path / "p", use="both", mixing=share, guidance=1.0)
            for share in (1.0, 0.0)
        )
        # With text alone mixed in, vision does not matter, and the other way round.
        torch.testing.assert_close(
            alone.denoise(z, t, vision, text), alone.denoise(z, t, 0 * vision, text)
        )
        torch.testing.assert_close(
            other.denoise(z, t, vision, text), other.denoise(z, t, vision, 0 * text)
        )
        assert not torch.equal(alone.denoise(z, t, vision, text), other.denoise(z, t, vision, text))
    made = DiffusersGenerator(tmp_path / "p", use="both", guidance=1.0, steps=3)
    assert made.generate(torch.rand(1, 3, 16, 16), vision, text).shape == (1, 3, 16, 16)
    with pytest.raises(ValueError, match="needs vision tokens"):
        made.generate(None, None, text)
