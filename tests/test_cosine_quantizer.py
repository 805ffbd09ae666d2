"""The codebook of unit vectors: how it starts, what moves it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed

from neurofm.nn.cosine_quantizer import CosineQuantizer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_codes_start_in_evaluation_and_counts_follow_there_as_in_the_original() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 8)
    for count_in_eval in (True, False):
        quantizer = CosineQuantizer(8, n_codes=6, code_dim=4, count_in_eval=count_in_eval).eval()
        quantizer(x, generator=generator())
        codebook = quantizer.codebook.clone()
        assert quantizer.initialized.item() == 1
        assert bool(quantizer.count.any()) is count_in_eval
        quantizer(x)
        assert torch.equal(quantizer.codebook, codebook)
        torch.testing.assert_close(codebook.norm(dim=1), torch.ones(6))


def test_unused_codes_keep_their_place_and_used_ones_turn_to_their_queries() -> None:
    torch.manual_seed(0)
    quantizer = CosineQuantizer(8, n_codes=40, code_dim=4, decay=0.5, kmeans=False).train()
    before, x = quantizer.codebook.clone(), torch.randn(20, 8)
    found = quantizer(x)
    used = torch.bincount(found.codes.flatten(), minlength=40) > 0
    torch.testing.assert_close(quantizer.codebook[~used], before[~used])
    closeness = (quantizer.queries(x) * quantizer.codebook[found.codes[:, 0]]).sum(1)
    earlier = (quantizer.queries(x) * before[found.codes[:, 0]]).sum(1)
    assert closeness.mean() > earlier.mean()


def test_fewer_vectors_than_codes_still_start_the_codebook() -> None:
    quantizer = CosineQuantizer(8, n_codes=40, code_dim=4)
    assert quantizer(torch.randn(3, 8), generator=generator()).codes.max() < 40
    assert quantizer.codebook.isfinite().all()


def test_one_process_group_gives_the_same_update_as_none(tmp_path: Path) -> None:
    def step() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        quantizer = CosineQuantizer(8, n_codes=6, code_dim=4).train()
        quantizer(torch.randn(50, 8), generator=generator())
        return quantizer.state_dict()

    alone = step()
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
    )
    try:
        together = step()
    finally:
        distributed.destroy_process_group()
    assert all(torch.equal(alone[key], together[key]) for key in alone)
