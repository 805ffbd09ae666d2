from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.interpret.attribution import relevance_rules

DIM = 6


class PlainNorm(nn.Module):
    """RMS norm written by hand, and layer norm by hand."""

    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.centre = centre
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, DIM, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        if self.centre:
            x = x - x.mean(-1, keepdim=True)
            return self.weight * x / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Attention(nn.Module):
    """Two heads without biases, by the operation named."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.qkv = nn.Linear(DIM, 3 * DIM, bias=False)
        self.module = nn.MultiheadAttention(DIM, 2, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.module(x, x, x, need_weights=False)[0]
        q, k, v = (t.unflatten(-1, (2, 3)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        scores = q @ k.mT / math.sqrt(3)
        if self.how == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "matmul":
            weights = F.dropout(scores.softmax(-1), 0.1, training=False)
            out = weights.to(v.dtype).masked_fill(weights < 0.01, 0.0) @ v
        else:
            out = torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, -1), v)
        return out.transpose(1, 2).flatten(2)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate = (nn.Linear(DIM, DIM, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.up(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


BLOCKS = {
    "norm": lambda: nn.LayerNorm(DIM, bias=False),
    "rms norm": lambda: nn.RMSNorm(DIM),
    "rms norm by hand": lambda: PlainNorm(False),
    "layer norm by hand": lambda: PlainNorm(True),
    "group norm": lambda: nn.GroupNorm(1, 4, affine=False),
    "normalised": lambda: _Lambda(lambda x: F.normalize(x, dim=-1)),
    "attention module": lambda: Attention("module"),
    "fused attention": lambda: Attention("fused"),
    "attention by matmul": lambda: Attention("matmul"),
    "attention by einsum": lambda: Attention("einsum"),
    "gated": Gated,
    "glu": lambda: nn.Sequential(nn.Linear(DIM, 2 * DIM, bias=False), nn.GLU()),
    "gelu": lambda: nn.Sequential(nn.Linear(DIM, DIM, bias=False), nn.GELU()),
    "relu in place": lambda: nn.Sequential(nn.Linear(DIM, DIM, bias=False), nn.ReLU(inplace=True)),
    "square and log": lambda: _Lambda(lambda x: (x.square() + 1).log()),
    "attention pooling": lambda: _Lambda(lambda x: x * x.mean(-1, keepdim=True).softmax(1)),
    "product in place": lambda: _Lambda(lambda x: x.clone().mul_(x.mean(-1, keepdim=True))),
}


class _Lambda(nn.Module):
    def __init__(self, function: functools.partial) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    block = BLOCKS[name]()
    head = nn.Linear(DIM, 2, bias=False)
    return nn.Sequential(Residual(block), Residual(BLOCKS["gelu"]()), head).double().eval()


def _relevance(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    with relevance_rules(model):
        logit = model(x).mean(1)[:, 1]
    (coefficient,) = torch.autograd.grad(logit.sum(), x)
    return (x * coefficient).detach().flatten(1).sum(1), logit.detach()


@pytest.mark.parametrize("name", sorted(set(BLOCKS) - {"square and log"}))
def test_without_biases_relevance_adds_up_to_the_logit(name: str) -> None:
    x = torch.randn(3, 4, DIM, generator=torch.Generator().manual_seed(1)).double()
    total, logit = _relevance(_model(name), x)
    # The published elementwise rule divides by x + 1e-6.
    torch.testing.assert_close(total, logit, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_rules_do_not_change_the_forward_and_leave_the_model_alone(name: str) -> None:
    model = _model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(3, 4, DIM, generator=torch.Generator().manual_seed(1)).double()
    plain = model(x.clone().requires_grad_(True))
    with relevance_rules(model):
        ruled = model(x.clone().requires_grad_(True))
    torch.testing.assert_close(ruled, plain, atol=1e-14, rtol=1e-14)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_plain_gradient_does_not_add_up_and_returns_after_an_error() -> None:
    model = _model("gated")
    x = torch.randn(3, 4, DIM, generator=torch.Generator().manual_seed(1)).double()
    with pytest.raises(RuntimeError), relevance_rules(model):
        model(x[..., :2].requires_grad_(True))
    x = x.requires_grad_(True)
    logit = model(x).mean(1)[:, 1]
    (gradient,) = torch.autograd.grad(logit.sum(), x)
    assert (x * gradient).flatten(1).sum(1).sub(logit).abs().max() > 1e-2


def test_attention_weights_are_fixed_whichever_way_they_are_written() -> None:
    """Attention with the same weights gives the same relevance by three operations."""
    x = torch.randn(2, 4, DIM, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for name in ("fused attention", "attention by einsum"):
        x = x.detach().requires_grad_(True)
        model = _model(name)
        with relevance_rules(model):
            out = model(x)
        found.append(torch.autograd.grad(out[..., 0].sum(), x)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)


def test_scaling_by_a_weight_is_linear_and_not_a_product_of_values() -> None:
    weight = nn.Parameter(torch.tensor([2.0, 3.0]))
    x = torch.ones(2, requires_grad=True)
    with relevance_rules(nn.Identity()):
        out = (x * weight.view(1, 2) * (weight + 1)).sum()
    torch.testing.assert_close(torch.autograd.grad(out, x)[0], torch.tensor([6.0, 12.0]))


def test_rules_can_be_chosen() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    with relevance_rules(nn.Identity(), rules=("norm",)):
        out = (x * x).sum()
    torch.testing.assert_close(torch.autograd.grad(out, x)[0], 2 * x.detach())
    with pytest.raises(ValueError, match="no rule 'softmax'; known: norm"):
        relevance_rules(nn.Identity(), rules=("softmax",)).__enter__()


def test_a_compiled_part_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1]._orig_mod = nn.Linear(2, 2)  # as torch.compile leaves it
    with pytest.raises(ValueError, match="'1' is compiled"), relevance_rules(model):
        pass


def test_a_recurrent_layer_says_that_it_keeps_its_gradient() -> None:
    model = nn.LSTM(2, 2)
    with pytest.warns(UserWarning, match="lstm keeps its plain gradient"), relevance_rules(model):
        model(torch.randn(3, 1, 2, requires_grad=True))


def test_what_a_rule_returns_may_be_changed_in_place() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    with relevance_rules(nn.Identity()):
        out = F.elu(2 * x)
        out += 1
        out = F.dropout(out, 0.5, training=True, inplace=True)
    assert torch.autograd.grad(out.sum(), x)[0].shape == (2,)
