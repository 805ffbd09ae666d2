"""Quantizers: planted codes are found, gradients turn with the codes, averages follow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributed

from neurofm.nn import ResidualVQ, VectorQuantizer, codebook_health, kmeans
from neurofm.nn.quantize import rotate_onto, straight_through


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(n: int = 8, dim: int = 6, rows: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Well separated centres and rows scattered closely around them."""
    centres = 5 * torch.randn(n, dim, generator=generator(1))
    which = torch.randint(n, (rows,), generator=generator(2))
    return centres, centres[which] + 0.05 * torch.randn(rows, dim, generator=generator(3))


def distance_to_nearest(planted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    return torch.cdist(planted, found).min(1).values


def test_kmeans_finds_planted_centres_when_it_has_codes_to_spare() -> None:
    centres, x = planted()
    found, count = kmeans(x, 32, generator=generator())
    assert distance_to_nearest(centres, found).max() < 0.1
    assert count.min() >= 1


def test_moving_average_finds_planted_codes_it_started_away_from() -> None:
    centres, x = planted()
    quantizer = VectorQuantizer(6, codebook_dim=6, codebook_size=8, decay=0.8)
    quantizer.codebook.copy_(centres + 0.5 * torch.randn(8, 6, generator=generator(5)))
    quantizer.codebook_sum.copy_(quantizer.codebook)
    quantizer.count.fill_(1)
    quantizer.initialized.fill_(1)
    for _ in range(40):
        quantizer(x)
    assert distance_to_nearest(centres, quantizer.codebook).max() < 0.02


def test_scaled_start_keeps_the_codes_and_upstream_start_shrinks_them() -> None:
    _, x = planted()
    norms = {}
    for start in ("scaled", "upstream"):
        quantizer = VectorQuantizer(6, codebook_dim=6, codebook_size=16, init_embed_avg=start)
        quantizer(x, generator=generator())
        norms[start] = float(quantizer.codebook.norm(dim=1).median())
    assert norms["scaled"] > 5
    assert norms["upstream"] < 0.2 * norms["scaled"]


def test_evaluation_initializes_once_and_then_leaves_the_codebook_alone() -> None:
    _, x = planted()
    quantizer = VectorQuantizer(6, codebook_dim=6, codebook_size=16).eval()
    quantizer(x, generator=generator())
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    assert before["initialized"].item() == 1
    quantizer(x + 1)
    for key, value in quantizer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_restarting_brings_dead_codes_back_and_none_by_default() -> None:
    _, x = planted(n=64)
    used = {}
    for threshold in (0.0, 1.0):
        quantizer = VectorQuantizer(
            6, codebook_dim=6, codebook_size=64, restart_below=threshold, decay=0.5
        )
        quantizer.codebook.normal_(generator=generator(7)).add_(100)
        quantizer.initialized.fill_(1)
        for _ in range(20):
            codes = quantizer(x, generator=generator()).codes
        used[threshold] = codebook_health(codes[:, None], 64)["usage"][0]
    assert used[1.0] > 2 * used[0.0]


def test_rotation_gives_the_code_and_turns_the_gradient_with_it() -> None:
    source = torch.randn(50, 8, generator=generator(1), dtype=torch.float64, requires_grad=True)
    target = torch.randn(50, 8, generator=generator(2), dtype=torch.float64)
    out = rotate_onto(source, target)
    torch.testing.assert_close(out, target)
    gradient = torch.randn(50, 8, generator=generator(3), dtype=torch.float64)
    out.backward(gradient)
    # The angle of the gradient to the code becomes its angle to the input; lengths scale alike.
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(source.grad, source), cosine(gradient, target))
    scale = target.norm(dim=1) / source.detach().norm(dim=1)
    torch.testing.assert_close(source.grad.norm(dim=1), scale * gradient.norm(dim=1))


def test_rotation_survives_opposite_and_zero_vectors() -> None:
    source = torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], requires_grad=True)
    target = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    out = rotate_onto(source, target)
    out.sum().backward()
    assert out.isfinite().all()
    assert source.grad.isfinite().all()
    torch.testing.assert_close(out[0], target[0])


def test_straight_through_gives_the_code_and_copies_the_gradient() -> None:
    source = torch.randn(5, 3, requires_grad=True)
    target = torch.randn(5, 3)
    out = straight_through(source, target)
    out.sum().backward()
    torch.testing.assert_close(out, target)
    assert torch.equal(source.grad, torch.ones(5, 3))


@pytest.mark.parametrize("codebook_dim", [6, 3])
def test_levels_add_up_and_each_one_reduces_the_error(codebook_dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2000, 6, generator=generator(4))
    quantizer = ResidualVQ(6, num_quantizers=3, codebook_dim=codebook_dim, codebook_size=64).eval()
    found = quantizer(x.view(2, 10, 100, 6), generator=generator())
    assert found.codes.shape == (2, 10, 100, 3)
    assert found.codes.dtype == torch.int64
    torch.testing.assert_close(quantizer.lookup(found.codes), found.values)
    if codebook_dim == 6:
        errors = [
            float((quantizer.lookup(found.codes[..., :n]) - x.view(2, 10, 100, 6)).square().mean())
            for n in (1, 2, 3)
        ]
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("rotation_trick", [True, False])
def test_gradients_flow_in_evaluation_and_values_stay_the_codes(rotation_trick: bool) -> None:
    x = torch.randn(300, 6, generator=generator(4))
    quantizer = ResidualVQ(
        6, num_quantizers=2, codebook_dim=6, codebook_size=32, rotation_trick=rotation_trick
    ).eval()
    with torch.no_grad():
        plain = quantizer(x, generator=generator())
    x.requires_grad_(True)
    found = quantizer(x)
    found.values.square().sum().backward()
    assert torch.equal(found.codes, plain.codes)
    torch.testing.assert_close(found.values, plain.values, atol=1e-5, rtol=1e-5)
    assert x.grad.abs().sum() > 0
    assert not found.loss.requires_grad


def test_loading_an_untrained_state_asks_for_a_new_start() -> None:
    _, x = planted()
    quantizer = VectorQuantizer(6, codebook_dim=6, codebook_size=16).eval()
    empty = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer(x, generator=generator())
    quantizer.load_state_dict(empty)
    quantizer(x, generator=generator())
    assert quantizer.initialized.item() == 1
    assert quantizer.codebook.abs().sum() > 0


def test_health_of_uniform_and_collapsed_codes() -> None:
    uniform = torch.arange(32).repeat(4)
    collapsed = torch.full((128,), 3)
    health = codebook_health(torch.stack([uniform, collapsed], -1), 64)
    assert health["usage"] == [0.5, 1 / 64]
    assert health["dead"] == [32, 63]
    assert health["perplexity"] == pytest.approx([32, 1])
    assert health["entropy"] == pytest.approx([math.log(32), 0])


def test_one_process_group_gives_the_same_update_as_none(tmp_path) -> None:
    _, x = planted()

    def step() -> dict[str, torch.Tensor]:
        quantizer = VectorQuantizer(6, codebook_dim=6, codebook_size=16, restart_below=1.0)
        quantizer(x, generator=generator())
        return quantizer.state_dict()

    alone = step()
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        together = step()
    finally:
        distributed.destroy_process_group()
    for key, value in alone.items():
        assert torch.equal(value, together[key]), key
