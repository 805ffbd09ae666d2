"""Finite scalar quantization: a bijection, gradients, and no dead codes."""

from __future__ import annotations

import math

import pytest
import torch

from neurofm import cards
from neurofm.nn import FSQ, codebook_health

SIZES = [((8, 5, 5, 5), 1), ((7, 4), 2), ((3, 4), 3), ((15,), 1)]


@pytest.mark.parametrize(("steps", "levels"), SIZES)
def test_codes_and_values_are_the_same_thing(steps: tuple[int, ...], levels: int) -> None:
    quantizer = FSQ(len(steps), steps=steps, num_quantizers=levels)
    assert quantizer.n_codes == math.prod(steps)
    every = torch.cartesian_prod(*[torch.arange(quantizer.n_codes)] * levels)
    every = every.reshape(-1, levels)
    values = quantizer.lookup(every)
    assert len(values.unique(dim=0)) == len(every)
    torch.testing.assert_close(quantizer.codes_of(values), every, rtol=0, atol=0)


@pytest.mark.parametrize(("steps", "levels"), SIZES)
def test_lookup_of_the_codes_is_what_forward_returned(steps: tuple[int, ...], levels: int) -> None:
    torch.manual_seed(0)
    quantizer = FSQ(6, steps=steps, num_quantizers=levels)
    found = quantizer(torch.randn(5, 7, 6))
    assert found.codes.shape == (5, 7, levels) and found.codes.dtype == torch.int64
    torch.testing.assert_close(quantizer.lookup(found.codes), found.values)
    assert float(found.loss) == 0


def test_values_are_the_nearest_step_of_the_squeezed_input() -> None:
    odd, even = FSQ(1, steps=[5]), FSQ(1, steps=[4])
    x = torch.tensor([[-9.0], [-0.6], [0.0], [0.3], [9.0]])
    expected = torch.round(torch.tanh(x) * 2 * 0.999) / 2
    torch.testing.assert_close(odd(x).values, expected)
    # Even counts have no middle: 0 is a step, and there is one more step below it than above.
    assert even(x).values.flatten().tolist() == [-1.0, -0.5, 0.0, 0.0, 0.5]
    assert even(x).codes.flatten().tolist() == [0, 1, 2, 2, 3]


def test_gradient_is_that_of_the_squeezed_input() -> None:
    x = torch.randn(50, 2, requires_grad=True)
    FSQ(2, steps=[7, 5])(x).values.sum().backward()
    slope = (1 - torch.tanh(x.detach()) ** 2) * 0.999
    torch.testing.assert_close(x.grad, slope)


@pytest.mark.parametrize("levels", [1, 2])
def test_gaussian_input_uses_every_code(levels: int) -> None:
    torch.manual_seed(0)
    quantizer = FSQ(4, steps=[8, 5, 5, 5], num_quantizers=levels)
    health = codebook_health(quantizer(torch.randn(30_000, 4)).codes, quantizer.n_codes)
    assert health["dead"] == [0.0] * levels
    assert min(health["perplexity"]) > 0.7 * quantizer.n_codes


def test_a_further_quantizer_divides_the_error_by_the_steps() -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, 2)
    coarse, fine = (FSQ(2, steps=[5, 5], num_quantizers=n) for n in (1, 2))
    exact = FSQ(2, steps=[5, 5], num_quantizers=6)(x).values
    error = [float((quantizer(x).values - exact).abs().mean()) for quantizer in (coarse, fine)]
    assert error[0] / error[1] == pytest.approx(5, rel=0.1)
    torch.testing.assert_close(fine(x).codes[:, :1], coarse(x).codes)


def test_half_precision_finds_the_same_codes() -> None:
    torch.manual_seed(0)
    quantizer, x = FSQ(3, steps=[9, 9, 9]), torch.randn(100, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(x)
    torch.testing.assert_close(found.codes, quantizer(x).codes)


def test_arguments_are_its_configuration() -> None:
    spec = cards.spec_of(FSQ(8, steps=[5, 5]))
    assert spec["class_path"] == "neurofm.nn.FSQ"
    assert cards.spec_of(cards.build(spec)) == spec


@pytest.mark.parametrize("arguments", [{"steps": [2, 5]}, {"steps": []}, {"num_quantizers": 0}])
def test_impossible_sizes_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=f"FSQ: {next(iter(arguments))}"):
        FSQ(2, **({"steps": [5, 5]} | arguments))
