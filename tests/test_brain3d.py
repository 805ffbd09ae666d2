"""Two decoders of one brain, embeddings among real ones, and things in three dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neurofm.reconstruct import (
    DistilledSolids,
    DualROIEncoder,
    Generator3D,
    NoiseSchedule,
    Solids,
    equal_azimuths,
    load_part,
    render,
    save_part,
    score_views,
    stabilise,
    symmetric_clip,
    train_occupancy,
)
from neurofm.reconstruct.solids import KINDS, grid_points, inside


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def people(n: int = 120) -> tuple[Tensor, Tensor, Tensor]:
    """Early voxels 0-19 carry `low`, later 20-39 `high`."""
    low, high = random(n, 3), random(n, 4, seed=1)
    early = low @ random(3, 20, seed=2) + 0.3 * random(n, 20, seed=3)
    later = high @ random(4, 20, seed=4) + 0.3 * random(n, 20, seed=5)
    return torch.cat([early, later], dim=1), low, high


def encoder(hidden: int | None = None) -> DualROIEncoder:
    torch.manual_seed(0)
    return DualROIEncoder(40, list(range(20)), list(range(20, 40)), 3, 4, hidden=hidden)


def test_each_embedding_is_read_from_its_own_voxels():
    voxels, low, high = people()
    network = encoder()
    network.solve(voxels[:100], low[:100], high[:100], penalty=1.0)
    a, b = network(voxels[100:])
    assert (a - low[100:]).square().mean() < 0.2 and (b - high[100:]).square().mean() < 0.2
    changed = voxels.clone()
    changed[:, 20:] = 0
    assert torch.equal(network(changed)[0], network(voxels)[0])
    assert not torch.equal(network(changed)[1], network(voxels)[1])


def test_mlp_heads_learn_and_are_saved(tmp_path):
    voxels, low, high = people()
    network = encoder(hidden=32)
    history = network.fit(voxels, low, high, steps=25, batch_size=32, lr=1e-2)
    assert history[-1] < 0.7 * history[0]
    save_part(network, tmp_path / "dual.safetensors")
    back = load_part(tmp_path / "dual.safetensors")
    for a, b in zip(back(voxels), network(voxels), strict=True):
        torch.testing.assert_close(a, b)
    kinds = [type(layer).__name__ for layer in network.low]
    assert kinds == ["Linear", "GELU", "LayerNorm", "Linear"]


def test_loss_is_squared_error_and_a_third_of_contrast():
    voxels, low, high = people(10)
    network = encoder()
    a, b = network(voxels)
    expected = (a - low).square().mean() + (b - high).square().mean()
    expected = expected + 0.3 * (symmetric_clip(a, low) + symmetric_clip(b, high))
    torch.testing.assert_close(network.loss(voxels, low, high), expected)


def test_contrast_is_low_for_partners_and_log_n_for_equals():
    x = torch.eye(6)
    assert float(symmetric_clip(x, 3 * x)) < 1e-4
    assert float(symmetric_clip(x, torch.ones(6, 6))) == pytest.approx(math.log(6))


def test_stabilised_embeddings_lie_among_training_ones():
    training = torch.nn.functional.normalize(random(200, 16), dim=1)
    noisy = training[:20] + 0.15 * random(20, 16, seed=1)
    made = stabilise(noisy, training)
    assert (made - training[:20]).norm(dim=1).mean() < (noisy - training[:20]).norm(dim=1).mean()
    nearest = stabilise(noisy, training, k=1)
    assert torch.equal(nearest, training[(noisy @ training.T).argmax(1)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: stabilise(torch.ones(2, 3), torch.ones(5, 4)), "3 predicted dimensions"),
        (lambda: stabilise(torch.ones(2, 3), torch.ones(5, 3)), "k 10 of 5"),
        (lambda: DualROIEncoder(10, [], [1], 2, 2), "low_voxels has 0"),
        (lambda: DualROIEncoder(10, [1], [10], 2, 2), "from 0 to 9"),
        (lambda: encoder()(torch.ones(2, 39)), "39 voxels, it was built for a mask of 40"),
        (lambda: encoder(8).solve(*people(), penalty=1.0), "only for hidden=None"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Things ----------------------------------------------------------------------------------------


def things(size: int = 24) -> Solids:
    points = grid_points(size).expand(len(KINDS), -1, 3)
    occupancy = inside(points, torch.arange(len(KINDS))).float().unflatten(1, (size,) * 3)
    colour = torch.zeros(len(KINDS), 3, size, size, size)
    colour[:, 0] = 1.0
    colour[:, 1] = (grid_points(size)[:, 0] > 0).float().unflatten(0, (size,) * 3)
    return Solids(occupancy, colour)


def test_volumes_are_those_of_geometry():
    share = things(48).occupancy.mean((1, 2, 3)) * 8
    expected = [
        4 / 3 * math.pi * 0.7**3,
        1.1**3,
        math.pi * 0.45**2 * 1.4,
        math.pi * 0.6**2 * 1.4 / 3,
        2 * math.pi**2 * 0.5 * 0.2**2,
    ]
    torch.testing.assert_close(share, torch.tensor(expected), rtol=0.06, atol=0)


def test_front_view_is_the_silhouette_and_its_colours():
    solids = things()
    front = render(solids, [0.0])[:, 0]
    silhouette = solids.occupancy.amax(1).flip(1) > 0.5
    assert torch.equal(front[:, 2] < 0.5, silhouette)
    right = front[1][1, 10:14, 13:17]  # of the cube, right of the middle: yellow
    left = front[1][1, 10:14, 7:11]
    assert (right == 1).all() and (left == 0).all()
    cone = silhouette[3].sum(1)
    assert cone[-5] > cone[7] > 0  # its tip is up


def test_views_go_around():
    solids = things()
    angles = equal_azimuths(8)
    assert len(angles) == 8 and angles[2] == pytest.approx(math.pi / 2)
    views = render(solids, angles)
    assert views.shape == (5, 8, 3, 24, 24)
    back, front = views[1, 4], views[1, 0]
    torch.testing.assert_close(back.flip(2), front, atol=0.02, rtol=0)
    ball = views[0, :, 2]
    assert float((ball - ball[:1]).abs().mean()) < 0.03  # from everywhere the same outline
    ring = views[4, :, 2]
    assert (ring[2] < 0.5).sum() < 0.5 * (ring[0] < 0.5).sum()  # from its edge


def test_pictures_have_gradients_to_what_is_seen():
    occupancy = torch.full((1, 6, 6, 6), 0.5, requires_grad=True)
    render(Solids(occupancy, torch.zeros(1, 3, 6, 6, 6)), [0.3]).mean().backward()
    assert occupancy.grad is not None and (occupancy.grad < 0).sum() > 100  # darker if fuller


@pytest.mark.slow
def test_decoder_learns_kinds_and_colours(tmp_path):
    n = 100
    kinds = torch.arange(n) % len(KINDS)
    colours = torch.rand(n, 3, generator=torch.Generator().manual_seed(0))
    high = torch.eye(len(KINDS))[kinds]
    decoder = train_occupancy(colours, high, kinds, colours, steps=150, points=96, width=48)
    assert isinstance(decoder, Generator3D)
    decoder.size = 12
    made = decoder.optimise(colours[:5], high[:5])
    true = things(12).occupancy
    both = ((made.occupancy > 0.5) & (true > 0.5)).sum((1, 2, 3))
    either = ((made.occupancy > 0.5) | (true > 0.5)).sum((1, 2, 3))
    assert float((both / either).mean()) > 0.6
    for i in range(5):
        cloud = made.points(i, n=50)
        assert cloud.shape == (50, 6) and cloud[:, :3].abs().max() <= 1
        assert float((cloud[:, 3:].mean(0) - colours[i]).abs().max()) < 0.2
    save_part(decoder, tmp_path / "decoder.safetensors")
    back = load_part(tmp_path / "decoder.safetensors")
    again = back.optimise(colours[:1], high[:1])
    assert again.occupancy.shape == (1, 24, 24, 24)
    with pytest.raises(ValueError, match="low embedding of 2, expected 3"):
        decoder.optimise(torch.ones(1, 2), high[:1])


def test_empty_things_have_no_points():
    empty = Solids(torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="no occupied place"):
        empty.points(0)
    assert torch.equal(render(empty, [0.0]), torch.ones(1, 1, 3, 4, 4))


def test_views_are_scored_against_the_picture_seen():
    solids = things()
    seen = render(solids, [0.0])[:, 0]
    scores = score_views(seen, solids, lambda a, b: -(a - b).abs().mean((1, 2, 3)))
    assert scores.shape == (5, 8)
    assert (scores[:, 0] == 0).all() and (scores[:, 1:] < 0).all()


class Plain:
    """A diffusion of images that are their own latents, which expects them all to be red."""

    def __init__(self) -> None:
        self.schedule = NoiseSchedule(100)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def denoise(self, z: Tensor, t: Tensor, vision: Tensor | None, text: Tensor | None) -> Tensor:
        signal, spread = self.schedule.scales(t, z)
        mean = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
        return spread * (z - signal * mean) / (signal**2 * 0.01 + spread**2)

    def unconditional(self, vision: Tensor | None, text: Tensor | None) -> tuple:
        return vision, text

    def latent_shape(self) -> tuple[int, ...]:
        return (3, 12, 12)


def test_things_are_optimised_towards_picture_and_diffusion():
    low = torch.ones(1, 3, 12, 12)
    low[:, 1:, 3:9, 3:9] = 0  # a red square on white
    generator = DistilledSolids(Plain(), size=12, steps=(40, 0))
    first = generator.optimise(low, torch.zeros(1, 2, 3))
    assert isinstance(generator, Generator3D)
    front = render(first, [0.0])[:, 0]
    assert float((front - low).abs().mean()) < 0.1
    generator = DistilledSolids(Plain(), size=12, steps=(40, 30), guidance=1)
    both = generator.optimise(low, torch.zeros(1, 2, 3))
    side = [
        float(render(s, [math.pi / 2])[0, 0, 1].mean())  # green: of what is not red
        for s in (first, both)
    ]
    assert side[1] < side[0] - 0.05
    assert np.isfinite(both.occupancy.numpy()).all()
