"""RDMs that a hypothesis predicts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from neurofm.types import RDM


def class_rdm(labels: Sequence[Hashable], *, names: Sequence[Any] | None = None) -> RDM:
    """The model RDM of a class structure: 0 within a class, 1 between.

    Args:
        labels: Class of each condition.
        names: Of the conditions, to match other RDMs; the class if not given.
    """
    code = np.unique([str(label) for label in labels], return_inverse=True)[1]
    rows, columns = np.triu_indices(len(code), 1)
    return RDM(
        values=(code[rows] != code[columns]).astype(np.float64),
        labels=tuple(map(str, labels if names is None else names)),
        metric="class",
    )


def within(model: RDM, groups: Sequence[Hashable]) -> RDM:
    """The same RDM with NaN for pairs across groups, so that comparisons leave them out.

    With subjects as groups it asks whether two trials of one person differ, free of the much larger
    differences between persons.
    """
    code = np.unique([str(group) for group in groups], return_inverse=True)[1]
    rows, columns = np.triu_indices(len(code), 1)
    values = np.where(code[rows] == code[columns], model.values, np.nan)
    return RDM(values=values, labels=model.labels, metric=model.metric)
