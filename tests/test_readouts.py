"""Readouts of embeddings with padding."""

from __future__ import annotations

import pytest
import torch

from neurofm.batch import Embedding
from neurofm.readouts import LatentMLP, PooledLinear


def test_readouts_average_real_tokens_only() -> None:
    tokens = torch.randn(2, 8, 4)
    mask = torch.tensor([True, True, False, False] * 2).expand(2, -1)
    changed = torch.where(mask.unsqueeze(-1), tokens, 99.0)
    for readout in (PooledLinear(4, 3), LatentMLP(4, 3, n_sources=2).eval()):
        out = readout(Embedding(tokens=tokens, mask=mask))
        assert out.shape == (2, 3)
        torch.testing.assert_close(readout(Embedding(tokens=changed, mask=mask)), out)


def test_latent_readout_of_another_model_is_refused() -> None:
    embedding = Embedding(torch.randn(2, 8, 4), torch.ones(2, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="n_sources"):
        LatentMLP(4, 2, n_sources=3)(embedding)
