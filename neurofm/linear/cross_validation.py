"""Predictions of rows that nothing was fitted to: nested cross-validation, and its significance.

Outer folds are held out for scoring; penalties are chosen inside the rest, by the estimator's own
folds. Both keep runs together.

Source: la Tour et al. 2022 (encoding models, nested by run); Benjamini & Hochberg 1995.
Axes: row; voxel; fold.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.linear.blocks import Sliceable
from neurofm.linear.folds import Fold, make_folds
from neurofm.linear.ridge import Fitted, VoxelwiseRidge, flattened
from neurofm.metrics import pearson_r
from neurofm.shapes import Bool, Float
from neurofm.stats import fdr

_VOXELS = 1024


@dataclass(frozen=True)
class CrossValidated:
    """Held-out predictions and their scores.

    Args:
        predicted: Of every row, by the fold that held it out; as many axes as the responses.
        r: Correlation with the responses, mean over folds; NaN where never defined.
        r2: 1 - squared error / variance, mean over folds.
        r_by_fold: `fold voxel`; NaN where a voxel is constant in the fold.
        r2_by_fold: The same.
        penalty: Chosen in each fold, `fold voxel`.
        folds: Training and test rows.
    """

    predicted: np.ndarray
    r: np.ndarray
    r2: np.ndarray
    r_by_fold: np.ndarray
    r2_by_fold: np.ndarray
    penalty: np.ndarray
    folds: list[Fold]


def cross_validated(
    model: VoxelwiseRidge,
    x: np.ndarray,
    y: Sliceable,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    *,
    folds: int | None = None,
    stimulus: Sequence[Hashable] | None = None,
    out: np.ndarray | None = None,
) -> CrossValidated:
    """Predict every row by a model that saw neither it nor its run.

    Args:
        model: Its settings; it is not changed.
        x: Features, `row feature`.
        y: Responses, `row voxel` (or `row channel time`), in anything sliced by voxel.
        groups: Run of each row. Outer and inner folds leave out whole runs.
        folds: Outer folds; one per run if not given, five stretches without runs.
        stimulus: Of each row. Given, a stimulus on both sides of a fold is refused.
        out: Where to write predictions, such as a memory map, `row voxel`.

    Raises:
        ValueError: Too few rows or runs, NaN, shapes that do not fit, or a stimulus in training and
            test.
    """
    flat, shape = flattened(y)
    n_rows, n_voxels = flat.shape
    given = np.asarray(x)
    outer = make_folds(n_rows, folds or (5 if groups is None else None), groups=groups)
    refuse_copies(outer, stimulus)
    predicted = out
    if predicted is None:
        kind = np.float64 if getattr(y, "dtype", None) == np.float64 else np.float32
        predicted = np.empty((n_rows, n_voxels), dtype=kind)
    elif predicted.shape != (n_rows, n_voxels):
        raise ValueError(f"out has shape {predicted.shape}; expected {(n_rows, n_voxels)}.")
    table = np.full((3, len(outer), n_voxels), np.nan)
    inner = groups if model.takes_groups else None
    for i, (train, test) in enumerate(outer):
        penalty, _ = model.choose(given, flat, inner, rows=train)
        table[2, i] = penalty
        fitted = Fitted(model, given, flat, rows=train, new=given[test])
        for voxels, values in fitted.predictions(flat, penalty):
            made = values.cpu().numpy()
            predicted[test, voxels] = made.T
            true = np.asarray(flat[:, voxels])[test].T
            table[0, i, voxels], table[1, i, voxels] = _scores(true, made)
    r, r2, penalties = (values.reshape(len(outer), *shape) for values in table)
    return CrossValidated(
        predicted=predicted if out is not None else predicted.reshape(n_rows, *shape),
        r=_mean(r),
        r2=_mean(r2),
        r_by_fold=r,
        r2_by_fold=r2,
        penalty=penalties,
        folds=outer,
    )


def refuse_copies(folds: Sequence[Fold], stimulus: Sequence[Hashable] | None) -> None:
    """Stop if a stimulus is in the training and in the test rows of a fold.

    Raises:
        ValueError: With the stimuli; group rows by stimulus instead.
    """
    if stimulus is None:
        return
    names = list(stimulus)
    for train, test in folds:
        both = {names[i] for i in train} & {names[i] for i in test}
        if both:
            shown = ", ".join(sorted(map(str, both))[:3])
            raise ValueError(
                f"{len(both)} stimuli are in training and in test rows ({shown}, ...): scores "
                "would count what was learned by heart. Give the stimulus as `groups`, or leave "
                "repeats out of training."
            )


@dataclass(frozen=True)
class Significance:
    """Which voxels are predicted better than chance.

    Args:
        r: Correlation over the rows used.
        p: Share of permutations with at least this correlation, the observed one counted in.
        adjusted: P values adjusted for the number of voxels (Benjamini-Hochberg).
        passed: Adjusted p at or below the level. Constant voxels never pass.
        n_blocks: That changed places.
        n_rows: In them; the rest of each group, shorter than a block, is left out.
    """

    r: Float[np.ndarray, " voxel"]
    p: Float[np.ndarray, " voxel"]
    adjusted: Float[np.ndarray, " voxel"]
    passed: Bool[np.ndarray, " voxel"]
    n_blocks: int
    n_rows: int


def significance(
    true: Sliceable,
    predicted: Sliceable,
    *,
    block: int = 10,
    groups: Sequence[Hashable] | np.ndarray | None = None,
    n_permutations: int = 1000,
    level: float | int = 0.05,
    seed: int = 0,
) -> Significance:
    """Permute blocks of held-out predictions, and control the share of false discoveries.

    Blocks keep what neighbouring rows have in common; they change places within a group only, so
    that differences between runs or people are no evidence.

    Args:
        true: Responses, `row voxel`.
        predicted: Held-out predictions, the same shape.
        block: Rows; longer than the response to one stimulus (some 20 s of BOLD), 1 for stimuli in
            random order.
        groups: Run of each row; all one if not given.
        n_permutations: The smallest p is 1 / (this + 1).
    """
    if tuple(true.shape) != tuple(predicted.shape) or len(true.shape) != 2:
        raise ValueError(
            f"significance: true has shape {tuple(true.shape)}, predicted "
            f"{tuple(predicted.shape)}; expected the same row by voxel."
        )
    rows, owner = _blocks(true.shape[0], block, groups)
    rng = np.random.default_rng(seed)
    orders = np.stack([_shuffled(owner, rng) for _ in range(n_permutations)])
    if len(np.unique(orders, axis=0)) < min(n_permutations, 1 / level):
        raise ValueError(
            f"significance: {len(owner)} blocks of {block} rows allow too few permutations within "
            f"groups for a level of {level}. Use shorter blocks or more rows."
        )
    n_voxels = true.shape[1]
    r, p = np.full(n_voxels, np.nan), np.full(n_voxels, np.nan)
    for start in range(0, n_voxels, _VOXELS):
        part = slice(start, start + _VOXELS)
        a, b = (_unit(np.asarray(values[:, part])[rows]) for values in (true, predicted))
        a, b = (values.reshape(len(owner), block, -1) for values in (a, b))
        null = np.zeros((n_permutations, a.shape[2]))
        observed = np.einsum("btv,btv->v", a, b)
        for i, own in enumerate(a):
            null += np.einsum("tv,btv->bv", own, b)[orders[:, i]]
        above = (null >= observed - 1e-6).sum(0)
        known = np.isfinite(observed)
        r[part] = observed
        p[part] = np.where(known, (above + 1) / (n_permutations + 1), np.nan)
    adjusted, passed = np.full(n_voxels, np.nan), np.zeros(n_voxels, dtype=bool)
    known = np.isfinite(p)
    if known.any():
        passed[known], adjusted[known] = fdr(p[known], level=level)
    return Significance(r, p, adjusted, passed, len(owner), len(rows))


def _blocks(
    n: int, block: int, groups: Sequence[Hashable] | np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows in whole blocks, block after block, and the group of each block."""
    names = [0] * n if groups is None else list(groups)
    if len(names) != n or block < 1:
        raise ValueError(f"significance: {len(names)} groups, {n} rows, blocks of {block} rows.")
    place: dict[Any, int] = {}
    code = np.array([place.setdefault(name, len(place)) for name in names])
    rows, owner = [], []
    for group in range(len(place)):
        own = np.flatnonzero(code == group)
        whole = len(own) // block
        rows.append(own[: whole * block])
        owner.extend([group] * whole)
    if len(owner) < 2:
        raise ValueError(f"significance: {n} rows hold fewer than two blocks of {block} rows.")
    return np.concatenate(rows), np.array(owner)


def _shuffled(owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blocks in a new order, each within its group (blocks of a group are neighbours)."""
    return np.lexsort((rng.random(len(owner)), owner))


def _unit(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(0, dtype=np.float64)
    length = np.where(values.max(0) > values.min(0), np.sqrt((centred**2).sum(0)), np.nan)
    return centred / length


def _scores(true: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation and R2 over the last axis; NaN where the truth is constant."""
    a, b = true.astype(np.float64), made.astype(np.float64)
    constant = a.max(-1) == a.min(-1)
    still = b.max(-1) == b.min(-1)
    r = np.where(constant, np.nan, np.where(still, 0.0, np.nan_to_num(pearson_r(a, b))))
    variance = np.where(constant, np.nan, a.var(-1))
    return r, 1 - ((a - b) ** 2).mean(-1) / variance


def _mean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
