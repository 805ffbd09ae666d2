"""One fold: data, a split and an estimator in, predictions out.

An estimator is anything with `fit(inputs, y)` and `predict_proba(inputs)`: a scikit-learn pipeline
on arrays, or a model that is fine-tuned on a `Batch`.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from scipy.spatial import KDTree

from neurofm.batch import Batch
from neurofm.data.audit import find_overlap, refuse_leakage
from neurofm.data.rows import Row, Split
from neurofm.evaluate.nested import held_out
from neurofm.evaluate.protocol import FoldScores, probability_of
from neurofm.io.seen import Seen

_PERSON = re.compile(r"^.*?sub-[^_]+")
_PROJECTIONS = 8
_SAME = 1e-3  # distance of the projections of windows of length 1; strangers are at about 4


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


def copies_in(inputs: np.ndarray | Batch) -> list[tuple[int, int]]:
    """Pairs of windows that hold the same samples, whatever they are called.

    Windows are compared after removing mean and scale, to a ten-thousandth, so that copies that
    were stored again at another scale are found; flat windows are left out. A few random
    projections stand for the samples: no pairs are made, and thousands of windows take a second.
    """
    x = inputs.x.numpy() if isinstance(inputs, Batch) else inputs
    size = int(np.prod(x.shape[1:]))
    directions = np.random.default_rng(0).normal(size=(size, _PROJECTIONS)).astype(np.float32)
    found = np.full((len(x), _PROJECTIONS), np.nan)
    for i, window in enumerate(x):
        flat = window.reshape(-1).astype(np.float32)
        flat = flat - flat.mean()
        norm = float(np.linalg.norm(flat))
        if np.isfinite(norm) and norm > 1e-12:
            found[i] = (flat / norm) @ directions
    whole = np.flatnonzero(~np.isnan(found[:, 0]))
    if size < _PROJECTIONS or len(whole) < 2:
        return []
    pairs = KDTree(found[whole]).query_pairs(_SAME, output_type="ndarray")
    return [(int(whole[i]), int(whole[j])) for i, j in pairs]


def refuse_copies(rows: Sequence[Row], split: Split, copies: Iterable[tuple[int, int]]) -> None:
    """Stop if a test window has the samples of a training window.

    Args:
        copies: As `copies_in` finds them.

    Raises:
        ValueError: The message names the windows.
    """
    train, test = {*split.train, *split.validate}, set(split.test)
    both = [pair for pair in copies if (pair[0] in train) != (pair[1] in train)]
    both = [pair for pair in both if test & set(pair)]
    if both:
        named = [f"{rows[i].recording} at {rows[i].start:.2f} s" for i in both[0]]
        raise ValueError(
            f"split {split.name} (by {split.by}): {len(both)} test windows hold the same samples "
            f"as training windows, such as {named[0]} and {named[1]}. Remove one of the copies."
        )


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
    classes: Sequence[str] | None = None,
    sfreq: float | None = None,
    names: Sequence[str] | None = None,
) -> FoldScores:
    """Train on one side, predict the other.

    Args:
        estimator: Unfitted, see `Estimator`. What its `fit` names of `groups` (the subject of each
            window), `sfreq`, `names` and `held` (positions of training windows that end the
            training early: `neurofm.evaluate.nested.held_out` of the estimator's `validate`) it is
            given, and `groups` to a `predict_proba` that names them.
        inputs: One window per row.
        rows: With labels.
        seen: What the estimator's model was trained on before: nobody of these rows may be in it.
        align: How the windows were aligned, for the record.
        classes: In the order of the columns of the prediction; sorted labels if not given.
        sfreq: Hz, of the windows.
        names: Of the channels.

    Raises:
        ValueError: The split leaks, a person was seen before, the training side lacks a class,
            windows hold NaN or infinity, or the predictions are no probabilities.
    """
    refuse_leakage(rows, split)
    if seen is not None:
        refuse_seen_people(rows, seen, name=name)
    occurring = {str(row.label) for row in rows}
    classes = sorted(occurring) if classes is None else list(classes)
    y = np.array([classes.index(str(row.label)) for row in rows])
    train, test = [*split.train, *split.validate], list(split.test)
    trained = {classes[k] for k in y[train]}
    missing = [label for label in classes if label in occurring - trained]
    if missing or len(trained) < 2:
        what = f"no window of class {', '.join(missing)}" if missing else f"only {min(trained)}"
        raise ValueError(
            f"{name}: the training side of {split.name} has {what}. Use more runs, or leave the "
            "class out."
        )
    began = time.perf_counter()
    x, judged = (_checked(take(inputs, side), rows, side, name) for side in (train, test))
    subjects = [row.subject for row in rows]
    extra: dict[str, Any] = {"sfreq": sfreq, "names": names}
    extra["groups"] = [subjects[i] for i in train]
    taken = set(inspect.signature(estimator.fit).parameters)
    if "held" in taken:
        extra["held"] = _held(estimator, rows, split, train)
    estimator.fit(x, y[train], **{key: extra[key] for key in taken & set(extra)})
    how = {"groups": [subjects[i] for i in test]} if _names(estimator, "groups") else {}
    probability = probability_of(estimator, judged, len(classes), **how)
    wrong = ~np.isfinite(probability).all(1)
    if wrong.any():
        raise ValueError(
            f"{name}: {int(wrong.sum())} of {len(test)} predictions for {split.name} are NaN or "
            "infinite; a channel that is flat throughout, or too short windows, can be the cause."
        )
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


def _names(estimator: Any, argument: str) -> bool:
    method = getattr(estimator, "predict_proba", None)
    return method is not None and argument in inspect.signature(method).parameters


def _held(
    estimator: Any, rows: Sequence[Row], split: Split, train: Sequence[int]
) -> tuple[int, ...]:
    """Positions among the training windows: the validation side, or some that are set aside."""
    if not getattr(estimator, "validate", 0):
        return ()
    if split.validate:
        return tuple(range(len(split.train), len(train)))
    own = [rows[i] for i in train]
    return held_out(own, split.by, share=estimator.validate, seed=getattr(estimator, "seed", 0))


def _checked(x: Any, rows: Sequence[Row], members: Sequence[int], name: str) -> Any:
    """Windows for an estimator: arrays as float64, and no NaN."""
    values = x.x if isinstance(x, Batch) else torch.from_numpy(x)
    if isinstance(x, Batch) and not x.has_signal:
        return x
    bad = np.flatnonzero(~torch.isfinite(values).flatten(1).all(1).numpy())
    if len(bad):
        row = rows[members[int(bad[0])]]
        raise ValueError(
            f"{name}: {len(bad)} windows hold NaN or infinite samples, such as {row.recording} at "
            f"{row.start:.2f} s. Repair or leave out the recording (`neurofm check` names them)."
        )
    return x if isinstance(x, Batch) else np.asarray(x, dtype=np.float64)
