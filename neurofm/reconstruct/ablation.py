"""What does a reconstruction lose without a region? Voxels taken away at test time, against chance.

A decoder stays as it was trained; the voxels of a region are set to their mean, or to what they
were for another stimulus. The null distribution is that of random voxels, as many of them.

Source: Brain3D (arXiv 2405.15239) for the question; Phipson & Smyth 2010 (p is never 0).
Axes: stimulus voxel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurofm.shapes import Bool, Float
from neurofm.stats import fdr

WAYS = ("zero", "mean", "shuffle")


@dataclass(frozen=True)
class Ablation:
    """What one region's loss does to one metric.

    Args:
        region: Name.
        n_voxels: In it.
        metric: Name; larger is better.
        intact: Score with all voxels.
        without: Score without the region.
        null: Scores without as many random voxels, one per mask.
        p: Of `null` being as low as `without`, one-sided, the region counted in.
        adjusted: p over all regions of the metric, false discoveries controlled.
    """

    region: str
    n_voxels: int
    metric: str
    intact: float
    without: float
    null: Float[np.ndarray, " mask"]
    p: float
    adjusted: float = float("nan")

    @property
    def change(self) -> float:
        """`without` minus `intact`: negative = the region was needed."""
        return self.without - self.intact


class ROIAblation:
    """Scores of a decoder without each region, beside random sets of voxels.

    Args:
        score: Responses (`stimulus voxel`) to scores by name, larger = better: decodes, and
            compares with what was seen. Called 1 + regions x (1 + masks) times.
        how: "zero" needs voxels that are z-scored, for which zero is the mean; "mean" fills in
            `mean`; "shuffle" gives the region what it answered to another stimulus, its voxels
            together, so that they stay as they are in reality.
        mean: Of each voxel over *training* responses, for "mean".
        n_masks: Random sets of voxels per region. The smallest p is 1 / (n_masks + 1).
        seed: Of masks and shuffles.

    Raises:
        ValueError: An unknown way, or no `mean` where it is needed.
    """

    def __init__(
        self,
        score: Callable[[np.ndarray], Mapping[str, float]],
        *,
        how: str = "zero",
        mean: Float[np.ndarray, " voxel"] | None = None,
        n_masks: int = 199,
        seed: int = 0,
    ) -> None:
        if how not in WAYS:
            raise ValueError(f"ROIAblation: how {how!r} is not one of {WAYS}.")
        if (how == "mean") != (mean is not None):
            raise ValueError(
                "ROIAblation: how='mean' needs `mean`, that of each voxel over training responses; "
                "other ways take none."
            )
        if n_masks < 1:
            raise ValueError(f"ROIAblation: {n_masks} masks, expected at least one.")
        self.score, self.how, self.mean = score, how, mean
        self.n_masks, self.seed = n_masks, seed

    def without(
        self, voxels: Float[np.ndarray, "stimulus voxel"], region: Bool[np.ndarray, " voxel"]
    ) -> Float[np.ndarray, "stimulus voxel"]:
        """Responses without a region, as `how` says."""
        changed = np.array(voxels, copy=True)
        if self.how == "zero":
            changed[:, region] = 0
        elif self.how == "mean":
            changed[:, region] = np.asarray(self.mean)[region]
        else:
            order = np.random.default_rng(self.seed).permutation(len(voxels))
            changed[:, region] = voxels[np.roll(order, 1)[np.argsort(order)]][:, region]
        return changed

    def run(
        self,
        voxels: Float[np.ndarray, "stimulus voxel"],
        regions: Mapping[str, np.ndarray],
    ) -> list[Ablation]:
        """Every region and metric.

        Args:
            voxels: Test responses, as the decoder takes them.
            regions: Mask of each, bool by voxel.

        Raises:
            ValueError: A mask of other voxels, empty or of all of them; `zero` on betas that are
                not z-scored; fewer than two stimuli to shuffle.
        """
        self._check(voxels, regions)
        intact = dict(self.score(voxels))
        rng = np.random.default_rng(self.seed)
        found: list[Ablation] = []
        for name, mask in regions.items():
            region = np.asarray(mask)
            size = int(region.sum())
            left = dict(self.score(self.without(voxels, region)))
            null: dict[str, list[float]] = {metric: [] for metric in intact}
            for _ in range(self.n_masks):
                drawn = np.zeros(len(region), dtype=bool)
                drawn[rng.choice(len(region), size, replace=False)] = True
                for metric, value in self.score(self.without(voxels, drawn)).items():
                    null[metric].append(float(value))
            for metric, whole in intact.items():
                luck = np.array(null[metric])
                p = (np.sum(luck <= left[metric] + 1e-12) + 1) / (self.n_masks + 1)
                found.append(
                    Ablation(name, size, metric, float(whole), float(left[metric]), luck, float(p))
                )
        for metric in intact:
            rows = [i for i, one in enumerate(found) if one.metric == metric]
            for i, value in zip(rows, fdr([found[i].p for i in rows])[1], strict=True):
                found[i] = replace(found[i], adjusted=float(value))
        return found

    def _check(self, voxels: np.ndarray, regions: Mapping[str, np.ndarray]) -> None:
        if voxels.ndim != 2 or not np.isfinite(voxels).all():
            raise ValueError(
                f"ROIAblation: responses of shape {voxels.shape}; expected stimulus voxel, all "
                "finite."
            )
        n = voxels.shape[1]
        if not regions:
            raise ValueError("ROIAblation: no regions.")
        for name, mask in regions.items():
            mask = np.asarray(mask)
            if mask.shape != (n,) or mask.dtype != bool:
                raise ValueError(
                    f"ROIAblation: region {name!r} is {mask.dtype} of shape {mask.shape}, expected "
                    f"bool of {n} voxels. A region of another mask of the brain does not fit."
                )
            if not 0 < mask.sum() < n:
                raise ValueError(f"ROIAblation: region {name!r} has {mask.sum()} of {n} voxels.")
        if self.mean is not None and self.mean.shape != (n,):
            raise ValueError(f"ROIAblation: mean of {self.mean.shape}, expected {n} voxels.")
        if self.how == "shuffle" and len(voxels) < 2:
            raise ValueError("ROIAblation: one stimulus cannot be shuffled.")
        if self.how == "zero":
            spread = voxels.std(0) + 1e-12
            off = float(np.median(np.abs(voxels.mean(0)) / spread))
            if len(voxels) > 4 and off > 1:
                raise ValueError(
                    f"ROIAblation: voxels lie {off:.1f} standard deviations from zero (median): "
                    "these betas are not z-scored, and zero is no neutral value of them. z-score "
                    "by training responses, or use how='mean'."
                )
