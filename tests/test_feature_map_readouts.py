"""Readouts of feature maps: planted fields and masks are recovered; bad input; what is edited."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from response_toys import pairs_of
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.models import (
    AttentionLinearReadout,
    ConvCore,
    CoreReadout,
    FactorisedReadout,
    FrozenCore,
    GaborCore,
    GaussianReadout,
    GlobalLinearReadout,
    LanguageCore,
    LinearReadout,
    Localiser,
    SemanticReadout,
    VisionGrid,
    VisionMaps,
    map_size,
)
from neurofm.models.semantic_readout import Warps, warp
from neurofm.tasks import Encode

SHAPE, N = (4, 7, 9), 6
READOUTS = [
    LinearReadout,
    FactorisedReadout,
    GaussianReadout,
    GlobalLinearReadout,
    AttentionLinearReadout,
]


def smooth_maps(n: int, *, seed: int) -> Tensor:
    """Noise that is alike at neighbouring places, as feature maps are."""
    noise = torch.randn(n, 4, 12, 12, generator=torch.Generator().manual_seed(seed))
    x = F.avg_pool2d(F.avg_pool2d(noise, 5, 1, 2), 5, 1, 2)
    return x / x.std()


def descend(readout: nn.Module, x: Tensor, y: Tensor, *, steps: int, lr: float) -> float:
    """Correlation with the second half after training on the first."""
    half = len(x) // 2
    optimizer = torch.optim.Adam(readout.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = (readout(x[:half]) - y[:half]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        p, t = readout.eval()(x[half:]), y[half:]
    z = [(v - v.mean(0)) / v.std(0, correction=0) for v in (p, t)]
    return float((z[0] * z[1]).mean(0).min())


def test_the_gaussian_readout_finds_receptive_field_centres() -> None:
    torch.manual_seed(0)
    x = smooth_maps(400, seed=0)
    at = torch.tensor([[-0.4, 0.5], [0.3, 0.2], [0.5, -0.45], [-0.1, -0.5], [0.0, 0.0]])
    planted = GaussianReadout([4, 12, 12], 5).eval()
    with torch.no_grad():
        planted.mu[0, :, 0] = at
        planted.features.normal_()
        y = planted(x)
    readout = GaussianReadout([4, 12, 12], 5)
    nn.init.constant_(readout.sigma, 0.3)  # points without spread see their neighbours alone
    assert descend(readout, x, y, steps=250, lr=0.05) > 0.99
    assert float((readout.centres() - at).abs().max()) < 0.01
    assert float(readout.sigma.max()) < 0.01  # points come to rest


def test_the_factorised_readout_finds_masks() -> None:
    torch.manual_seed(0)
    x = torch.randn(600, *SHAPE)
    planted = FactorisedReadout(SHAPE, N).eval()
    with torch.no_grad():
        planted.spatial.zero_()
        for i in range(N):
            planted.spatial[i, i : i + 2, i : i + 3] = 1.0
        planted.features.normal_()
        y = planted(x)
    readout = FactorisedReadout(SHAPE, N, start=0.1)
    assert descend(readout, x, y, steps=150, lr=0.03) > 0.98
    same = (readout.masks() * planted.masks()).flatten(1).sum(1).abs()  # a mask's sign is free
    assert float(same.min()) > 0.95


@pytest.mark.slow
def test_the_semantic_readout_follows_where_the_small_map_points() -> None:
    torch.manual_seed(0)
    x = smooth_maps(800, seed=1)
    guide = torch.randn(800, 1, 1, 2)
    shift = 0.4 * torch.tanh(guide[:, 0, 0])
    points = (torch.tensor([0.1, -0.1]) + shift)[:, None, None]
    found = F.grid_sample(x, points, align_corners=False)[:, :, 0, 0]
    y = (found @ torch.randn(4, 3)).detach()
    semantic = SemanticReadout([4, 12, 12], 3, guide_shape=[1, 1, 2], mode="translation", chunk=2)
    nn.init.constant_(semantic.spatial[0], 0.1)

    class Guided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = semantic

        def forward(self, given: Tensor) -> Tensor:
            return self.inner(given, guide[:400] if given is first else guide[400:])

    first = x[:400]
    x_halves = _Halves(first, x[400:])
    fixed = descend(FactorisedReadout([4, 12, 12], 3, start=0.1), x, y, steps=200, lr=0.03)
    moving = descend(Guided(), x_halves, y, steps=400, lr=0.01)  # type: ignore[arg-type]
    assert moving > fixed + 0.2


class _Halves:
    """Two tensors as one whose slices are known by identity."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.parts = (first, second)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, chosen: slice) -> Tensor:
        return self.parts[0 if chosen.start is None else 1]


# What is edited, and when


def semantic(**options: object) -> SemanticReadout:
    return SemanticReadout(SHAPE, N, guide_shape=[2, 3, 3], **options)  # type: ignore[arg-type]


def ranged(readout: nn.Module) -> list[nn.Parameter]:
    """Parameters that are kept inside a range, some of them outside it now."""
    kept = {
        FactorisedReadout: lambda: [readout.spatial],
        GaussianReadout: lambda: [readout.mu, readout.sigma],
        SemanticReadout: lambda: [readout.spatial[0]],
    }[type(readout)]()
    for parameter in kept:
        nn.init.uniform_(parameter, -2, 2)
    return kept


@pytest.mark.parametrize(
    "build",
    [
        lambda: FactorisedReadout(SHAPE, N, positive=True),
        lambda: GaussianReadout(SHAPE, N),
        semantic,
    ],
)
def test_ranges_are_kept_in_training_and_evaluation_edits_nothing(build) -> None:
    torch.manual_seed(0)
    readout = build().eval()
    given = [torch.randn(2, *SHAPE)]
    given += [torch.randn(2, 2, 3, 3)] if isinstance(readout, SemanticReadout) else []
    kept = ranged(readout)
    before = [p.detach().clone() for p in kept]
    with torch.no_grad():
        said = readout(*given)
    assert all(torch.equal(p, b) for p, b in zip(kept, before, strict=True))
    readout.train()(*given)
    assert not any(torch.equal(p, b) for p, b in zip(kept, before, strict=True))
    with torch.no_grad():  # what was edited answers as what was not
        torch.testing.assert_close(readout.eval()(*given), said)
    # On the border a gradient may take a parameter back inside, as where the data are edited.
    readout.train()(*given).square().sum().backward()
    border = kept[0].detach().abs() < 1e-12 if kept[0].min() >= 0 else kept[0].detach().abs() == 1
    assert bool(border.any()) and bool((kept[0].grad[border] != 0).any())


@pytest.mark.parametrize("spread", ["full", "uncorrelated", "isotropic"])
def test_points_waver_in_training_by_their_spread(spread: str) -> None:
    torch.manual_seed(0)
    readout = GaussianReadout(SHAPE, 1, spread=spread, mu_range=0.0).train()
    factor = {"full": [[0.2, 0.0], [0.1, 0.05]], "uncorrelated": [[0.2, 0.05]]}
    with torch.no_grad():
        readout.sigma[0, 0] = torch.tensor(factor.get(spread, [[0.1]]))
    points = readout.points(4000, generator=torch.Generator().manual_seed(0))[:, 0]
    sigma = readout.sigma[0, 0].detach()
    full = sigma if spread == "full" else torch.diag(sigma[0].expand(2))
    torch.testing.assert_close(points.T.cov(), full @ full.T, atol=2e-3, rtol=0.1)
    assert not readout.eval().points(3).any()


# Warps


def test_an_identity_warp_leaves_a_map_and_the_start_is_one() -> None:
    x = torch.randn(2, 3, 6, 5)
    for mode in ("affine", "translation", "scale+rotation", "shear+translation"):
        by = Warps(4, 3, mode)(torch.randn(2, 4))
        torch.testing.assert_close(warp(x, by), x)


def test_a_rotation_of_half_a_turn_turns_a_map_around() -> None:
    warps = Warps(4, 1, "rotation")
    nn.init.constant_(warps[2].bias, torch.pi)
    x = torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(warp(x, warps(torch.zeros(2, 4))), x.flip(2, 3))


@pytest.mark.parametrize("mode", ["affine", "translation+rotation"])
@pytest.mark.parametrize("text", [None, (3, 2, 2)])
def test_chunks_change_neither_responses_nor_gradients(mode: str, text) -> None:
    torch.manual_seed(0)
    whole = semantic(mode=mode, text_shape=text)
    for p in whole.parameters():
        nn.init.normal_(p, std=0.3)
    parts = semantic(mode=mode, text_shape=text, chunk=4)
    parts.load_state_dict(whole.state_dict())
    given = [torch.randn(2, *SHAPE), torch.randn(2, 2, 3, 3)]
    given += [torch.randn(2, *text)] if text else []
    said = []
    for readout in (whole, parts):
        out = readout(*given)
        out.square().sum().backward()
        said.append([out, *(p.grad for p in readout.parameters())])
    torch.testing.assert_close(said[0], said[1])


# Cores


@configured
class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.drop(self.first(image)))  # fails: nothing behind the cut is computed


def test_a_frozen_network_is_cut_and_stays_as_it_is() -> None:
    core = FrozenCore(Tiny(), "drop").train()
    image = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(core(image), core(image))
    assert core(image).shape == (2, 4, 8, 8) and not core(image).requires_grad


def test_sizes_of_the_published_cores() -> None:
    assert map_size(ConvCore(width=2), [3, 224, 224]) == (2, 28, 28)
    assert map_size(LanguageCore(512), [512]) == (512, 1, 1)
    assert map_size(LanguageCore(8, dense=True, width=4), [8, 14, 14]) == (4, 5, 5)
    torch.testing.assert_close(
        LanguageCore(6)(torch.ones(2, 5, 6)), LanguageCore(6)(torch.ones(2, 6))
    )


def test_a_grating_drives_the_gabors_of_its_orientation() -> None:
    core = GaborCore(grid=4, orientations=4, cycles=[0.14])
    column = torch.arange(64.0)
    wave = 0.5 + 0.4 * torch.sin(2 * torch.pi * 0.14 * column)
    image = wave.expand(1, 3, 64, 64)
    assert core(image)[0, :4].mean((1, 2)).argmax() == 0
    assert core(image.transpose(2, 3))[0, :4].mean((1, 2)).argmax() == 2
    plain = core(torch.full((1, 3, 64, 64), 0.5))
    torch.testing.assert_close(plain[0, :4], torch.zeros(4, 4, 4))


def people(*sizes: int) -> CoreReadout:
    torch.manual_seed(0)
    return CoreReadout(GaborCore(grid=5), [GlobalLinearReadout([15, 5, 5], n) for n in sizes])


def test_everybody_has_a_readout_of_their_own() -> None:
    model, image = people(3, 5), torch.rand(4, 3, 16, 16)
    subject = torch.tensor([1, 0, 1, 0])
    found = model.respond(image, subject=subject)
    assert found.shape == (4, 5) and not found[subject == 0, 3:].any()
    maps = model.core(image)
    torch.testing.assert_close(found[1, :3], model.readouts[0](maps)[1])
    torch.testing.assert_close(found[2], model.readouts[1](maps)[2])


def test_penalties_are_added_to_the_training_loss() -> None:
    readout = LinearReadout([6, 1, 1], 2, alpha=3.0)
    model = CoreReadout(LanguageCore(6), readout)
    norms = readout.linear.weight.norm() + readout.linear.bias.norm()
    torch.testing.assert_close(model.penalty(), 3 * norms)
    task, pairs = Encode(model), pairs_of(torch.randn(5, 6), torch.randn(5, 2))
    error = (model.respond(pairs.stimulus) - pairs.y).square().mean()
    torch.testing.assert_close(task.step(pairs, "train"), error + 3 * norms)
    torch.testing.assert_close(task.step(pairs, "validate"), error)


# What is refused


@pytest.mark.parametrize("readout", READOUTS)
def test_maps_of_another_size_are_refused(readout) -> None:
    other = (5, 7, 9) if readout is GlobalLinearReadout else (4, 9, 7)
    with pytest.raises(ValueError, match="Are the images of another size, or is it another core"):
        readout(SHAPE, N)(torch.randn(2, *other))
    with pytest.raises(ValueError, match=r"in_shape is \[4, 7\], expected the features, rows"):
        readout([4, 7], N)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: semantic()(torch.randn(1, *SHAPE), torch.randn(1, 2, 4, 4)), r"\[2, 4, 4\]"),
        (lambda: semantic(mode="bend"), "mode 'bend', expected 'affine' or some of"),
        (
            lambda: semantic(text_shape=[3, 2, 2])(torch.randn(1, *SHAPE), torch.randn(1, 2, 3, 3)),
            "1 kinds of feature maps, built for 2",
        ),
        (lambda: GaussianReadout(SHAPE, N, spread="round"), "spread 'round'"),
        (lambda: AttentionLinearReadout([4, 3, 9], N), "at least 5 x 5"),
        (lambda: people(2, 3).respond(torch.rand(1, 3, 9, 9)), "say with `subject` who saw"),
        (
            lambda: people(2, 3).respond(torch.rand(1, 3, 9, 9), subject=torch.tensor([2])),
            "person 2 are asked for, there are readouts of 2",
        ),
        (lambda: people(2).respond(torch.rand(1, 1, 9, 9)), r"\[1, 1, 9, 9\], expected images"),
        (lambda: people(2).respond(torch.rand(1, 3, 4, 9)), "for a grid of 5 x 5"),
        (lambda: FrozenCore(Tiny(), "middle"), "has no layer 'middle'. Its layers: first"),
        (lambda: ConvCore(width=2)(torch.rand(1, 3, 16, 16)), "Use larger images or fewer"),
        (lambda: ConvCore(n_layers=9), "n_layers is 9"),
        (lambda: LanguageCore(512)(torch.rand(2, 768)), "512 features, an embedding of a caption"),
        (lambda: CoreReadout(ConvCore(width=2), []), "no readouts"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(act, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act()


@pytest.mark.parametrize("network", [VisionGrid, VisionMaps])
def test_missing_weights_are_named_with_how_to_get_them(network, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json is missing.*hf download"):
        network(str(tmp_path / "dinov2"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"no weights \(model.safetensors\)"):
        network(str(tmp_path))


def test_a_localiser_learns_its_projection_alone() -> None:
    localiser = Localiser(ConvCore(width=4, n_layers=1), dim=4).train()
    localiser(torch.rand(2, 3, 8, 8)).sum().backward()
    assert localiser.project.weight.grad is not None and not localiser.network.training
    assert all(p.grad is None for p in localiser.network.parameters())
