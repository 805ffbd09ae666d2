"""A code book planted so that one code takes everything: reported, and repaired by restarting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neurofm.nn import ResidualVQ, VectorQuantizer, codebook_health
from neurofm.nn.cosine_quantizer import CosineQuantizer
from neurofm.nn.ema_quantizer import EMAQuantizer
from neurofm.tasks.code_use import CodeUse

CODES, CLUSTERS, DIM, ROWS = 32, 6, 8, 512


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CENTRES = 3 * torch.randn(CLUSTERS, DIM, generator=generator(1))


def rows(seed: int) -> Tensor:
    """Clusters, each as frequent as the others."""
    noise = torch.randn(ROWS, DIM, generator=generator(seed))
    return CENTRES[torch.arange(ROWS) % CLUSTERS] + 0.1 * noise


def residual(restart_below: float) -> nn.Module:
    made = ResidualVQ(
        DIM,
        num_quantizers=2,
        codebook_dim=DIM,
        codebook_size=CODES,
        decay=0.9,
        restart_below=restart_below,
    )
    return made.train()


def ema(restart_below: float) -> nn.Module:
    return EMAQuantizer(
        DIM, n_codes=CODES, decay=0.9, start="kmeans", restart_below=restart_below
    ).train()


def codes_of(quantizer: nn.Module, x: Tensor) -> Tensor:
    found = quantizer(x, generator=generator(7))
    return found[1].unsqueeze(-1) if isinstance(found, tuple) else found.codes


def collapse(quantizer: nn.Module) -> None:
    """One code amid the data, all others far away, as after a first step of TFM's quantizer."""
    codes_of(quantizer, rows(0))
    for part in quantizer.modules():
        if isinstance(part, (VectorQuantizer, EMAQuantizer)):
            far = torch.full_like(part.codebook, 1e3)
            far[0] = 0
            part.codebook.copy_(far)
            part.count.fill_(0.1)
            part.codebook_sum.copy_(far * 0.1)


def follow(quantizer: nn.Module, steps: int = 60) -> tuple[dict[str, float], CodeUse]:
    """Use of the codes over the last third of some training."""
    use = CodeUse()
    for step in range(steps):
        codes = codes_of(quantizer, rows(step))
        if step >= steps * 2 // 3:
            use.add("train", codes, CODES)
    return use.pop("train"), use


@pytest.mark.parametrize("make", [residual, ema])
def test_a_collapsed_code_book_recovers_by_restarting_and_is_reported_without(
    make: Callable[[float], nn.Module],
) -> None:
    left, restarted = make(0.0), make(2.0)
    for quantizer in (left, restarted):
        collapse(quantizer)
    health, use = follow(left)
    # One code for everything, on the first level if there are several.
    first = health.get("perplexity_level_1", health["perplexity"])
    assert first == pytest.approx(1, abs=1e-3)
    assert "collapsed" in use.problem and "like 1.0 equally frequent" in use.problem
    health, use = follow(restarted)
    assert health.get("perplexity_level_1", health["perplexity"]) > CLUSTERS
    assert health["usage"] > 0.8 and use.problem == ""
    book = restarted.levels[0].codebook if isinstance(restarted, ResidualVQ) else restarted.codebook
    found = torch.cdist(CENTRES, book).amin(1)
    assert found.max() < 0.5  # every cluster has its code


def test_restarting_leaves_codes_in_use_where_they_are() -> None:
    plain, restarting = ema(0.0), ema(0.5)
    for quantizer in (plain, restarting):
        for step in range(20):
            codes_of(quantizer, rows(step))
    used = plain.count > 5
    assert used.sum() >= 10
    torch.testing.assert_close(restarting.codebook[used], plain.codebook[used])


def test_dead_codes_restart_on_rows_that_differ() -> None:
    quantizer = ema(2.0)
    collapse(quantizer)
    codes_of(quantizer, rows(3))
    dead = quantizer.codebook[1:]
    assert torch.pdist(dead).min() > 0
    assert torch.cdist(dead, rows(3)).amin(1).max() < 0.05


def test_directions_keep_unused_codes_as_published_and_the_collapse_is_reported() -> None:
    quantizer = CosineQuantizer(DIM, n_codes=CODES, code_dim=4, decay=0.9, kmeans=False).train()
    quantizer.project_in = nn.Linear(DIM, 4)
    with torch.no_grad():  # queries that are all alike, as those of narrow maps are
        quantizer.project_in.weight.mul_(1e-3)
        quantizer.project_in.bias.fill_(1.0)
    before = quantizer.codebook.clone()
    health, use = follow(quantizer, steps=12)
    assert health["perplexity"] < 1.5 and "collapsed" in use.problem
    moved = (quantizer.codebook - before).norm(dim=1) > 1e-4
    assert moved.sum() <= 2
    torch.testing.assert_close(quantizer.codebook[~moved], before[~moved])


def test_directions_started_from_data_use_their_codes() -> None:
    torch.manual_seed(0)
    quantizer = CosineQuantizer(DIM, n_codes=CODES, code_dim=4, decay=0.9).train()
    codes = quantizer(rows(0), generator=generator()).codes
    assert codebook_health(codes, CODES)["perplexity"][0] > 0.8 * CLUSTERS
