"""Linear probes: what can be read off a layer, in recordings that the probe never saw.

A score says something only beside others: the same probe on shuffled labels (selectivity), on an
untrained network and on plain features of the signal. Penalties are chosen inside the training
groups, so that neither the penalty nor the weights know whose windows they are tested on.

Source: Hewitt & Liang 2019 (control tasks, selectivity); ridge in its primal and dual form.
Axes: window feature; target = columns of a regression.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.linear_model import LogisticRegression

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.linear import make_folds
from neurofm.linear.folds import Fold
from neurofm.metrics import auroc, balanced_accuracy, r2_score
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval, shuffled_within

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Metric = Literal["balanced_accuracy", "auroc", "r2"]
PENALTIES = tuple(10.0**k for k in range(-4, 5))
_INNER = 5  # folds in which a penalty is chosen


@takes_either
def ridge_weights(
    x: Float[np.ndarray, "window feature"],
    y: Float[np.ndarray, "window target"],
    *,
    penalty: float | int,
) -> Float[np.ndarray, "feature target"]:
    """Weights of centred features on centred targets, by the smaller of the two systems.

    Args:
        penalty: Positive; the error is the sum over windows.
    """
    if not penalty > 0:
        raise ValueError(f"ridge_weights: penalty is {penalty}; expected a positive number.")
    x, y = _finite("ridge_weights", x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    n, p = x.shape
    if n < p:
        return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(n), y)
    return np.linalg.solve(x.T @ x + penalty * np.eye(p), x.T @ y)


@takes_either
def ridge_predictions(
    x: Float[np.ndarray, "window feature"],
    y: Float[np.ndarray, "window target"],
    new: Float[np.ndarray, "other feature"],
    *,
    penalties: Sequence[float] | np.ndarray = PENALTIES,
) -> Float[np.ndarray, "penalty other target"]:
    """Predictions for other windows under every penalty, from one decomposition.

    With fewer windows than features, no matrix of features by targets is made.
    """
    x, y = _finite("ridge_predictions", x, y)
    mean, level = x.mean(0), y.mean(0)
    x, y, new = x - mean, y - level, np.asarray(new, dtype=np.float64) - mean
    if len(x) < x.shape[1]:
        values, vectors = np.linalg.eigh(x @ x.T)
        seen, right = (new @ x.T) @ vectors, vectors.T @ y
    else:
        values, vectors = np.linalg.eigh(x.T @ x)
        seen, right = new @ vectors, vectors.T @ (x.T @ y)
    values = np.clip(values, 0.0, None)
    return np.stack([(seen / (values + c)) @ right + level for c in penalties])


@dataclass(frozen=True)
class Probe:
    """The score of a probe, with what it has to be compared with.

    Args:
        score: Mean over folds.
        low: Lower end of the 95 % interval over folds (groups), NaN below three of them.
        high: Upper end.
        folds: Score of each fold; NaN where it holds one class.
        control: Mean score of the same probe on control labels; NaN if none were drawn.
        baselines: Score of the same probe on other features, by name.
        chance: Score of a guess.
        penalties: Chosen in each fold.
        per_target: R² of each target, for regressions.
    """

    score: float
    low: float
    high: float
    folds: Float[np.ndarray, " fold"]
    control: float
    chance: float
    metric: str
    penalties: Float[np.ndarray, " fold"]
    baselines: Mapping[str, float] = field(default_factory=dict)
    per_target: Float[np.ndarray, " target"] | None = None

    @property
    def selectivity(self) -> float:
        """Score minus the control's: what cannot be had by memorising."""
        return self.score - self.control

    def summary(self) -> str:
        """The score, its interval, control, baselines and chance in a line."""
        words = [f"{self.metric} {self.score:.3f} [{self.low:.3f}, {self.high:.3f}]"]
        words.append(f"chance {self.chance:.3f}")
        words.append(f"control {self.control:.3f}, selectivity {self.selectivity:.3f}")
        words += [f"{name} {value:.3f}" for name, value in self.baselines.items()]
        return "; ".join(words if self.baselines else [*words, "no baseline was given"])

    def plot(self) -> Figure:
        """Probe, control and baselines as bars, chance as a line."""
        from neurofm.interpret.probing.drawings import draw_probe

        return draw_probe(self)


def linear_probe(
    x: Float[np.ndarray, "window feature"],
    y: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray,
    metric: Metric = "balanced_accuracy",
    penalties: Sequence[float] = PENALTIES,
    folds: int | Sequence[Fold] | None = None,
    controls: int = 1,
    baselines: Mapping[str, np.ndarray] | None = None,
    rng: np.random.Generator | None = None,
) -> Probe:
    """Score of a linear probe in groups that it was not fitted on.

    Logistic regression with classes of equal weight for labels, ridge for "r2". Features are
    standardised by the training windows.

    Args:
        y: Labels, or numbers `window target` for "r2".
        groups: Subject or recording of each window, never divided between training and test.
        penalties: For labels, inverse strengths of the logistic regression beside features divided
            by the root of their number; for "r2", penalties of the ridge times that number.
        folds: How many; as many as groups if not given. Or the training and test rows of each,
            where training is given: one fold per held-out person then has an interval over people.
        controls: Draws of control labels: shuffled within each group, or, where every group has
            one label, dealt anew to the groups.
        baselines: Other features of the same windows, such as those of an untrained network and
            band power (`signal_baselines`).
        rng: Draws control labels.

    Raises:
        ValueError: One class, one group, features that are not finite, or no fold with two classes.
    """
    target = np.asarray(y)
    rng = np.random.default_rng(0) if rng is None else rng
    features, _ = _finite(
        "linear_probe", x, target if metric == "r2" else np.zeros((len(target), 1))
    )
    if metric == "r2":
        target = target.astype(np.float64).reshape(len(target), -1)
    elif metric not in ("balanced_accuracy", "auroc"):
        raise ValueError(f"linear_probe: metric {metric!r}; balanced_accuracy, auroc or r2.")
    elif len(np.unique(target)) < 2:
        raise ValueError(f"linear_probe: every label is {target[0]!r}; expected two classes.")
    own = np.asarray(groups)
    outer = (
        list(folds) if isinstance(folds, Sequence) else make_folds(len(target), folds, groups=own)
    )
    scores, chosen, each = _nested(features, target, own, outer, metric, penalties)
    if np.isnan(scores).all():
        raise ValueError(
            "linear_probe: no held-out fold has two classes, because every group has one label. "
            "Hold several groups out at once, such as folds=5."
        )
    null = [
        np.nanmean(_nested(features, shuffled, own, outer, metric, penalties)[0])
        for shuffled in (control_labels(target, own, rng=rng) for _ in range(controls))
    ]
    found = {
        name: float(
            np.nanmean(
                _nested(_finite(name, other, target)[0], target, own, outer, metric, penalties)[0]
            )
        )
        for name, other in (baselines or {}).items()
    }
    known = scores[~np.isnan(scores)]
    low, high = bootstrap_interval(known)
    chance = chance_of(metric, target)
    edge = (chosen == min(penalties)) | (chosen == max(penalties))
    # Where nothing is read, all penalties are alike and the edge says nothing.
    if len(penalties) > 2 and edge.mean() > 0.5 and low > chance:
        warnings.warn(
            f"linear_probe: in {int(edge.sum())} of {len(edge)} folds the best penalty is at the "
            f"edge of {min(penalties):g} to {max(penalties):g}; widen the grid.",
            stacklevel=2,
        )
    return Probe(
        score=float(known.mean()),
        low=low,
        high=high,
        folds=scores,
        control=float(np.mean(null)) if null else float("nan"),
        chance=chance,
        metric=metric,
        penalties=chosen,
        baselines=found,
        per_target=each,
    )


def chance_of(metric: str, target: np.ndarray) -> float:
    """Score of a guess."""
    return {"r2": 0.0, "auroc": 0.5}.get(metric, 1 / len(np.unique(target)))


def control_labels(
    y: Sequence[Any] | np.ndarray, groups: Sequence[Any] | np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Labels that say nothing: shuffled inside each group, or dealt to groups of one label each."""
    target = np.asarray(y)
    place = np.unique(np.asarray(groups), return_inverse=True)[1]
    first = np.array([np.flatnonzero(place == k)[0] for k in range(place.max() + 1)])
    if (target == target[first][place]).all():
        return target[first][rng.permutation(len(first))][place]
    order = shuffled_within(
        np.arange(len(target)), place, n_permutations=1, seed=int(rng.integers(2**31))
    )[0]
    return target[order]


def _nested(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    outer: list[Fold],
    metric: str,
    penalties: Sequence[float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Score and penalty of each outer fold; for regressions also R² of each target."""
    scores, chosen, each = [], [], []
    before: dict[bytes, float] = {}  # folds may share their training rows
    for train, test in outer:
        penalty = before.get(train.tobytes(), penalties[0])
        if len(penalties) > 1 and train.tobytes() not in before:
            inner = _inner(len(train), groups[train])
            table = np.array(
                [_scores(x[train], y[train], a, b, metric, penalties)[0] for a, b in inner]
            )
            fine = ~np.isnan(table).all(1)
            penalty = penalties[len(penalties) // 2]
            if fine.any():
                penalty = penalties[int(table[fine].mean(0).argmax())]
        before[train.tobytes()] = penalty
        score, per_target = _scores(x, y, train, test, metric, [penalty])
        scores.append(score[0])
        chosen.append(penalty)
        each.append(per_target)
    targets = np.nanmean([one for one in each if one is not None], axis=0) if y.ndim > 1 else None
    return np.array(scores), np.array(chosen), targets


def _inner(n: int, groups: np.ndarray) -> list[Fold]:
    if len(np.unique(groups)) > 1:
        return make_folds(n, _INNER, groups=groups)
    return make_folds(n, max(2, min(_INNER, n // 2)))


def _scores(
    x: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    metric: str,
    penalties: Sequence[float],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Score on the test rows under every penalty; NaN where they hold one class."""
    mean, deviation = x[train].mean(0), x[train].std(0)
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    z, new = (x[train] - mean) * scale, (x[test] - mean) * scale
    if metric == "r2":
        strengths = np.asarray(penalties) * max(int((scale > 0).sum()), 1)
        made = ridge_predictions(z, y[train], new, penalties=strengths)
        table = np.stack([r2_score(y[test], one) for one in made])
        return np.nanmean(table, axis=1), table[0]
    if len(np.unique(y[train])) < 2 or len(np.unique(y[test])) < 2:
        return np.full(len(penalties), np.nan), None
    z, new = (part / np.sqrt(max(int((scale > 0).sum()), 1)) for part in (z, new))
    if len(z) < z.shape[1]:  # a rotation to as many features as windows changes no prediction
        basis = np.linalg.svd(z, full_matrices=False)[2].T
        z, new = z @ basis, new @ basis
    found = []
    model = LogisticRegression(class_weight="balanced", max_iter=2000, warm_start=True)
    for c in penalties:
        model.set_params(C=c).fit(z, y[train])
        if metric == "balanced_accuracy":
            found.append(balanced_accuracy(y[test], model.predict(new)))
        else:
            place = np.searchsorted(model.classes_, y[test])
            found.append(auroc(place, model.predict_proba(new)))
    return np.array(found), None


def _finite(name: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    features, target = np.asarray(x, dtype=np.float64), np.asarray(y)
    if target.dtype.kind in "fiub":
        target = target.astype(np.float64)
    if features.ndim != 2 or len(features) != len(target) or not features.size:
        raise ValueError(
            f"{name}: features of shape {features.shape} for {len(target)} windows; expected "
            "window feature."
        )
    for word, values in (("features", features), ("targets", target)):
        if values.dtype.kind == "f":
            require_finite(f"{name} ({word})", values)
    return features, target
