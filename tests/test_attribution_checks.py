from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_attribution import make_batch
from torch import Tensor, nn

from neurofm.interpret import attribution
from neurofm.interpret.attribution import masks
from neurofm.interpret.attribution.planted import RhythmDetector

METHODS = {
    "gradient x input": attribution.gradient_x_input,
    "integrated gradients": functools.partial(attribution.integrated_gradients, steps=8),
    "relevance": functools.partial(
        attribution.relevance, rules=attribution.Composite.epsilon(1e-9)
    ),
    "occlusion": functools.partial(attribution.occlude, size=(1, 20)),
    "channel occlusion": attribution.occlude_channels,
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(n: int = 2, channels: int = 5, times: int = 60) -> Tensor:
    return torch.randn(n, channels, times, generator=rng())


@pytest.mark.parametrize("name", sorted(METHODS))
def test_planted_evidence_is_found(name):
    found = attribution.planted_evidence(
        METHODS[name], n_channels=5, n_times=100, sfreq=100, generator=rng()
    )
    assert found.found
    assert found.channel_share > 0.9
    assert np.isnan(found.band_share) or found.band_share > 0.6


def test_a_map_of_noise_misses_planted_evidence():
    def noise(function, x, target):
        one = attribution.gradient_x_input(function, x, target)
        values = torch.randn(one.values.shape, generator=rng(3))
        return attribution.Attribution(values, one.axes, one.target, "noise")

    found = attribution.planted_evidence(
        noise, n_channels=5, n_times=100, sfreq=100, generator=rng()
    )
    assert not found.found and abs(found.auroc - 0.5) < 0.1
    assert found.plot() is not None


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(5, 4, 5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.elu(self.conv(x)).square().mean(2))


def test_an_examined_attribution_carries_its_checks():
    found = attribution.examine(
        METHODS["integrated gradients"], Small().eval(), windows(), generator=rng()
    )
    assert found.randomised == ("head", "conv")
    assert found.cascade.shape == (2,) and abs(found.cascade[-1]) < 0.5
    assert found.stability > 0.8
    assert found.deletion is not None and found.planted is not None and found.planted.found
    assert found.deletion.insertion_area >= found.deletion.deletion_area
    assert not any("planted" in w or "weights" in w for w in found.warnings)
    assert found.plot() is not None and found.deletion.plot() is not None


def test_a_map_of_the_input_is_warned_about():
    """It shows the window, whatever the weights."""

    def magnitude(function, x, target):
        return attribution.Attribution(x.abs(), ("batch", "channel", "time"), target, "magnitude")

    found = attribution.examine(magnitude, Small().eval(), windows(), 1, generator=rng())
    assert found.cascade[-1] == pytest.approx(1)
    assert any("hardly depends on the weights" in w for w in found.warnings)


def test_bands_share_out_an_attribution_exactly_and_find_the_planted_one():
    x = torch.zeros(2, 3, 200)
    time = torch.arange(200) / 100.0
    x[:, 1] = torch.sin(2 * torch.pi * 10 * time) + torch.sin(2 * torch.pi * 20 * time)
    batch = make_batch(x)
    detector = RhythmDetector(1, frequency=10, sfreq=100)
    whole = attribution.integrated_gradients(lambda b: detector(b.x), batch, 1, steps=4)
    split = attribution.by_band(whole, batch)
    assert split.axes == ("batch", "channel", "band", "time") and split.bands[-1] == "rest"
    torch.testing.assert_close(split.values.sum(2), whole.values, atol=1e-5, rtol=1e-4)
    by_band = split.over("channel", "time").values[0]
    assert by_band.argmax() == split.bands.index("mu") and by_band[2] > 20 * by_band[3].abs()
    assert attribution.in_bins(split, 50).values.shape == (2, 3, 6, 4)
    regions = attribution.by_region(split, {"a": [0], "b": [1, 2]})
    assert regions.axes[1] == "region" and regions.regions == ("a", "b")
    torch.testing.assert_close(regions.values[:, 1], split.values[:, 1:].sum(1))


def test_what_cannot_be_split_by_band_says_so():
    x = windows()
    whole = attribution.gradient_x_input(Small(), x, 1)
    with pytest.raises(ValueError, match="no sampling rate; give sfreq"):
        attribution.by_band(whole, x)
    with pytest.raises(ValueError, match="bands overlap"):
        attribution.by_band(whole, x, sfreq=100, bands={"a": (1, 10), "b": (8, 12)})
    with pytest.raises(ValueError, match=r"occlusion is not a product.*occlude_bands"):
        attribution.by_band(METHODS["occlusion"](Small(), x, 1), x, sfreq=100)
    with pytest.raises(ValueError, match="no channel 9 for 'a'"):
        attribution.by_region(whole, {"a": [9]})


@pytest.mark.parametrize("what", ["scalp", "channel time", "band time", "time", "band", "channel"])
def test_an_attribution_draws_itself(what):
    batch = make_batch(torch.randn(2, 8, 200, generator=rng()))
    batch.position[..., 1:] = torch.rand(8, 2, generator=rng()) * 0.05
    detector = RhythmDetector(1, frequency=10, sfreq=100)
    whole = attribution.gradient_x_input(lambda b: detector(b.x), batch, 1)
    assert attribution.by_band(whole, batch).plot(what) is not None


# Integrated, expected and smoothed gradients


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_integrated_gradients_do_not_depend_on_the_chunk(chunk):
    model, x = Small().double(), windows().double()
    whole = attribution.integrated_gradients(model, x, 1, steps=20)
    parts = attribution.integrated_gradients(model, x, 1, steps=20, chunk=chunk)
    torch.testing.assert_close(parts.values, whole.values, rtol=1e-12, atol=1e-14)


def test_integrated_gradients_add_up_for_smooth_networks_and_agree_with_captum():
    from captum.attr import IntegratedGradients

    model, x = Small().double(), windows().double()
    many = attribution.integrated_gradients(model, x, 1, steps=200)
    assert many.delta.abs().max() < 1e-6 * model(x)[:, 1].abs().max() * 10
    theirs = IntegratedGradients(model).attribute(x, target=1, n_steps=50).detach()
    ours = attribution.integrated_gradients(model, x, 1, steps=50)
    torch.testing.assert_close(ours.values, theirs, atol=1e-10, rtol=1e-8)


def test_surrogates_keep_spectra_and_cross_spectra():
    x = windows(1, 3, 64).double()
    one = attribution.surrogates(x, 2, generator=rng())[1]
    before, after = torch.fft.rfft(x)[0], torch.fft.rfft(one)[0]
    torch.testing.assert_close(after.abs(), before.abs())
    torch.testing.assert_close(after[0] * after[1].conj(), before[0] * before[1].conj())
    assert (one - x).abs().max() > 0.1


def test_expected_gradients_approach_the_change_and_noiseless_smoothgrad_the_gradient():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(5 * 60, 2, bias=False))
    x, background = windows(), windows(4)
    found = attribution.expected_gradients(
        linear, x, 1, background=background, generator=rng(), n=10
    )
    torch.testing.assert_close(found.delta, torch.zeros(2), atol=1e-5, rtol=0)
    model = Small()
    smooth = attribution.smooth_gradient(model, x, 1, generator=rng(), noise=0.0, n=2)
    plain = attribution.gradient_x_input(model, x, 1)
    torch.testing.assert_close(smooth.values, plain.values)
    with pytest.raises(ValueError, match="same channels and times"):
        attribution.expected_gradients(linear, x, 1, background=background[:, :2], generator=rng())


def test_grad_cam_names_near_misses_and_puts_its_hook_away():
    model, x = Small(), windows()
    found = attribution.grad_cam(model, x, 1, model=model, site="conv")
    assert found.values.shape == (2, 60) and not model.conv._forward_hooks
    with pytest.raises(ValueError, match=r"no module 'covn'. Did you mean 'conv'"):
        attribution.grad_cam(model, x, 1, model=model, site="covn")
    with pytest.raises(ValueError, match=r"'head' gives \(2, 2\)"):
        attribution.grad_cam(model, x, 1, model=model, site="head")
    assert not model.head._forward_hooks


# Masks


def test_extremal_masks_find_the_planted_burst_and_beat_shifted_ones():
    x = attribution.planted_windows(
        2, n_channels=2, n_times=100, sfreq=100, channel=0, frequency=10, place=slice(60, 80),
        generator=rng(),
    )  # fmt: skip
    detector = RhythmDetector(0, frequency=10, sfreq=100, n_cycles=2)
    found = attribution.extremal_perturbation(
        detector, x, 1, areas=(0.3,), iterations=150, lr=0.05, step=5, generator=rng()
    )
    mask = found.masks[0, :, 0]
    assert mask[:, 60:80].mean() > 3 * mask[:, :50].mean()
    assert (found.score[0] > found.random[0]).all()
    assert abs(float(mask.mean()) - 0.3) < 0.15
    assert found.plot() is not None and found.smallest.shape == (2,)


def test_masks_over_channels_choose_the_channel_that_counts():
    x = windows(1, 4, 40)
    weight = torch.tensor([0.0, 0.0, 5.0, 0.0])
    function = lambda x: torch.stack([0 * x[:, 0, 0], (x.square().mean(2) @ weight)], 1)  # noqa: E731
    found = attribution.extremal_perturbation(
        function, x, 1, areas=(0.25,), domain="channel", iterations=150, lr=0.05, generator=rng()
    )
    assert found.masks[0, 0, :, 0].argmax() == 2
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        attribution.extremal_perturbation(function, x, 1, areas=(1.5,), generator=rng())


def test_masks_over_frequency_and_time_find_the_band_and_when():
    t = torch.arange(200) / 100
    x = 0.1 * windows(1, 2, 200) + torch.sin(2 * np.pi * 22 * t)  # a loud rhythm that says nothing
    x[:, 0, 120:180] += 0.7 * torch.sin(2 * np.pi * 10 * t[120:180])
    detector = RhythmDetector(0, frequency=10, sfreq=100, n_cycles=3)
    options = {"sfreq": 100, "edges": (1, 4, 8, 13, 20, 30), "generator": rng()}
    fit = {"iterations": 120, "lr": 0.05, "step": 10}
    found = attribution.extremal_perturbation(
        detector, x, 1, areas=(0.2,), domain="frequency", **options, **fit
    )
    assert found.masks.shape == (1, 1, 5, 1) and found.masks[0, 0, :, 0].argmax() == 2
    found = attribution.extremal_perturbation(
        detector, x, 1, areas=(0.1,), domain="frequency time", **options, **fit
    )
    mask = found.masks[0, 0]
    assert mask.shape == (5, 200) and mask.mean(1).argmax() == 2
    assert mask[2, 120:180].mean() > 2 * mask[2, :100].mean()
    assert found.score[0, 0] > found.random[0, 0]
    with pytest.raises(ValueError, match="needs sfreq"):
        attribution.extremal_perturbation(detector, x, 1, domain="frequency", generator=rng())


def test_bands_fade_and_what_lies_outside_stays():
    x = windows().double()
    perturb = masks.fade_bands(x, 100.0, (8.0, 13.0, 30.0))
    torch.testing.assert_close(perturb(torch.ones(2, 2, 1).double()), x)
    mask = torch.tensor([1.0, 0.0]).double()[None, :, None].expand(2, 2, 60)
    left = torch.fft.rfft(perturb(mask)).abs()
    whole, hz = torch.fft.rfft(x).abs(), torch.fft.rfftfreq(60, 1 / 100)
    gone = (hz >= 13) & (hz < 30)
    torch.testing.assert_close(left[..., ~gone], whole[..., ~gone])
    assert left[..., gone].max() < 1e-9
    for edges in ((8.0,), (13.0, 8.0), (8.0, 60.0)):
        with pytest.raises(ValueError, match="ascending"):
            masks.fade_bands(x, 100.0, edges)


def test_perturbations_leave_everything_where_the_mask_is_one():
    x = windows().double()
    place = F.normalize(torch.randn(5, 3, generator=rng()), dim=1).abs() * 0.09
    families = {
        "fade": masks.fade(x),
        "low pass": masks.low_pass(x, 100.0),
        "phases": masks.phase_randomised(x, generator=rng()),
        "neighbours": masks.interpolated(x, place),
    }
    one, none = torch.ones(2, 5, 60).double(), torch.zeros(2, 5, 60).double()
    for name, perturb in families.items():
        torch.testing.assert_close(perturb(one), x, msg=name)
        assert (perturb(none) - x).abs().max() > 0.1, name
    spectrum = torch.fft.rfft(families["phases"](none)).abs()
    torch.testing.assert_close(spectrum, torch.fft.rfft(x).abs(), atol=1e-6, rtol=1e-6)


def test_splines_guess_a_smooth_topography():
    place = F.normalize(torch.randn(40, 3, generator=rng()).double(), dim=1)
    place[:, 2] = place[:, 2].abs()
    weights = masks.spline_weights(0.09 * place)
    values = place @ torch.tensor([1.0, -0.5, 0.3]).double()
    assert torch.corrcoef(torch.stack([weights @ values, values]))[0, 1] > 0.98
    torch.testing.assert_close(weights.sum(1), torch.ones(40).double(), atol=1e-8, rtol=0)
    with pytest.raises(ValueError, match="2 of 2 channels"):
        masks.spline_weights(place[:2])


# Layer masking


def test_a_full_mask_changes_nothing_and_masked_samples_are_not_seen():
    model, x = Small().eval(), windows()
    valid = torch.ones_like(x, dtype=torch.bool)
    torch.testing.assert_close(attribution.with_mask(model, x, valid), model(x).detach())
    valid[:, :, 30:] = False
    other = torch.where(valid, x, 1e3)
    torch.testing.assert_close(
        attribution.with_mask(model, x, valid), attribution.with_mask(model, other, valid)
    )


def test_masking_half_of_a_constant_window_leaves_the_logits():
    """Zeros would halve the power; the mean over what is valid does not."""
    model, x = Small().eval(), torch.ones(1, 5, 60)
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[:, :, 30:] = False
    masked = attribution.with_mask(model, x, valid)
    zeros = model(torch.where(valid, x, 0.0))
    whole = model(x)
    torch.testing.assert_close(masked, whole)
    assert (zeros - whole).abs().max() > 1e-3


class Volume(nn.Module):
    """Voxels of a small brain, convolved in space at every volume."""

    def __init__(self, side: tuple[int, int, int]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.side = side
        self.conv = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.MaxPool3d((2, 2, 1)))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, _, t = x.shape
        volumes = x.transpose(1, 2).reshape(n * t, 1, *self.side)
        seen = nn.functional.adaptive_avg_pool3d(self.conv(volumes), 1).flatten(1)
        return self.head(seen).reshape(n, t, 2).mean(1)


def test_volumes_are_masked_in_three_dimensions():
    model = Volume((8, 6, 4)).eval()
    x = windows(2, 192, 3)
    valid = torch.ones(2, 8, 6, 4, 3, dtype=torch.bool)
    whole = valid.reshape(x.shape)
    torch.testing.assert_close(attribution.with_mask(model, x, whole), model(x).detach())
    valid[:, 4:] = False  # half of the brain was not measured
    half = valid.reshape(x.shape)
    hidden = torch.where(half, x, 1e3)
    torch.testing.assert_close(
        attribution.with_mask(model, hidden, half), attribution.with_mask(model, x, half)
    )
    even = torch.ones_like(x)
    torch.testing.assert_close(attribution.with_mask(model, even, half), model(even).detach())
    assert (model(torch.where(half, even, 0.0)) - model(even)).abs().max() > 1e-3


def test_masked_tokens_are_dropped_from_attention():
    torch.manual_seed(0)
    model = nn.MultiheadAttention(6, 2, batch_first=True).eval()

    def read(x: Tensor) -> Tensor:
        tokens = x.transpose(1, 2)
        return model(tokens, tokens, tokens, need_weights=False)[0].mean(1)

    x = windows(2, 6, 10)
    valid = torch.ones_like(x, dtype=torch.bool)
    valid[:, :, 7:] = False
    torch.testing.assert_close(attribution.with_mask(read, x, valid), read(x[:, :, :7]))


def test_a_mask_that_hides_everything_is_refused():
    x = windows()
    with pytest.raises(ValueError, match=r"nothing is valid in windows \[1\]"):
        attribution.with_mask(
            Small(), x, torch.tensor([True, False])[:, None, None].expand(x.shape)
        )
