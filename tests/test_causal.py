"""A planted causal site is found; what is known exactly comes out exactly."""

import copy
import fnmatch
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from neurofm.interpret import causal

HERE = Path(__file__).parent
DIM = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.act = nn.Tanh()

    def forward(self, x):
        # Every token hears of all tokens, so that no site is spared by accident.
        return x + self.out(self.act(self.mix(x) + x.mean(1, keepdim=True)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, DIM)
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(DIM, 3)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


class Planted(nn.Module):
    """Class 0 if channel 2 of token 1 is up: by unit 3 of `b` alone. The rest is decoration."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(10, 2, bias=False)
        with torch.no_grad():
            self.b.weight[3] = torch.tensor([0.0, 0.0, 1.0, 0.0])
            self.b.bias[3] = 0.0
            self.c.weight.zero_()
            self.c.weight[0, 8], self.c.weight[1, 8] = 1.0, -1.0

    def forward(self, x):
        both = torch.cat([self.a(x), self.b(x)], -1)
        return self.c(both[:, 1])


def make(kind, seed=0):
    torch.manual_seed(seed)
    return kind().double()


def windows(n, seed, tokens=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, tokens, 4, generator=generator, dtype=torch.float64)


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture
def pair():
    return windows(4, 1), windows(4, 2)


METRIC = causal.logit_difference(0, 1)
SITES = ["embed", "blocks.0.mix", "blocks.0", "blocks.1.act", "blocks.1"]


def test_every_number_of_the_golden_file():
    spec = importlib.util.spec_from_file_location(
        "golden_topics", HERE / "golden_checks/interpret.py"
    )
    topics = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(topics)
    tensors, ours = load_file(HERE / "golden/interpret/causal.safetensors"), topics.topic("causal")
    got = ours.check(tensors)
    wanted = {k for k in tensors if not any(fnmatch.fnmatch(k, p) for p in ours.INPUTS)}
    assert wanted == set(got)
    assert len(wanted) == 64
    for name in wanted:
        torch.testing.assert_close(got[name].double(), tensors[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_planted_site_is_found_and_no_other(direction):
    model = make(Planted)
    clean, corrupt = windows(6, 1), windows(6, 2)
    clean[:, 1, 2], corrupt[:, 1, 2] = 2.0, -2.0
    sites = causal.each("a", "token", 5) + causal.each("b", "token", 5)
    sites += [f"b[token=1, unit={k}]" for k in range(5)]
    found = causal.activation_patching(model, clean, corrupt, sites, direction=direction)
    planted = {"b[token=1]", "b[token=1, unit=3]"}
    expected = np.array([name in planted for name in found.names], float)
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.probability is not None


@pytest.mark.parametrize("insert", ["mean", "zero"])
def test_what_is_inserted(pair, insert):
    model = make(Net)
    found = causal.activation_patching(
        model, *pair, ["blocks.0"], insert=insert, direction="noise", metric=METRIC
    )
    value = model.blocks[0](model.embed(pair[1]))
    value = value.mean(0, keepdim=True) if insert == "mean" else torch.zeros_like(value[:1])
    by_hand = METRIC(model.head(model.blocks[1](value).mean(1)))
    assert found.score[0] == pytest.approx(float(by_hand.detach()))


def test_the_last_place_gives_everything_back(pair):
    found = causal.activation_patching(make(Net), *pair, SITES, metric=METRIC)
    assert found["embed"] == pytest.approx(1)
    assert found["blocks.0"] == pytest.approx(1)
    assert found["blocks.1"] == pytest.approx(1)
    assert not np.allclose(found["blocks.0.mix"], 1)


def test_chunks_change_nothing(pair):
    model = make(Net)
    sites = [*SITES, *causal.each("blocks.0", "token", 5), *causal.each("blocks.0", "head", 3)]
    one, seven, all_ = (
        causal.activation_patching(model, *pair, sites, rows=rows, metric=METRIC).score
        for rows in (1, 28, 1000)
    )
    np.testing.assert_allclose(one, all_, rtol=1e-12)
    np.testing.assert_allclose(seven, all_, rtol=1e-12)


def test_runs_that_do_not_differ_have_no_effect_but_nan(pair):
    found = causal.activation_patching(make(Net), pair[0], pair[0], ["blocks.0"], metric=METRIC)
    assert np.isnan(found.effect).all() and np.isnan(found.mean).all()


def test_and_or_makes_the_directions_disagree():
    class And(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x):
            return (self.a(x[:, 0]) * self.b(x[:, 1]))[:, None] * torch.tensor([1.0, -1.0])

    clean, corrupt = torch.ones(1, 2), torch.zeros(1, 2)
    effects = [
        causal.activation_patching(And(), clean, corrupt, ["a"], metric=METRIC, direction=d).mean[0]
        for d in ("denoise", "noise")
    ]
    assert effects == [0, 1]


def test_nothing_is_left_behind_after_an_error(pair):
    model = make(Net).train()

    def fails(logits):
        raise RuntimeError("no")

    for call in (causal.activation_patching, causal.attribution_patching):
        with pytest.raises(RuntimeError):
            call(model, *pair, SITES, metric=fails)
    assert not hooks(model)
    assert all(m.training for m in model.modules())
    assert all(w.requires_grad and w.grad is None for w in model.parameters())


def test_edges_of_a_linear_network_add_up(pair):
    """What a sender does directly and through each block is what it does in all."""
    model = make(Net)
    for block in model.blocks:
        block.act = nn.Identity()
    total = causal.activation_patching(model, *pair, ["embed"], metric=METRIC).mean[0]
    between = ["blocks.0.out", "blocks.1.out"]
    edges = causal.path_patching(
        model,
        *pair,
        "embed",
        ["blocks.0.mix:input", "blocks.1.mix:input", "head:input"],
        frozen=between,
        metric=METRIC,
    )
    clean, corrupt = pair
    change = model.embed(clean) - model.embed(corrupt)
    direct = METRIC(model.head(change.mean(1)) - model.head.bias)
    whole = METRIC(model(clean)) - METRIC(model(corrupt))
    assert total == pytest.approx(1)
    assert edges.effect[2] == pytest.approx((direct / whole).detach().numpy())
    assert edges.names[2] == "embed → head:input"


def test_first_order_is_exact_where_the_network_is_linear(pair):
    model = make(Net)
    for block in model.blocks:
        block.act = nn.Identity()
    found = causal.attribution_patching(model, *pair, SITES, metric=METRIC, at_least=20)
    np.testing.assert_allclose(found.checked_estimate, found.checked_change, atol=1e-12)
    assert found.correlation == pytest.approx(1)
    assert "correlation" in str(found)


@pytest.mark.filterwarnings("ignore:plain attribution")
def test_relevance_says_more_than_gradients_where_functions_saturate():
    """Tanh at 20 has no slope left, but its value is what counts."""
    model = make(Net)
    with torch.no_grad():
        model.embed.weight *= 30
    clean, corrupt = windows(16, 3), windows(16, 4)
    tries = {}
    for gradient in ("plain", "relevance"):
        found = causal.attribution_patching(
            model,
            clean,
            corrupt,
            ["blocks.0.mix", "blocks.1.mix"],
            metric=METRIC,
            gradient=gradient,
            per="token",
            at_least=99,
        )
        tries[gradient] = found.correlation
    assert tries["relevance"] > tries["plain"]


def test_a_useless_approximation_warns(pair):
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Identity()

        def forward(self, x):
            x = self.at(x)
            return (x.sign() - 0.01 * x).sum((1, 2))[:, None] * torch.tensor([1.0, -1.0])

    with pytest.warns(UserWarning, match="patch for real"):
        causal.attribution_patching(Steps(), *pair, ["at"], metric=METRIC, per="token")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": windows(3, 1)}, "3 clean and 4 corrupt"),
        ({"sites": ["blocks.2"]}, "Did you mean"),
        ({"sites": "blocks.0"}, "is the string"),
        ({"metric": lambda out: out}, "one number per window"),
        ({"run": lambda x: x.sum()}, "one row per window"),
        ({"direction": "up"}, "denoise or noise|Literal"),
        ({"insert": "nothing"}, "resample, mean or zero|Literal"),
        ({"clean": windows(4, 1, tokens=6)}, "same channels and length"),
    ],
)
def test_bad_input_is_explained(pair, change, message):
    given = {"clean": pair[0], "corrupt": pair[1], "sites": SITES, "metric": METRIC, **change}
    run = given.pop("run", None)
    model = make(Net)
    with pytest.raises((ValueError, TypeError), match=message):
        causal.activation_patching(
            model,
            given.pop("clean"),
            given.pop("corrupt"),
            given.pop("sites"),
            run=run and (lambda x: run(model(x))),
            **given,
        )
    assert not hooks(model)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_before_an_activation_in_place_are_those_of_the_plain_one(frozen: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    sudden = copy.deepcopy(plain)
    sudden[1] = nn.ReLU(inplace=True)
    for model in (plain, sudden):
        model.requires_grad_(not frozen)
    x = torch.randn(3, 4, dtype=torch.double)
    (_, values, slopes), (_, known, right) = (
        causal.gradients_at(model, x, ["0"], lambda out: out[:, 0]) for model in (sudden, plain)
    )
    torch.testing.assert_close(values["0"][0], known["0"][0])
    torch.testing.assert_close(slopes["0"][0], right["0"][0])
    assert (values["0"][0] < 0).any()
