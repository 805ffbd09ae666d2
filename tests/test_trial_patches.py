"""TrialPatches: three tokenizations of a trial, and PatchTransformer over them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from noise_batches import noise
from torch import nn

from neurofm.batch import Batch
from neurofm.models import PatchTransformer
from neurofm.readouts import FlatLinear
from neurofm.tokenizers import TrialPatches
from neurofm.tokenizers.trial_patches import sinusoids

VARIATES = pytest.mark.parametrize("variate", ["multi", "uni", "whole"])


def trials(n: int = 3, *, channels: int = 5, samples: int = 70) -> Batch:
    return noise(n, channels=channels, time=samples, sfreq=100.0)


def tokenizer(variate: str = "uni", **options: Any) -> TrialPatches:
    torch.manual_seed(0)
    options = {"n_channels": 5, "n_times": 70, "sfreq": 100.0, "dim": 16, "patch": 20} | options
    return TrialPatches(variate=variate, **options).eval()


@pytest.mark.parametrize(
    ("variate", "count", "first"),
    [("multi", 4, -1), ("uni", 20, 0), ("whole", 5, 0)],
)
def test_number_of_tokens_and_where_they_come_from(variate: str, count: int, first: int) -> None:
    made = tokenizer(variate)
    tokens = made(trials())
    assert made.n_tokens == count
    assert tokens.values.shape == (3, count, 16)
    assert tokens.mask.all()
    assert tokens.channel[0, 0] == first
    middle = 0.35 if variate == "whole" else 0.1
    torch.testing.assert_close(tokens.time[:, 0], torch.full((3,), middle))


def test_the_last_patch_is_filled_up_with_the_last_sample() -> None:
    made = tokenizer()
    made.linear = nn.Identity()  # type: ignore[assignment]
    made.position = torch.zeros(1, 20)
    batch = trials()
    parts = made(batch).values.unflatten(1, (5, 4))
    x = made.signal(batch)
    torch.testing.assert_close(parts[:, :, :3].flatten(2), x[..., :60])
    torch.testing.assert_close(parts[:, :, 3, :10], x[..., 60:])
    torch.testing.assert_close(parts[:, :, 3, 10:], x[..., 69:].expand(-1, -1, 10))


@pytest.mark.parametrize(("stride", "patches"), [(20, 4), (10, 6), (25, 3), (50, 2)])
def test_stride_sets_the_number_of_patches(stride: int, patches: int) -> None:
    made = tokenizer("multi", stride=stride)
    assert made.n_patches == made(trials()).values.shape[1] == patches


def test_a_multivariate_token_is_the_sum_of_its_channels() -> None:
    multi, uni = tokenizer("multi"), tokenizer("uni")
    batch = trials()
    weights = multi.linear.weight.unflatten(1, (5, 20))  # dim channel sample
    parts = uni.signal(batch)[..., :60].unflatten(2, (3, 20))
    expected = torch.einsum("ncps,dcs->npd", parts, weights) + multi.linear.bias
    torch.testing.assert_close(multi(batch).values[:, :3] - multi.position[:3], expected)


def test_every_channel_is_standardized_and_then_shifted() -> None:
    made = tokenizer()
    batch = trials()
    scaled = replace(batch, x=batch.x * torch.arange(1.0, 6).view(-1, 1) + 40)
    torch.testing.assert_close(made.signal(scaled), made.signal(batch), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.signal(batch).square().mean(-1), torch.ones(3, 5))
    with torch.no_grad():
        made.offset[0, 2] = 3
    torch.testing.assert_close(made.signal(batch).mean((0, 2)), torch.tensor([0.0, 0, 3, 0, 0]))
    flat = replace(batch, x=torch.full_like(batch.x, 7.0))
    assert made.signal(flat)[:, [0, 1]].abs().max() == 0


def test_positions_are_sines_of_the_place() -> None:
    table = sinusoids(9, 6)
    place = torch.arange(9.0)
    torch.testing.assert_close(table[:, 0], place.sin())
    torch.testing.assert_close(table[:, 1], place.cos())
    torch.testing.assert_close(table[:, 4], (place / 10000 ** (4 / 6)).sin())
    assert sinusoids(4, 5).shape == (4, 5)
    assert tokenizer("whole").position.abs().max() == 0


def test_augmentation_hides_samples_or_channels_in_training_alone() -> None:
    batch = trials(40)
    whole = tokenizer().signal(batch)
    for kind in ("mask", "channel"):
        made = tokenizer(augment=[kind], augment_share=0.3)
        torch.testing.assert_close(made.signal(batch), whole)
        found = made.train().signal(batch)
        hidden = found == 0
        torch.testing.assert_close(found[~hidden], whole[~hidden])
        if kind == "channel":
            assert (hidden.all(-1).sum(1) == 1).all()  # 0.3 of 5 channels
            assert hidden.sum() == 40 * 70
        else:
            assert hidden.float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(tokenizer(augment=[]).train().signal(batch), whole)


def test_one_augmentation_is_drawn_for_each_batch() -> None:
    made = tokenizer(augment_share=0.3).train()
    torch.manual_seed(1)
    whole = [bool((made.signal(trials()) == 0).all(-1).any()) for _ in range(20)]
    assert 2 < sum(whole) < 18


# In the model


def model(variate: str, **options: Any) -> PatchTransformer:
    torch.manual_seed(0)
    options = {"dim": 16, "depth": 2, "heads": 4, "feedforward": 24} | options
    arguments = {"pretraining": "none", "positions": "tokens"} | options
    return PatchTransformer(tokenizer(variate), **arguments).eval()


@VARIATES
def test_padding_behind_the_channels_changes_nothing(variate: str) -> None:
    batch, made = trials(), model(variate)
    more = noise(3, channels=6, time=70, sfreq=100.0)
    real = torch.arange(6) < 5
    padded = replace(
        more,
        x=torch.cat([batch.x, 1e3 * more.x[:, :1]], 1),
        channel_mask=real.expand(3, -1),
        kind=torch.where(real, more.kind, -1),
    )
    whole = made.encode(batch).tokens
    torch.testing.assert_close(made.encode(padded).tokens, whole, atol=1e-5, rtol=1e-4)


def test_without_sensor_positions_a_token_is_known_by_its_position_alone() -> None:
    batch, made = trials(), model("uni")
    order = [3, 1, 4, 0, 2]
    shuffled = replace(batch, x=batch.x[:, order])
    moved = replace(batch, position=batch.position + 0.01)
    first = made.encode(batch).tokens.unflatten(1, (5, 4))
    torch.testing.assert_close(made.encode(moved).tokens.unflatten(1, (5, 4)), first)
    again = made.encode(shuffled).tokens.unflatten(1, (5, 4))
    torch.testing.assert_close(again, first[:, order], atol=1e-5, rtol=1e-4)


def test_width_of_the_feedforward_is_an_argument() -> None:
    assert model("whole").blocks[0].widen.weight.shape == (24, 16)
    assert model("whole", feedforward=None).blocks[0].widen.weight.shape == (64, 16)


@VARIATES
def test_every_parameter_learns(variate: str) -> None:
    made = model(variate).train()
    readout = FlatLinear(16, 2, n_tokens=made.tokenizer.n_tokens)
    loss = readout(made.encode(trials())).square().sum()
    loss.backward()
    still = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().max()]
    assert still == []


def test_flat_readout_keeps_places_apart() -> None:
    made, batch = model("multi"), trials()
    readout = FlatLinear(16, 2, n_tokens=4)
    embedding = made.encode(batch)
    flipped = replace(embedding, tokens=embedding.tokens.flip(1))
    assert not torch.allclose(readout(embedding), readout(flipped))
    with pytest.raises(ValueError, match=r"4 tokens, n_tokens is 208. Set `n_tokens: 4`"):
        FlatLinear(16, 2)(embedding)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variate": "both"}, "variate is 'both'"),
        ({"augment": ["noise"]}, "expected 'mask' and 'channel' at most"),
        ({"augment_share": 1.0}, "share from 0 to below 1"),
        ({"patch": 71}, "a patch of 1 to 70 samples"),
        ({"stride": -1}, "a stride above 0"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(**options)


def test_other_montages_and_lengths_are_refused() -> None:
    made = tokenizer()
    with pytest.raises(ValueError, match="TrialPatches"):
        made(trials(samples=80))
    with pytest.raises(ValueError, match="TrialPatches"):
        made(trials(channels=4))
    with pytest.raises(ValueError, match="positions 'head' is not one of"):
        model("uni", positions="head")
