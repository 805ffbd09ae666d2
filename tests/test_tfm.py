"""TFMTokenizer and TFMEncoder: invariances, bad input, published defects, learning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neurofm.batch import Batch, BrainModel, Objective, Tokenizer
from neurofm.io import load_model, load_tokenizer
from neurofm.io.checkpoint import save_model
from neurofm.models import TFMEncoder
from neurofm.objectives import ComplementaryCodes, MaskedCodes
from neurofm.tasks.token_cache import TokenCache
from neurofm.tokenizers import TFMTokenizer
from neurofm.units import Kind

SMALL: dict[str, Any] = {
    "dim": 16,
    "n_codes": 12,
    "n_bins": 50,
    "frequency_depth": 1,
    "temporal_depth": 1,
    "decoder_depth": 1,
    "heads": 4,
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(x: torch.Tensor, sfreq: float = 200.0) -> Batch:
    n, channels, _ = x.shape
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


def noise(n: int = 3, channels: int = 5, time: int = 700) -> Batch:
    return batch_of(20 * torch.randn(n, channels, time, generator=generator(1)))


def pad_front(batch: Batch, fill: float) -> Batch:
    """A padded channel in front; whatever lies in it must not matter."""
    special = {"kind": -1, "channel_mask": False, "has_position": False}
    padded = {}
    for key in PER_CHANNEL:
        value = getattr(batch, key)
        one = torch.full_like(value[:, :1], special.get(key, fill))
        padded[key] = torch.cat([one, value], 1)
    return replace(batch, **padded)


@pytest.fixture
def tokenizer() -> TFMTokenizer:
    torch.manual_seed(0)
    made = TFMTokenizer(**SMALL)
    spread = nn.functional.normalize(torch.randn(12, 16), dim=1)
    made.quantizer.codebook.copy_(made.encode_rows(made.prepare(noise()))[:12, 0].detach() + 0.0)
    made.quantizer.codebook.add_(0.01 * spread)
    return made.eval()


@pytest.fixture
def encoder(tokenizer: TFMTokenizer) -> TFMEncoder:
    torch.manual_seed(1)
    return TFMEncoder(tokenizer, dim=16, n_channels=6, max_frames=30, depth=2, heads=4).eval()


# Invariances


def test_roles(tokenizer: TFMTokenizer, encoder: TFMEncoder) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(encoder, BrainModel)
    assert isinstance(ComplementaryCodes(), Objective)


def test_tokens_say_which_channel_and_when(tokenizer: TFMTokenizer) -> None:
    tokens = tokenizer(noise(2, 3, 730))
    assert tokens.values.shape == (2, 3 * 6, 16)
    assert tokens.channel[0].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert tokens.time[1, :7].tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 0.5]
    assert torch.equal(tokens.values, tokenizer.quantizer.lookup(tokens.codes[..., 0]))
    assert TFMTokenizer.frames_of(tokens)[0].tolist() == [*range(6)] * 3


def test_units_do_not_matter(tokenizer: TFMTokenizer) -> None:
    batch = noise()
    small = replace(batch, x=batch.x * 1e-3)
    assert torch.equal(tokenizer(batch).codes, tokenizer(small).codes)


def test_codes_vary(tokenizer: TFMTokenizer) -> None:
    assert len(tokenizer(noise()).codes.unique()) > 3


@pytest.mark.parametrize("fill", [0.0, float("nan")])
def test_padding_changes_nothing(tokenizer: TFMTokenizer, encoder: TFMEncoder, fill: float) -> None:
    batch = noise()
    padded = pad_front(batch, fill)
    found, more = tokenizer(batch), tokenizer(padded)
    frames = found.mask.shape[1] // 5
    assert torch.equal(more.codes[:, frames:], found.codes)
    assert not more.mask[:, :frames].any()
    assert (more.channel[:, :frames] == -1).all()
    encoder.channel.weight.data.fill_(0.5)  # places differ by one
    torch.testing.assert_close(encoder.encode(padded).pooled(), encoder.encode(batch).pooled())


def test_channels_do_not_meet_in_the_tokenizer(tokenizer: TFMTokenizer) -> None:
    batch, order = noise(), torch.tensor([3, 0, 4, 1, 2])
    mixed = tokenizer(replace(batch, x=batch.x[:, order])).codes.unflatten(1, (5, -1))
    assert torch.equal(mixed, tokenizer(batch).codes.unflatten(1, (5, -1))[:, order])


def test_one_window_gives_what_many_give(encoder: TFMEncoder) -> None:
    batch = noise()
    whole = encoder.encode(batch)
    cached = TokenCache(encoder.tokenize)(batch)
    torch.testing.assert_close(encoder.encode(cached).tokens, whole.tokens, **CLOSE)
    keys = (*PER_CHANNEL, "onset", "subject", "recording")
    one = replace(batch, **{key: getattr(batch, key)[1:2] for key in keys})
    torch.testing.assert_close(encoder.encode(one).tokens, whole.tokens[1:2], **CLOSE)


def test_evaluation_is_deterministic_and_training_is_not(encoder: TFMEncoder) -> None:
    batch = noise()
    assert torch.equal(encoder.encode(batch).tokens, encoder.encode(batch).tokens)
    encoder.train()
    assert not torch.equal(encoder.encode(batch).tokens, encoder.encode(batch).tokens)
    assert not encoder.tokenizer.training


def test_training_the_encoder_leaves_the_tokenizer_alone(encoder: TFMEncoder) -> None:
    encoder.train().requires_grad_(True)
    before = {key: value.clone() for key, value in encoder.tokenizer.state_dict().items()}
    ComplementaryCodes()(encoder, noise())["loss"].backward()
    assert all(p.grad is None for p in encoder.tokenizer.parameters())
    assert all(torch.equal(before[k], v) for k, v in encoder.tokenizer.state_dict().items())


def test_gradients_reach_the_signal_through_the_codes(tokenizer: TFMTokenizer) -> None:
    batch = noise(1, 2)
    batch.x.requires_grad_(True)
    tokenizer(batch).values.square().sum().backward()
    assert batch.x.grad.abs().max() > 0


def test_save_and_load(encoder: TFMEncoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "model.safetensors")
    loaded: Any = load_model(tmp_path / "model.safetensors")
    batch = noise()
    assert torch.equal(loaded.encode(batch).tokens, encoder.encode(batch).tokens)
    again: Any = load_tokenizer(tmp_path / "model.safetensors")
    assert torch.equal(again(batch).codes, encoder.tokenizer(batch).codes)


def test_vectors_of_codes_start_as_the_tokenizers(encoder: TFMEncoder) -> None:
    assert torch.equal(encoder.code.weight[:-1], encoder.tokenizer.quantizer.codebook)


def test_order_of_channels_matters_to_the_encoder(encoder: TFMEncoder) -> None:
    batch = noise()
    turned = replace(batch, x=batch.x.flip(1))
    assert not torch.allclose(encoder.encode(turned).pooled(), encoder.encode(batch).pooled())


def test_tokens_serve_another_model(tokenizer: TFMTokenizer) -> None:
    """A plug-in: any model that reads values, channel, time and mask."""

    class Other(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.channel, self.time = nn.Embedding(8, dim), nn.Linear(1, dim)
            self.block = nn.TransformerEncoderLayer(dim, 2, batch_first=True, dropout=0.0)

        def forward(self, batch: Batch) -> torch.Tensor:
            found = tokenizer(batch)
            x = found.values + self.channel(found.channel.clamp(min=0))
            x = x + self.time(found.time.unsqueeze(-1))
            x = self.block(x, src_key_padding_mask=~found.mask) * found.mask.unsqueeze(-1)
            return x.sum(1) / found.mask.sum(1, keepdim=True)

    other = Other(tokenizer.dim).train()
    other.channel.weight.data.fill_(0.0)
    batch = noise()
    torch.testing.assert_close(other(pad_front(batch, 1.0)), other(batch), **CLOSE)


# Bad input


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"sfreq": 256.0}, "Resample"),
        ({"unit": "volt"}, "'physical' or 'z'"),
        ({"x": torch.zeros(3, 5, 150)}, "window_s"),
        ({"kind": torch.full((3, 5), int(Kind.MAG))}, "PickKinds"),
        (
            {"channel_mask": torch.tensor([[True] * 5, [False] * 5, [True] * 5])},
            "windows 1 of the batch",
        ),
        ({"x": torch.full((3, 5, 700), float("nan"))}, "NaN"),
    ],
)
def test_bad_batches_are_refused_with_a_remedy(
    tokenizer: TFMTokenizer, change: dict[str, Any], remedy: str
) -> None:
    with pytest.raises(ValueError, match=remedy):
        tokenizer(replace(noise(), **change))


@pytest.mark.parametrize(
    ("batch", "remedy"),
    [(noise(1, 7), "PickChannels"), (noise(1, 1, 3300), "window_s")],
    ids=["channels", "frames"],
)
def test_windows_too_large_for_the_encoder(encoder: TFMEncoder, batch: Batch, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        encoder.encode(batch)


def test_tokens_of_another_tokenizer_are_refused(encoder: TFMEncoder) -> None:
    batch = noise()
    tokens = encoder.tokenizer(batch)
    foreign = replace(batch, tokens=replace(tokens, codes=tokens.codes + 12))
    with pytest.raises(ValueError, match="another tokenizer"):
        encoder.encode(foreign)
    with pytest.raises(ValueError, match="no codes"):
        encoder.encode(replace(batch, tokens=replace(tokens, codes=None)))


def test_an_encoder_alone_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match="tokenizer="):
        TFMEncoder(dim=8, n_codes=4, heads=2).encode(noise())


def test_a_classifier_does_not_predict_codes(tokenizer: TFMTokenizer) -> None:
    model = TFMEncoder(tokenizer, dim=16, heads=4, n_outputs=2)
    with pytest.raises(ValueError, match="n_outputs"):
        MaskedCodes()(model, noise())


@pytest.mark.parametrize(
    "change",
    [{"dim": 18}, {"n_bins": 101}, {"n_bins": 20}, {"start": "kmeans"}, {"commitment": "none"}],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    # A wrong word is a TypeCheckError where types are checked at run time.
    with pytest.raises(Exception, match=next(iter(change))):
        TFMTokenizer(**SMALL | change)


# Masks, losses, and what is published but wrong


def test_both_views_are_those_of_two_passes(tokenizer: TFMTokenizer) -> None:
    x = tokenizer.prepare(noise())
    keep = tokenizer.keep_mask(6, generator=generator(), device=x.device)
    losses = tokenizer.losses(x, keep=keep)
    full = tokenizer.spectrum(x)
    total = torch.zeros(())
    for view, part in zip(losses["views"], (keep, ~keep), strict=True):
        latent = tokenizer.combine(tokenizer.from_spectrum(full * part), tokenizer.from_waveform(x))
        made = tokenizer.rebuild(tokenizer.quantizer(latent)[0])
        torch.testing.assert_close(view, made, **CLOSE)
        total = total + (made - full).square().mean()
    torch.testing.assert_close(losses["reconstruction"], total, **CLOSE)


def gradient_of_commitment(kind: str) -> float:
    torch.manual_seed(0)
    made = TFMTokenizer(**SMALL, commitment=kind).eval()
    losses = made.losses(made.prepare(noise()), generator=generator())
    assert losses["commitment"] > 0
    losses["commitment"].backward()
    return max(float(p.grad.abs().max()) for p in made.parameters() if p.grad is not None)


def test_published_commitment_trains_nothing() -> None:
    assert gradient_of_commitment("published") == 0
    assert gradient_of_commitment("towards_codes") > 0


def test_only_training_moves_the_codebook(tokenizer: TFMTokenizer) -> None:
    before = tokenizer.quantizer.codebook.clone()
    tokenizer.loss(noise())
    assert torch.equal(tokenizer.quantizer.codebook, before)
    tokenizer.train().loss(noise())
    assert not torch.equal(tokenizer.quantizer.codebook, before)


# Masked prediction


def test_each_token_is_predicted_once_from_the_view_that_lacks_it(encoder: TFMEncoder) -> None:
    first, second = encoder.predict_views(noise(), generator=generator())
    assert torch.equal(first.hidden, ~second.hidden)
    share = float(first.hidden.float().mean())
    assert 0.3 < share < 0.7
    assert encoder.predict_hidden(noise(), generator=generator()).hidden.all()


def test_a_hidden_code_does_not_leak_into_its_own_prediction(encoder: TFMEncoder) -> None:
    batch = noise()
    tokens = encoder.tokenize(batch)
    changed = tokens.codes.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 12
    was, now = (
        encoder.predict_hidden(
            replace(batch, tokens=replace(tokens, codes=codes)), generator=generator()
        ).logits
        for codes in (tokens.codes, changed)
    )
    torch.testing.assert_close(now[0, 7], was[0, 7], atol=1e-6, rtol=0)
    assert not torch.allclose(now[0], was[0])


def test_losses_of_both_views_are_added(encoder: TFMEncoder) -> None:
    out = ComplementaryCodes()(encoder, noise(), generator=generator())
    views = encoder.predict_views(noise(), generator=generator())
    terms = [
        nn.functional.cross_entropy(v.logits[v.hidden].squeeze(1), v.codes[v.hidden].squeeze(1))
        for v in views
    ]
    torch.testing.assert_close(out["loss"], terms[0] + terms[1])


# Recovery


def rhythms(n: int, seed: int, *, steady: bool = False) -> tuple[Batch, torch.Tensor]:
    """Each second (or window) has one of three rhythms, the same in all channels."""
    g = generator(seed)
    which = torch.randint(3, (n, 1 if steady else 5), generator=g).expand(n, 5)
    rate = torch.tensor([6.0, 15.0, 32.0])[which].repeat_interleave(200, 1)
    wave = torch.sin(2 * torch.pi * torch.cumsum(rate, 1) / 200)
    rest = 0.2 * torch.randn(n, 4, 1000, generator=g)
    return batch_of(20 * (wave.unsqueeze(1) + rest)), which


@pytest.fixture(scope="module")
def trained() -> TFMTokenizer:
    torch.manual_seed(0)
    made = TFMTokenizer(
        **SMALL, start="data", restart_below=1.0, decay=0.9, commitment="towards_codes", dropout=0.0
    ).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=5e-3)
    for step in range(25):
        optimizer.zero_grad()
        made.loss(rhythms(4, step)[0], generator=generator(step))["loss"].backward()
        optimizer.step()
    return made.eval()


def test_planted_rhythms_become_codes(trained: TFMTokenizer) -> None:
    batch, which = rhythms(16, 1000)
    codes = trained(batch).codes.reshape(16, 4, 9)[:, :, ::2]  # frames within one rhythm
    truth = which.unsqueeze(1).expand_as(codes)
    table = torch.zeros(12, 3).index_put_(
        (codes.flatten(), truth.flatten()), torch.ones(codes.numel()), accumulate=True
    )
    assert table.max(1).values.sum() / table.sum() > 0.9


def test_codes_are_predicted_from_those_of_the_same_window(trained: TFMTokenizer) -> None:
    torch.manual_seed(0)
    model = TFMEncoder(trained, dim=16, n_channels=4, depth=1, heads=4, dropout=0.0).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    batch = rhythms(48, 0, steady=True)[0]
    batch = replace(batch, tokens=model.tokenize(batch))
    for step in range(60):
        optimizer.zero_grad()
        MaskedCodes()(model, batch, generator=generator(step))["loss"].backward()
        optimizer.step()
    test = rhythms(24, 2000, steady=True)[0]
    codes = model.tokenize(test).codes.flatten()
    out = ComplementaryCodes()(model.eval(), test, generator=generator(9))
    share = torch.bincount(codes).double() / codes.numel()
    entropy = float(-(share * share.clamp(min=1e-12).log()).sum())
    assert float(out["nats"]) < 0.8 * entropy
