"""PatchTokenizer and PatchTransformer: invariances, exchangeable tokenizers, bad input, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from noise_batches import generator, noise

from neurofm.batch import Batch, BrainModel, Tokenizer
from neurofm.io import load_model, load_tokenizer
from neurofm.io.checkpoint import save_model
from neurofm.models import PatchTransformer
from neurofm.models.patch_transformer_masks import choose_hidden, vary
from neurofm.nn import FSQ
from neurofm.tokenizers import (
    BrainTokenizer,
    CodedPatches,
    EphysTokenizer,
    PatchTokenizer,
    SpectralTokenizer,
    TFMTokenizer,
)

PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def channels_of(batch: Batch, index: list[int]) -> Batch:
    return replace(batch, **{name: getattr(batch, name)[:, index] for name in PER_CHANNEL})


def padded(batch: Batch) -> Batch:
    """One more channel, of noise that must not matter."""
    more = channels_of(batch, [*range(batch.x.shape[1]), 0])
    real = more.channel_mask.clone()
    real[:, -1] = False
    return replace(
        more,
        x=torch.where(real.unsqueeze(-1), more.x, 1e3),
        channel_mask=real,
        kind=torch.where(real, more.kind, -1),
        has_position=more.has_position & real,
    )


def small(attention: str = "full", **options: Any) -> PatchTransformer:
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 2, "heads": 4, "attention": attention} | options
    tokenizer = options.pop("tokenizer", None)
    if tokenizer is None:
        tokenizer = PatchTokenizer(dim=16, patch_s=0.5, sfreq=64.0, spectrum=True)
    return PatchTransformer(tokenizer, **options).eval()


both = pytest.mark.parametrize("attention", ["full", "criss_cross"])


# The tokenizer


def test_patches_keep_which_channel_is_louder_and_when() -> None:
    batch = noise(channels=4)
    x = batch.x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(-1, 1)
    x[..., 96:] *= 2
    found = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0).patches(replace(batch, x=x)).values
    loud = found.square().mean((0, 3)).sqrt()
    torch.testing.assert_close(loud[3] / loud[0], torch.full((6,), 4.0), rtol=0.3, atol=0)
    torch.testing.assert_close(loud[:, 3:] / loud[:, :3], torch.full((4, 3), 2.0), rtol=0.3, atol=0)


def test_one_bad_channel_does_not_change_the_scale_of_the_others() -> None:
    tokenizer = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0)
    batch = noise(channels=9)
    x = batch.x.clone()
    x[:, 4] *= 1e4
    rest = [0, 1, 2, 3, 5, 6, 7, 8]
    clean = tokenizer.patches(batch).values[:, rest]
    bad = tokenizer.patches(replace(batch, x=x)).values[:, rest]
    torch.testing.assert_close(bad, clean, rtol=0.1, atol=0.02)


def test_each_kind_has_a_scale_of_its_own_and_flat_channels_none() -> None:
    batch = noise(channels=6)
    kind = torch.tensor([0, 0, 0, 1, 1, 1]).expand(3, -1)
    x = torch.where(kind.unsqueeze(-1) == 1, 100 * batch.x, batch.x)
    x[:, 5] = 3.0
    found = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0).patches(replace(batch, x=x, kind=kind))
    ratio = found.scale[:, 3] / found.scale[:, 0]
    torch.testing.assert_close(ratio, torch.full((3,), 100.0), rtol=0.3, atol=0)
    assert found.values[:, 5].abs().max() == 0


def test_a_louder_window_has_the_same_patches_and_other_tokens() -> None:
    tokenizer = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0)
    batch = noise()
    louder = replace(batch, x=5 * batch.x)
    torch.testing.assert_close(tokenizer.patches(louder).values, tokenizer.patches(batch).values)
    assert (tokenizer(louder).values - tokenizer(batch).values).abs().max() > 0.1


def test_spectrum_shows_the_frequency_of_a_rhythm() -> None:
    tokenizer = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0, spectrum=True)
    wave = torch.sin(2 * torch.pi * 10 * torch.arange(32) / 64)
    assert int(tokenizer.log_spectrum(wave).argmax()) == 4  # bins of 2 Hz, the first at 2 Hz
    assert float(tokenizer.log_spectrum(torch.zeros(32)).abs().max()) == 0


# The model


@both
def test_padding_does_not_change_the_features(attention: str) -> None:
    model, batch = small(attention), noise()
    whole = model.encode(batch)
    more = model.encode(padded(batch))
    torch.testing.assert_close(more.tokens[more.mask].view_as(whole.tokens), whole.tokens, **CLOSE)
    assert more.tokens[~more.mask].abs().max() == 0


@both
def test_features_follow_the_order_of_channels(attention: str) -> None:
    model, batch, order = small(attention), noise(), [3, 0, 4, 1, 2]
    plain = model.encode(batch).tokens.unflatten(1, (5, -1))
    mixed = model.encode(channels_of(batch, order)).tokens.unflatten(1, (5, -1))
    torch.testing.assert_close(mixed, plain[:, order], **CLOSE)


@both
def test_any_montage_length_and_unknown_positions_are_taken(attention: str) -> None:
    model = small(attention)
    assert model.encode(noise(2, 11, 64)).tokens.shape == (2, 22, 16)
    batch = noise()
    known = batch.has_position.clone()
    known[:, 1] = False
    embedding = model.encode(replace(batch, has_position=known))
    assert torch.isfinite(embedding.tokens).all()
    assert (embedding.tokens - model.encode(batch).tokens).abs().max() > 1e-3
    moved = replace(batch, has_position=known, position=batch.position + ~known.unsqueeze(-1))
    torch.testing.assert_close(model.encode(moved).tokens, embedding.tokens)


@both
def test_distances_in_time_count_and_are_in_seconds(attention: str) -> None:
    model, batch = small(attention), noise()
    tokens = model.tokenize(batch)
    plain = model.encode(replace(batch, tokens=tokens)).tokens
    shifted = model.encode(replace(batch, tokens=replace(tokens, time=tokens.time + 3))).tokens
    torch.testing.assert_close(shifted, plain, **CLOSE)
    spread = model.encode(replace(batch, tokens=replace(tokens, time=tokens.time * 2))).tokens
    assert (spread - plain).abs().max() > 1e-3


def kept_bytes(model: PatchTransformer, batch: Batch) -> int:
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.encode(batch).pooled().sum()
    return sum(seen.values())


def test_memory_of_criss_cross_attention_grows_linearly_with_channels() -> None:
    model = small("criss_cross")
    few, many = (kept_bytes(model, padded(noise(1, n, 192))) for n in (64, 512))
    assert many < 9 * few


TOKENIZERS: dict[str, tuple[Any, float]] = {
    "patch": (lambda: PatchTokenizer(dim=16, patch_s=0.5), 200.0),
    "spectral": (lambda: SpectralTokenizer(patch_s=0.5, edges=(4.0, 8.0, 13.0, 30.0)), 64.0),
    "fsq": (lambda: CodedPatches(FSQ(8, steps=(5, 4)), dim=8, kernel=1, sfreq=128.0), 128.0),
    "tfm": (lambda: load_tokenizer("tfm_tokenizer_demo"), 200.0),
    "brain": (lambda: load_tokenizer("braintokenizer_demo"), 256.0),
    "ephys": (lambda: load_tokenizer("ephys_tokenizer_demo"), 125.0),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_any_tokenizer_can_stand_in_front(name: str) -> None:
    make, sfreq = TOKENIZERS[name]
    tokenizer = make()
    batch = padded(noise(2, 4, round(2.5 * sfreq), sfreq))
    model = small("criss_cross", tokenizer=tokenizer).train()
    assert isinstance(tokenizer, Tokenizer) and isinstance(model, BrainModel)
    embedding = model.encode(batch)
    assert torch.isfinite(embedding.tokens).all()
    assert embedding.tokens.shape[:2] == embedding.mask.shape
    if not tokenizer.n_codes:
        found = model.reconstruct_signal(batch, generator=generator())
        assert found.signal.shape == found.true_signal.shape
        return
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    hidden = model.predict_hidden(batch, generator=generator())
    assert hidden.logits.shape == (*hidden.codes.shape, tokenizer.n_codes)
    assert abs(float(hidden.hidden.sum() / embedding.mask.sum()) - 0.5) < 0.05
    after = small("criss_cross", tokenizer=tokenizer, pretraining="next").predict_next(batch)
    assert after.logits.shape == (*after.codes.shape, tokenizer.n_codes)
    assert 0 < int(after.mask.sum()) < int(embedding.mask.sum())


@both
def test_next_codes_are_predicted_from_the_past_alone(attention: str) -> None:
    make, sfreq = TOKENIZERS["fsq"]
    model = small(attention, tokenizer=make(), pretraining="next")
    for batch in (noise(2, 4, 256, sfreq), padded(noise(2, 4, 256, sfreq))):
        tokens = model.tokenize(batch)
        late = tokens.time > 1.0
        values = torch.where(late.unsqueeze(-1), tokens.values.flip(1), tokens.values)
        before = model.encode(replace(batch, tokens=tokens)).tokens
        after = model.encode(replace(batch, tokens=replace(tokens, values=values))).tokens
        torch.testing.assert_close(after[~late], before[~late], **CLOSE)
        assert (after[late] - before[late]).abs().max() > 1e-3


# Masks and views


@pytest.mark.parametrize("scheme", ["random", "time", "space", "blocks"])
def test_the_share_of_hidden_tokens_is_exact_and_padding_never_hidden(scheme: Any) -> None:
    real = torch.ones(6, 8, 10, dtype=torch.bool)
    real[:3, 5:] = False
    place = torch.randn(6, 8, 3, generator=generator())
    place[0] = torch.nan
    hidden = choose_hidden(real, place, ratio=0.4, scheme=scheme, generator=generator())
    assert not (hidden & ~real).any()
    assert hidden.flatten(1).sum(1).tolist() == [20] * 3 + [32] * 3


def test_blocks_hide_neighbours_in_space_and_stretches_of_time() -> None:
    real = torch.ones(20, 16, 12, dtype=torch.bool)
    place = torch.randn(20, 16, 3, generator=generator())
    time = choose_hidden(real, place, ratio=0.5, scheme="time", block=3, generator=generator())
    whole = time.unflatten(2, (4, 3)).float().mean((1, 3))
    assert ((whole == 0) | (whole == 1)).all()
    space = choose_hidden(real, place, ratio=0.5, scheme="space", seeds=1, generator=generator())
    whole = space.float().mean(2)
    assert ((whole == 0) | (whole == 1)).all()
    apart = torch.cdist(place, place)
    chosen = whole.bool()
    inside = apart[chosen.unsqueeze(1) & chosen.unsqueeze(2)].mean()
    across = apart[chosen.unsqueeze(1) & ~chosen.unsqueeze(2)].mean()
    assert inside < 0.8 * across


def test_a_view_lacks_channels_and_keeps_padding_out() -> None:
    batch = padded(noise(3, 9))
    view = vary(batch, generator=generator())
    assert view.channel_mask.sum(1).tolist() == [6, 6, 6]
    assert view.x[~view.channel_mask].abs().max() == 0
    assert not (view.channel_mask & ~batch.channel_mask).any()
    again = vary(batch, generator=generator())
    torch.testing.assert_close(again.x, view.x)


# Files and bad input


@pytest.mark.parametrize("pretraining", ["signal", "views"])
def test_a_saved_model_gives_the_same_features(tmp_path: Path, pretraining: str) -> None:
    model, batch = small("criss_cross", pretraining=pretraining), noise()
    file = save_model(model, tmp_path / "model.safetensors", expects={"sfreq": 64})
    again: Any = load_model(file)
    torch.testing.assert_close(again.encode(batch).tokens, model.encode(batch).tokens)


def _nan(batch: Batch) -> Batch:
    x = batch.x.clone()
    x[0, 0, 0] = torch.nan
    return replace(batch, x=x)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: replace(b, sfreq=100.0), "64"),
        (lambda b: replace(b, x=b.x[..., :31]), "0.48"),
        (_nan, "NaN"),
        (lambda b: replace(b, channel_mask=torch.zeros_like(b.channel_mask)), "channel"),
    ],
)
def test_input_it_cannot_use_is_refused(change: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small().encode(change(noise()))


def test_tokens_of_another_tokenizer_are_refused() -> None:
    batch = noise()
    tokens = PatchTokenizer(dim=8, patch_s=0.5, sfreq=64.0)(batch)
    with pytest.raises(ValueError, match="8 features, the tokenizer makes 16"):
        small().encode(replace(batch, tokens=tokens))


def test_criss_cross_attention_needs_a_grid() -> None:
    batch = noise()
    model = small("criss_cross")
    tokens = model.tokenize(batch)
    order = torch.randperm(tokens.mask.shape[1], generator=generator())
    mixed = replace(tokens, channel=tokens.channel[:, order])
    with pytest.raises(ValueError, match="channel by channel"):
        model.encode(replace(batch, tokens=mixed))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"heads": 3}, "dim 16"),
        ({"attention": "criss-cross"}, "'criss-cross'"),
        ({"pretraining": "codes"}, "needs codes"),
        ({"pretraining": "masked"}, "'masked'"),
        ({"mask_ratio": 1.0}, "mask_ratio is 1"),
        ({"mask_scheme": "region"}, "'region'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    # A wrong word is a TypeCheckError where types are checked at run time.
    with pytest.raises(Exception, match=words):
        small(**options)


def test_an_objective_for_which_the_head_was_not_made_is_refused() -> None:
    with pytest.raises(ValueError, match="pretraining: views"):
        small().views(noise())


def test_patches_of_a_fraction_of_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Set patch_s to 0\.5"):
        PatchTokenizer(patch_s=0.501, sfreq=128.0)


def test_the_classes_of_the_tests_are_those_of_the_tokenizers() -> None:
    made = [make() for make, _ in TOKENIZERS.values()]
    expected = (
        PatchTokenizer,
        SpectralTokenizer,
        CodedPatches,
        TFMTokenizer,
        BrainTokenizer,
        EphysTokenizer,
    )
    assert [type(tokenizer) for tokenizer in made] == list(expected)
