"""ELU and padding of the convolution stacks against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from neurofm.nn.conv import elu, pad_reflect


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elu_is_that_of_pytorch_for_any_number(dtype: torch.dtype) -> None:
    extremes = [0.0, -0.0, 1e-7, -1e-7, 88.0, -88.0, 1e30, -1e30, torch.inf, -torch.inf, torch.nan]
    x = torch.cat([torch.tensor(extremes), torch.linspace(-20, 20, 1013)]).to(dtype)
    x = x.reshape(16, 8, 8)
    out = torch.empty_like(x)
    elu(x, out)
    torch.testing.assert_close(out, F.elu(x), atol=1.2e-7, rtol=0, equal_nan=True)


def test_elu_covers_all_rows_of_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurofm.nn.conv._PASS_VALUES", 20)
    x = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    buffer = torch.zeros(7, 6, 4)
    elu(x, buffer[:, 2:5])
    torch.testing.assert_close(buffer[:, 2:5], F.elu(x), atol=1.2e-7, rtol=0)
    assert not buffer[:, :2].any() and not buffer[:, 5:].any()


@pytest.mark.parametrize("edges", [(0, 0), (2, 2), (3, 0), (1, 4)])
@pytest.mark.parametrize("with_elu", [True, False])
def test_padding_has_the_gradient_of_separate_layers(
    edges: tuple[int, int], with_elu: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 9, 4, generator=draw).requires_grad_()
    cotangent = torch.randn(3, 9 + sum(edges), 4, generator=draw)
    plain = F.pad((F.elu(x) if with_elu else x).transpose(1, 2), edges, mode="reflect")
    expected = torch.autograd.grad(plain.transpose(1, 2), x, cotangent)[0]
    ours = torch.autograd.grad(pad_reflect(x, *edges, elu=with_elu), x, cotangent)[0]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
