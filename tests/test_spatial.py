"""Spatial filters are found by what they read, and their patterns are where the source is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurofm.interpret.spatial import patterns, spatial_filters

CHANNELS, TIME = 8, 50


class Temporal2d(nn.Module):
    """Like ShallowFBCSPNet: filters in time, then over all channels."""

    def __init__(self, kernel: int = 1) -> None:
        super().__init__()
        self.time = nn.Conv2d(1, 5, (1, 7))
        self.space = nn.Conv2d(5, 6, (CHANNELS, kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.space(self.time(x.unsqueeze(1)))


class Combined(Temporal2d):
    """Uses the weights of its layers without calling them."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x.unsqueeze(1), self.time.weight)
        return nn.functional.conv2d(y, self.space.weight)


class Misleading(nn.Module):
    """The first layer has as many inputs as there are channels, but reads time."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(CHANNELS, CHANNELS)
        self.mix = nn.Linear(CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x[..., : CHANNELS * 5].unflatten(-1, (5, CHANNELS)))  # ... channel 5 8
        return self.mix(y.flatten(2).transpose(1, 2))


class AnySet(nn.Module):
    """Treats every channel alike."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Linear(TIME, CHANNELS)
        self.out = nn.Linear(CHANNELS, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.each(x).mean(1))


def signal(seed: int = 0) -> Tensor:
    return torch.randn(4, CHANNELS, TIME, generator=torch.Generator().manual_seed(seed))


def test_the_layer_that_spans_all_channels_is_found() -> None:
    model = Temporal2d()
    found = spatial_filters(model, model, signal())
    assert found.site == "space" and found.weights.shape == (6, CHANNELS)
    inside = nn.Sequential(Combined())
    assert spatial_filters(inside, inside, signal()).site == "0.space"
    linear = nn.Conv1d(CHANNELS, 3, 1)
    own = spatial_filters(linear, linear, signal())
    np.testing.assert_allclose(own.weights, linear.weight.detach()[..., 0].numpy(), rtol=1e-6)


def test_a_filter_over_channels_and_time_gives_its_best_channel_weights() -> None:
    model = nn.Conv1d(CHANNELS, 2, 5)
    over_channels, over_time = torch.randn(2, CHANNELS), torch.randn(2, 5)
    with torch.no_grad():
        model.weight.copy_(over_channels[:, :, None] * over_time[:, None])
    found = spatial_filters(model, model, signal()).weights
    for mine, theirs in zip(found, over_channels.numpy(), strict=True):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.9999


def test_sizes_that_agree_by_chance_mislead_nobody() -> None:
    model = Misleading()
    assert spatial_filters(model, model, signal()).site == "mix"
    with pytest.raises(ValueError, match="AnySet has weights for the 8"):
        spatial_filters(AnySet(), AnySet(), signal())


def test_hooks_are_gone_and_weights_stay() -> None:
    model = Temporal2d()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spatial_filters(model, model, signal())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_pattern_is_where_the_source_is_and_not_where_the_weights_are() -> None:
    draw = np.random.default_rng(0)
    source, noise = draw.standard_normal((2, 200, 100))
    x = 0.01 * draw.standard_normal((200, CHANNELS, 100))
    x[:, 2] += source + noise  # the source is here only
    x[:, 5] += noise
    weights = np.zeros((2, CHANNELS))
    weights[0, 2], weights[0, 5] = 1.0, -1.0  # takes the noise away through channel 5
    weights[1, 7] = 1.0
    found = patterns(weights, x)
    assert found.order == (0, 1)
    assert abs(found.values[0]).argmax() == 2
    assert abs(found.values[0, 5]) < 0.1 * abs(found.values[0, 2])
    np.testing.assert_allclose(found.values[0, 2], 1.0, atol=0.05)  # deviation of the source
    assert found.share[0] > 0.2 > found.share[1] > 0


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="filters of 3 channels for signals of 8"):
        patterns(np.ones((1, 3)), signal().numpy())
    with pytest.raises(ValueError, match="no filter varies"):
        patterns(np.zeros((2, CHANNELS)), signal().numpy())
