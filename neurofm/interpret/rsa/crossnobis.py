"""Cross-validated distances: noise does not add up, so that equal patterns are 0 on average.

Source: Walther et al. 2016.
Axes: condition, window = row of the patterns, p = column of a pattern.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from neurofm.interpret.rsa.measures import check_patterns, condition_means
from neurofm.interpret.rsa.noise import whiten
from neurofm.interpret.rsa.products import distances, touching
from neurofm.shapes import Float
from neurofm.types import RDM


def crossnobis(
    patterns: Float[np.ndarray, "window p"],
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable],
    *,
    noise: Float[np.ndarray, "p p"] | None = None,
) -> RDM:
    """Cross-validated squared distances: zero on average where two conditions do not differ.

    Products are taken between runs only, so noise does not add up; negative values are valid and
    must be kept. Equal to leaving one run out, averaged over runs.

    Args:
        conditions: Of each window.
        runs: Of each window; every condition must occur in every run.
        noise: Covariance of the noise; identity if not given.

    Raises:
        ValueError: One run only, or a condition missing from a run (it is named).
    """
    names, folds = tuple(dict.fromkeys(conditions)), tuple(dict.fromkeys(runs))
    if len(folds) < 2:
        raise ValueError(f"crossnobis: needs at least two runs, got {list(folds)}.")
    cells, order = condition_means(patterns, list(zip(conditions, runs, strict=True)))
    place = {cell: i for i, cell in enumerate(order)}
    gone = [(c, r) for c in names for r in folds if (c, r) not in place]
    if gone:
        raise ValueError(
            f"crossnobis: condition {gone[0][0]!r} does not occur in run {gone[0][1]!r} "
            f"({len(gone)} such cells). Leave the condition or the run out."
        )
    x, _ = check_patterns(cells, None)
    x = x if noise is None else whiten(x, noise)
    by_run = x[[place[c, r] for r in folds for c in names]].reshape(len(folds), len(names), -1)
    missing = np.isnan(by_run).any((0, 2))
    by_run = np.where(np.isnan(by_run), 0.0, by_run)
    by_run = by_run - by_run.mean((0, 1))
    total = by_run.sum(0)
    gram = total @ total.T
    for one in by_run:
        gram -= one @ one.T
    values = distances(gram) / (len(folds) * (len(folds) - 1) * by_run.shape[2])
    values[touching(missing)] = np.nan
    return RDM(values=values, labels=tuple(map(str, names)), metric="crossnobis")
