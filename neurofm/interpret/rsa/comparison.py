"""Several models against the RDMs of several people, with everything needed to judge the result.

    found = compare_models({"V1": v1, "IT": it}, people, method="cosine_cov", generator=generator)
    found.results()
    found.plot()

Source: Schuett et al. 2023 (dual bootstrap and its t-tests); Nili et al. 2014 (noise ceilings).
Axes: model, subject, pair of models.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as distributions

from neurofm import stats
from neurofm.interpret.rsa.bootstrap import dual_variance, resample, single_variance
from neurofm.interpret.rsa.comparators import same_conditions
from neurofm.interpret.rsa.permutations import draw_permutations, p_of, percentiles, permuted
from neurofm.shapes import Float, Int
from neurofm.types import RDM, Result

FEW_CONDITIONS, FEW_PEOPLE = 20, 5
HIGH_CHANCE = 0.1  # mean similarity of relabelled conditions


@dataclass(frozen=True)
class ModelComparison:
    """Scores of models with their doubt.

    Args:
        models: Names.
        subjects: Names.
        method: How RDMs were compared.
        scores: Similarity of each model with each person.
        ceiling: Lower and upper noise ceiling; NaN with one person.
        interval: 95 % of each model, by percentiles of the bootstrap.
        variance: Of each model's mean over new stimuli and new people (new stimuli alone with one
            person).
        p: Of each model against zero, one-sided t.
        p_permutation: Against relabelled conditions, one-sided.
        null_mean: Mean of those.
        p_ceiling: Against the lower ceiling, two-sided t.
        pairs: Models i and j of each comparison of two.
        p_pairs: Of their difference, two-sided t.
        q_pairs: Corrected for the number of pairs (share of false discoveries).
        n_conditions: Stimuli.
        skipped: Samples of the bootstrap with fewer than three different stimuli.
        caveats: What a reader must know, as sentences.
    """

    models: tuple[str, ...]
    subjects: tuple[str, ...]
    method: str
    scores: Float[np.ndarray, "model subject"]
    ceiling: tuple[float, float]
    interval: Float[np.ndarray, "model 2"]
    variance: Float[np.ndarray, " model"]
    p: Float[np.ndarray, " model"]
    p_permutation: Float[np.ndarray, " model"]
    null_mean: Float[np.ndarray, " model"]
    p_ceiling: Float[np.ndarray, " model"]
    pairs: Int[np.ndarray, "comparison 2"]
    p_pairs: Float[np.ndarray, " comparison"]
    q_pairs: Float[np.ndarray, " comparison"]
    n_conditions: int
    skipped: int
    caveats: tuple[str, ...]

    @property
    def mean(self) -> Float[np.ndarray, " model"]:
        """Of each model over people."""
        return self.scores.mean(1)

    def results(self) -> list[Result]:
        """A line for each model; the ratio to the lower ceiling is not clipped at 1."""
        low = self.ceiling[0]
        return [
            Result(
                name=name,
                value=float(self.mean[i]),
                unit=self.method,
                low=float(self.interval[i, 0]),
                high=float(self.interval[i, 1]),
                n=len(self.subjects),
                chance=float(self.null_mean[i]),
                ceiling=low if np.isfinite(low) else None,
                detail={
                    "p": float(self.p[i]),
                    "p_permutation": float(self.p_permutation[i]),
                    "p_ceiling": float(self.p_ceiling[i]),
                    "ceiling_upper": self.ceiling[1],
                    "of_ceiling": float(self.mean[i] / low) if low > 0 else float("nan"),
                    "standard_error": float(np.sqrt(self.variance[i])),
                    "n_conditions": self.n_conditions,
                    "caveats": self.caveats,
                },
            )
            for i, name in enumerate(self.models)
        ]

    def difference(self, first: str, second: str) -> Result:
        """Of two models: mean difference, p corrected for the number of pairs."""
        for name in (first, second):
            if name not in self.models:
                raise ValueError(f"no model {name!r}; there are {', '.join(self.models)}.")
        i, j = self.models.index(first), self.models.index(second)
        at = [{i, j} == set(pair) for pair in self.pairs.tolist()].index(True)
        return Result(
            name=f"{first} - {second}",
            value=float(self.mean[i] - self.mean[j]),
            unit=self.method,
            n=len(self.subjects),
            chance=0.0,
            detail={"p": float(self.p_pairs[at]), "q": float(self.q_pairs[at])},
        )

    def plot(self) -> Any:
        """Bars with intervals under the noise ceiling; a star against relabelled conditions."""
        from neurofm.figures import plot_bars

        return plot_bars(
            dict(zip(self.models, self.mean.tolist(), strict=True)),
            title=f"{self.n_conditions} stimuli, {len(self.subjects)} people (* p < 0.05)",
            unit=f"similarity of RDMs ({self.method})",
            intervals=dict(zip(self.models, self.interval.tolist(), strict=True)),
            ceiling=self.ceiling if np.isfinite(self.ceiling).all() else None,
            chance=0.0,
            marks={
                n: "*" for n, p in zip(self.models, self.p_permutation, strict=True) if p < 0.05
            },
        )


def compare_models(
    models: Mapping[str, RDM],
    people: Mapping[str, RDM],
    *,
    generator: np.random.Generator,
    method: str = "cosine_cov",
    groups: Sequence[Hashable] | None = None,
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
) -> ModelComparison:
    """How similar is each model to the people, and do models differ?

    Args:
        models: Name to RDM.
        people: Name to RDM; several sessions of a person are averaged first.
        method: "cosine_cov" if models predict distances (crossnobis or squared Euclidean), "rho-a"
            if only their order counts; see `rsa.bootstrap.METHODS`.
        groups: Of each condition: relabelling is within groups.

    Raises:
        ValueError: No model, no person, or RDMs of different conditions.
    """
    if not models or not people:
        raise ValueError(f"compare_models: {len(models)} models and {len(people)} people.")
    first = next(iter(people.values()))
    for other in (*models.values(), *people.values()):
        same_conditions(first, other)
    x = np.stack([one.values for one in models.values()])
    y = np.stack([one.values for one in people.values()])
    k, s, n = len(x), len(y), len(first.labels)
    missing = np.isnan(np.concatenate([x, y]))
    if (~missing.any(0)).sum() < 3:
        worst = [*models, *people][int(missing.sum(1).argmax())]
        raise ValueError(
            f"compare_models: {int((~missing.any(0)).sum())} of {missing.shape[1]} pairs of "
            f"conditions are known in all RDMs; {worst!r} lacks {int(missing.sum(1).max())}. Leave "
            "it out, or the conditions it lacks."
        )
    whole = resample(x, y, method)
    scores, ceiling = whole.by_subject[0], whole.ceiling[0]
    conditions = generator.integers(n, size=(n_bootstrap, n))
    stimuli = resample(x, y, method, conditions=conditions)
    pairs = np.array([(i, j) for i in range(k) for j in range(i + 1, k)], dtype=int).reshape(-1, 2)
    contrasts = np.zeros((2 * k + len(pairs), k + 2 if s > 1 else k))
    contrasts[np.arange(k), np.arange(k)] = 1
    contrasts[k + np.arange(k), np.arange(k)] = 1
    if s > 1:
        contrasts[k : 2 * k, k] = -1
    at = 2 * k + np.arange(len(pairs))
    contrasts[at, pairs[:, 0]], contrasts[at, pairs[:, 1]] = 1, -1
    if s > 1:
        subjects = generator.integers(s, size=(n_bootstrap, s))
        both = resample(x, y, method, conditions=conditions, subjects=subjects)
        others = resample(x, y, method, subjects=subjects)
        variance = dual_variance(
            both.covariance(),
            others.covariance(),
            stimuli.covariance(),
            n_subjects=s,
            n_conditions=n,
            contrasts=contrasts,
        )
        value, dof = np.concatenate([scores.mean(1), ceiling]), min(s, n) - 1
    else:
        both = stimuli
        variance = single_variance(stimuli.covariance()[:k, :k], n, contrasts=contrasts)
        value, dof = scores.mean(1), n - 1
    t = _t(contrasts @ value, variance)
    two_sided = 2 * distributions.t.sf(np.abs(t), dof)
    p_pairs = two_sided[2 * k :]
    orders = draw_permutations(n, n_permutations, generator=generator, groups=groups)
    null = permuted(x, y, orders, method)
    null_mean = np.nanmean(null, 0)
    caveats = _caveats(n, s, method, both.skipped, float(null_mean.max()))
    for caveat in caveats:
        warnings.warn(f"compare_models: {caveat}", stacklevel=2)
    return ModelComparison(
        models=tuple(models),
        subjects=tuple(people),
        method=method,
        scores=scores,
        ceiling=(float(ceiling[0]), float(ceiling[1])),
        interval=np.array([percentiles(both.scores[:, i]) for i in range(k)]),
        variance=variance[:k],
        p=distributions.t.sf(t[:k], dof),
        p_permutation=p_of(null, scores.mean(1)),
        null_mean=null_mean,
        p_ceiling=two_sided[k : 2 * k] if s > 1 else np.full(k, np.nan),
        pairs=pairs,
        p_pairs=p_pairs,
        q_pairs=_corrected(p_pairs),
        n_conditions=n,
        skipped=both.skipped,
        caveats=caveats,
    )


def _t(value: np.ndarray, variance: np.ndarray) -> np.ndarray:
    error = np.sqrt(np.maximum(variance, 0.0))
    return np.divide(value, error, out=np.full_like(value, np.nan), where=error > 0)


def _corrected(p: np.ndarray) -> np.ndarray:
    q, known = np.full(p.shape, np.nan), np.isfinite(p)
    if known.any():
        q[known] = stats.fdr(p[known])[1]
    return q


def _caveats(n: int, s: int, method: str, skipped: int, chance: float) -> tuple[str, ...]:
    said = []
    if method.startswith("cosine") and chance > HIGH_CHANCE:
        said.append(
            f"relabelled conditions reach {chance:.2f}: distances that are not cross-validated lie "
            "far from 0, so that p against 0 says nothing. Read p_permutation, or use 'corr_cov'."
        )
    if n < FEW_CONDITIONS:
        said.append(f"{n} stimuli: a bootstrap over fewer than {FEW_CONDITIONS} is unstable.")
    if s == 1:
        said.append("one person: no ceiling, and nothing is said about other people.")
    elif s < FEW_PEOPLE:
        said.append(f"{s} people: what varies between people is known badly.")
    if method.startswith("tau"):
        said.append("the ceiling is approximate: the mean rank does not maximise tau.")
    if skipped:
        said.append(f"{skipped} samples had fewer than three different stimuli and were left out.")
    return tuple(said)
