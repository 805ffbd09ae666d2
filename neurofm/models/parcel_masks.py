"""Which tokens of a grid of parcels and patches of time are hidden, and which are shown.

Source: BrainLM (random tokens); Brain-JEPA (one observed block; blocks of other parcels, of other
times, and of both). Brain-JEPA draws sizes as in its released configuration; which size belongs to
which axis is our reading.
Axes: batch channel step (patch of time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurofm.nn.draw import draw, draw_windows
from neurofm.shapes import Bool, Float

Span = Sequence[float]  # lowest and highest share


def random_tokens(
    real: Bool[Tensor, "batch token"], share: float, generator: torch.Generator | None
) -> Bool[Tensor, "batch token"]:
    """Hide this share of the real tokens of each window, at least one and never all."""
    drawn = draw_windows(torch.rand, tuple(real.shape), generator, real.device)
    rank = torch.where(real, drawn, 2.0).argsort(1).argsort(1)
    count = real.sum(1, keepdim=True)
    hidden = torch.round(share * count).long().clamp(min=1).minimum(count - 1)
    return real & (rank < hidden)


@dataclass(frozen=True)
class Blocks:
    """Tokens that are shown, and those whose embeddings are predicted."""

    shown: Bool[Tensor, "batch channel step"]
    hidden: Bool[Tensor, "batch channel step"]


@dataclass(frozen=True)
class BlockShares:
    """Lowest and highest share of parcels and of time in each kind of block.

    Args:
        shown: Of the tokens that no block hides.
        other_parcels: Parcels hidden at all times (cross-ROI) ...
        other_parcels_time: ... of which so much of the shown time is predicted.
        other_times: Time hidden in all parcels (cross-time) ...
        other_times_parcels: ... of which so many of the shown parcels are predicted. Hidden parcels
            at hidden times (double-cross) are predicted too.
    """

    shown: Span = (0.84, 1.0)
    other_parcels: Span = (0.15, 0.3)
    other_parcels_time: Span = (0.45, 0.6)
    other_times: Span = (0.0, 0.4)
    other_times_parcels: Span = (0.2, 0.6)


def crossed_blocks(
    real: Bool[Tensor, "batch channel"],
    n_steps: int,
    shares: BlockShares,
    generator: torch.Generator | None,
    *,
    min_shown: int = 4,
) -> Blocks:
    """Blocks of a window; their sizes are drawn for all windows together, their places for each.

    Raises:
        ValueError: Fewer than two patches of time, or so few parcels that too little is shown.
    """
    n, _ = real.shape
    count = real.sum(1)
    if n_steps < 2 or int(count.min()) * n_steps < 2 * min_shown or int(count.min()) < 2:
        raise ValueError(
            f"crossed_blocks: windows of {n_steps} patches and {int(count.min())} parcels; "
            f"expected two or more of both, and {2 * min_shown} tokens. Use longer windows."
        )
    sizes = draw(torch.rand, (5,), generator, real.device)
    spans = (
        shares.other_parcels,
        shares.other_parcels_time,
        shares.other_times,
        shares.other_times_parcels,
        shares.shown,
    )
    low, high = (sizes.new_tensor([span[i] for span in spans]) for i in (0, 1))
    parcel, parcel_time, time, time_parcel, shown = (low + sizes * (high - low)).unbind()
    rank = _ranks(real, generator)
    apart = (rank < torch.round(parcel * count).clamp(min=1).unsqueeze(1)) & real
    # A stretch of time, at a place of each window's own.
    length = torch.round(time * n_steps).clamp(1, n_steps - 1)
    start = draw_windows(torch.rand, (n,), generator, real.device) * (n_steps - length + 1)
    start = start.long().unsqueeze(1)
    step = torch.arange(n_steps, device=real.device)
    later = (step >= start) & (step < start + length)  # batch step
    steps = torch.ones(n, n_steps, dtype=torch.bool, device=real.device)
    seen_time = _some(steps & ~later, parcel_time, generator)
    kept = _some(real & ~apart, time_parcel, generator)
    cross_parcels = apart.unsqueeze(2) & seen_time.unsqueeze(1)
    cross_times = kept.unsqueeze(2) & later.unsqueeze(1)
    both = apart.unsqueeze(2) & later.unsqueeze(1)
    rest = (real & ~apart).unsqueeze(2) & ~later.unsqueeze(1)
    visible = _some(rest.flatten(1), shown, generator, least=min_shown).view_as(rest)
    return Blocks(visible, cross_parcels | cross_times | both)


def _ranks(
    real: Bool[Tensor, "batch item"], generator: torch.Generator | None
) -> Float[Tensor, "batch item"]:
    """Place of each item in a random order, real ones first."""
    drawn = draw_windows(torch.rand, tuple(real.shape), generator, real.device)
    return torch.where(real, drawn, 2.0).argsort(1).argsort(1).float()


def _some(
    of: Bool[Tensor, "batch item"],
    share: Tensor,
    generator: torch.Generator | None,
    *,
    least: int = 1,
) -> Bool[Tensor, "batch item"]:
    """A random share of the items that are True, at least so many where there are."""
    wanted = torch.round(share * of.sum(1, keepdim=True)).clamp(min=least)
    return of & (_ranks(of, generator) < wanted)
