"""EMAQuantizer: what the published start loses, what a start from data keeps, and sharing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neurofm.nn import ema_quantizer
from neurofm.nn.ema_quantizer import EMAQuantizer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_first_published_step_loses_the_codes_that_no_row_chose() -> None:
    torch.manual_seed(0)
    rows = nn.functional.normalize(torch.randn(200, 16), dim=1)
    made = EMAQuantizer(16, n_codes=64).train()
    codes = made(rows)[1]
    used = torch.bincount(codes, minlength=64) > 0
    norms = made.codebook.norm(dim=1)
    assert norms[used].max() < 10
    assert norms[~used].min() > 100
    again = made(rows)[1]
    assert set(again.tolist()) <= set(codes.tolist())


def test_start_from_data_keeps_the_codes() -> None:
    torch.manual_seed(0)
    rows = nn.functional.normalize(torch.randn(200, 16), dim=1)
    made = EMAQuantizer(16, n_codes=64, start="kmeans", restart_below=0.5).train()
    for _ in range(5):
        codes = made(rows)[1]
    assert len(codes.unique()) > 50
    assert made.codebook.norm(dim=1).max() < 2


def test_a_loaded_codebook_does_not_start_again() -> None:
    torch.manual_seed(0)
    rows = torch.randn(100, 4)
    made = EMAQuantizer(4, n_codes=8, start="kmeans").train()
    made(rows)
    other = EMAQuantizer(4, n_codes=8, start="kmeans", decay=1.0)
    other.load_state_dict(made.state_dict())
    other.train()(rows + 5)
    torch.testing.assert_close(other.codebook, made.codebook, atol=1e-3, rtol=1e-3)


def test_counts_and_sums_are_added_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(30, 4, generator=generator())
    torch.manual_seed(0)
    twice, shared = EMAQuantizer(4, n_codes=8).train(), EMAQuantizer(4, n_codes=8).train()
    shared.load_state_dict(twice.state_dict())
    twice(torch.cat([rows, rows]))
    monkeypatch.setattr(ema_quantizer, "all_reduce", lambda *parts: [p.mul_(2) for p in parts])
    shared(rows)
    torch.testing.assert_close(shared.codebook, twice.codebook)
