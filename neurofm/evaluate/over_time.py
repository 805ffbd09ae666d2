"""When is the information there: decoding at every moment of a window, and from moment to moment.

A linear decoder is trained on all channels at one moment and tested at the same moment of held-out
windows (time-resolved decoding), or at every other moment (temporal generalization): a square of
high scores is a pattern that stays, a diagonal one that keeps changing. Which moments differ from
chance is asked of clusters of neighbours, over people.

Source: King & Dehaene 2014 (temporal generalization); Maris & Oostenveld 2007 (cluster statistics);
Ledoit & Wolf 2004 (shrinkage).
Axes: window channel time; moment = a stretch of the window; subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import mne
import numpy as np
from scipy.stats import rankdata
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.preprocessing import StandardScaler

from neurofm.data.audit import refuse_leakage
from neurofm.data.rows import Row, Split
from neurofm.shapes import Bool, Float, Int
from neurofm.types import Cluster, OverTime

Features = Literal["amplitude", "power"]
FEWEST = 5  # subjects; with fewer no cluster can reach p = 0.05 by flipping signs


def moments(n: int, sfreq: float, *, width_s: float, step_s: float) -> list[slice]:
    """Stretches of a window, each `width_s` long.

    Args:
        n: Samples of the window.
        sfreq: Hz.

    Raises:
        ValueError: Not a single one fits.
    """
    width, step = round(width_s * sfreq), max(1, round(step_s * sfreq))
    if width < 1 or width > n:
        raise ValueError(
            f"decode_over_time: moments of {width_s} s are {width} samples at {sfreq:g} Hz; "
            f"expected 1 to {n}, the length of a window."
        )
    return [slice(i, i + width) for i in range(0, n - width + 1, step)]


def features_of(
    x: Float[np.ndarray, "window channel time"], parts: Sequence[slice], features: Features
) -> Float[np.ndarray, "moment window channel"]:
    """Mean of every moment, or the logarithm of its variance.

    Raises:
        ValueError: Not finite, or a channel without variance in a moment whose power is asked for.
    """
    if not np.isfinite(x).all():
        raise ValueError("decode_over_time: samples are NaN or infinite. Leave those windows out.")
    if features == "amplitude":
        return np.stack([x[..., part].mean(-1) for part in parts])
    variance = np.stack([x[..., part].var(-1) for part in parts])
    if not (variance > 0).all():
        flat = np.flatnonzero((variance == 0).any((0, 1))).tolist()
        raise ValueError(
            f"decode_over_time: channels {flat[:5]} do not change within a moment, so their power "
            "has no logarithm. Leave them out, or take longer moments."
        )
    return np.log(variance)


def decode_over_time(
    x: Float[np.ndarray, "window channel time"],
    rows: Sequence[Row],
    folds: Sequence[Split],
    *,
    sfreq: float,
    start_s: float = 0.0,
    width_s: float = 0.1,
    step_s: float = 0.05,
    features: Features = "amplitude",
    generalize: bool = False,
    seed: int = 0,
) -> OverTime:
    """Decode every moment by linear discriminants with shrinkage.

    Args:
        x: Working units, after the preprocessing that the question needs: for rhythms a band-pass
            and `features="power"`.
        rows: One for each window, with its label.
        folds: Train on one side, test on the other; validation windows train.
        sfreq: Hz.
        start_s: Of the windows after their events, seconds.
        width_s: Length of a moment, seconds.
        step_s: From moment to moment, seconds.
        features: "amplitude" or "power" of each channel.
        generalize: Test every decoder at every moment.
        seed: Of the sign flips.

    Returns:
        A subject's score is the mean over folds, because decoders of different folds share no
        scale.

    Raises:
        ValueError: Windows and rows differ, a fold leaks or trains on one class, or no fold tests
            two classes of a subject.
    """
    if len(x) != len(rows) or not folds:
        raise ValueError(
            f"decode_over_time: {len(x)} windows, {len(rows)} rows and {len(folds)} folds; "
            "expected one row per window and at least one fold."
        )
    classes = sorted({str(row.label) for row in rows})
    y = np.array([classes.index(str(row.label)) for row in rows])
    subject = np.array([row.subject for row in rows])
    parts = moments(x.shape[-1], sfreq, width_s=width_s, step_s=step_s)
    z = features_of(x, parts, features)
    found: dict[str, list[np.ndarray]] = {}
    for fold in folds:
        refuse_leakage(rows, fold)
        train, test = np.array([*fold.train, *fold.validate]), np.array(fold.test)
        if len(np.unique(y[train])) < len(classes):
            raise ValueError(
                f"decode_over_time: the training side of {fold.name} lacks a class of "
                f"{', '.join(classes)}. Use folds by another entity, or more recordings."
            )
        decision = _decisions(z, y, train, test, generalize=generalize)
        for name in dict.fromkeys(subject[test].tolist()):
            own = subject[test] == name
            if len(np.unique(y[test][own])) == len(classes):
                score = _auroc if len(classes) == 2 else _balanced_accuracy
                found.setdefault(name, []).append(score(decision[..., own, :], y[test][own]))
    if not found:
        raise ValueError("decode_over_time: no fold tests all classes of a subject.")
    scores = np.stack([np.mean(values, axis=0) for values in found.values()])
    chance = 0.5 if len(classes) == 2 else 1 / len(classes)
    return OverTime(
        scores=scores,
        times=start_s + np.array([(p.start + p.stop) / 2 / sfreq for p in parts]),
        subjects=tuple(found),
        metric="auroc" if len(classes) == 2 else "balanced_accuracy",
        chance=chance,
        features=features,
        clusters=clusters_above(scores, chance, seed=seed),
    )


def at_same_moment(found: OverTime, *, seed: int = 0) -> OverTime:
    """Of a generalization over time, the scores trained and tested at the same moment.

    Clusters are looked for anew, along the one axis that is left.
    """
    scores = found.diagonal
    return replace(found, scores=scores, clusters=clusters_above(scores, found.chance, seed=seed))


def _decisions(
    z: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, *, generalize: bool
) -> Float[np.ndarray, "moment *test window output"]:
    """What the decoder of every moment says of the test windows at that moment, or at all."""
    found = []
    for moment in range(len(z)):
        scale = StandardScaler().fit(z[moment, train])
        made = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        made.fit(scale.transform(z[moment, train]), y[train])
        judged = z[:, test] if generalize else z[moment, test]
        decision = ((judged - scale.mean_) / scale.scale_) @ made.coef_.T + made.intercept_
        found.append(decision)
    return np.stack(found)


def _auroc(
    decision: Float[np.ndarray, "*moment window 1"], y: Int[np.ndarray, " window"]
) -> Float[np.ndarray, "*moment"]:
    """Of the last class, all moments at once; ties count half."""
    positive = y == 1
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(decision[..., 0], axis=-1)[..., positive].sum(-1)
    return (ranks - n * (n + 1) / 2) / (n * m)


def _balanced_accuracy(
    decision: Float[np.ndarray, "*moment window output"], y: Int[np.ndarray, " window"]
) -> Float[np.ndarray, "*moment"]:
    right = decision.argmax(-1) == y
    return np.mean([right[..., y == label].mean(-1) for label in np.unique(y)], axis=0)


def clusters_above(
    scores: Float[np.ndarray, " subject *moment"],
    chance: float,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
) -> tuple[Cluster, ...]:
    """Clusters of neighbouring moments above chance, by flipping the signs of subjects.

    Clusters are formed where a one-sided t test over subjects has p < 0.05; their p is that of the
    sum of t in the cluster against the largest of each flip, so that it holds for all moments
    together.

    Returns:
        In order of p; nothing with fewer than five subjects.
    """
    if len(scores) < FEWEST:
        return ()
    difference = scores - chance
    if not difference.std(0).all():  # the same score of everybody: t would be infinite
        difference = difference + 1e-9 * np.random.default_rng(seed).standard_normal(scores.shape)
    with mne.use_log_level("error"):
        _, inside, p, _ = mne.stats.permutation_cluster_1samp_test(
            difference, tail=1, n_permutations=n_permutations, out_type="mask", seed=seed
        )
    found = [
        Cluster(_mask(where, scores.shape[1:]), float(value))
        for where, value in zip(inside, p, strict=True)
    ]
    return tuple(sorted(found, key=lambda cluster: cluster.p))


def _mask(where: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "*moment"]:
    """A cluster as a mask: MNE gives slices of a line and masks of a plane."""
    mask = np.zeros(shape, dtype=bool)
    mask[where] = True
    return mask
