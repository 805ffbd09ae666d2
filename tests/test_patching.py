import pytest
import torch
from torch import nn

from neurofm.interpret import record
from neurofm.interpret.patching import patched


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)
        self.act = nn.Tanh()

    def forward(self, x, scale=None):
        y = self.act(self.mix(x))
        return {"y": x + (y if scale is None else scale * y), "name": "block"}


class Net(nn.Module):
    """Two blocks that share one activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.second.act = self.first.act
        self.pair = nn.Identity()
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x)["y"]
        x = self.second(x, scale=torch.ones(()))["y"]
        _, x = self.pair(("words", x))
        return self.head(x).mean(1)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double()


@pytest.fixture
def x():
    return torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


PLACES = ["first:output.y", "second:input", "pair", "pair:output.1", "head", "first.mix", ":input"]
PLACES += ["first.mix[token=1]", "first.mix[token=1:3, unit=0+5]", "head:input[head=2/3]"]
PLACES += ["first.mix[token=0+3, unit=1+2]", "first.act@1", "head[unit=-1]"]


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("site", PLACES)
def test_the_own_value_changes_nothing(net, x, site):
    with torch.no_grad(), patched(net, {site: lambda value, _: value.clone()}):
        again = net(x)
    assert torch.equal(again, net(x))


@pytest.mark.parametrize("site", PLACES)
def test_what_is_written_is_what_is_read(net, x, site):
    plain = record(net, [site], run=net, batches=[x])
    (key,) = plain.data
    with (
        torch.no_grad(),
        patched(net, {site: lambda value, _: value * 2}),
        record(net, [site]) as recorder,
    ):
        net(x)
    assert recorder.activations()[key] == pytest.approx(2 * plain[key])


def test_only_the_selected_part_changes(net, x):
    with (
        patched(net, {"first.mix[token=1, unit=2:4]": lambda value, _: value * 0}),
        record(net, ["first.mix"]) as recorder,
    ):
        net(x)
    changed, plain = recorder.activations()["first.mix"], net.first.mix(x).detach().numpy()
    assert (changed[:, 1, 2:4] == 0).all()
    same = plain != 0
    same[:, 1, 2:4] = False
    assert (changed == plain)[same].all()


def test_a_named_argument_is_replaced(net, x):
    with (
        patched(net, {"second:input.scale": lambda value, _: value * 0}),
        record(net, ["second:output.y", "first:output.y"]) as recorder,
    ):
        net(x)
    found = recorder.activations()
    assert (found["second:output.y"] == found["first:output.y"]).all()


def test_gradients_flow_through_a_patch(net, x):
    vector = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    with patched(net, {"first:output.y": lambda value, _: value + vector}):
        net(x)[:, 0].sum().backward()
    assert vector.grad is not None and vector.grad.abs().max() > 0


def test_one_call_of_a_shared_module(net, x):
    seen = []
    with (
        patched(net, {"first.act@1": lambda value, context: seen.append(context) or value * 0}),
        record(net, ["first:output.y", "second:output.y"]) as recorder,
    ):
        net(x)
    found = recorder.activations()
    assert [context.call for context in seen] == [1]
    assert (found["second:output.y"] == found["first:output.y"]).all()


def test_hooks_are_removed_after_an_error(net, x):
    def fails(value, _):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), patched(net, {"first.mix": fails, "head": fails}):
        net(x)
    assert not hooks(net)
    cut = {"first.mix": lambda value, _: value[:1]}
    with pytest.raises(ValueError, match="returned"), patched(net, cut):
        net(x)
    assert not hooks(net)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("frist.mix", "Did you mean 'first.mix'"),
        ("first.act", "same module as 'second.act'"),
        ("first", "a dict with keys"),
        ("first:middle", "input or output"),
        ("first.mix[tokens=3]", "Write token=3"),
        ("first.mix[token=9]", "no token 9 of 4"),
        ("first.mix[head=0/4]", "has to be a multiple"),
        ("first.mix[token=1, channel=2]", "no axis of its own"),
        ("second:input.nothing", "named ones"),
        ("first..[", "is no site"),
        ("head@1", "never passed by"),
    ],
)
def test_a_wrong_site_says_what_is_wrong(net, x, site, message):
    with pytest.raises(ValueError, match=message), patched(net, {site: lambda value, _: value}):
        net(x)
    assert not hooks(net)


@pytest.mark.slow  # importing the compiler takes seconds
def test_compiled_code_is_refused(net, x):
    compiled = torch.compile(net, backend="eager")
    for call in (patched, lambda model, sites: record(model, list(sites))):
        with pytest.raises(ValueError, match="_orig_mod"):
            call(compiled, {"_orig_mod.head": lambda value, _: value})
    net.first.compile(backend="eager")
    with pytest.raises(ValueError, match="compiled code"):
        patched(net, {"first.mix": lambda value, _: value})
    with patched(compiled._orig_mod, {"head": lambda value, _: value}):
        net.head(x)
