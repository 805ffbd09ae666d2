"""Feature synthesis: planted tuning comes back, and nothing of the network is changed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from noise_batches import noise
from torch import Tensor, nn

from neurofm.interpret.synthesis import (
    Amplitude,
    Covariance,
    Direction,
    GeneratorPrior,
    Latent,
    Logit,
    LogSpectrum,
    SpatialPrior,
    SpectralPrior,
    TimePrior,
    Transforms,
    Unit,
    Variation,
    gaussian_volume,
    invert,
    maximise,
    multifaceted,
    tokenizer_prior,
)
from neurofm.nn import FSQ
from neurofm.tokenizers import CodedPatches

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
        "spectral": lambda: SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0)),
        "time": lambda: TimePrior.of(real),
        "spatial": lambda: SpatialPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0)),
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
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(8.0, 12.0))
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
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
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
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
    found = maximise(
        model, Unit("energy", 0, axis=1), prior, **{**FAST, "windows": real}, control="none"
    )
    assert found.flagged and not found.realistic and "CAUTION" in str(found)
    usual = dataclasses.replace(found, unlikeness=found.real_unlikeness[:1])
    assert usual.realistic and not usual.flagged


def test_every_objective_finds_what_it_is_told(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
    settings = {**FAST, "windows": real, "steps": 20, "control": "none"}
    with torch.no_grad():
        model.readout.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    cases = {
        "logit": (Logit(0, against=1), 10.0),
        "direction": (Direction("energy", torch.tensor([0.0, 0.0, 1.0]), axis=1), 6.0),
        "latent": (Latent("energy", Flipped(), 2, axis=1), 10.0),
        "sum": (2 * Unit("energy", 2, axis=1) - Unit("energy", 0, axis=1), 6.0),
    }
    for name, (objective, hertz) in cases.items():
        found = maximise(model, objective, prior, **settings)
        assert abs(found.peak_hz - hertz) <= 1, name
        assert found.best == pytest.approx(found.values.max())


class Flipped:
    """A dictionary whose latents are the units in reverse order."""

    def pre_activations(self, x: Tensor) -> Tensor:
        return x.flip(-1)


def test_the_spatial_prior_gives_the_pattern_of_a_filter() -> None:
    """The best signal under a root of the covariance is the covariance times the weights."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(4, 4, generator=generator)
    real = mixing @ torch.randn(32, 4, 64, generator=generator)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    model = Filter(weights)
    prior = SpatialPrior.of(real, spectral=False)
    found = maximise(
        model, Logit(0), prior, windows=real, steps=80, restarts=1, lr=0.2, control="none",
        transforms=None,
    )  # fmt: skip
    covariance = torch.einsum("wct,wdt->cd", real, real)
    pattern = (covariance @ weights).numpy()
    course = found.signals[0] @ np.sign(np.arange(64) % 2 - 0.5)
    assert np.corrcoef(course, pattern)[0, 1] ** 2 > 0.98


def test_gaussian_volumes_keep_what_is_smooth_of_a_ragged_tuning() -> None:
    axes = torch.arange(6) * 0.003
    place = torch.cartesian_prod(axes, axes, axes)  # 3 mm voxels
    apart = torch.cdist(place, place).double()
    mixing = gaussian_volume(place, fwhm_mm=8.0)
    sigma = 0.008 / (8 * np.log(2)) ** 0.5
    wanted = torch.exp(-apart.square() / (4 * sigma**2))
    torch.testing.assert_close((mixing @ mixing.T).double(), wanted, atol=0.02, rtol=0)
    assert mixing.shape[1] < len(place) / 2

    generator = torch.Generator().manual_seed(0)
    blob = torch.exp(-(place - 0.009).square().sum(1) / (2 * 0.004**2))
    ragged = blob + 0.5 * torch.randn(len(place), generator=generator)
    real = mixing @ torch.randn(24, mixing.shape[1], 16, generator=generator)
    prior = SpatialPrior.of(real, mixing=mixing, spectral=False)
    found = maximise(
        Filter(ragged), Logit(0), prior, windows=real, steps=50, restarts=1, lr=0.2, control="none",
        transforms=None,
    )  # fmt: skip
    course = found.signals[0] @ np.sign(np.arange(16) % 2 - 0.5)
    alike = [np.corrcoef(one, blob.numpy())[0, 1] for one in (course, ragged.numpy())]
    assert alike[0] > 0.8 > alike[1] + 0.2
    with pytest.raises(ValueError, match="more than 0 mm"):
        gaussian_volume(place, fwhm_mm=0)


class Filter(nn.Module):
    """Alternating course of one spatial filter."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.arange(x.shape[-1]) % 2 - 0.5
        return (self.weights @ x @ sign)[:, None]


def test_regularisers_and_transforms_are_about_one_for_real_windows(real: Tensor) -> None:
    for regulariser in (
        Amplitude.of(real),
        Variation.of(real),
        LogSpectrum.of(real, sfreq=SFREQ, band=(1.0, 40.0)),
        Covariance.of(real),
    ):
        assert float(regulariser(real).mean()) == pytest.approx(1, abs=0.3)
        assert float(regulariser(3 * real).mean()) > 1.5
    pairs = torch.tensor([[0, 1], [1, 2]])
    rms = real.square().mean((0, 2)).sqrt()
    flat = (rms[:, None] * torch.ones(CHANNELS, TIMES))[None]
    assert float(Variation(rms, 1.0, pairs)(flat)) == pytest.approx(0, abs=1e-5)
    generator = torch.Generator().manual_seed(0)
    changed = Transforms(noise=0, dropout=0, scale=0, shift=0.1)(real, generator)
    assert torch.equal(changed.sort(-1).values, real.sort(-1).values)
    silent = Transforms(noise=0, dropout=0.5)(real, generator).abs().amax(-1) == 0
    assert 0.3 < float(silent.float().mean()) < 0.7


def test_a_regulariser_keeps_signals_quiet(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
    settings = {**FAST, "windows": real, "steps": 20, "control": "none"}
    free = maximise(model, Unit("energy", 0, axis=1), prior, **settings)
    held = maximise(
        model,
        Unit("energy", 0, axis=1),
        prior,
        **settings,
        regularisers=[(1e4, Amplitude.of(real))],
    )
    assert np.square(held.signals).mean() < 0.2 * np.square(free.signals).mean()


def test_codes_of_a_generator_stay_in_range_and_find_the_planted_one(
    model: Tuned, real: Tensor
) -> None:
    time = torch.arange(TIMES) / SFREQ
    atoms = torch.zeros(3, CHANNELS, TIMES)
    for k, (channel, hertz) in enumerate(PLANTED):
        atoms[k, channel] = 10 * torch.sin(2 * torch.pi * hertz * time)
    codes = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    prior = GeneratorPrior.of_codes(lambda z: torch.einsum("nk,kct->nct", z, atoms), codes)
    found = maximise(
        model, Unit("energy", 1, axis=1) - Unit("energy", 0, axis=1), prior,
        **{**FAST, "windows": real}, control="none",
    )  # fmt: skip
    amplitude = np.abs(found.signals[0]).max(-1)
    most = 10 * 3 * float(codes[:, 1].std())
    assert amplitude[4] == pytest.approx(most, rel=0.1) and amplitude[2] < 0.2 * most
    assert amplitude.max() <= most * 1.001


def test_latents_of_a_tokenizer_write_windows_of_a_batch() -> None:
    torch.manual_seed(0)
    tokenizer = CodedPatches(FSQ(8, steps=[5, 5]), dim=8, sfreq=64.0, width=16, depth=1, kernel=1)
    batch = noise(6, channels=3, time=64)
    prior = tokenizer_prior(tokenizer, batch)
    assert "lookup" not in vars(tokenizer.quantizer)
    model = Power()
    found = maximise(
        model, Logit(0), prior, windows=batch, run=lambda b: model(b.x), steps=10, restarts=2,
    )  # fmt: skip
    assert found.signals.shape == (1, 3, 64) and found.unit == "µV"
    assert found.best > found.trace[0].max() and found.sensors is not None
    assert "lookup" not in vars(tokenizer.quantizer)
    with pytest.raises(ValueError, match="no quantizer"):
        tokenizer_prior(nn.Identity(), batch)


class Power(nn.Module):
    """Log power of channel 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 1].square().mean(-1, keepdim=True).add(1).log()


def test_inversion_finds_what_a_site_knows(model: Tuned, real: Tensor) -> None:
    """Energies at a late layer come back; what the units do not see is lost."""
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0), start=0.5)
    found = invert(
        model, "energy", real[:1], prior, windows=real[1:], sfreq=SFREQ, steps=120, restarts=2,
        lr=0.05,
    )  # fmt: skip
    assert found.best > -0.1 and found.best > found.real.max()
    assert abs(np.corrcoef(found.signals[0, 1], real[0, 1].numpy())[0, 1]) < 0.7


class Either(nn.Module):
    """A unit for either 10 Hz on channel 2 or 20 Hz on channel 4, but not for both."""

    def __init__(self) -> None:
        super().__init__()
        self.tuned = Tuned().eval()
        self.code = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        energy = self.tuned.norm(self.tuned.conv(x)).unflatten(1, (-1, 2)).square().sum(2)
        code = self.code(energy.mean(-1)[:, :2].clamp(min=1e-6).log())
        return (code[:, :1] - code[:, 1:]).abs()


def test_multifaceted_finds_two_planted_facets(real: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(TIMES) / SFREQ
    windows = pink(60)
    for k in range(40):
        channel, hertz = PLANTED[k % 2]
        phase = 6.28 * float(torch.rand(1, generator=generator))
        windows[k, channel] += 10 * torch.sin(2 * torch.pi * hertz * time + phase)
    prior = SpectralPrior.of(windows, sfreq=SFREQ, band=(1.0, 40.0))
    found = multifaceted(
        Either(), Logit(0), prior, windows, code_site="code", sfreq=SFREQ, n_top=30, n_facets=2,
        steps=40, lr=0.1,
    )  # fmt: skip
    peaks = dict(sorted((int(f.topography().argmax()), f.peak_hz) for f in found.facets))
    assert list(peaks) == [2, 4]
    assert list(peaks.values()) == pytest.approx([10, 20], abs=1.5)
    assert sum(found.sizes) + found.dropped == 30 and min(found.sizes) >= 5
    assert all(len(set(m % 2)) == 1 for m in found.members)
    assert found.plot().axes
    with pytest.raises(ValueError, match="fewer groups"):
        multifaceted(
            Either(), Logit(0), prior, windows[:12], code_site="code", sfreq=SFREQ, n_facets=6
        )


def test_diversity_spreads_what_restarts_make(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
    settings = {**FAST, "windows": real, "control": "none", "restarts": 3, "n_signals": 3}

    def alike(diversity: float) -> float:
        objective = Unit("energy", 0, axis=1)
        found = maximise(model, objective, prior, **settings, diversity=diversity)
        made = model.eval().norm(model.conv(torch.from_numpy(found.signals)))
        unit = nn.functional.normalize(made.unflatten(1, (-1, 2)).square().sum(2).flatten(1), dim=1)
        return float((unit @ unit.T).mean().detach())

    assert alike(300.0) < alike(0.0) - 0.1


def test_bad_requests_are_refused(model: Tuned, real: Tensor) -> None:
    prior = SpectralPrior.of(real, sfreq=SFREQ, band=(1.0, 40.0))
    settings = {"windows": real, "sfreq": SFREQ, "steps": 1, "control": "none"}
    with pytest.raises(ValueError, match="energy"):
        maximise(model, Unit("enrgy", 0), prior, **settings)
    with pytest.raises(ValueError, match="no unit 9 of 3"):
        maximise(model, Unit("energy", 9, axis=1), prior, **settings)
    with pytest.raises(ValueError, match="the same windows"):
        maximise(model, Logit(0), SpectralPrior.of(real[:, :3], sfreq=SFREQ), **settings)
    with pytest.raises(ValueError, match="differentiably"):
        maximise(model, Logit(0), prior, **settings, run=lambda x: model(x).detach())
    with pytest.raises(ValueError, match="no frequency"):
        SpectralPrior.of(real, sfreq=SFREQ, band=(1.2, 1.3))
    with pytest.raises(ValueError, match="sfreq"):
        SpectralPrior.of(real)
    with pytest.raises(ValueError, match="signals between 1 and restarts"):
        maximise(model, Logit(0), prior, **settings, restarts=2, n_signals=3)
    with pytest.raises(ValueError, match="NaN"):
        TimePrior.of(real * torch.nan)
    assert not model.energy._forward_hooks and model.training
