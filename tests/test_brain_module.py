"""Brain module: parity is in test_golden; here places, absent channels, people, and learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from noise_batches import batch_of, generator, noise
from torch import Tensor

from neurofm.batch import Batch, BrainModel
from neurofm.cards import build, spec_of
from neurofm.models import BrainModule, ImageBrainModule
from neurofm.models.brain_module import flatten_positions, present_in
from neurofm.nn import ClipLoss, SigLipLoss
from neurofm.nn.dilated_conv import TimeSummary, dilated_blocks
from neurofm.nn.spatial_attention import SpatialAttention, fourier_code
from neurofm.tasks import Retrieve, search_scores
from neurofm.tasks.in_memory import fit_windows
from neurofm.units import Kind

CLOSE = {"atol": 1e-5, "rtol": 1e-4}
SMALL = {"merged": 8, "code": 32, "mixed": 8, "hidden": 8, "depth": 2}


def small(**changes: object) -> ImageBrainModule:
    torch.manual_seed(0)
    arguments = {"n_times": 32, "n_subjects": 3, "outputs": 6, "width": 16, "head_width": 16}
    arguments |= {**SMALL, "baseline_s": None, **changes}
    return ImageBrainModule(**arguments).eval()


def padded(batch: Batch) -> Batch:
    """Two more channels that are padding, in front."""

    def more(value: Tensor, fill: float = 0) -> Tensor:
        return torch.cat([value.new_full((len(value), 2, *value.shape[2:]), fill), value], 1)

    names = ("x", "channel_mask", "position", "orientation", "has_position")
    changed = {name: more(getattr(batch, name)) for name in names}
    return replace(batch, **changed, kind=more(batch.kind, int(Kind.PAD)))


def test_flattened_places_span_the_unit_square_and_keep_sides() -> None:
    batch = noise(2, channels=9)
    place = flatten_positions(batch.position, batch.channel_mask)
    assert place.amin(1).abs().max() < 1e-6 and (place.amax(1) - 1).abs().max() < 1e-6
    left = batch.position[0, :, 0].argmin(), batch.position[0, :, 0].argmax()
    assert place[0, left[0], 0] < place[0, left[1], 0]
    hidden = batch.channel_mask.clone()
    hidden[1, 3] = False
    without = flatten_positions(batch.position, hidden)
    assert not present_in(without)[1, 3] and present_in(without).sum() == 17


@pytest.mark.parametrize("kind", [ImageBrainModule, BrainModule])
def test_padding_and_order_of_channels_do_not_change_the_embedding(kind: type) -> None:
    torch.manual_seed(0)
    more = {"n_times": 32, "width": 16, "head_width": 16} if kind is ImageBrainModule else {}
    model = kind(n_subjects=3, outputs=6, **SMALL, **more).eval()
    batch = noise(2, channels=7, time=32)
    order = torch.randperm(7, generator=generator())
    swapped = replace(
        batch,
        x=batch.x[:, order],
        position=batch.position[:, order],
    )
    with torch.no_grad():
        whole = model.encode(batch).pooled()
        assert isinstance(model, BrainModel) and whole.shape == (2, 6)
        torch.testing.assert_close(model.encode(padded(batch)).pooled(), whole, **CLOSE)
        torch.testing.assert_close(model.encode(swapped).pooled(), whole, **CLOSE)


def test_samples_of_channels_without_a_place_are_not_read() -> None:
    batch = noise(2, channels=6, time=32)
    known = batch.has_position.clone()
    known[:, 2] = False
    batch = replace(batch, has_position=known)
    changed = replace(batch, x=batch.x + 100 * (torch.arange(6) == 2).unsqueeze(1))
    model = small()
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode(changed).pooled(), model.encode(batch).pooled(), **CLOSE
        )


def test_windows_with_other_sensors_each_use_their_own_places() -> None:
    first, second = noise(1, channels=6, time=32), noise(1, channels=6, time=32)
    second = replace(second, position=second.position.flip(1), x=second.x * 2)
    stacked = {
        name: torch.cat([getattr(first, name), getattr(second, name)])
        for name, value in vars(first).items()
        if isinstance(value, Tensor)
    }
    both = replace(first, **stacked)
    model = small()
    with torch.no_grad():
        alone = torch.cat([model.encode(part).pooled() for part in (first, second)])
        torch.testing.assert_close(model.encode(both).pooled(), alone, **CLOSE)


def test_people_have_matrices_of_their_own() -> None:
    batch, model = noise(2, time=32), small()
    batch = replace(batch, x=batch.x[:1].expand(2, -1, -1), subject=torch.tensor([0, 2]))
    with torch.no_grad():
        first, second = model.encode(batch).pooled()
        assert (first - second).abs().max() > 1e-3
        first, second = small(n_subjects=None).encode(batch).pooled()
    torch.testing.assert_close(first, second)


def test_a_person_it_was_not_built_for_stops() -> None:
    batch = replace(noise(2, time=32), subject=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="subject 3 of the batch, built for 3"):
        small().encode(batch)


def test_spatial_dropout_leaves_out_what_is_near_a_point() -> None:
    torch.manual_seed(1)
    attention = SpatialAttention(4, code=8, dropout_radius=0.3).train()
    place = torch.rand(1, 40, 2)
    weights = attention.weights(place, torch.ones(1, 40, dtype=torch.bool), generator=generator())
    point = torch.rand(2, generator=generator())
    near = (place[0] - point).norm(dim=-1) <= 0.3
    assert 0 < near.sum() < 40
    assert bool((weights[0, :, near] == 0).all()) and bool((weights[0, :, ~near] > 0).all())
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4))


def test_nothing_to_attend_to_is_zero_and_has_no_nan_in_its_gradient() -> None:
    attention = SpatialAttention(4, code=8, dropout_radius=2.0).train()
    out = attention(torch.randn(2, 5, 9), torch.rand(2, 5, 2), torch.ones(2, 5, dtype=torch.bool))
    out.square().sum().backward()
    assert bool((out == 0).all()) and bool(attention.heads.grad.isfinite().all())


@pytest.mark.parametrize("how", ["mean", "linear", "attention"])
def test_time_is_summed_up(how: str) -> None:
    summary = TimeSummary(4, how, n_times=9)
    x = torch.randn(2, 4, 9, generator=generator())
    assert summary(x).shape == (2, 4)
    if how == "mean":
        torch.testing.assert_close(summary(x), x.mean(-1))
    if how == "attention":  # a weighted mean lies between the extremes
        assert bool(((summary(x) <= x.amax(-1)) & (summary(x) >= x.amin(-1))).all())


def test_bad_arguments_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="twice a square"):
        fourier_code(torch.zeros(1, 1, 2), 30)
    with pytest.raises(ValueError, match="odd kernel"):
        dilated_blocks(4, 4, 2, kernel=4)
    with pytest.raises(ValueError, match="give n_times"):
        TimeSummary(4, "linear")
    with pytest.raises(ValueError, match="heads"):
        ImageBrainModule(heads=("mse",))
    with pytest.raises(ValueError, match="windows of 40 samples"):
        small().encode(noise(1, time=40))
    with pytest.raises(ValueError, match="baseline"):
        small(baseline_s=3.0).encode(noise(1, time=32))


def test_baseline_is_that_of_the_start_of_the_window() -> None:
    batch, model = noise(2, time=32), small(baseline_s=0.25)
    moved = replace(batch, x=batch.x + torch.randn(2, 5, 1, generator=generator()))
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode(moved).pooled(), model.encode(batch).pooled(), atol=1e-4, rtol=1e-4
        )


def test_spec_rebuilds_the_model() -> None:
    model = small()
    again = build(spec_of(model))
    again.load_state_dict(model.state_dict())
    batch = noise(1, time=32)
    with torch.no_grad():
        torch.testing.assert_close(
            again.eval().encode(batch).pooled(), model.encode(batch).pooled()
        )


# Losses


def test_only_candidates_are_normalised_by_default() -> None:
    x, y = (torch.randn(3, 5, generator=generator(i)) for i in (1, 2))
    loss = ClipLoss()
    torch.testing.assert_close(loss(x, y), loss(x, 7 * y), **CLOSE)
    assert abs(loss(x, y) - loss(7 * x, y)) > 1e-2
    both = ClipLoss(norm="xy", temperature=0.5)
    torch.testing.assert_close(both(x, y), both(7 * x, 3 * y), **CLOSE)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=-1)
    torch.testing.assert_close(both.scores(x, y), cosine / 0.5, **CLOSE)


def test_symmetric_loss_is_the_mean_of_both_directions() -> None:
    x, y = (torch.randn(4, 5, generator=generator(i)) for i in (1, 2))
    there, back = ClipLoss(norm="xy"), ClipLoss(norm="xy", symmetric=True)
    torch.testing.assert_close(back(x, y), (there(x, y) + there(y, x)) / 2, **CLOSE)


def test_further_negatives_make_the_search_harder() -> None:
    x, y = (torch.randn(4, 5, generator=generator(i)) for i in (1, 2))
    assert ClipLoss()(x, torch.cat([y, y.flip(0)])) > ClipLoss()(x, y)
    with pytest.raises(ValueError, match="4 estimates and 3 candidates"):
        ClipLoss()(x, y[:3])
    with pytest.raises(ValueError, match="as many outputs"):
        ClipLoss()(x, y[:, :3])


def test_siglip_takes_equal_targets_for_positives() -> None:
    y = torch.eye(4)[[0, 0, 1]]
    loss = SigLipLoss(bias=0.0, temperature=0.1)
    # Each of the first two has two positives: its estimate equals both targets.
    wrong = loss(torch.eye(4)[[0, 2, 1]], y)
    assert loss(y, y) < wrong
    expected = torch.nn.functional.softplus(-10.0 * torch.ones(5)).sum() + 4 * torch.log(
        torch.tensor(2.0)
    )
    torch.testing.assert_close(loss(y, y), expected, **CLOSE)


# Learning


def planted(n: int, *, seed: int) -> Batch:
    """Four numbers, each told by the sensors on the right alone, early in the window."""
    random = generator(seed)
    code = torch.randn(n, 4, generator=random)
    mixing = torch.randn(12, 4, generator=generator(5)) * (torch.arange(12) >= 6).unsqueeze(1)
    # The others hold strong noise, which is worth turning away from.
    x = (
        torch.randn(n, 12, 32, generator=random)
        * torch.where(torch.arange(12) >= 6, 1.0, 4.0)[:, None]
    )
    x[..., 8:20] += 1.5 * (code @ mixing.T).unsqueeze(-1)
    side = torch.where(torch.arange(12) >= 6, 0.07, -0.07)
    ring = torch.arange(12) % 6 * 0.03 - 0.075
    position = torch.stack([side, ring, torch.full((12,), 0.06)], 1)
    return replace(batch_of(x), position=position.expand(n, -1, -1), y=code)


def test_planted_codes_are_found_where_they_are() -> None:
    train, test = planted(256, seed=1), planted(60, seed=2)
    torch.manual_seed(0)
    model = small(outputs=4, n_subjects=1, dropout_radius=0.0)
    loss = ClipLoss(norm="xy", temperature=0.1)
    task = Retrieve(model, n_outputs=4, contrast=loss, lr=1e-2, final_lr=0.1)
    fit_windows(task, train, steps=100, batch_size=64, seed=0)
    with torch.no_grad():
        found = search_scores(task(test).numpy(), test.y.numpy())
        share = model.sensor_weights(test)[0, :, 6:].sum(1)
    assert found["candidates"] == 60
    assert found["top_1"] > 0.15 and found["relative_median_rank"] < 0.1  # chance: 0.017, 0.5
    # Every merged output turned towards the sensors that tell.
    assert share.min() > 0.5 and share.mean() > 0.65
