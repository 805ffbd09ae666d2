"""Attention to patches against loops, and ways to choose a code."""

from __future__ import annotations

import pytest
import torch

from neurofm.nn.patch_attention import PatchAttention, rotate_halves, visible_patches
from neurofm.nn.sampling import Sampling, choose, keep_top_k, keep_top_p, keep_typical


@pytest.mark.parametrize(
    ("n", "patch", "out", "recent", "band"),
    [
        (6, 1, 6, 0, None),
        (4, 3, 12, 0, None),
        (4, 3, 7, 5, None),
        (5, 2, 10, 0, 1),
        (3, 4, 12, 4, 2),
    ],
)
def test_a_patch_is_visible_once_it_is_over(
    n: int, patch: int, out: int, recent: int, band: int | None
) -> None:
    found = visible_patches(n, patch, out, recent=recent, band=band)
    first = n * patch - out  # sample of the first query
    for j in range(out):
        for i in range(n):
            over = (i + 1) * patch - 1 <= first + j
            near = band is None or abs(j // patch - i) <= band
            assert found[j, i] == (over and near)
        for u in range(recent):
            assert found[j, n + u] == (n * patch - recent + u <= first + j)


def test_attention_is_the_softmax_written_out_and_zero_where_nothing_is_visible() -> None:
    torch.manual_seed(0)
    visible = visible_patches(4, 3, 12)
    layer = PatchAttention(8, 2, patch=3, visible=visible)
    x = torch.randn(2, 12, 8)
    got = layer(x, x)
    assert not visible[:2].any()
    torch.testing.assert_close(got[:, :2], layer.out.bias.expand(2, 2, 8))
    for row in range(2):
        compressed = []
        for linear in (layer.compress_key, layer.compress_value):
            patches = x[row].view(4, 3, 2, 4)  # patch sample head feature
            made = torch.zeros(4, 2, 4)
            for h in range(2):
                for other in range(2):
                    for s in range(3):
                        made[:, h] += linear.weight[h, other * 3 + s] * patches[:, s, other]
                made[:, h] += linear.bias[h]
            compressed.append(made.reshape(4, 8))
        q = layer.query(x[row]).view(12, 2, 4)
        k, v = layer.key(compressed[0]).view(4, 2, 4), layer.value(compressed[1]).view(4, 2, 4)
        heads = []
        for h in range(2):
            score = (q[:, h] @ k[:, h].T / 2).masked_fill(~visible, -torch.inf)
            heads.append(score.softmax(-1).nan_to_num() @ v[:, h])
        torch.testing.assert_close(got[row], layer.out(torch.cat(heads, -1)), atol=1e-5, rtol=1e-4)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(1, 6), torch.randn(1, 6)
    scores = [rotate_halves(q, t, 1e4) @ rotate_halves(k, t - 3, 1e4).T for t in (3, 10, 40)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[0], scores[2], atol=1e-4, rtol=1e-4)


def test_each_way_of_sampling_keeps_the_codes_it_should() -> None:
    p = torch.tensor([0.05, 0.5, 0.15, 0.3])
    logits = p.log()
    assert keep_top_k(logits, 2).isfinite().tolist() == [False, True, False, True]
    # The code that crosses the limit is kept.
    assert keep_top_p(logits, 0.6).isfinite().tolist() == [False, True, False, True]
    assert keep_top_p(logits, 0.4).isfinite().tolist() == [False, True, False, False]
    # Entropy 1.14: the surprise 1.20 of the last code is closest, then 0.69, 1.90, 3.00.
    assert keep_typical(logits, 0.2).isfinite().tolist() == [False, False, False, True]
    assert keep_typical(logits, 0.5).isfinite().tolist() == [False, True, False, True]


def test_draws_follow_the_scores_and_the_temperature() -> None:
    logits = torch.tensor([0.2, 0.8]).log().expand(4000, 2)
    generator = torch.Generator().manual_seed(0)
    share = choose(logits, Sampling(top_k=2), generator=generator).float().mean()
    assert share == pytest.approx(0.8, abs=0.03)
    warm = choose(logits, Sampling(top_k=2, temperature=2.0), generator=generator).float().mean()
    assert warm == pytest.approx(2 / 3, abs=0.03)
    assert choose(logits).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"top_k": 2, "top_p": 0.5}, "at most one"),
        ({"temperature": 0.0}, "above 0"),
        ({"top_k": 0}, "at least 1"),
        ({"typical": 1.5}, "probability"),
    ],
)
def test_sampling_out_of_range_is_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Sampling(**options)
