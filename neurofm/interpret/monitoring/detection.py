"""How well a score of familiarity tells familiar samples from others: AUROC and FPR95.

Windows of one recording are alike, so intervals draw recordings (or subjects), not windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import rankdata

from neurofm.metrics import auroc
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST = 3  # groups on a side for an interval: fewer say nothing about others


@dataclass(frozen=True)
class Detection:
    """One score on one pair of sets.

    Args:
        auroc: How often a familiar sample scores higher than another; chance is `chance`.
        low: Lower end of the 95 % interval over groups, NaN with fewer than three on a side.
        high: Upper end.
        fpr95: Share of the other samples that pass where 95 % of the familiar ones do; 0.95 is
            chance.
        n_groups: Familiar and other groups (recordings, subjects).
        n_dropped: Samples without a score (NaN), which are not counted.
    """

    inside: Float[np.ndarray, " sample"]
    outside: Float[np.ndarray, " other"]
    auroc: float
    low: float
    high: float
    fpr95: float
    n_groups: tuple[int, int] | None
    n_dropped: int
    chance: float = 0.5

    def plot(self) -> Figure:
        """Both distributions of the score."""
        from neurofm.interpret.monitoring.drawings import draw_detection

        return draw_detection(self)

    def summary(self) -> str:
        """One line."""
        between = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"AUROC {self.auroc:.2f}{between}, chance {self.chance}; FPR95 {self.fpr95:.2f}"


@dataclass(frozen=True)
class Detections:
    """Several scores on the same samples."""

    scores: Mapping[str, Detection]

    def __getitem__(self, name: str) -> Detection:
        return self.scores[name]

    def plot(self) -> Figure:
        """AUROC of each score with its interval over groups, and chance."""
        from neurofm.interpret.monitoring.drawings import draw_detections

        return draw_detections(self)


def detection(
    inside: Sequence[float] | np.ndarray,
    outside: Sequence[float] | np.ndarray,
    *,
    inside_groups: Sequence[Any] | np.ndarray | None = None,
    outside_groups: Sequence[Any] | np.ndarray | None = None,
    n_resamples: int = 2000,
    rng: np.random.Generator | None = None,
) -> Detection:
    """AUROC with its interval over groups, and FPR95.

    Args:
        inside: Scores of familiar samples that the score was not fitted on.
        outside: Scores of other samples.
        inside_groups: Recording or subject of each; without groups there is no interval.
        rng: Draws the groups; a fixed one if not given.

    Raises:
        ValueError: No sample with a score on a side, or groups for one side only.
    """
    sides = [np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64)]
    given = [inside_groups, outside_groups]
    if (given[0] is None) != (given[1] is None):
        raise ValueError("detection: groups of one side only; give both or none.")
    groups = []
    dropped = 0
    for i, name in enumerate(("inside", "outside")):
        fine = ~np.isnan(sides[i])
        dropped += int((~fine).sum())
        if sides[i].ndim != 1 or not fine.any():
            raise ValueError(f"detection: no {name} sample with a score ({len(fine)} given).")
        own = given[i]
        if own is not None:
            if len(own) != len(fine):
                raise ValueError(f"detection: {len(own)} groups for {len(fine)} {name} samples.")
            groups.append(np.asarray(own)[fine])
        sides[i] = sides[i][fine]
    a, b = sides
    low = high = float("nan")
    counts = None
    if groups:
        counts = (len(np.unique(groups[0])), len(np.unique(groups[1])))
        if min(counts) >= _LEAST:
            rng = np.random.default_rng(0) if rng is None else rng
            low, high = _interval(a, b, groups, n_resamples, rng)
    # The threshold that at least 95 % of the familiar samples reach.
    threshold = np.sort(a)[len(a) - int(np.ceil(0.95 * len(a)))]
    return Detection(
        inside=a,
        outside=b,
        auroc=auroc(np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b])),
        low=low,
        high=high,
        fpr95=float((b >= threshold).mean()),
        n_groups=counts,
        n_dropped=dropped,
    )


def _interval(
    a: np.ndarray,
    b: np.ndarray,
    groups: Sequence[np.ndarray],
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Groups of both sides drawn with replacement; wins of each pair of groups counted once."""
    (_, of_a, n_a), (_, of_b, n_b) = (
        np.unique(group, return_inverse=True, return_counts=True) for group in groups
    )
    wins = np.zeros((len(n_a), len(n_b)))
    for i in range(len(n_a)):
        own = a[of_a == i]
        # Ranks among both minus ranks among the other side: how many of `own` each one beats.
        ranks = rankdata(np.concatenate([own, b]))[len(own) :] - rankdata(b)
        wins[i] = len(own) * n_b - np.bincount(of_b, ranks, minlength=len(n_b))
    drawn_a = rng.multinomial(len(n_a), np.full(len(n_a), 1 / len(n_a)), n_resamples)
    drawn_b = rng.multinomial(len(n_b), np.full(len(n_b), 1 / len(n_b)), n_resamples)
    above = np.einsum("ri,ij,rj->r", drawn_a, wins, drawn_b, optimize=True)
    low, high = np.quantile(above / ((drawn_a @ n_a) * (drawn_b @ n_b)), (0.025, 0.975))
    return float(low), float(high)
