"""Quantile and spectral tokens against closed forms; coded patches that learn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.nn import FSQ
from neurofm.tokenizers import CodedPatches, QuantileTokenizer, SpectralTokenizer
from neurofm.units import Kind


def batch_of(x: Tensor, sfreq: float = 128.0, kind: Kind = Kind.EEG) -> Batch:
    n, channels, _ = x.shape
    there = torch.ones(n, channels, dtype=torch.bool)
    return Batch(
        x=x,
        channel_mask=there,
        kind=torch.full((n, channels), int(kind)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=~there,
        sfreq=sfreq,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.zeros(n, dtype=torch.long),
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Quantile


@pytest.mark.parametrize("scale", [0.5, 20.0, 3e4])
def test_edges_are_the_quantiles_of_the_data(scale: float) -> None:
    x = scale * noise(4, 5, 5000)
    tokenizer = QuantileTokenizer(n_codes=16)
    tokenizer.fit(batch_of(x))
    exact = np.quantile(x.numpy(), np.arange(1, 16) / 16)
    np.testing.assert_allclose(tokenizer.edges[0], exact, atol=0.01 * scale)
    codes = tokenizer.loss(batch_of(x))["codes"].flatten()
    share = torch.bincount(codes, minlength=16) / len(codes)
    torch.testing.assert_close(share, torch.full((16,), 1 / 16), atol=0.004, rtol=0)
    means = torch.stack([x.flatten()[codes == code].mean() for code in range(16)])
    torch.testing.assert_close(tokenizer.centres[0], means, atol=0.01 * scale, rtol=0)


def test_fitting_does_not_depend_on_order_or_batches() -> None:
    x = 20 * noise(6, 3, 400)
    whole, parts = QuantileTokenizer(), QuantileTokenizer()
    whole.fit(batch_of(x))
    for i in (4, 2, 0):
        parts.fit(batch_of(x[i : i + 2]))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=0, atol=0)


def test_every_kind_has_codes_of_its_own() -> None:
    tokenizer = QuantileTokenizer(n_codes=8, kinds=("eeg", "mag"))
    both = batch_of(torch.cat([20 * noise(4, 2, 500), 300 * noise(4, 2, 500, seed=1)], 1))
    kind = torch.tensor([int(Kind.EEG)] * 2 + [int(Kind.MAG)] * 2).expand(4, -1)
    both = replace(both, kind=kind)
    tokenizer.fit(both)
    assert float(tokenizer.edges[1, -1] / tokenizer.edges[0, -1]) == pytest.approx(15, rel=0.1)
    x, made = tokenizer.reconstruct(both)
    lost = (x - made).square().mean((0, 2)) / x.square().mean((0, 2))
    assert float(lost.max()) < 0.1


def test_uniform_and_mu_law_steps_span_the_range_that_holds_nearly_all() -> None:
    x = 10 * noise(4, 5, 4000)
    limit = float(x.abs().flatten().quantile(0.99))
    uniform, mu_law = (
        QuantileTokenizer(n_codes=64, method=method, coverage=0.99)  # type: ignore[arg-type]
        for method in ("uniform", "mu_law")
    )
    uniform.fit(batch_of(x))
    expected = torch.linspace(-limit, limit, 65)[1:-1]
    torch.testing.assert_close(uniform.edges[0], expected, atol=0.02 * limit, rtol=0)
    mu_law.fit(batch_of(x))
    place = torch.linspace(-1, 1, 65)[1:-1]
    expected = place.sign() * (256 ** place.abs() - 1) / 255 * limit
    torch.testing.assert_close(mu_law.edges[0], expected, atol=0.02 * limit, rtol=0)


def test_means_of_samples_are_held_when_decoded() -> None:
    x = noise(2, 2, 10).cumsum(-1)
    tokenizer = QuantileTokenizer(n_codes=512, n_mean=4)
    batch = batch_of(x)
    tokens = tokenizer.eval()(batch)
    assert tokens.time[0, :2].tolist() == pytest.approx([1.5 / 128, 5.5 / 128])
    signal = tokenizer.decode(tokens, batch)
    expected = x[..., :8].unfold(-1, 4, 4).mean(-1).repeat_interleave(4, -1)
    torch.testing.assert_close(signal, expected, atol=1e-3, rtol=0.005)


# Spectral


@pytest.mark.parametrize("taper", ["hann", "multitaper"])
@pytest.mark.parametrize("sfreq", [128.0, 250.0, 1000.0])
def test_white_noise_has_its_density_at_any_rate(taper: Any, sfreq: float) -> None:
    """Deviation 3 µV spread over half the rate: 2 x 9 / sfreq µV²/Hz."""
    x = 3 * noise(4, 4, round(8 * sfreq))
    power = 10 ** (SpectralTokenizer(taper=taper).decibels(batch_of(x, sfreq)) / 10)
    expected = torch.full((5,), 18 / sfreq)
    torch.testing.assert_close(power.mean((0, 1, 2)), expected, rtol=0.15, atol=0)


def test_a_rhythm_stands_out_in_its_bin_and_patch() -> None:
    time = torch.arange(512) / 128
    x = 0.1 * noise(1, 2, 512)
    x[0, 1] += torch.where(time >= 2, 10 * torch.sin(2 * torch.pi * 10 * time), 0)
    tokenizer = SpectralTokenizer(edges=(1.0, 45.0), step=1.0)
    power, tokens = tokenizer.decibels(batch_of(x)), tokenizer(batch_of(x))
    loud = (power.amax(-1) > 0).flatten()
    assert tokens.channel[0, loud].tolist() == [1, 1]
    assert tokens.time[0, loud].tolist() == pytest.approx([2.5 - 0.5 / 128, 3.5 - 0.5 / 128])
    assert power.argmax(-1).flatten()[loud].tolist() == [9, 9]  # from 10 to 11 Hz


def test_fitted_statistics_keep_how_strong_a_window_is() -> None:
    x = torch.cat([noise(3, 4, 512), 10 * noise(3, 4, 512, seed=1)])
    fitted = SpectralTokenizer(standardize="fitted")
    batch = batch_of(x)
    losses = fitted.train().loss(batch)
    assert float(losses["loss"]) == pytest.approx(1, rel=1e-3)
    mean = fitted.eval()(batch).values.mean((1, 2))
    assert bool((mean[:3] < -0.5).all()) and bool((mean[3:] > 0.5).all())
    away = SpectralTokenizer()(batch).values.mean((1, 2))
    torch.testing.assert_close(away, torch.zeros(6), atol=1e-4, rtol=0)


def test_bands_beyond_half_the_rate_and_narrower_than_a_bin_are_refused() -> None:
    with pytest.raises(ValueError, match=r"nothing above 40 Hz, the bands reach 45 Hz"):
        SpectralTokenizer()(batch_of(noise(1, 1, 160), sfreq=80.0))
    short = SpectralTokenizer(edges=(0.0, 10.0), patch_s=0.1)
    with pytest.raises(ValueError, match=r"a patch of 2 samples at 25 Hz has no frequency"):
        short(batch_of(noise(1, 1, 100), sfreq=25.0))
    with pytest.raises(ValueError, match=r"2 Hz apart.*longer patches"):
        SpectralTokenizer(edges=(1.0, 2.0), patch_s=0.5)


# Coded patches


def test_coded_patches_learn_the_signal_with_its_amplitude() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(256) / 128

    def waves() -> Batch:
        amplitude = 5 + 40 * torch.rand(8, 4, 1, generator=generator)
        phase = 6.3 * torch.rand(8, 4, 1, generator=generator)
        return batch_of(amplitude * torch.sin(2 * torch.pi * 6 * time + phase))

    tokenizer = CodedPatches(FSQ(16, steps=[8, 5, 5]), dim=16, width=32, depth=1)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        tokenizer.loss(waves())["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        x, made = tokenizer.eval().reconstruct(waves())
    assert float(torch.corrcoef(torch.stack([x.flatten(), made.flatten()]))[0, 1]) > 0.8
    loudness = torch.stack([x.std(-1).flatten(), made.std(-1).flatten()])
    assert float(torch.corrcoef(loudness)[0, 1]) > 0.8


def test_scale_is_the_typical_spread_and_one_artefact_does_not_move_it() -> None:
    x = 20 * noise(4, 10, 256)
    x[0, 0] *= 1000
    tokenizer = CodedPatches(FSQ(8, steps=[5]), dim=8, width=8)
    tokenizer.loss(batch_of(x))
    assert float(tokenizer.scale(batch_of(x))[0, 0]) == pytest.approx(
        20 * 1000 ** (1 / 40), rel=0.05
    )


def test_other_quantizers_and_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="no quantizer"):
        CodedPatches(torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"6\.4 samples"):
        CodedPatches(FSQ(8, steps=[5]), dim=8, patch_s=0.05)
