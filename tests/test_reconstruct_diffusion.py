"""Schedules, samplers, guidance and score distillation, on diffusions known by formula."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from gaussian_diffusion import GaussianDiffusion
from torch import Tensor

from neurofm.reconstruct import (
    NoiseSchedule,
    ResponseGuidance,
    SelfAttentionGuidance,
    generate_images,
    guided,
    sample,
    score_distillation,
    synthesise,
)
from neurofm.reconstruct.diffusion import step_times
from neurofm.reconstruct.guidance import blur


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def gaussian() -> GaussianDiffusion:
    return GaussianDiffusion(torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.25, 1.0, 4.0]))


@pytest.mark.parametrize("kind", ["cosine", "scaled_linear"])
def test_schedule_falls_from_signal_to_noise(kind):
    schedule = NoiseSchedule(kind=kind)
    assert len(schedule) == 1000
    assert schedule.alpha_bar[0] > 0.99 and schedule.alpha_bar[-1] < 0.01


def test_scaled_linear_is_that_of_stable_diffusion():
    share = 1.0
    for i in range(1000):
        share *= 1 - (0.00085**0.5 + i / 999 * (0.012**0.5 - 0.00085**0.5)) ** 2
    made = NoiseSchedule(kind="scaled_linear").alpha_bar[-1]
    assert float(made) == pytest.approx(share, rel=1e-4)


def test_noise_is_taken_off_again():
    schedule, t = NoiseSchedule(), torch.tensor([3, 700])
    clean, added = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
    back = schedule.clean(schedule.noisy(clean, added, t), added, t)
    torch.testing.assert_close(back, clean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("solver", "eta", "steps"), [("ddim", 0, 100), ("ddim", 1.0, 150), ("dpmpp", 0, 40)]
)
def test_sampling_gives_the_distribution_back(gaussian, solver, eta, steps):
    drawn = sample(
        gaussian,
        gaussian.schedule,
        noise(3000, 3),
        steps=steps,
        eta=eta,
        solver=solver,
        generator=torch.Generator().manual_seed(1),
    )
    torch.testing.assert_close(drawn.mean(0), gaussian.mean, atol=0.12, rtol=0)
    torch.testing.assert_close(drawn.std(0), gaussian.variance.sqrt(), atol=0, rtol=0.08)


def test_second_order_solver_needs_fewer_steps(gaussian):
    start = noise(64, 3)
    exact = gaussian.mean + gaussian.variance.sqrt() * start  # what the noise flows to
    errors = {
        solver: float(
            (sample(gaussian, gaussian.schedule, start, steps=20, solver=solver) - exact)
            .square()
            .mean()
        )
        for solver in ("ddim", "dpmpp")
    }
    assert errors["dpmpp"] < 0.5 * errors["ddim"]


def test_strength_says_how_many_steps_are_done(gaussian):
    seen: list[int] = []

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return gaussian(z, t)

    start = torch.full((2, 3), 5.0)
    sample(denoise, gaussian.schedule, noise(2, 3), steps=50, start=start, strength=0.75)
    assert len(seen) == 37  # as published
    assert seen == step_times(gaussian.schedule, 50)[13:]


def test_start_is_kept_less_the_stronger_the_noise(gaussian):
    start = torch.full((256, 3), 5.0)
    distance = [
        float((sample(gaussian, gaussian.schedule, noise(256, 3), start=start, strength=s) - start)
              .abs().mean())
        for s in (0.0, 0.2, 0.5, 1.0)
    ]  # fmt: skip
    assert distance[0] == 0
    assert distance == sorted(distance)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "euler"}, "'euler' is not one of"),
        ({"eta": 0.5, "solver": "dpmpp"}, "only ddim"),
        ({"strength": 1.5}, "strength 1.5"),
        ({"steps": 0}, "0 sampling steps"),
        ({"start": torch.zeros(1, 2)}, r"start \(1, 2\)"),
    ],
)
def test_impossible_options_are_refused(gaussian, options, words):
    with pytest.raises(ValueError, match=words):
        sample(gaussian, gaussian.schedule, noise(2, 3), **options)


def test_schedule_that_rises_is_refused():
    with pytest.raises(ValueError, match="must fall"):
        NoiseSchedule(alpha_bar=torch.tensor([0.1, 0.9]))


class Toy:
    """A `LatentDiffusion` whose tokens shift the noise: images are their own latents."""

    def __init__(self) -> None:
        self.schedule = NoiseSchedule(100)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def denoise(self, z: Tensor, t: Tensor, vision: Tensor | None, text: Tensor | None) -> Tensor:
        assert vision is not None
        return 0.1 * z + vision.mean(dim=(1, 2))[:, None, None, None]

    def unconditional(self, vision: Tensor | None, text: Tensor | None) -> tuple:
        return None if vision is None else torch.zeros_like(vision), text

    def latent_shape(self) -> tuple[int, ...]:
        return (3, 8, 8)


@pytest.mark.parametrize("guidance", [0, 1, 7.5])
def test_guidance_moves_away_from_what_is_predicted_without_tokens(guidance):
    toy, z, tokens = Toy(), noise(2, 3, 8, 8), torch.ones(2, 4, 5)
    moved = guided(toy, tokens, None, guidance=guidance)(z, torch.tensor([5, 5]))
    torch.testing.assert_close(moved, 0.1 * z + guidance)


def test_images_are_the_same_for_a_seed_and_between_0_and_1():
    made = [
        generate_images(
            *(Toy(), torch.rand(2, 3, 8, 8), torch.ones(2, 4, 5), None),
            steps=5,
            strength=1.0,
            generator=torch.Generator().manual_seed(3),
        )
        for _ in range(2)
    ]
    assert torch.equal(*made)
    assert made[0].min() >= 0 and made[0].max() <= 1


@pytest.mark.parametrize(
    ("low", "vision", "words"),
    [
        (None, None, "nothing to show"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(3, 4, 5), "2 low_level, 3 vision tokens"),
        (None, torch.full((1, 4, 5), torch.nan), "not finite"),
    ],
)
def test_nothing_to_generate_from_is_refused(low, vision, words):
    with pytest.raises(ValueError, match=words):
        generate_images(Toy(), low, vision, None)


# BrainDiVE -------------------------------------------------------------------------------------


def brain(gaussian: GaussianDiffusion, **options) -> ResponseGuidance:
    weight = torch.tensor([[1.0, 0.5, -0.5], [0.0, 1.0, 0.0]])
    return ResponseGuidance(
        gaussian,
        gaussian.schedule,
        lambda z: z.unflatten(1, (3, 1, 1)),
        lambda images: images.flatten(1) @ weight.T,
        **options,
    )


def test_objective_rises_monotonically_with_gamma(gaussian):
    start = noise(128, 3)
    means = []
    for gamma in (0, 0.1, 0.3, 1.0, 3.0):
        guidance = brain(gaussian, gamma=gamma, voxels=torch.tensor([True, False]))
        z = sample(guidance, gaussian.schedule, start, steps=50, solver="dpmpp")
        means.append(float(guidance.objective(guidance.decode(z)).mean()))
    assert all(b > a + 0.01 for a, b in pairwise(means)), means


def test_update_is_the_published_one(gaussian):
    """Against the formula with the gradient by hand, which is linear here."""
    guidance = brain(gaussian, gamma=2.0, voxels=torch.tensor([0]))
    z, t = noise(4, 3), torch.full((4,), 600)
    signal, spread = (s[0, 0] for s in gaussian.schedule.scales(t, z))
    # d e / d z, then of the clean estimate, of the blend, of the response.
    of_noise = spread / (signal**2 * gaussian.variance + spread**2)
    of_clean = (1 - spread * of_noise) / signal
    of_blend = spread * of_clean + (1 - spread)
    gradient = 2.0 * torch.tensor([1.0, 0.5, -0.5]) * of_blend
    expected = gaussian(z, t) - spread * gradient
    torch.testing.assert_close(guidance(z, t), expected)


def test_gamma_0_leaves_the_noise_and_needs_no_gradient(gaussian):
    z, t = noise(4, 3), torch.full((4,), 600)
    torch.testing.assert_close(brain(gaussian, gamma=0)(z, t), gaussian(z, t))


def test_loss_is_computed_in_float32(gaussian):
    guidance = ResponseGuidance(
        *(gaussian, gaussian.schedule, lambda z: z),
        respond=lambda images: images.bfloat16(),
        gamma=1.0,
    )
    assert guidance.objective(noise(2, 3)).dtype == torch.float32


def test_best_images_come_first_and_only_as_many_as_wanted(gaussian):
    made = synthesise(brain(gaussian, gamma=0.3), noise(16, 3), steps=10, keep=4)
    assert len(made.images) == 4
    assert torch.equal(made.response, made.response.sort(descending=True).values)
    assert made.images.min() >= 0 and made.images.max() <= 1
    whole = synthesise(brain(gaussian, gamma=0.3), noise(16, 3), steps=10)
    assert torch.equal(whole.order[:4], made.order)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": -1}, "expected 0 up"),
        ({"voxels": torch.tensor([True, False, True])}, "a mask of 3 voxels for responses of 2"),
        ({"voxels": torch.tensor([False, False])}, "has no voxels"),
        ({"gamma": float("inf")}, "not finite"),
    ],
)
def test_impossible_guidance_is_refused(gaussian, options, words):
    with pytest.raises(ValueError, match=words):
        brain(gaussian, **options)(noise(2, 3), torch.tensor([5, 5]))


def test_self_attention_guidance_changes_attended_places_alone():
    schedule, t = NoiseSchedule(), torch.full((1,), 500)
    attention = torch.zeros(1, 2, 16, 16)
    attention[..., 0] = 1.0  # every query looks at the first place of 4 x 4
    z = noise(1, 2, 16, 16)

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        return 0.5 * z

    sharpen = SelfAttentionGuidance(lambda: attention, schedule)
    e = denoise(z, t)
    change = sharpen(z, t, e, denoise) - e
    signal, spread = schedule.scales(t, z)
    # Outside the mask the noisy estimate is z again, up to rounding, and so the noise is the same.
    assert change[..., :4, :4].abs().max() > 0.01
    outside = change.clone()
    outside[..., :4, :4] = 0
    assert outside.abs().max() < 1e-5
    clean = schedule.clean(z, e, t)
    again = 0.5 * (signal * blur(clean, sigma=1.0) + spread * e)
    torch.testing.assert_close(
        change[..., :4, :4], 0.75 * (e - again)[..., :4, :4], atol=1e-5, rtol=1e-4
    )


def test_attention_that_does_not_tile_the_latents_is_refused():
    sharpen = SelfAttentionGuidance(lambda: torch.zeros(1, 1, 15, 15), NoiseSchedule())
    z = noise(1, 2, 16, 16)
    with pytest.raises(ValueError, match="does not tile"):
        sharpen(z, torch.full((1,), 5), z, lambda z, t: z)


def test_blur_keeps_the_mean_and_is_a_gaussian():
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 10, 10] = 1
    made = blur(spot, sigma=1.0)
    assert float(made.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(made[0, 0, 10, 11] / made[0, 0, 10, 10]) == pytest.approx(math.exp(-0.5), rel=1e-4)


# Score distillation ----------------------------------------------------------------------------


def test_distillation_has_the_analytic_gradient(gaussian):
    latents = (gaussian.mean + torch.tensor([1.0, -2.0, 0.5])).repeat(40_000, 1).requires_grad_()
    t = torch.full((40_000,), 400)
    loss = score_distillation(
        *(gaussian, gaussian.schedule, latents),
        t=t,
        generator=torch.Generator().manual_seed(0),
    )
    loss.backward()
    signal, spread = (s[0, 0] for s in gaussian.schedule.scales(t, latents))
    away = latents.detach()[0] - gaussian.mean
    expected = spread**2 * spread * signal * away / (signal**2 * gaussian.variance + spread**2)
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad.sum(0), expected, atol=0.02, rtol=0.03)


def test_distillation_moves_to_the_mode(gaussian):
    theta = torch.zeros(64, 3, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.5)
    generator = torch.Generator().manual_seed(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 32 * 0.5 ** (step / 60)
        loss = score_distillation(gaussian, gaussian.schedule, theta, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(theta.detach().mean(0), gaussian.mean, atol=0.3, rtol=0)


def test_impossible_distillation_is_refused(gaussian):
    z = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match=r"steps from 0.9 to 0.1"):
        score_distillation(gaussian, gaussian.schedule, z, lowest=0.9, highest=0.1)
    with pytest.raises(ValueError, match="not finite"):
        score_distillation(lambda z, t: z / 0, gaussian.schedule, z)
