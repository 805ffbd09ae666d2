"""The cache of tokens: those of any batch, within its limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from fits import decode_data, trainer

from neurofm.batch import Batch
from neurofm.tasks import Decode, TokenCache

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
]


@pytest.fixture
def windows(small) -> Iterator[Any]:
    data = small.data()
    data.setup()
    yield data.windows


def same(one: Any, other: Any) -> None:
    for name in ("codes", "mask", "channel", "time"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    torch.testing.assert_close(one.values, other.values)


def test_cached_tokens_are_those_of_any_batch(model, windows):
    calls = []

    def tokenize(batch: Batch) -> Any:
        calls.append(len(batch))
        return model.tokenize(batch)

    cache = TokenCache(tokenize)
    for indices in ([0, 1, 2], [2, 5], [5, 1, 0, 2]):
        batch = windows.batch(indices)
        same(cache(batch).tokens, model.tokenize(batch))
    assert calls == [1] * 4 and len(cache) == 4
    first = cache(windows.batch([1, 2])).tokens.values
    assert torch.equal(first, cache(windows.batch([2, 1])).tokens.values.flip(0))
    cache.clear()
    assert len(cache) == cache.bytes == 0


def test_padding_in_a_batch_does_not_reach_the_cache(model, windows):
    batch = windows.batch([3, 4])
    mask = batch.channel_mask.clone()
    mask[0, 4:] = False
    short = replace(batch, channel_mask=mask, x=batch.x * mask.unsqueeze(-1))
    seen = []
    cache = TokenCache(lambda b: seen.append(b.x.shape[1]) or model.tokenize(b))
    same(cache(short).tokens, model.tokenize(short))
    assert seen == [4, 6]


def test_the_cache_respects_its_limit(model, windows):
    batch = windows.batch(range(6))
    size = TokenCache(model.tokenize)
    size(windows.batch([0]))
    cache = TokenCache(model.tokenize, limit_gb=3.5 * size.bytes / 1e9)
    for _ in range(2):
        same(cache(batch).tokens, model.tokenize(batch))
        assert len(cache) == 3 and cache.bytes == 3 * size.bytes


def test_windows_with_different_numbers_of_tokens_are_padded(windows):
    from neurofm.batch import Tokens

    def tokenize(batch: Batch) -> Tokens:
        n = 2 + int(batch.recording[0] == 0)
        real = torch.ones(1, n)
        return Tokens(real.unsqueeze(-1), real.bool(), real.long(), real, real.long().unsqueeze(-1))

    other = next(
        i for i, row in enumerate(windows.rows) if row.recording != windows.rows[0].recording
    )
    tokens = TokenCache(tokenize)(windows.batch([0, other])).tokens
    assert tokens.mask.tolist() == [[True] * 3, [True, True, False]]
    assert tokens.channel[1].tolist() == [1, 1, -1]


def test_tokens_of_earlier_data_are_forgotten(small, model, tmp_path):
    """Recordings of another data module have the same numbers."""
    task = Decode(model, n_outputs=2)
    scores = []
    for test in (["3"], ["1"]):
        data = decode_data(small, validate=[], test=test, subjects=test)
        data.setup()
        runner = trainer(tmp_path)
        runner.test(task, datamodule=data, verbose=False)
        scores.append(float(runner.callback_metrics["test/loss"]))
    fresh = Decode(model, n_outputs=2)
    fresh.load_state_dict(task.state_dict())
    runner = trainer(tmp_path)
    runner.test(fresh, datamodule=data, verbose=False)
    assert float(runner.callback_metrics["test/loss"]) == pytest.approx(scores[1], rel=1e-6)
    assert scores[0] != pytest.approx(scores[1], rel=1e-6)
