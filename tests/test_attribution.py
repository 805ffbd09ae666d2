from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.interpret import (
    attribution_similarity,
    band_power,
    deletion_curve,
    gradient_x_input,
    integrated_gradients,
    lateralisation,
    occlude_bands,
    occlude_channels,
    occlude_time,
    randomized_copy,
    remove_band,
)

GOLDEN = Path(__file__).parent / "golden" / "interpret" / "attribution.safetensors"
SFREQ, N_CHANNELS, N_TIMES = 100.0, 8, 200
CHANNEL, BAND = 5, "mu"


def make_batch(x: Tensor, y: Tensor | None = None, tokens: Tokens | None = None) -> Batch:
    n, channels, _ = x.shape
    position = torch.zeros(n, channels, 3)
    position[..., 0] = torch.linspace(-0.08, 0.08, channels)
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.zeros(n, channels, dtype=torch.int64),
        position=position,
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=SFREQ,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        y=y,
        tokens=tokens,
    )


class PowerNet(nn.Module):
    """Spatial filter, 10 Hz filter, power, linear: uses one channel and one band only."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Conv1d(N_CHANNELS, 1, 1, bias=False)
        self.temporal = nn.Conv1d(1, 2, 50, bias=False)
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.spatial.weight.zero_()
            self.spatial.weight[0, CHANNEL] = 1.0
            t = torch.arange(50) / SFREQ
            window = torch.hann_window(50)
            self.temporal.weight[0, 0] = torch.sin(2 * torch.pi * 10 * t) * window / 25
            self.temporal.weight[1, 0] = torch.cos(2 * torch.pi * 10 * t) * window / 25
            self.head.weight[:] = torch.tensor([[1.0], [-1.0]])
            self.head.bias.zero_()

    def forward(self, batch: Batch) -> Tensor:
        x = self.temporal(self.spatial(batch.x * batch.channel_mask[..., None]))
        return self.head(x.square().sum(1).mean(-1, keepdim=True))


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Noise, with a 10 Hz rhythm everywhere that only one channel's weight looks at."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(N_TIMES) / SFREQ
    phase = torch.rand(16, N_CHANNELS, 1, generator=generator) * 2 * torch.pi
    rhythm = 4 * torch.sin(2 * torch.pi * 10 * t + phase)
    noise = torch.randn(16, N_CHANNELS, N_TIMES, generator=generator)
    return make_batch(rhythm + noise, y=torch.arange(16) % 2)


@pytest.fixture(scope="module")
def model() -> PowerNet:
    return PowerNet().eval()


class Golden(nn.Module):
    def __init__(self, g: dict[str, Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(4, 6, 5)
        self.conv2 = nn.Conv1d(6, 6, 3, stride=2)
        self.fc = nn.Linear(42, 3)
        self.double()
        self.load_state_dict(
            {k.removeprefix("param."): v for k, v in g.items() if k.startswith("param.")}
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(1))


@pytest.mark.golden
def test_gradients_and_occlusion_equal_the_reference_values() -> None:
    g = load_file(GOLDEN)
    model, x, target, baseline = Golden(g), g["x"], g["target"], g["baseline"]
    close = {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(model(x).detach(), g["logits"], **close)
    found = gradient_x_input(model, x, target)
    torch.testing.assert_close(found.values, g["input_x_gradient"], **close)
    for steps in (20, 50):
        found = integrated_gradients(model, x, target, baseline=baseline, steps=steps)
        torch.testing.assert_close(found.values, g[f"ig_gausslegendre{steps}"], **close)
        torch.testing.assert_close(found.delta, g[f"ig_delta_gausslegendre{steps}"], **close)
    found = integrated_gradients(model, x, target, baseline=baseline, steps=50, nodes="midpoint")
    torch.testing.assert_close(found.values, g["ig_midpoint50"], **close)
    found = occlude_time(model, x, target, length=4, baseline=baseline, per_channel=True)
    torch.testing.assert_close(found.values, g["occlusion_ch1_win4_stride4"], **close)


@pytest.mark.parametrize("method", [gradient_x_input, integrated_gradients, occlude_channels])
def test_every_method_finds_the_planted_channel(method, model: PowerNet, batch: Batch) -> None:
    found = method(model, batch, 0)
    if "time" in found.axes:
        found = found.over("time")
    share = found.values.abs() / found.values.abs().sum(1, keepdim=True)
    assert (share[:, CHANNEL] > 0.99).all()
    assert (found.values[:, CHANNEL] > 0).all()


def test_occlusion_finds_the_planted_band(model: PowerNet, batch: Batch) -> None:
    found = occlude_bands(model, batch, 0)
    names = [found.bands[i] for i in found.values.argmax(1)]
    assert set(names) == {BAND}
    both = occlude_bands(
        model, batch, 0, per_channel=True, bands={"mu": (8.0, 13.0), "beta": (13.0, 30.0)}
    )
    assert both.axes == ("batch", "channel", "band")
    assert int(both.values.mean(0).flatten().argmax()) == CHANNEL * 2


def test_occlusion_finds_the_planted_moment(model: PowerNet, batch: Batch) -> None:
    x = torch.randn(4, N_CHANNELS, N_TIMES, generator=torch.Generator().manual_seed(1)) * 0.1
    x[..., 100:140] += batch.x[:4, :, 100:140]
    found = occlude_time(model, make_batch(x), 0, length=20, stride=10)
    assert found.axes == ("batch", "time")
    assert ((found.values.argmax(1) >= 90) & (found.values.argmax(1) < 150)).all()


def test_integrated_gradients_are_complete(model: PowerNet, batch: Batch) -> None:
    found = integrated_gradients(model, batch, 0, steps=8)
    assert found.completeness_error is not None
    assert found.completeness_error < 1e-4
    torch.testing.assert_close(found.values.sum((1, 2)), found.change, rtol=1e-3, atol=1e-4)


def test_a_randomised_model_is_explained_differently(model: PowerNet, batch: Batch) -> None:
    generator = torch.Generator().manual_seed(0)
    before = [p.clone() for p in model.parameters()]
    other = randomized_copy(model, generator=generator)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    true = occlude_channels(model, batch, 0)
    false = occlude_channels(other, batch, 0)
    share = false.values.abs().mean(0) / false.values.abs().mean(0).sum()
    assert share[CHANNEL] < 0.5
    assert abs(attribution_similarity(true, false)) < 0.6
    assert attribution_similarity(true, true) == pytest.approx(1.0)


def test_randomising_draws_nothing_from_the_global_generator(model: PowerNet) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = randomized_copy(model, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.rand(1), expected)
    second = randomized_copy(model, generator=torch.Generator().manual_seed(1))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_randomising_some_modules_leaves_the_others(model: PowerNet) -> None:
    other = randomized_copy(model, generator=torch.Generator().manual_seed(1), only=["head"])
    assert torch.equal(other.spatial.weight, model.spatial.weight)
    assert not torch.equal(other.head.weight, model.head.weight)
    with pytest.raises(ValueError, match="no module 'heads'"):
        randomized_copy(model, generator=torch.Generator(), only=["heads"])


def test_deleting_the_evidence_lowers_the_logit_faster_than_chance(
    model: PowerNet, batch: Batch
) -> None:
    generator = torch.Generator().manual_seed(0)
    found = occlude_channels(model, batch, 0)
    curve = deletion_curve(model, batch, found, generator=generator, steps=8)
    assert curve.fraction.tolist() == [i / 8 for i in range(9)]
    assert curve.most[1] < 0.01 * curve.most[0]
    assert curve.least[7] == pytest.approx(curve.least[0])
    assert curve.gain > 0.2 * curve.most[0]


def test_neighbours_are_taken_away_together(model: PowerNet, batch: Batch) -> None:
    found = occlude_channels(model, batch, 0, radius_m=0.025)
    touched = (found.values.abs() > 0.01).all(0)
    assert touched.tolist() == [False] * 4 + [True] * 3 + [False]


@pytest.mark.parametrize("how", ["zero", "mean", "mask"])
def test_all_replacements_agree_on_a_zero_mean_signal(
    how: str, model: PowerNet, batch: Batch
) -> None:
    found = occlude_channels(model, batch, 0, how=how)
    reference = occlude_channels(model, batch, 0)
    torch.testing.assert_close(found.values, reference.values, rtol=1e-2, atol=1e-2)


def test_cached_tokens_of_the_old_signal_are_not_used() -> None:
    tokens = Tokens(
        values=torch.ones(2, 3, 4),
        mask=torch.ones(2, 3, dtype=torch.bool),
        channel=torch.zeros(2, 3, dtype=torch.int64),
        time=torch.zeros(2, 3),
    )
    batch = make_batch(torch.randn(2, N_CHANNELS, 20), tokens=tokens)

    def function(b: Batch) -> Tensor:
        assert b.tokens is None
        return b.x.mean(-1)

    found = occlude_channels(function, batch, 1)
    assert (found.values[:, 1].abs() > 0).all()


def test_weights_gradients_and_the_batch_are_left_alone(model: PowerNet, batch: Batch) -> None:
    before = batch.x.clone()
    integrated_gradients(model, batch, 0, steps=2)
    with torch.no_grad():
        gradient_x_input(model, batch, 0)
    occlude_bands(model, batch, 0)
    occlude_time(model, batch, 0, length=50)
    assert torch.equal(batch.x, before)
    assert not batch.x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_function_without_gradient_says_what_to_use_instead(batch: Batch) -> None:
    with pytest.raises(ValueError, match="Use occlusion"):
        gradient_x_input(lambda b: b.x.detach().mean(-1), batch, 0)


def test_targets_default_to_the_predicted_class(model: PowerNet, batch: Batch) -> None:
    found = occlude_channels(model, batch)
    assert torch.equal(found.target, model(batch).argmax(1))
    with pytest.raises(ValueError, match=r"shape \(3,\) for 16 windows"):
        occlude_channels(model, batch, torch.zeros(3, dtype=torch.int64))


def test_class_means_average_the_windows_of_each_class(model: PowerNet, batch: Batch) -> None:
    found = occlude_channels(model, batch, 0)
    means = found.class_means(batch.y)
    assert set(means) == {0, 1}
    np.testing.assert_allclose(means[1], found.values[1::2].double().mean(0).numpy())


def test_lateralisation_is_positive_on_the_right() -> None:
    position = np.array([[-0.05, 0, 0.1], [0.05, 0, 0.1], [0.0, 0, 0.12], [np.nan] * 3])
    assert lateralisation(np.array([0.0, -2.0, 9.0, 9.0]), position) == 1.0
    assert lateralisation(np.array([3.0, 1.0, 9.0, 9.0]), position) == -0.5
    with pytest.raises(ValueError, match="0 channels left and 1 right"):
        lateralisation(np.ones(4), position, names=list("abcd"), only=["b"])


def test_removing_a_band_leaves_the_others_untouched() -> None:
    t = torch.arange(200) / SFREQ
    low, high = torch.sin(2 * torch.pi * 10 * t), torch.sin(2 * torch.pi * 20 * t)
    x = (low + high).expand(1, 1, -1)
    torch.testing.assert_close(remove_band(x, SFREQ, 8.0, 13.0)[0, 0], high, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="holds no frequency"):
        remove_band(x, SFREQ, 60.0, 70.0)


def test_band_power_of_a_sine_is_its_variance() -> None:
    t = np.arange(400) / SFREQ
    x = 10 * np.sin(2 * np.pi * 10 * t)[None, None]
    power = band_power(x, SFREQ)
    assert power.shape == (1, 1, 5)
    assert power[0, 0, 2] == pytest.approx(10 * np.log10(50), abs=0.01)
    assert (power[0, 0, [0, 4]] < -20).all()
