from __future__ import annotations

import fnmatch
import functools
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from neurofm.interpret import attribution
from neurofm.interpret.attribution import AlphaBeta, Box, Composite, Epsilon, Flat, Gamma, relevance

TESTS = Path(__file__).parent
CHANNELS, TIMES = 3, 16


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Net(nn.Module):
    """Residual, reused and functional operations, so that no registry of modules could do."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv1d(CHANNELS, 4, 3, padding=1, bias=bias)
        self.again = nn.Conv1d(4, 4, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.head = nn.Linear(4 * 4, 2, bias=bias)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        h = h + F.relu(self.again(h))
        h = self.norm(h + self.again(h))
        return self.head(F.avg_pool1d(F.max_pool1d(h, 2), 2).flatten(1))


def windows(n: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(n, CHANNELS, TIMES, generator=torch.Generator().manual_seed(seed)).double()


RULES = {
    "epsilon": Composite.epsilon(1e-12),
    "gamma": Composite(Gamma(0.25, 1e-12), Gamma(0.25, 1e-12), Epsilon(1e-12)),
    "alpha beta": Composite(*[AlphaBeta(1.0, 0.0, 1e-12)] * 3),
    "alpha 2 beta 1": Composite(AlphaBeta(2.0, 1.0, 1e-12), Epsilon(1e-12), Epsilon(1e-12)),
    "box": Composite(Box(-4.0, 4.0, 1e-12), Epsilon(1e-12), Epsilon(1e-12)),
    "flat": Composite(Flat(), Epsilon(1e-12), Epsilon(1e-12)),
}


def test_golden_values_of_attribution_are_reproduced():
    check = _module(TESTS / "golden_checks" / "interpretation" / "attribution.py")
    tensors = load_file(TESTS / "golden" / "interpret" / "attribution.safetensors")
    expected = {
        key: value
        for key, value in tensors.items()
        if not any(fnmatch.fnmatch(key, pattern) for pattern in check.INPUTS)
    }
    got = check.check(tensors)
    assert set(got) == set(expected) and len(got) == 17
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-9, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "box", "flat"])
def test_relevance_adds_up_to_the_logit_without_biases(name):
    model, x = Net(), windows()
    found = relevance(model, x, 1, rules=RULES[name], model=model)
    assert found.delta.abs().max() < 1e-6
    torch.testing.assert_close(found.change, model(x)[:, 1].detach())


@pytest.mark.parametrize("name", sorted(RULES))
def test_relevance_equals_the_written_out_sum_for_one_layer(name):
    layer = nn.Linear(4, 2, bias=False).double()
    x = torch.tensor([[[0.5, -1.0, 2.0, 0.25]]]).double()
    found = relevance(lambda x: layer(x[:, 0]), x, 0, rules=RULES[name]).values[0, 0]
    w, a = layer.weight[0].detach(), x[0, 0]
    z = w @ a
    up, down = (w * a).clamp(min=0), (w * a).clamp(max=0)
    boxed = w * a + 4 * w.clamp(min=0) - 4 * w.clamp(max=0)
    more = (w + 0.25 * w.clamp(min=0)) * a
    expected = {
        "epsilon": w * a,
        "gamma": more / more.sum() * z,
        "alpha beta": up / up.sum() * z,
        "alpha 2 beta 1": (2 * up / up.sum() - down / down.sum()) * z,
        "box": boxed / boxed.sum() * z,
        "flat": torch.full((4,), 0.25).double() * z,
    }
    torch.testing.assert_close(found, expected[name], atol=1e-9, rtol=1e-9)


def test_what_biases_and_epsilon_take_is_the_leak():
    x = windows()
    with_bias = relevance(Net(bias=True), x, 0, rules=Composite.epsilon(1e-12))
    strong = relevance(Net(), x, 0, rules=Composite.epsilon(1.0))
    assert with_bias.delta.abs().max() > 1e-3 and strong.delta.abs().max() > 1e-3
    total = strong.values.flatten(1).sum(1)
    torch.testing.assert_close(strong.delta, total - strong.change)


def test_a_silent_sample_can_carry_flat_relevance():
    x = windows()
    x[:, 1] = 0
    found = relevance(Net(), x, 1)
    assert found.values[:, 1].abs().max() > 1e-4


def test_epsilon_relevance_agrees_with_captum():
    from captum.attr import LRP

    model, x = Flat2d().double(), windows()
    ours = relevance(model, x, 1, rules=Composite.epsilon(1e-9))
    theirs = LRP(model).attribute(x.clone(), target=1).detach()
    torch.testing.assert_close(ours.values, theirs, atol=1e-7, rtol=1e-6)


class Flat2d(nn.Module):
    """For captum, which has rules neither for Conv1d nor for Flatten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu = nn.Conv2d(1, 4, (CHANNELS, 3)), nn.ReLU()
        self.head = nn.Linear(4 * (TIMES - 2), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x[:, None])).flatten(1))


def test_weights_modes_and_gradients_stay_and_training_norms_are_refused():
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    relevance(model, windows(), 0)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match=r"batch norm in training mode.*model.eval"):
        relevance(model.train(), windows(), 0)
    with pytest.raises(ValueError, match=r"alpha 1.0 - beta 1.0 must be 1"):
        AlphaBeta(1.0, 1.0)


def test_sharing_ratios_keep_relevance_and_split_by_projection():
    model, x = Net(), windows()
    found = attribution.sharing_ratios(model, x, 1)
    assert "experimental" in found.method
    assert found.delta.abs().max() < 1e-6
    # One convolution of one tap, then a mean: a place's share is that of its own vector.
    conv = nn.Conv1d(CHANNELS, 4, 1, bias=False).double()
    head = nn.Linear(4, 2, bias=False).double()
    alone = attribution.sharing_ratios(lambda x: head(conv(x).mean(2)), x, 1)
    z = conv(x).detach()
    place = torch.einsum("bft,f->bt", z, head.weight[1].detach()) / TIMES
    torch.testing.assert_close(alone.values.sum(1), place, atol=1e-5, rtol=1e-5)


class Tokens(nn.Module):
    """Two layers of attention over pieces of time, by the operation named."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.layers = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.unflatten(-1, (8, 2)).permute(0, 2, 1, 3).flatten(2)
        for layer in self.layers:
            q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in layer(h).chunk(3, -1))
            if self.fused:
                out = F.scaled_dot_product_attention(q, k, v)
            else:
                out = F.dropout((q @ k.mT / 3**0.5).softmax(-1), 0.1, False) @ v
            h = h + out.transpose(1, 2).flatten(2)
        return self.head(h.mean(1))


def test_attention_is_read_from_the_fused_kernel_and_from_products_alike():
    fused, plain = Tokens(True).double().eval(), Tokens(False).double().eval()
    x = windows()
    for method in (
        attribution.attention_rollout,
        functools.partial(attribution.weighted_attention, target=1),
    ):
        one, other = method(fused, x), method(plain, x)
        assert one.n_layers == 2 and one.values.shape == (3, 8, 8)
        torch.testing.assert_close(one.values, other.values, atol=1e-12, rtol=1e-9)
    rollout = attribution.attention_rollout(fused, x)
    torch.testing.assert_close(rollout.values.sum(-1), torch.ones(3, 8).double())


def test_rollout_is_the_product_of_the_mixed_layers():
    model, x = nn.MultiheadAttention(CHANNELS, 1, batch_first=True).double().eval(), windows()
    tokens = x.transpose(1, 2)
    weights = model(tokens, tokens, tokens)[1].detach()
    found = attribution.attention_rollout(
        lambda x: model(x.transpose(1, 2), x.transpose(1, 2), x.transpose(1, 2))[0].mean(1), x
    )
    expected = 0.5 * torch.eye(TIMES).double() + 0.5 * weights
    torch.testing.assert_close(found.values, expected, atol=1e-12, rtol=1e-9)
    assert found.plot() is not None


def test_a_network_without_attention_is_said_to_have_none():
    with pytest.raises(ValueError, match="no attention weights found"):
        attribution.attention_rollout(Net(), windows())
