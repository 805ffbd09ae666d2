"""The linear map by convolution against `F.linear`."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn import Linear
from neurofm.nn import linear as by_size


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    cotangent = torch.randn(y.shape, generator=generator())
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], cotangent)]


@pytest.mark.parametrize("shape", [(512, 128), (3, 7, 43, 128), (4, 128, 128)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_plain_layer(
    shape: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_size, "_WIDE", True)
    ours = Linear(128, 160, bias=bias)
    plain = nn.Linear(128, 160, bias=bias)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(shape, generator=generator())
    for got, expected in zip(gradients(ours, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)


def test_many_rows_run_as_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_size, "_WIDE", True)
    called: list[torch.Size] = []

    def spy(image: Tensor, *others: Tensor | None) -> Tensor:
        called.append(image.shape)
        return torch.conv2d(image, *others)

    monkeypatch.setattr(F, "conv2d", spy)
    layer = Linear(128, 160)
    layer(torch.zeros(8, 128))
    assert called == []
    layer(torch.zeros(512, 128))
    assert called == [(16, 128, 1, 32)]


def test_other_types_keep_the_plain_layer() -> None:
    layer = Linear(128, 160)
    x = torch.randn(512, 128, generator=generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    double = copy.deepcopy(layer).double()
    torch.testing.assert_close(double(x.double()).float(), layer(x), atol=1e-4, rtol=1e-4)
