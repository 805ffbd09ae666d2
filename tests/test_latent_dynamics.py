from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from neurofm.evaluate import read_behaviour
from neurofm.io.simulated.bouncing import simulate_bouncing
from neurofm.models import (
    CopyDynamics,
    CTRNNDynamics,
    FrozenFrames,
    LatentSimulator,
    LSTMDynamics,
    MLPDynamics,
)


def latents(n: int = 3, steps: int = 10, dim: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, steps, dim, generator=torch.Generator().manual_seed(seed))


def test_a_ctrnn_follows_its_equation() -> None:
    torch.manual_seed(0)
    model, x = CTRNNDynamics(4, hidden=5, dt=0.5, tau=4).double(), latents().double()
    w_x, w_h, b = model.input.weight, model.recurrent.weight, model.input.bias
    a = h = np.zeros((3, 5))
    for t in range(10):
        drive = h @ w_h.T.detach().numpy() + x[:, t].numpy() @ w_x.T.detach().numpy()
        a = a + 0.125 * (-a + drive + b.detach().numpy())
        h = np.maximum(0, np.tanh(a))
    assert np.allclose(model.states(x)[:, -1].detach().numpy(), h)
    expected = model.out(model.output(torch.from_numpy(h)))
    assert torch.allclose(model(x), expected)
    assert model.recurrent.bias is None


def test_published_sizes_of_dynamics() -> None:
    with torch.device("meta"):
        lstm, ctrnn = LSTMDynamics(2048), CTRNNDynamics(2048)
    assert lstm.lstm.hidden_size == 1024 and lstm.lstm.num_layers == 1
    assert ctrnn.rate == 0.1 and ctrnn.output.weight.shape == (1024, 1024)


def test_an_lstm_s_last_state_is_read() -> None:
    torch.manual_seed(0)
    model = LSTMDynamics(4, hidden=5)
    assert torch.allclose(model(latents()), model.out(model.lstm(latents())[0][:, -1]))


@pytest.mark.parametrize("dynamics", [CopyDynamics(4), MLPDynamics(4, n_past=3, hidden=5)])
def test_one_step_predictions_use_the_observed_past(dynamics: nn.Module) -> None:
    x = latents()
    model = LatentSimulator(dynamics, n_past=3)
    found = model.one_step(x)
    assert found.shape == (3, 7, 4)
    for t in range(7):
        assert torch.allclose(found[:, t], dynamics(x[:, t : t + 3]))
    assert torch.allclose(model.loss(x), ((found - x[:, 3:]) ** 2).mean())


def test_a_rollout_feeds_on_itself() -> None:
    torch.manual_seed(0)
    model, x = LatentSimulator(MLPDynamics(4, n_past=3, hidden=5), n_past=3), latents()
    past = x[:, :3]
    for step in range(4):
        following = model.dynamics(past)
        assert torch.allclose(model.roll_out(x, 4)[:, step], following)
        past = torch.cat([past[:, 1:], following.unsqueeze(1)], 1)
    assert torch.allclose(model.roll_out(x, 4), model.roll_out(x[:, :3], 4))
    features = model.features(x, 4)
    assert features.shape == (3, 7, 4) and torch.equal(features[:, :3], x[:, :3])


def test_an_encoder_of_frames_does_not_learn() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 4))
    frames = FrozenFrames(encoder, n_images=2).train()
    video = torch.rand(2, 5, 1, 3, 3)
    found = frames(video)
    assert found.shape == (2, 5, 4) and not found.requires_grad
    assert torch.equal(found, frames(video))
    assert torch.allclose(found[1, 3], encoder(video[1, 3:4])[0])


def test_dynamics_that_cannot_be_used_say_why() -> None:
    model = LatentSimulator(MLPDynamics(4, n_past=3), n_past=5)
    with pytest.raises(ValueError, match="5 past vectors, built for 3"):
        model.one_step(latents())
    with pytest.raises(ValueError, match="at least 6 of 4"):
        model.loss(latents(steps=5))
    with pytest.raises(ValueError, match="10 vectors of 2 features"):
        model.loss(latents(dim=2))
    with pytest.raises(ValueError, match="tau"):
        CTRNNDynamics(4, tau=0)


# Behaviour


def test_behaviour_is_read_from_held_out_videos() -> None:
    rng = np.random.default_rng(0)
    y, held_y = np.arange(60) % 2, np.arange(40) % 2
    x = rng.standard_normal((60, 2, 3))
    held = rng.standard_normal((40, 2, 3))
    x[:, 1, 0] += 3 * y
    held[:, 1, 0] += 3 * held_y
    found = read_behaviour(x, y, held, held_y, human=held_y + 0.1 * rng.standard_normal(40))
    assert found.result.value > 0.8 and found.result.chance == 0.5
    assert found.human > 0.6 and found.probability.shape == (40,)
    swapped = read_behaviour(x, y, held, 1 - held_y)
    assert swapped.result.value < 0.2 and swapped.human is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x, np.zeros(10)), "two or more"),
        (lambda x, y: (x, np.arange(10) == 3), "Use fewer folds"),
        (lambda x, y: (x * np.nan, y), "NaN"),
        (lambda x, y: (x[:5], y), "one class per video"),
    ],
)
def test_behaviour_that_cannot_be_read_says_why(change, words: str) -> None:
    x, y = change(np.zeros((10, 2, 3)), np.arange(10) % 2)
    with pytest.raises(ValueError, match=words):
        read_behaviour(x, y, np.zeros((4, 2, 3)), np.arange(4) % 2)


# A ball in a box


def test_half_of_the_balls_change_sides_after_what_was_seen() -> None:
    video, right = simulate_bouncing(80, n_seen=7)
    where = (video[:, 6, 0].sum(1) * np.arange(12)).sum(1) / video[:, 6, 0].sum((1, 2))
    assert video.shape == (80, 25, 1, 12, 12)
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    assert ((where > 5.5) == right).mean() == pytest.approx(0.5, abs=0.05)


def trained(dynamics: nn.Module, x: torch.Tensor, *, steps: int) -> LatentSimulator:
    model = LatentSimulator(dynamics)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        part = x[32 * (step % 4) : 32 * (step % 4) + 32]
        loss = model.loss(part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LSTMDynamics, CTRNNDynamics])
def test_dynamics_foresee_a_ball_better_than_a_copy(kind: type) -> None:
    frames = FrozenFrames(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
    sides = [simulate_bouncing(n, seed=seed) for n, seed in ((128, 0), (128, 1))]
    (x, _), (held, _) = [(frames(torch.from_numpy(video)), right) for video, right in sides]
    torch.manual_seed(0)
    options = {"tau": 2} if kind is CTRNNDynamics else {}
    model = trained(kind(36, hidden=64, **options), x, steps=250)
    copy = LatentSimulator(CopyDynamics(36))
    with torch.no_grad():
        one = float(model.loss(held)) / float(copy.loss(held))
        rolled = [float(((m.roll_out(held, 6) - held[:, 7:13]) ** 2).mean()) for m in (model, copy)]
    print(f"{kind.__name__}: one step {one:.2f} of copying, rollout {rolled[0] / rolled[1]:.2f}")
    assert one < 0.8 and rolled[0] < 0.8 * rolled[1]


@pytest.mark.slow
def test_simulated_futures_tell_where_the_ball_will_be() -> None:
    frames = FrozenFrames(nn.Sequential(nn.AvgPool2d(2), nn.Flatten()))
    sides = [simulate_bouncing(n, n_frames=16, seed=seed) for n, seed in ((256, 0), (128, 1))]
    (x, y), (held, held_y) = [(frames(torch.from_numpy(video)), end) for video, end in sides]
    torch.manual_seed(0)
    model = trained(LSTMDynamics(36, hidden=64), x, steps=400)
    with torch.no_grad():
        pair = [
            m.features(v, 9).numpy()
            for m in (model, LatentSimulator(CopyDynamics(36)))
            for v in (x, held)
        ]
    simulated = read_behaviour(pair[0], y, pair[1], held_y)
    copied = read_behaviour(pair[2], y, pair[3], held_y)
    print(f"simulated {simulated.result.value:.3f}, copied {copied.result.value:.3f}, chance 0.5")
    assert simulated.result.low > 0.5
    assert simulated.result.value >= copied.result.value
