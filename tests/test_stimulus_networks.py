"""Layers of networks of transformers, from a folder: tiny ones with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from neurofm.compat import guard_torchaudio
from neurofm.stimuli import Preparation, contexts, layer_features, load_network

guard_torchaudio()
transformers = pytest.importorskip("transformers")

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
IMAGES = np.random.default_rng(0).random((3, 3, 40, 48)).astype(np.float32)
TEXTS = ["the cat sat", "a dog", "the dog sat on the cat"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 24}
VISION = SMALL | {"image_size": 32, "patch_size": 16}
SOUNDS = [0.1 * np.sin(np.arange(n) / 7) for n in (3000, 3000, 4000)]


def save(model, folder: Path, **extra) -> Path:
    model.save_pretrained(folder)
    for name, value in extra.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "the", "a", "cat", "dog", "sat", "on"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")
    fast.save_pretrained(folder)
    return folder


def pictures(size: int = 32) -> dict:
    return {"size": {"height": size, "width": size}, "image_mean": MEAN, "image_std": STD}


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(**VISION))
    return save(model, tmp_path_factory.mktemp("vit"), preprocessor_config=pictures())


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=7, n_embd=16, n_layer=2, n_head=2, n_positions=5)
    return tokenizer(save(transformers.GPT2Model(config), tmp_path_factory.mktemp("gpt2")))


def test_sites_of_a_vision_transformer_hold_its_hidden_states(vit):
    network = load_network(vit)
    inputs, _ = network.prepare(IMAGES)
    hidden = network.model(**inputs, output_hidden_states=True).hidden_states
    found = layer_features(network, IMAGES, pool="none", batch_size=2)
    assert len(found) == 2
    for value, expected in zip(found.values(), hidden[1:], strict=True):
        np.testing.assert_allclose(value, expected, atol=1e-5)
    (last, *_) = reversed(found)
    for pool, expected in (("mean", hidden[2].mean(1)), ("cls", hidden[2][:, 0])):
        got = layer_features(network, IMAGES, [last], pool=pool)[last]
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_text_keeps_its_last_tokens_and_padding_does_not_count(gpt2):
    gpt2 = load_network(gpt2)
    together = layer_features(gpt2, TEXTS, ["h.1"], pool="last", batch_size=3)["h.1"]
    alone = [layer_features(gpt2, [text], ["h.1"], pool="last")["h.1"][0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    mean = layer_features(gpt2, TEXTS, ["h.1"], batch_size=3)["h.1"]
    single = layer_features(gpt2, TEXTS[1:2], ["h.1"], pool="none")["h.1"][0]
    np.testing.assert_allclose(mean[1], single.mean(0), atol=1e-5)
    # Six words in a network of five places: the first is left out.
    shorter = layer_features(gpt2, ["dog sat on the cat"], ["h.1"], pool="last")["h.1"]
    np.testing.assert_allclose(together[2], shorter[0], atol=1e-5)
    assert contexts(["a", "b", "c"], n_words=2) == ["a", "a b", "b c"]
    with pytest.raises(ValueError, match=r"text 0 .* has no token"):
        layer_features(gpt2, [""], ["h.1"])


def test_missing_files_are_named_with_a_remedy(vit, gpt2, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*hf download"):
        load_network(tmp_path / "nothing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="local_files_only=False to download"):
        load_network("some/network")
    for missing, source, words in (
        ("config.json", vit, r"no config\.json"),
        ("model.safetensors", vit, r"no model\.safetensors \(nor model\.safetensors\.index"),
        ("preprocessor_config.json", vit, r"no preprocessor_config\.json.*prepare"),
        ("tokenizer.json", gpt2, "no tokenizer"),
    ):
        folder = tmp_path / missing
        shutil.copytree(source, folder)
        (folder / missing).unlink()
        with pytest.raises(FileNotFoundError, match=words):
            load_network(folder)
    with pytest.raises(ValueError, match="vit is shown image, not text"):
        load_network(vit, kind="text")
    with pytest.raises(ValueError, match="kind 'smell' is not one of"):
        load_network(vit, kind="smell")


def test_a_cache_tells_preparations_apart(vit, tmp_path):
    first = layer_features(vit, IMAGES, pool="cls", cache=tmp_path / "cache")
    other = tmp_path / "other"
    shutil.copytree(vit, other)
    changed = pictures() | {"image_mean": [0.0] * 3}
    (other / "preprocessor_config.json").write_text(json.dumps(changed))
    second = layer_features(other, IMAGES, pool="cls", cache=tmp_path / "cache")
    assert all(np.abs(first[name] - second[name]).max() > 1e-3 for name in first)
    again = layer_features(vit, IMAGES, pool="cls", cache=tmp_path / "cache")
    assert all((first[name] == again[name]).all() for name in first)


def test_pictures_are_prepared_by_the_numbers_of_the_file(vit):
    plain = Preparation.read(vit)(np.full((1, 3, 40, 48), 255, np.uint8))
    assert plain.shape == (1, 3, 32, 32)
    expected = (1 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(plain[0, :, 0, 0], expected, rtol=1e-5)
    clip = {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    clip |= {"do_center_crop": True, "image_mean": [0] * 3, "image_std": [1] * 3}
    assert Preparation.from_config(clip, where="x")(IMAGES).shape == (3, 3, 16, 16)
    old = Preparation.from_config({"size": 24, "do_normalize": False}, where="x")
    assert old.size == (24, 24) and old.mean == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"rescale_factor 0\.5"):
        Preparation.from_config({"rescale_factor": 0.5}, where="x")


def test_resizing_is_that_of_pil():
    from PIL import Image

    smooth = np.kron(np.random.default_rng(0).random((6, 6)), np.ones((8, 8)))
    picture = (255 * (0.3 + 0.4 * smooth)).astype(np.uint8)  # PIL clips between its passes
    ours = Preparation(size=(20, 20))(np.repeat(picture[None, None], 3, 1))[0, 0].numpy()
    pil = np.asarray(Image.fromarray(picture).resize((20, 20), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(ours, pil, atol=1.5 / 255)


def images_of(name: str):
    config = {
        "deit": lambda: transformers.DeiTModel(transformers.DeiTConfig(**VISION)),
        "beit": lambda: transformers.BeitModel(transformers.BeitConfig(**VISION)),
        "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**VISION)),
    }
    return config[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit", "beit", "dinov2"])
def test_vision_networks_give_features_of_every_block(name, tmp_path):
    folder = save(images_of(name), tmp_path, preprocessor_config=pictures())
    found = layer_features(folder, IMAGES, pool="cls", cache=tmp_path / "cache")
    assert len(found) == 2
    for value in found.values():
        assert value.shape == (3, 16) and value.std(0).min() > 0


@pytest.mark.slow
def test_clip_has_a_tower_for_pictures_and_one_for_texts(tmp_path):
    text = SMALL | {"vocab_size": 7, "max_position_embeddings": 8, "eos_token_id": 6}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    folder = save(transformers.CLIPModel(config), tmp_path, preprocessor_config=pictures())
    tokenizer(folder)
    with pytest.raises(ValueError, match='kind="image" or kind="text"'):
        load_network(folder)
    seen = layer_features(folder, IMAGES, ["visual_projection"], kind="image")
    read = layer_features(folder, TEXTS, ["text_projection"], kind="text")
    assert seen["visual_projection"].shape == read["text_projection"].shape == (3, 8)


@pytest.mark.slow
def test_co_attentive_networks_take_texts_with_regions(tmp_path):
    rng = np.random.default_rng(0)
    stimuli = [
        {"text": text, "regions": rng.random((4, 12)), "boxes": rng.random((4, 4))}
        for text in TEXTS
    ]
    bert = transformers.VisualBertModel(
        transformers.VisualBertConfig(vocab_size=7, visual_embedding_dim=12, **SMALL)
    )
    folder = tokenizer(save(bert, tmp_path / "visual_bert"))
    found = layer_features(folder, stimuli, batch_size=3)
    alone = layer_features(folder, stimuli[1:2], batch_size=1)
    for name, value in found.items():
        assert value.shape == (3, 16)
        np.testing.assert_allclose(value[1:2], alone[name], atol=1e-4)
    lxmert = transformers.LxmertModel(
        transformers.LxmertConfig(
            vocab_size=7,
            hidden_size=16,
            num_attention_heads=2,
            intermediate_size=24,
            l_layers=2,
            x_layers=1,
            r_layers=1,
            visual_feat_dim=12,
        )
    )
    folder = tokenizer(save(lxmert, tmp_path / "lxmert"))
    assert layer_features(folder, stimuli, ["pooler"])["pooler"].shape == (3, 16)


@pytest.mark.slow
def test_sounds_through_wav2vec2_and_whisper(tmp_path):
    wav = transformers.Wav2Vec2Model(
        transformers.Wav2Vec2Config(
            conv_dim=(8, 8),
            conv_stride=(5, 4),
            conv_kernel=(10, 8),
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            **SMALL,
        )
    )
    about = {"sampling_rate": 16000, "do_normalize": True}
    folder = save(wav, tmp_path / "wav", preprocessor_config=about)
    found = layer_features(folder, SOUNDS, ["encoder.layers.1"], sfreq=8000, batch_size=3)
    assert found["encoder.layers.1"].shape == (3, 16)
    with pytest.raises(ValueError, match=r"pass sfreq.*hears 16000 Hz"):
        layer_features(folder, SOUNDS)
    whisper = transformers.WhisperModel(
        transformers.WhisperConfig(
            vocab_size=9,
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_ffn_dim=24,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            decoder_ffn_dim=24,
            num_mel_bins=8,
            max_source_positions=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    folder = save(whisper, tmp_path / "whisper")
    extractor.save_pretrained(folder)
    whole = layer_features(folder, SOUNDS, sfreq=16000, pool="none")
    (name, *_) = whole
    assert whole[name].shape == (3, 50, 16)
    mean = layer_features(folder, SOUNDS, [name], sfreq=16000)[name]
    # 3000 of 16000 samples: ten of fifty tokens are sound, the others silence.
    np.testing.assert_allclose(mean[0], whole[name][0, :10].mean(0), atol=1e-5)
    with pytest.raises(ValueError, match="Whisper hears 1 s"):
        layer_features(folder, [np.zeros(20000)], sfreq=16000)
