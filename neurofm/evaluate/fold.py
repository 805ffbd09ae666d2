"""One fold: data, a split and an estimator in, predictions out.

An estimator is anything with `fit(inputs, y)` and `predict_proba(inputs)`: a scikit-learn pipeline
on arrays, or a model that is fine-tuned on a `Batch`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.data.audit import find_overlap, refuse_leakage
from neurofm.data.rows import Row, Split
from neurofm.evaluate.protocol import FoldScores, _probability
from neurofm.io.seen import Seen

_PERSON = re.compile(r"^.*?sub-[^_]+")


class Estimator(Protocol):
    """Learns classes from some windows and predicts them for others."""

    def fit(self, x: Any, y: np.ndarray) -> Any:
        """Train; `y` are positions of classes."""
        ...


def take(inputs: np.ndarray | Batch, members: Sequence[int]) -> Any:
    """Some windows of an array or a batch, in this order."""
    if isinstance(inputs, Batch):
        index = torch.as_tensor(members, dtype=torch.int64)
        return inputs._map(lambda tensor: tensor[index])
    return inputs[np.asarray(members, dtype=np.int64)]


def refuse_seen_people(rows: Sequence[Row], seen: Seen, *, name: str) -> None:
    """Stop if a model was trained on any recording of the people who are decoded.

    Stricter than an audit of recordings: other runs of the same person count, and copies of the
    recordings under other names.

    Raises:
        ValueError: The message names the person or the recordings.
    """
    people = {found.group() for row in rows if (found := _PERSON.match(row.recording))}
    known = {found.group() for item in seen.recordings if (found := _PERSON.match(item))}
    both = sorted(people & known)
    if both:
        raise ValueError(
            f"{name}: {len(both)} of the {len(people)} people who are decoded were among those the "
            f"model was trained on, such as {', '.join(both[:3])}. Pretrain without them."
        )
    leaks = find_overlap(seen, rows)
    if leaks:
        raise ValueError(f"{name}: {leaks[0]}. {leaks[0].remedy}")


def predict_fold(
    estimator: Any,
    inputs: np.ndarray | Batch,
    rows: Sequence[Row],
    split: Split,
    *,
    name: str,
    fold: int = 0,
    seen: Seen | None = None,
    align: str = "none",
) -> FoldScores:
    """Train on one side, predict the other.

    Args:
        estimator: Unfitted, see `Estimator`.
        inputs: One window per row.
        rows: With labels.
        seen: What the estimator's model was trained on before: nobody of these rows may be in it.
        align: How the windows were aligned, for the record.

    Raises:
        ValueError: The split leaks, a person was seen before, or the training side holds one class.
    """
    refuse_leakage(rows, split)
    if seen is not None:
        refuse_seen_people(rows, seen, name=name)
    classes = sorted({str(row.label) for row in rows})
    y = np.array([classes.index(str(row.label)) for row in rows])
    train, test = [*split.train, *split.validate], list(split.test)
    missing = [label for i, label in enumerate(classes) if i not in set(y[train].tolist())]
    if missing:
        raise ValueError(
            f"{name}: the training side of {split.name} has no window of class "
            f"{', '.join(missing)}. Use more runs, or leave the class out."
        )
    began = time.perf_counter()
    estimator.fit(take(inputs, train), y[train])
    probability = _probability(estimator, take(inputs, test), len(classes))
    return FoldScores(
        name=name,
        y_true=y[test],
        probability=probability,
        subject=tuple(rows[i].subject for i in test),
        fold=np.full(len(test), fold),
        window=np.array(test),
        group=tuple(rows[i].recording for i in test),
        classes=tuple(classes),
        seconds=time.perf_counter() - began,
        align=align,
    )
