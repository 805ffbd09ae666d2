"""Which splits of the conditions a linear decoder can read, and which it can generalise.

A dichotomy puts half of the conditions on either side. How many of all dichotomies can be decoded
is the shattering dimension: high for representations without structure. A dichotomy that is decoded
in conditions the decoder has never seen (cross-condition generalisation, CCGP) is a direction of
its own: abstract. Both together tell structure from mere separability.

All dichotomies share their training samples, so that one factorisation fits the decoders of all of
them: ridge regression on -1 and 1, every condition with the same weight.

Source: Bernardi et al. 2020.
Axes: sample; p = columns; dichotomy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity.checks import pair
from neurofm.shapes import Bool, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXHAUSTIVE = 16  # conditions up to which every dichotomy is used


@dataclass(frozen=True)
class Dichotomies:
    """Accuracy of every balanced dichotomy; chance is 0.5.

    Args:
        sides: True for the conditions on one side; that of the first condition is True.
        decoding: Of held-out samples of conditions that were seen; balanced over conditions.
        generalisation: Of conditions that were not seen (CCGP), mean over every pair left out.
        conditions: Their names.
        n: Samples.
    """

    sides: Bool[np.ndarray, "dichotomy condition"]
    decoding: Float[np.ndarray, " dichotomy"]
    generalisation: Float[np.ndarray, " dichotomy"]
    conditions: tuple[str, ...]
    n: int
    chance: float = 0.5

    @property
    def shattering(self) -> float:
        """Mean decoding over dichotomies."""
        return float(self.decoding.mean())

    @property
    def ccgp(self) -> float:
        """Mean generalisation over dichotomies."""
        return float(self.generalisation.mean())

    def names(self) -> tuple[str, ...]:
        """The side of the first condition, written out."""
        return tuple(
            " ".join(c for c, inside in zip(self.conditions, side, strict=True) if inside)
            for side in self.sides
        )

    def plot(self) -> Figure:
        """Decoding against generalisation, one point per dichotomy."""
        from neurofm.interpret.similarity.drawings import draw_dichotomies

        return draw_dichotomies(self)


@takes_either
def dichotomies(
    x: Float[np.ndarray, "sample p"],
    conditions: Sequence[Any] | np.ndarray,
    *,
    penalty: float | int = 1e-3,
    folds: int = 5,
    n_drawn: int = 500,
    generator: np.random.Generator | None = None,
) -> Dichotomies:
    """Decode every balanced dichotomy of the conditions, with and without having seen them.

    Args:
        conditions: Of each sample; an even number of them.
        penalty: Of the ridge, over the mean variance of a column.
        folds: Of `decoding`; every condition needs as many samples.
        n_drawn: Dichotomies drawn where there are more than 16 conditions.
        generator: Of the folds and the dichotomies; a fixed one if not given.

    Raises:
        ValueError: An odd number of conditions, fewer than four, or too few samples of one.
    """
    x, _ = pair("dichotomies", x, x, least=4)
    names, code = np.unique(np.asarray(conditions), return_inverse=True)
    if len(code) != len(x):
        raise ValueError(f"dichotomies: {len(code)} conditions for {len(x)} samples.")
    counts = np.bincount(code)
    if len(names) < 4 or len(names) % 2:
        raise ValueError(
            f"dichotomies: {len(names)} conditions; balanced dichotomies with one condition left "
            "out of each side need an even number, at least 4."
        )
    if counts.min() < folds:
        few = str(names[counts.argmin()])
        raise ValueError(
            f"dichotomies: condition {few!r} has {counts.min()} samples for {folds} folds; use "
            f"folds={max(2, int(counts.min()))} or leave it out."
        )
    rng = generator or np.random.default_rng(0)
    sides = _sides(len(names), n_drawn, rng)
    signs = np.where(sides, 1.0, -1.0)
    fold = np.empty(len(x), dtype=int)
    for c in range(len(names)):
        own = np.flatnonzero(code == c)
        fold[rng.permutation(own)] = np.arange(len(own)) % folds
    decoding = [_accuracies(x, code, signs, fold != f, fold == f, penalty) for f in range(folds)]
    return Dichotomies(
        sides=sides,
        decoding=np.nanmean(decoding, axis=(0, 2)),
        generalisation=_generalisation(x, code, signs, penalty),
        conditions=tuple(str(name) for name in names),
        n=len(x),
    )


def _generalisation(
    x: np.ndarray, code: np.ndarray, signs: np.ndarray, penalty: float | int
) -> np.ndarray:
    """Mean over pairs of conditions left out, one from either side of the dichotomy."""
    total, count = np.zeros(len(signs)), np.zeros(len(signs))
    for i, j in combinations(range(signs.shape[1]), 2):
        apart = signs[:, i] != signs[:, j]
        if apart.any():
            out = (code == i) | (code == j)
            right = _accuracies(x, code, signs[apart], ~out, out, penalty)
            total[apart] += np.nanmean(right, axis=1)
            count[apart] += 1
    return total / count


def _accuracies(
    x: np.ndarray,
    code: np.ndarray,
    signs: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    penalty: float | int,
) -> np.ndarray:
    """Share of test samples on the right side, `dichotomy condition`; NaN for those not tested."""
    own = code[train]
    weight = 1.0 / np.bincount(own, minlength=signs.shape[1])[own]
    weight /= weight.sum()
    mean = weight @ x[train]
    rows = (x[train] - mean) * np.sqrt(weight)[:, None]
    targets = signs.T[own]
    level = weight @ targets
    wanted = (targets - level) * np.sqrt(weight)[:, None]
    n, p = rows.shape
    ridge = penalty * float(np.vdot(rows, rows)) / p
    if p <= n:
        weights = np.linalg.solve(rows.T @ rows + ridge * np.eye(p), rows.T @ wanted)
    else:
        weights = rows.T @ np.linalg.solve(rows @ rows.T + ridge * np.eye(n), wanted)
    right = np.sign((x[test] - mean) @ weights + level) == signs.T[code[test]]
    tested = np.bincount(code[test], minlength=signs.shape[1])
    member = (code[test][:, None] == np.arange(signs.shape[1])).astype(float)
    with np.errstate(invalid="ignore"):
        return (right.T @ member) / np.where(tested > 0, tested, np.nan)


def _sides(n: int, n_drawn: int, rng: np.random.Generator) -> np.ndarray:
    """Balanced dichotomies; the first condition is always on the side that is True."""
    if n <= EXHAUSTIVE:
        chosen: Iterator[Sequence[int]] | list[Sequence[int]] = combinations(
            range(1, n), n // 2 - 1
        )
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < min(n_drawn, comb(n - 1, n // 2 - 1)):
            drawn[tuple(sorted(1 + rng.permutation(n - 1)[: n // 2 - 1]))] = None
        chosen = list(drawn)
    sides = [np.isin(np.arange(n), [0, *others]) for others in chosen]
    return np.stack(sides)
