"""A network against brains: the recipe, with baselines, ceilings, controls and its caveats.

    found = compare_brain_network(record(model, sites, pictures), people, conditions=names,
                                  baselines={"untrained": ...}, controls={"pixels": pixels},
                                  generator=generator)
    print(found.summary()); found.plot()

Brain patterns are whitened and compared across runs (crossnobis), layers by squared Euclidean
distances. Measures of several families follow, because they rank layers differently: distances,
their ranks, kernels, rotations, and prediction of responses to left-out stimuli.

Source: Schuett et al. 2023 (inference); Kornblith et al. 2019 (CKA); Williams et al. 2021
(rotations); Yamins et al. 2014 (prediction).
Axes: condition p = layer; window channel = brain, with the condition and run of each window.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from neurofm.interpret.activations import Activations
from neurofm.interpret.predictivity import neural_predictivity, ridge_map, stimulus_splits
from neurofm.interpret.rsa import (
    compare_beyond,
    compare_models,
    condition_means,
    crossnobis,
    noise_covariance,
    rdm,
    resample,
)
from neurofm.interpret.rsa.comparison import ModelComparison
from neurofm.interpret.rsa.layer_time import LayerTime, compare_over_time
from neurofm.interpret.rsa.movies import Movie
from neurofm.interpret.rsa.partial import PartialComparison
from neurofm.interpret.similarity.cka import linear_cka
from neurofm.interpret.similarity.shape import shape_distance
from neurofm.shapes import Float
from neurofm.types import RDM, Result

Patterns = Float[np.ndarray, "_ _"]  # condition p, of any width
ALWAYS = (
    "people who saw stimuli in the same order share noise, which raises ceilings and scores alike.",
)


@dataclass(frozen=True)
class BrainNetworkComparison:
    """What layers and baselines share with brains, by several measures.

    Args:
        rsa: Scores, ceilings, bootstrap and tests of the first family.
        beyond: The same beyond low-level features, if there were controls.
        families: Measure to its mean over people for each layer and baseline; NaN where it needs
            responses and only RDMs were given.
        agreement: Spearman correlation of the ranking of layers, measure by measure.
        over_time: Layers over time, if there were movies.
        baselines: Which of the models are baselines.
        caveats: Sentences to print with the results.
    """

    rsa: ModelComparison
    beyond: PartialComparison | None
    families: Mapping[str, Float[np.ndarray, " model"]]
    agreement: Float[np.ndarray, "family other"]
    over_time: LayerTime | None
    baselines: tuple[str, ...]
    caveats: tuple[str, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """Layers, then baselines."""
        return self.rsa.models

    def best(self) -> dict[str, str]:
        """Layer or baseline that each measure puts first."""
        return {
            name: self.models[int(np.nanargmax(values))]
            for name, values in self.families.items()
            if np.isfinite(values).any()
        }

    def results(self) -> list[Result]:
        """A line for each layer and baseline, other measures in `detail`."""
        lines = self.rsa.results()
        for i, line in enumerate(lines):
            line.detail["families"] = {k: float(v[i]) for k, v in self.families.items()}
            line.detail["baseline"] = line.name in self.baselines
            if self.beyond is not None and line.name in self.beyond.models:
                at = self.beyond.models.index(line.name)
                line.detail["partial"] = float(self.beyond.partial[at].mean())
        return lines

    def summary(self) -> str:
        """Scores, what measures disagree on, and caveats, for people."""
        low, high = self.rsa.ceiling
        out = [f"{'':24s}{'  '.join(self.families)}   (noise ceiling {low:.3f} to {high:.3f})"]
        for i, name in enumerate(self.models):
            values = [
                f"{one[i]:{len(family)}.3f}" if np.isfinite(one[i]) else " " * len(family)
                for family, one in self.families.items()
            ]
            mark = " (baseline)" if name in self.baselines else ""
            out.append(f"{name[:23]:24s}{'  '.join(values)}{mark}")
        first = self.best()
        if len(set(first.values())) > 1:
            named = "; ".join(f"{family}: {name}" for family, name in first.items())
            out.append(f"Measures disagree on what is most alike: {named}.")
        else:
            out.append(f"All measures put {next(iter(first.values()))} first.")
        return "\n".join([*out, *(f"Caveat: {one}" for one in self.caveats)])

    def plot(self) -> Any:
        """Scores of the first family with intervals under the noise ceiling."""
        return self.rsa.plot()

    def plot_families(self) -> Any:
        """Every measure, scaled to the largest of its values: they share no unit."""
        from neurofm.figures import plot_matrix

        known = {k: v for k, v in self.families.items() if np.isfinite(v).any()}
        table = np.array([v / np.nanmax(np.abs(v)) for v in known.values()]).T
        return plot_matrix(
            table,
            title=f"{self.rsa.n_conditions} stimuli, {len(self.rsa.subjects)} people",
            unit="share of the measure's largest value",
            rows=self.models,
            columns=list(known),
        )


def compare_brain_network(
    layers: Activations | Mapping[str, Patterns],
    people: Mapping[str, Activations] | Mapping[str, RDM],
    *,
    generator: np.random.Generator,
    conditions: Sequence[Hashable] | None = None,
    area: str | None = None,
    baselines: Mapping[str, Patterns | RDM] | None = None,
    controls: Mapping[str, Patterns | RDM] | None = None,
    movies: Mapping[str, Movie] | None = None,
    method: str = "cosine_cov",
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    n_halvings: int = 5,
) -> BrainNetworkComparison:
    """Compare layers with brains by the default recipe.

    Args:
        layers: A row for each condition, in the order of `conditions`.
        people: Name to windows of the brain, with `labels` (the condition of each) and `run`; or to
            RDMs, where responses are not at hand: then only measures of distances are given.
        conditions: The labels, in the order of the layers' rows; as they first appear in the first
            person if not given.
        area: Entry of the people's `Activations`; the only one if not given.
        baselines: Scored beside the layers: an untrained network's, the raw signal, pixels.
        controls: Regressed out of layers, baselines and brains (`rsa.compare_beyond`).
        movies: RDMs of people over time (`rsa.movie`), for the map of layers over time.
        method: "cosine_cov", or "rho-a" if only the order of distances should count.
        n_halvings: Of the runs, for noise-corrected prediction.

    Raises:
        ValueError: Conditions that a person lacks, layers of another number of rows.
    """
    everybody: list[Activations | RDM] = [*people.values()]
    first = everybody[0] if everybody else None
    if first is None or not len(layers.data if isinstance(layers, Activations) else layers):
        raise ValueError("compare_brain_network: needs at least one layer and one person.")
    caveats = list(ALWAYS)
    if isinstance(first, RDM):
        names: tuple[Hashable, ...] = first.labels
        brains = {name: one for name, one in people.items() if isinstance(one, RDM)}
        trials: dict[str, np.ndarray] = {}
        caveats.append("only RDMs of people were given: no measure that needs responses.")
    else:
        names = tuple(conditions or dict.fromkeys(first.labels or ()))
        found = {n: _person(n, p, area, names) for n, p in people.items() if not isinstance(p, RDM)}
        brains = {name: one[0] for name, one in found.items()}
        trials = {name: one[1] for name, one in found.items() if one[1] is not None}
        if len(trials) < len(found):
            caveats.append(
                "people with one run: distances within a run are inflated by what its trials share."
            )
    patterns = _patterns(layers, len(names)) | {
        name: np.asarray(x) for name, x in (baselines or {}).items() if not isinstance(x, RDM)
    }
    given = {name: x for name, x in (baselines or {}).items() if isinstance(x, RDM)}
    models = {name: _rdm(name, x, names) for name, x in (patterns | given).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said among the caveats
        main = compare_models(
            models,
            brains,
            generator=generator,
            method=method,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
        )
    beyond = None
    if controls:
        low = {name: _rdm(name, x, names) for name, x in controls.items()}
        beyond = compare_beyond(
            {name: one for name, one in models.items() if name not in low},
            brains,
            low,
            generator=generator,
            n_permutations=n_permutations,
        )
    families = _families(main, models, patterns, brains, trials, method, n_halvings)
    over_time = None
    if movies:
        caveats.append("filters shift latencies: compare only what was filtered alike.")
        over_time = compare_over_time(
            models, movies, generator=generator, method=method, n_permutations=n_permutations
        )
    return BrainNetworkComparison(
        rsa=main,
        beyond=beyond,
        families=families,
        agreement=_agreement(families),
        over_time=over_time,
        baselines=tuple(baselines or ()),
        caveats=(*main.caveats, *caveats),
    )


def _person(
    name: str, person: Activations, area: str | None, names: tuple[Hashable, ...]
) -> tuple[RDM, np.ndarray | None]:
    """RDM of a person, and the mean of each run, `run condition channel`, if there are runs."""
    if area is None and len(person.names) > 1:
        raise ValueError(f"{name} has areas {person.names}; say which (`area`).")
    x = person.patterns(area or person.names[0]).astype(np.float64)
    if person.labels is None:
        raise ValueError(f"{name} has no labels: the condition of each window is needed.")
    labels = list(person.labels)
    gone = [one for one in names if one not in set(labels)]
    if gone:
        raise ValueError(f"{name} lacks {len(gone)} conditions, such as {gone[0]!r}.")
    kept = [i for i, label in enumerate(labels) if label in set(names)]
    x, labels = x[kept], [labels[i] for i in kept]
    runs = None if person.run is None else [person.run[i] for i in kept]
    order = {label: i for i, label in enumerate(names)}
    sort = sorted(range(len(labels)), key=lambda i: order[labels[i]])
    x, labels = x[sort], [labels[i] for i in sort]
    repeated = len(labels) > len(names) + 1
    noise = noise_covariance(x, conditions=labels) if repeated else None
    if runs is None or len(set(runs)) < 2:
        means, _ = condition_means(x, labels)
        metric = "euclidean" if noise is None else "mahalanobis"
        return rdm(means, metric, noise=noise, labels=names), None
    runs = [runs[i] for i in sort]
    found = crossnobis(x, labels, runs, noise=noise)
    cells, cell = condition_means(x, list(zip(runs, labels, strict=True)))
    place = {one: i for i, one in enumerate(cell)}
    by_run = cells[[place[r, c] for r in dict.fromkeys(runs) for c in names]]
    return found, np.asarray(by_run).reshape(-1, len(names), x.shape[1])


def _patterns(
    layers: Activations | Mapping[str, Patterns], n: int
) -> dict[str, Float[np.ndarray, "condition p"]]:
    if isinstance(layers, Activations):
        found = {name: layers.patterns(name) for name in layers.names}
    else:
        found = {name: np.asarray(x).reshape(len(x), -1) for name, x in layers.items()}
    for name, x in found.items():
        if len(x) != n:
            raise ValueError(
                f"compare_brain_network: layer {name!r} has {len(x)} rows for {n} conditions. "
                "Average repeated stimuli first, in the order of `conditions`."
            )
    return found


def _rdm(name: str, x: Patterns | RDM, names: Sequence[Hashable]) -> RDM:
    if isinstance(x, RDM):
        return x
    if len(x) != len(names):
        raise ValueError(f"{name}: {len(x)} rows for {len(names)} conditions.")
    return rdm(np.asarray(x, dtype=np.float64).reshape(len(x), -1), "euclidean", labels=names)


def _families(
    main: ModelComparison,
    models: Mapping[str, RDM],
    patterns: Mapping[str, np.ndarray],
    brains: Mapping[str, RDM],
    trials: Mapping[str, np.ndarray],
    method: str,
    n_halvings: int,
) -> dict[str, np.ndarray]:
    x = np.stack([one.values for one in models.values()])
    y = np.stack([one.values for one in brains.values()])
    other = "rho-a" if method != "rho-a" else "cosine_cov"
    found = {f"RSA {method}": main.mean, f"RSA {other}": resample(x, y, other).scores[0]}
    if not trials:
        return found
    rows: dict[str, list[float]] = {"CKA": [], "rotation": [], "prediction": []}
    for name in models:
        if name not in patterns:
            for values in rows.values():
                values.append(float("nan"))
            continue
        layer = np.asarray(patterns[name], dtype=np.float64).reshape(len(patterns[name]), -1)
        means = [one.mean(0) for one in trials.values()]
        rows["CKA"].append(float(np.mean([linear_cka(layer, one) for one in means])))
        angle = [shape_distance(layer, one) for one in means]
        rows["rotation"].append(float(np.cos(angle).mean()))
        rows["prediction"].append(
            float(np.mean([_predicted(layer, t, n_halvings) for t in trials.values()]))
        )
    return found | {name: np.array(values) for name, values in rows.items()}


def _predicted(layer: np.ndarray, trials: np.ndarray, n_halvings: int) -> float:
    """Noise-corrected correlation on left-out stimuli, median over channels."""
    centred = layer - layer.mean(0)
    # One unit of signal in all features together: the same penalty suits layers of any width.
    features = centred / max(np.sqrt((centred**2).sum() / len(layer)), 1e-300)
    found = neural_predictivity(
        features,
        trials,
        mapping=ridge_map(0.1),
        splits=stimulus_splits(len(layer)),
        n_bootstraps=n_halvings,
    )
    return found.score()


def _agreement(families: Mapping[str, np.ndarray]) -> np.ndarray:
    values = list(families.values())
    table = np.full((len(values), len(values)), np.nan)
    for i, one in enumerate(values):
        for j, two in enumerate(values):
            known = np.isfinite(one) & np.isfinite(two)
            if known.sum() > 2:
                table[i, j] = spearmanr(one[known], two[known]).statistic
    return table
