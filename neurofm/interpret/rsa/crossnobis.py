"""Cross-validated squared distances: zero on average where two conditions do not differ.

Products are taken between runs only, so that noise, which is independent between runs, does not add
up. Negative values are valid and must be kept, in means, comparisons and figures.

A balanced design needs no run left out: with patterns Y of each run, whitened, and S their sum, the
products of S with itself minus those of every Y with itself are the products between runs.

Source: Walther et al. 2016; Diedrichsen et al. 2016 (bias of cosines if designs are unbalanced).
Axes: run, condition, window = row of the patterns, p = column, pair = upper triangle.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.rsa.measures import check_patterns, condition_means
from neurofm.interpret.rsa.noise import whiten_by
from neurofm.interpret.rsa.products import gram_matrix, squared_distances, touching, upper
from neurofm.shapes import Bool, Float
from neurofm.types import RDM


@takes_either_by_torch
def crossnobis(
    patterns: Float[Tensor, "window p"],
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable],
    *,
    noise: Float[Tensor, "channel channel"]
    | Mapping[Hashable, Float[Tensor, "channel channel"]]
    | None = None,
    remove_mean: bool = False,
    unbalanced: bool = False,
) -> RDM:
    """Cross-validated squared distances of conditions, per column.

    Args:
        conditions: Of each window.
        runs: Of each window.
        noise: Covariance of the noise, or one of each run (by its name); identity if not given.
        remove_mean: Take each pattern's mean over columns off first.
        unbalanced: Conditions may be missing from runs. A pair is averaged over those runs that
            have both; with fewer than two of them it is NaN.

    Raises:
        ValueError: One run only, or a condition missing from a run (it is named).
    """
    if not len(conditions) == len(runs) == len(patterns):
        raise ValueError(
            f"crossnobis: {len(conditions)} conditions and {len(runs)} runs of {len(patterns)} "
            "windows."
        )
    names, folds = tuple(dict.fromkeys(conditions)), tuple(dict.fromkeys(runs))
    counted = Counter(conditions)
    cells = tuple(zip(conditions, runs, strict=True))
    means, _ = condition_means(patterns, cells)
    order = tuple(dict.fromkeys(cells))
    there = set(order)
    gone = [(c, r) for c in names for r in folds if (c, r) not in there]
    if gone and not unbalanced:
        raise ValueError(
            f"crossnobis: condition {gone[0][0]!r} does not occur in run {gone[0][1]!r} "
            f"({len(gone)} such cells). Leave the condition or the run out, or say "
            "`unbalanced=True`."
        )
    if len(set(counted.values())) > 1:
        fewest, most = min(counted, key=counted.__getitem__), max(counted, key=counted.__getitem__)
        warnings.warn(
            f"crossnobis: {counted[most]} windows of {most!r} and {counted[fewest]} of {fewest!r}. "
            "Cosines between such RDMs are above zero on average also without signal: test them "
            "against relabelled conditions, or balance the design.",
            stacklevel=3,
        )
    by_run = means.new_zeros((len(folds), len(names), means.shape[1]))
    present = torch.zeros(by_run.shape[:2], dtype=torch.bool, device=means.device)
    rows, columns = {r: i for i, r in enumerate(folds)}, {c: i for i, c in enumerate(names)}
    at = [(rows[r], columns[c]) for c, r in order]
    where = tuple(torch.tensor(at, device=means.device).T)
    by_run[where], present[where] = means, True
    covariance: Tensor | None
    if isinstance(noise, Mapping):
        covariance = torch.stack([_of_run(noise, fold) for fold in folds])
    else:
        covariance = noise
    values = crossnobis_distances(
        by_run, noise=covariance, remove_mean=remove_mean, present=present if gone else None
    )
    return RDM(values=values.cpu().numpy(), labels=tuple(map(str, names)), metric="crossnobis")


@takes_either_by_torch
def crossnobis_distances(
    by_run: Float[Tensor, "*batch run condition p"],
    *,
    noise: Float[Tensor, "channel channel"] | Float[Tensor, "run channel channel"] | None = None,
    remove_mean: bool = False,
    present: Bool[Tensor, "run condition"] | None = None,
) -> Float[Tensor, "*batch pair"]:
    """`crossnobis` of patterns averaged by run and condition, one set or many (times, centres).

    Args:
        noise: Covariance, or one of each run: two runs are then whitened by the mean of theirs.
        present: Which conditions a run has; all if not given.

    Raises:
        ValueError: Fewer than two runs or conditions, infinite values, or a singular `noise`.
    """
    n_runs, _, p = by_run.shape[-3:]
    if n_runs < 2:
        raise ValueError(f"crossnobis: needs at least two runs, got {n_runs}.")
    sums, holes = check_patterns(by_run)
    x = by_run.detach().double()
    if remove_mean:
        x = x - sums[..., None] / p
    missing = holes if present is None else holes & present
    if present is not None:
        holes = holes | ~present
    x = x.masked_fill(holes.unsqueeze(-1), 0.0) if holes.any() else x
    if present is not None or (noise is not None and noise.ndim == 3):
        values = _by_pairs_of_runs(x, noise, present)
    else:
        x = x if noise is None else whiten_by(x, noise)
        # Only differences within a run count: without its mean, fewer digits cancel.
        x = x - x.mean(-2, keepdim=True)
        gram = gram_matrix(x.sum(-3)) - gram_matrix(x.movedim(-3, -2).flatten(-2))
        values = squared_distances(gram) / (n_runs * (n_runs - 1))
    values = values / p
    missing = missing.any(-2)
    return values.masked_fill_(touching(missing), torch.nan) if missing.any() else values


def _by_pairs_of_runs(
    x: Tensor, noise: Tensor | None, present: Tensor | None
) -> Float[Tensor, "*batch pair"]:
    """Mean over pairs of runs, of those in which both conditions occur."""
    n_runs, n = x.shape[-3:-1]
    there = torch.ones((n_runs, n), dtype=torch.bool, device=x.device)
    there = there if present is None else present
    if noise is not None and noise.ndim == 2:
        x = whiten_by(x, noise)
    total, count = x.new_zeros((*x.shape[:-3], n, n)), x.new_zeros((n, n))
    for f, g in combinations(range(n_runs), 2):
        both = there[f] & there[g]
        pair = x[..., [f, g], :, :]
        if noise is not None and noise.ndim == 3:
            pair = whiten_by(pair, (noise[f] + noise[g]) / 2)
        kept = both.unsqueeze(-1)
        mean = pair.masked_fill(~kept, 0.0).sum(-2, keepdim=True) / both.sum().clamp(min=1)
        one, two = (pair - mean).masked_fill(~kept, 0.0).unbind(-3)
        product = one @ two.mT
        own = product.diagonal(dim1=-2, dim2=-1)
        between = own.unsqueeze(-1) + own.unsqueeze(-2) - product - product.mT
        used = (both.unsqueeze(-1) & both).double()
        total += between * used
        count += used
    return upper(total / count.masked_fill(count == 0, torch.nan))


def _of_run(noise: Mapping[Hashable, Tensor], run: Hashable) -> Tensor:
    if run not in noise:
        raise ValueError(f"crossnobis: no noise covariance of run {run!r}; given {list(noise)}.")
    return noise[run]
