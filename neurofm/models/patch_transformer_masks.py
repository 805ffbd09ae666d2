"""What PatchTransformer hides from itself, and two views of a window.

Axes: batch row step; row = channel or latent source.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.nn.draw import draw_windows, keep_channels
from neurofm.shapes import Bool, Float

Scheme = Literal["random", "time", "space", "blocks"]


def choose_hidden(
    real: Bool[Tensor, "batch row step"],
    place: Float[Tensor, "batch row 3"] | None,
    *,
    ratio: float,
    scheme: Scheme,
    block: int = 1,
    seeds: int = 3,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch row step"]:
    """Which tokens to hide: of every window the same share of its real ones, at least one.

    Args:
        place: Positions of the rows, NaN where unknown; unknown rows, and all without `place`, are
            taken at random where a neighbourhood is asked for.
        ratio: Share of the real tokens.
        scheme: "random": each token by itself. "time": stretches of `block` steps, all rows at
            once. "space": the rows nearest to `seeds` random ones, all steps at once. "blocks": one
            of the two for every window.
    """
    n, rows, steps = real.shape
    device = real.device
    single = draw_windows(torch.rand, real.shape, generator, device)
    if scheme == "random":
        return _lowest(single, real, ratio)
    stretch = draw_windows(torch.rand, (n, 1, -(-steps // block)), generator, device)
    over_time = stretch.repeat_interleave(block, 2)[..., :steps].expand(real.shape)
    if scheme == "time":
        return _lowest(over_time + 1e-4 * single, real, ratio)
    chance = draw_windows(torch.rand, (n, rows), generator, device)
    over_space = _distance(chance, real.any(2), place, seeds).unsqueeze(2).expand(real.shape)
    if scheme == "blocks":
        by_time = draw_windows(torch.rand, (n, 1, 1), generator, device) < 0.5
        over_space = torch.where(by_time, over_time, over_space)
    return _lowest(over_space + 1e-4 * single, real, ratio)


def _distance(
    chance: Float[Tensor, "batch row"],
    real: Bool[Tensor, "batch row"],
    place: Float[Tensor, "batch row 3"] | None,
    seeds: int,
) -> Float[Tensor, "batch row"]:
    """How far each row is from the nearest seed; a random rank where places are unknown."""
    if place is None:
        return chance
    chance = torch.where(real, chance, 2)
    known = place.isfinite().all(-1) & real
    first = torch.where(known, chance, 3).topk(min(seeds, chance.shape[1]), 1, largest=False)
    seed = place.nan_to_num().gather(1, first.indices.unsqueeze(-1).expand(-1, -1, 3))
    apart = torch.cdist(place.nan_to_num(), seed)
    apart = torch.where((first.values < 2).unsqueeze(1), apart, torch.inf).amin(2)
    return torch.where(known, apart, 0.3 * chance)


def _lowest(
    score: Float[Tensor, "batch row step"], real: Bool[Tensor, "batch row step"], ratio: float
) -> Bool[Tensor, "batch row step"]:
    """The share `ratio` of each window's real tokens whose score is lowest."""
    rank = torch.where(real, score, torch.inf).flatten(1).argsort(1).argsort(1)
    count = (ratio * real.flatten(1).sum(1, keepdim=True)).round().clamp(min=1)
    return (rank < count).reshape(real.shape) & real


def vary(batch: Batch, *, generator: torch.Generator | None = None) -> Batch:
    """A view of the same windows in which what does not matter is different.

    A third of the channels is missing, the others are up to 40 % louder or quieter, noise of a
    fifth of their amplitude is added, and one random fifth of the window is silent.

    Source: the transformations that helped most in Mohsenvand et al. 2020 (SeqCLR).
    """
    device = batch.x.device
    kept = keep_channels(batch.channel_mask, 1 / 3, generator)
    shape = batch.x.shape
    gain = 0.6 + 0.8 * draw_windows(torch.rand, (*shape[:2], 1), generator, device)
    spread = batch.x.std(-1, keepdim=True)
    x = batch.x * gain + 0.2 * spread * draw_windows(torch.randn, shape, generator, device)
    start = 0.8 * draw_windows(torch.rand, (shape[0], 1, 1), generator, device)
    when = torch.arange(shape[2], device=device) / shape[2]
    silent = (when >= start) & (when < start + 0.2)
    x = torch.where(silent | ~kept.unsqueeze(-1), 0, x)
    return replace(
        batch,
        x=x.to(batch.x.dtype),
        channel_mask=kept,
        kind=torch.where(kept, batch.kind, -1),
        has_position=batch.has_position & kept,
        tokens=None,
    )
