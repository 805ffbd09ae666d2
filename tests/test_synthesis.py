"""Feature synthesis: planted tuning comes back, and nothing of the network is changed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from neurofm.interpret.synthesis import SpatialPrior, SpectralPrior, TimePrior, Unit, maximise

SFREQ, TIMES, CHANNELS = 100.0, 100, 5
PLANTED = ((2, 10.0), (4, 20.0), (0, 6.0))  # channel and Hz of each unit
FAST = {"windows": None, "sfreq": SFREQ, "steps": 40, "restarts": 2, "lr": 0.2}


class Tuned(nn.Module):
    """Units that see one frequency of one channel: energy of two filters in quadrature."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(-25, 26) / SFREQ
        bell = torch.exp(-0.5 * (time / 0.1) ** 2) / 20
        weight = torch.zeros(2 * len(PLANTED), CHANNELS, 51)
        for unit, (channel, hertz) in enumerate(PLANTED):
            weight[2 * unit, channel] = torch.cos(2 * torch.pi * hertz * time) * bell
            weight[2 * unit + 1, channel] = torch.sin(2 * torch.pi * hertz * time) * bell
        self.conv = nn.Conv1d(CHANNELS, len(weight), 51, padding=25, bias=False)
        self.conv.weight.data = weight
        self.norm = nn.BatchNorm1d(len(weight))
        self.energy = nn.Identity()
        self.readout = nn.Linear(len(PLANTED), 2)

    def forward(self, x: Tensor) -> Tensor:
        pairs = self.norm(self.conv(x)).unflatten(1, (-1, 2))
        return self.readout(self.energy(pairs.square().sum(2)).mean(-1))


def pink(n: int = 16) -> Tensor:
    """Real windows: 1/f noise, 20 times larger than 1."""
    noise = torch.randn(n, CHANNELS, TIMES, generator=torch.Generator().manual_seed(1))
    frequency = torch.fft.rfftfreq(TIMES, 1 / SFREQ).clamp(min=0.5)
    return 20 * torch.fft.irfft(torch.fft.rfft(noise) / frequency, n=TIMES)


@pytest.fixture(scope="module")
def real() -> Tensor:
    return pink()


@pytest.fixture
def model() -> Tuned:
    return Tuned().train()


@pytest.mark.parametrize("unit", [0, 1])
@pytest.mark.parametrize("kind", ["spectral", "time", "spatial"])
def test_planted_tuning_comes_back(model: Tuned, real: Tensor, unit: int, kind: str) -> None:
    prior = {
        "spectral": lambda: SpectralPrior.of(real, sfreq=SFREQ, band=(1, 40)),
        "time": lambda: TimePrior.of(real),
        "spatial": lambda: SpatialPrior.of(real, sfreq=SFREQ, band=(1, 40)),
    }[kind]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = maximise(
        model, Unit("energy", unit, axis=1), prior, **{**FAST, "windows": real}, control="none"
    )
    channel, hertz = PLANTED[unit]
    assert abs(found.peak_hz - hertz) <= 1
    assert int(found.topography().argmax()) == channel
    assert found.tuning is not None
    assert found.tuning.best_channel == channel
    assert abs(found.tuning.best_hz - hertz) <= 1.5
    assert found.percentile == 100
    assert found.best > found.trace[0].max()
    assert model.training and model.norm.training
    assert all(torch.equal(before[name], new) for name, new in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.energy._forward_hooks


def test_band_limits_are_hard_and_amplitudes_bounded(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(8, 12))
    found = maximise(
        model, Unit("energy", 1, axis=1), prior, **{**FAST, "windows": real}, control="none"
    )
    frequency, power = found.spectrum()
    outside = (frequency < 7.9) | (frequency > 12.1)
    assert power[:, outside].max() < 1e-9 * power.max()
    rms = (real - real.mean(-1, keepdim=True)).square().mean((0, 2)).sqrt().numpy()
    assert (found.signals.std(-1) <= 1.001 * rms).all()


def test_the_control_is_a_network_with_random_weights(model: Tuned, real: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1, 40))
    found = maximise(model, Unit("energy", 0, axis=1), prior, **{**FAST, "windows": real})
    assert found.control is not None and found.control_values is not None
    assert found.control_kind == "weights"
    assert found.best > 2 * found.control_values[0]
    assert all(torch.equal(before[name], new) for name, new in model.state_dict().items())
    other = maximise(
        model, Unit("energy", 0, axis=1), prior, **{**FAST, "windows": real}, control="unit"
    )
    assert other.control is not None and other.control.objective != found.objective
    assert abs(other.control.peak_hz - found.peak_hz) > 2
    assert "random weights" not in str(other) and "above 100 %" in str(found)
    assert found.plot().axes and other.plot().axes


def test_a_pure_tone_beyond_all_real_windows_is_flagged(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1, 40))
    found = maximise(
        model, Unit("energy", 0, axis=1), prior, **{**FAST, "windows": real}, control="none"
    )
    assert found.flagged and not found.realistic and "CAUTION" in str(found)
    usual = dataclasses.replace(found, unlikeness=found.real_unlikeness[:1])
    assert usual.realistic and not usual.flagged
