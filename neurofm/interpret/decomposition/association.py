"""Which latents tell classes of windows apart, and which belong to single people.

Comparisons are made inside each subject, so that a latent that only knows who is recorded tells no
class. Tests count windows of a subject as exchangeable.

Axes: window latent, class in the order of `labels`, subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval, fdr


@dataclass(frozen=True)
class Association:
    """How well each latent alone tells each class from the others; 0.5 is chance.

    Args:
        labels: Classes that were compared with all others; of two, the second.
        auroc: Mean over subjects.
        by_subject: Of each subject; NaN where a class is missing.
        p: Two-sided, by ranks within subjects (normal approximation, ties counted).
        q: Under control of false discoveries over all latents and classes.
    """

    labels: tuple[str, ...]
    auroc: Float[np.ndarray, "latent label"]
    by_subject: Float[np.ndarray, "subject latent label"]
    p: Float[np.ndarray, "latent label"]
    q: Float[np.ndarray, "latent label"]

    @property
    def chance(self) -> float:
        """Of a latent that knows nothing."""
        return 0.5

    def order(self) -> np.ndarray:
        """Latents, the most telling first."""
        return np.argsort(-np.abs(self.auroc - 0.5).max(1), kind="stable")

    def interval(self, latent: int, label: int) -> tuple[float, float]:
        """95 % over subjects; NaN for fewer than three."""
        values = self.by_subject[:, latent, label]
        values = values[np.isfinite(values)]
        return bootstrap_interval(values, method="percentile") if len(values) else (np.nan, np.nan)


def associate(
    latents: Float[np.ndarray, "window latent"],
    y: Sequence[int] | np.ndarray,
    *,
    labels: Sequence[str],
    subject: Sequence[Any] | np.ndarray | None = None,
) -> Association:
    """Rank windows by each latent within each subject.

    Args:
        latents: One number per window, such as the mean activation over its tokens.
        y: Class of each window, by position in `labels`.
        subject: One for all if not given.

    Raises:
        ValueError: No subject has windows of two classes, or NaN.
    """
    latents, y = np.asarray(latents, dtype=np.float64), np.asarray(y)
    subject = np.zeros(len(y)) if subject is None else np.asarray(subject)
    if not len(latents) == len(y) == len(subject):
        raise ValueError(
            f"associate: {len(latents)} windows, {len(y)} classes, {len(subject)} subjects; one "
            "each per window."
        )
    require_finite("associate", latents)
    compared = [1] if len(labels) == 2 else list(range(len(labels)))
    people = np.unique(subject)
    area = np.full((len(people), latents.shape[1], len(compared)), np.nan)
    excess, variance = np.zeros(area.shape[1:]), np.zeros(area.shape[1:])
    for i, person in enumerate(people):
        mine = subject == person
        ranks = rankdata(latents[mine], axis=0)
        ties = ranks.var(axis=0)
        for j, label in enumerate(compared):
            inside = y[mine] == label
            a, b = int(inside.sum()), int((~inside).sum())
            if not a or not b:
                continue
            u = ranks[inside].sum(0) - a * (a + 1) / 2
            area[i, :, j] = u / (a * b)
            excess[:, j] += u - a * b / 2
            variance[:, j] += a * b * ties / max(a + b - 1, 1)
    if np.isnan(area).all():
        raise ValueError(
            f"associate: no subject has windows of two of the classes {list(labels)}; found "
            f"{np.unique(y).tolist()}."
        )
    z = np.divide(excess, np.sqrt(variance), out=np.zeros_like(excess), where=variance > 0)
    p = 2 * norm.sf(np.abs(z))
    known = np.isfinite(area)
    mean = np.where(known, area, 0).sum(0) / np.maximum(known.sum(0), 1)
    return Association(
        labels=tuple(str(labels[j]) for j in compared),
        auroc=np.where(known.any(0), mean, np.nan),
        by_subject=area,
        p=p,
        q=fdr(p.ravel())[1].reshape(p.shape),
    )


@takes_either
def subject_specificity(
    active: Float[np.ndarray, "sample latent"], subject: np.ndarray
) -> Float[np.ndarray, " latent"]:
    """1 - entropy of the subject, given that a latent speaks, over that of equal shares.

    0: all subjects alike; 1: one subject alone; NaN for latents that never speak and for a single
    subject. Shares are of rates, so that longer recordings do not count more.

    Args:
        active: Activations; above zero is speaking.
        subject: Of each sample.
    """
    people, where = np.unique(subject, return_inverse=True)
    if len(people) < 2:
        return np.full(active.shape[1], np.nan)
    rate = np.stack([(active[where == i] > 0).mean(0) for i in range(len(people))])
    total = rate.sum(0)
    share = np.divide(rate, total, out=np.full_like(rate, np.nan), where=total > 0)
    bits = np.where(share > 0, -share * np.log(np.where(share > 0, share, 1)), 0.0).sum(0)
    return np.where(total > 0, 1 - bits / np.log(len(people)), np.nan)
