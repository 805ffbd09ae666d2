"""Directions, vectors, heads, units and lesions: what was planted is found, and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from neurofm.interpret import causal

METRIC = causal.logit_difference(0, 1)


def draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Dormant(nn.Module):
    """`site` has a used direction (0), one that varies and is not read (1), one that is read and
    never varies (2), and a small one (3)."""

    def __init__(self) -> None:
        super().__init__()
        self.site = nn.Identity()
        self.read = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.read.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0]]))
        self.double()

    def forward(self, x):
        moved = torch.stack([x[:, 0], x[:, 0] + 0.1 * x[:, 1], 0 * x[:, 0], 0.01 * x[:, 1]], 1)
        total = self.read(self.site(moved)).sum(1)
        return torch.stack([total, -total], 1)


@pytest.fixture
def trials():
    found, held = draw((40, 2), 0), draw((40, 2), 1)
    for x in (found, held):
        x[::2, 0] += 4
    return found[::2], found[1::2], held[::2], held[1::2]


def check(trials, basis):
    model = Dormant()
    return causal.check_subspace(
        model,
        "site",
        basis,
        model.read.weight.detach(),
        found_on=trials[:2],
        held_out=trials[2:],
    )


def test_a_direction_that_is_used_passes_the_guard(trials):
    found = check(trials, torch.tensor([1.0, 0, 0, 0]))
    assert found.whole == pytest.approx(1) and found.row == pytest.approx(1)
    assert np.isnan(found.null)  # nothing of it is left there


def test_a_dormant_direction_is_seen_through(trials):
    """Half of it varies, the other half is read: together they patch, each alone does not."""
    with pytest.warns(UserWarning, match="dormant path"):
        found = check(trials, torch.tensor([0.0, 1, 1, 0]))
    assert found.whole == pytest.approx(0.5, abs=0.05)
    assert found.row == pytest.approx(0, abs=1e-12)
    assert found.null == pytest.approx(0, abs=1e-12)
    assert found.variance["row"] == pytest.approx(0, abs=1e-12)
    assert found.variance["null"] > 1


def test_a_direction_without_variance_is_named(trials):
    with (
        pytest.warns(UserWarning, match="hardly ever uses it"),
        pytest.warns(UserWarning, match="cannot see it"),
    ):
        check(trials, torch.tensor([0.0, 0, 0, 1]))


def test_the_guard_wants_other_windows(trials):
    with pytest.raises(ValueError, match="20 held-out windows are among"):
        check((*trials[:2], trials[0], trials[3]), torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (torch.ones(4, 2), "rank 1"),
        (torch.zeros(4), "rank 0"),
        (torch.full((4,), torch.nan), "finite"),
        (torch.ones(3), "reader of shape"),
    ],
)
def test_a_wrong_basis_is_explained(trials, basis, message):
    with pytest.raises(ValueError, match=message):
        check(trials, basis)


def test_directions_and_latents_are_places_too(trials):
    """With an identity dictionary, latents are the units and directions the columns."""
    model, sites = Dormant(), []
    sites += causal.directions("site", torch.eye(4))
    sites += causal.latents("site", lambda v: v, lambda z: z, range(4))
    found = causal.activation_patching(model, *trials[2:], sites, metric=METRIC)
    assert found.mean == pytest.approx([1, 0, 0, 0] * 2, abs=1e-12)
    assert found.names[5] == "site latent 1"


# Ablation


class Sum(nn.Module):
    """Two of four parts carry the answer, one of them alone or both; two do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in range(4))

    def forward(self, x):
        one = self.parts[0](x[:, 0]) + self.parts[1](x[:, 0]) + 0 * self.parts[2](x[:, 1])
        return torch.stack([one + 0 * self.parts[3](x[:, 1]), -one], 1)


ALL = [f"parts.{k}" for k in range(4)]


@pytest.mark.parametrize("how", ["mean", "zero", "resample"])
def test_a_circuit_is_faithful_and_complete(how):
    x = draw((30, 2), 3) + 3
    given = {"metric": METRIC, "how": how, "n_random": 40}
    whole = causal.circuit(Sum(), x, ALL[:2], ALL, reference=x - 3, **given)
    half = causal.circuit(Sum(), x, ALL[:1], ALL, reference=x - 3, **given)
    assert whole.faithfulness == pytest.approx(1) and whole.completeness == pytest.approx(0)
    if how != "resample":
        assert half.faithfulness == half.completeness == pytest.approx(0.5)
    assert whole.p < 0.4 and whole.control_faithfulness.min() == pytest.approx(0)


def test_what_each_part_is_worth():
    x = draw((30, 2), 3) + 3
    found = causal.ablation(Sum(), x, ALL, metric=METRIC, how="zero")
    assert found.loss == pytest.approx([2 * float(x[:, 0].mean())] * 2 + [0, 0])


def test_means_leave_padding_out():
    from neurofm.batch import Tokens

    class Tokenized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = Masked()

        def forward(self, x):
            return self.tokens(x).values.sum((1, 2))[:, None]

    class Masked(nn.Module):
        def forward(self, x):
            mask = torch.ones(x.shape[:2], dtype=torch.bool)
            mask[:, -1] = False
            place = torch.zeros(x.shape[:2])
            return Tokens(values=x, codes=None, mask=mask, channel=place.long(), time=place)

    x = draw((3, 4, 2), 0).float()
    model = Tokenized()
    mean = causal.mean_value(model, x, "tokens")
    torch.testing.assert_close(mean.float(), x[:, :-1].mean((0, 1)))
    rows = causal.mean_value(model, x, "tokens", per_token=True)
    torch.testing.assert_close(rows[:-1].float(), x[:, :-1].mean(0))


def test_a_circuit_of_nothing_is_refused():
    x = draw((4, 2), 3)
    with pytest.raises(ValueError, match=r"parts\.9"):
        causal.circuit(Sum(), x, ["parts.9"], ALL, metric=METRIC)
    with pytest.raises(ValueError, match="nothing to explain"):
        causal.circuit(Sum(), x, ALL[2:3], ALL[2:], metric=METRIC)
    with pytest.raises(ValueError, match="1 window to resample"):
        causal.ablation(Sum(), x[:1], ALL, metric=METRIC, how="resample")


# Steering


class Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.site, self.head = nn.Identity(), nn.Linear(4, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(4)[:3])

    def forward(self, x):
        return self.head(self.site(x)).mean(1)


def steer(**options):
    positive, negative, held = draw((20, 5, 4), 1), draw((20, 5, 4), 2), draw((12, 5, 4), 3)
    positive[..., 0] += 1.0
    model = Classes().double()
    vector = causal.contrast_vector(model, positive, negative, "site")
    given = {"found_on": [positive, negative], "target": 0, **options}
    batch = given.pop("batch", held)
    return vector, causal.steering(model, batch, {"site": vector}, METRIC, **given)


def test_steering_is_a_straight_line_through_the_plain_run():
    vector, found = steer()
    mean = found.score.mean(-1)[0]
    slope = float(METRIC(Classes().double().head(vector)[None]).detach())
    assert np.diff(mean) == pytest.approx(slope) and slope > 0.5
    assert found.off_target[0, 2] == pytest.approx(0, abs=1e-15)
    assert (found.off_target[0, [0, -1]] > 0).all()


def test_relative_vectors_are_as_long_as_activations():
    _, found = steer(relative=True)
    assert found.length == pytest.approx(1)
    _, plain = steer()
    ratio = np.diff(found.score.mean(-1)[0])[0] / np.diff(plain.score.mean(-1)[0])[0]
    assert ratio == pytest.approx(1 / plain.length[0])


def test_steering_wants_other_windows():
    with pytest.raises(ValueError, match="20 held-out windows"):
        steer(batch=draw((20, 5, 4), 2))


# Heads and units


class Heads(nn.Module):
    """A prompt (token 0) is read by head 1 of block 1 and tells which class is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Linear(8, 6, bias=False) for _ in range(2))
        self.head = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        y = x[..., :6]
        for k, layer in enumerate(self.project):
            mixed = torch.cat([y[..., :2], y[..., :2], y[..., 2:6]], -1).clone()
            mixed[:, -1, 2:4] = k * x[:, 0, 6:]
            y = y + layer(mixed)
        return self.head(y[:, -1])


def test_the_head_that_carries_the_task_is_found_and_its_vector_does_the_task():
    torch.manual_seed(0)
    model = Heads().double()
    trials, corrupted = draw((60, 4, 8), 1), draw((25, 4, 8), 2)
    with torch.no_grad():
        model.project[1].weight[:, 2:4] = 2 * model.head.weight.T
    trials[:, 0, 6:] = torch.tensor([3.0, 0.0])
    heads = [head for k in (0, 1) for head in causal.each(f"project.{k}:input", "head", 4)]
    found = causal.function_vector(model, heads, trials, corrupted, METRIC, n_heads=1)
    assert found.top == ("project.1:input[head=1/4]",)
    with torch.no_grad(), causal.patched(model, {"project.1": causal.added(found.vector)}):
        steered = METRIC(model(corrupted))
    assert (steered > METRIC(model(corrupted))).all()
    wanted = model.project[1].weight[:, 2:4].detach() @ torch.tensor([3.0, 0.0]).double()
    torch.testing.assert_close(found.vector, wanted)


def test_a_head_has_to_enter_a_matrix():
    model = Heads().double()
    with pytest.raises(ValueError, match="entering a Linear"):
        x = draw((4, 4, 8), 1)
        causal.function_vector(model, ["project.0"], x, x, METRIC, n_heads=1)


def test_the_planted_path_of_units_is_found():
    torch.manual_seed(1)
    layers = [nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    model = nn.Sequential(*layers).double()
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight *= 0.1
            layer.bias.zero_()
        layers[0].weight[5] = torch.tensor([3.0, 0, 0])
        layers[2].weight[2, 5] = 3.0
        layers[4].weight[:, 2] = torch.tensor([2.0, -2.0])
    x = draw((6, 3), 0)
    x[:, 0] = x[:, 0].abs() + 0.5
    found = causal.neuron_path(model, x, ["1", "3"], metric=METRIC, n_random=10)
    assert found.units == (5, 2)
    assert abs(found.delta) < 1e-9 * abs(found.joint[-1]) + 1e-9
    assert found.joint[-1] > np.median(found.control) + 3
    other = causal.neuron_path(model, x, ["1", "3"], metric=METRIC, n_random=0, rows=1)
    assert other.units == found.units and other.joint == pytest.approx(found.joint)


# The brain side


def score(x):
    """Power at 10 Hz in channels 2 and 3."""
    return float(torch.fft.rfft(x[:, 2:4])[..., 10].abs().mean())


@pytest.fixture
def rhythm():
    time = torch.arange(100, dtype=torch.float64) / 100
    x = 0.1 * draw((5, 8, 100), 0)
    x[:, 2:4] += torch.sin(2 * np.pi * 10 * time)
    return x


@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_the_region_and_the_band_that_count_are_found(rhythm, fill):
    regions = {"there": [2, 3], "elsewhere": [5, 6]}
    rng = np.random.default_rng(0)
    found = causal.lesion_channels(score, rhythm, regions, fill=fill, n_random=60, rng=rng)
    assert found.drop[0] > 0.7 * found.intact and found.drop[1] == pytest.approx(0)
    assert found.p[0] < 0.15 and found.p[1] == 1
    bands = causal.lesion_bands(
        score, rhythm, 100.0, {"mu": (8.0, 13.0), "beta": (20.0, 25.0)}, n_random=60, rng=rng
    )
    assert bands.drop[0] > 0.9 * bands.intact and bands.drop[1] == pytest.approx(0, abs=1e-9)
    assert bands.control.shape == (2, 60)


@pytest.mark.parametrize(
    ("region", "fill"), [([9], "zero"), (list(range(8)), "zero"), ([], "zero")]
)
def test_regions_that_cannot_be_cut_out(rhythm, region, fill):
    with pytest.raises(ValueError, match="some must go and some stay"):
        causal.lesion_channels(score, rhythm, {"r": region}, fill=fill, n_random=1)


def test_corruptions_change_one_thing(rhythm):
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    shuffled = causal.shuffled_patches(rhythm, 20, rng=rng)
    torch.testing.assert_close(shuffled.sort(-1)[0], rhythm.sort(-1)[0])
    phase = causal.phase_randomised(rhythm, generator=generator)
    cross = [torch.fft.rfft(x)[:, 2] * torch.fft.rfft(x)[:, 3].conj() for x in (rhythm, phase)]
    torch.testing.assert_close(cross[0][:, 1:-1], cross[1][:, 1:-1])
    stopped = causal.band_stopped(rhythm, 100.0, 8, 13)
    assert score(stopped) < 1e-9 < score(rhythm)
    noise = causal.noisy(rhythm, generator=generator)
    size = float((noise - rhythm).std() / rhythm.std(-1).square().mean().sqrt())
    assert size == pytest.approx(3, rel=0.1)
    assert causal.difference(rhythm, stopped).mean() < causal.difference(rhythm, noise).mean()
    with pytest.raises(ValueError, match="two whole ones"):
        causal.shuffled_patches(rhythm, 33, rng=rng)


def test_partners_differ_in_one_thing_only():
    rng = np.random.default_rng(0)
    labels, subject = np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 0, 1, 1, 1])
    partner = causal.other_class(labels, subject=subject, rng=rng)
    assert (labels[partner] != labels).all() and (subject[partner] == subject).all()
    partner = causal.other_subject(subject, labels=labels, rng=rng)
    assert (labels[partner] == labels).all() and (subject[partner] != subject).all()
    assert torch.equal(causal.taken(torch.arange(6), partner), torch.as_tensor(partner))
    with pytest.raises(ValueError, match="has no partner"):
        causal.other_class([0, 0, 1], subject=[0, 0, 1], rng=rng)
