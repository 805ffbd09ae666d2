"""Every layer against every layer (or area): one table, one measure, the same samples.

Measures rank networks differently because they ignore different things. Report at least three
families: alignment of directions (CKA), shape, and neighbours or units.

Axes: row and column = layers, areas or networks; sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from neurofm.interpret.activations import Activations, Reduce, near_misses
from neurofm.interpret.arrays import takes_either
from neurofm.interpret.predictivity import rdm_correlation
from neurofm.interpret.similarity.cca import cca
from neurofm.interpret.similarity.cka import (
    PreparedKernel,
    linear_cka,
    linear_kernel,
    prepare_kernel,
    prepared_cka,
    rbf_cka,
)
from neurofm.interpret.similarity.geometry import Arrangement, arrange
from neurofm.interpret.similarity.neighbours import (
    distance_correlation,
    neighbour_overlap,
)
from neurofm.interpret.similarity.regression import regression_r2
from neurofm.interpret.similarity.shape import permutation_distance, shape_distance
from neurofm.interpret.similarity.units import best_correlation, correlate_units
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Known:
    """A measure that has a name: its function, its unit, and what kind of number it is."""

    function: Measure
    unit: str
    distance: bool = False
    symmetric: bool = True
    on_gpu: bool = False


def _units(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.nanmean(best_correlation(correlate_units(x, y))))


MEASURES: Mapping[str, Known] = {
    "cka": Known(linear_cka, "debiased linear CKA", on_gpu=True),
    "cka_biased": Known(
        lambda x, y: linear_cka(x, y, debiased=False), "biased linear CKA", on_gpu=True
    ),
    "cka_rbf": Known(rbf_cka, "debiased CKA, Gaussian kernel", on_gpu=True),
    "cca": Known(lambda x, y: cca(x, y).mean, "mean canonical correlation"),
    "svcca": Known(lambda x, y: cca(x, y, variance=0.99).mean, "mean canonical correlation (99 %)"),
    "pwcca": Known(lambda x, y: cca(x, y).weighted, "weighted canonical correlation", False, False),
    "regression": Known(regression_r2, "R² of column from row, in sample", False, False),
    "distance_correlation": Known(distance_correlation, "distance correlation"),
    "neighbours": Known(neighbour_overlap, "overlap of 10 neighbours (Jaccard)"),
    "rdm": Known(
        lambda x, y: rdm_correlation(x, y, method="spearman"), "Spearman r of correlation distances"
    ),
    "units": Known(_units, "mean r with the best unit", False, False),
    "angular": Known(shape_distance, "angle after rotation (rad)", True),
    "euclidean": Known(
        lambda x, y: shape_distance(x, y, distance="euclidean"), "distance after rotation", True
    ),
    "permutation": Known(permutation_distance, "angle after reordering units (rad)", True),
}


@dataclass(frozen=True)
class LayerSimilarity:
    """A measure of every pair.

    Args:
        values: In `unit`.
        rows: Names.
        columns: Names.
        measure: Its name.
        unit: What the numbers are, in words.
        distance: Small is alike.
        chance: The same with the samples of the columns in another order, mean over all pairs; NaN
            if not asked for.
        n: Samples.
        error: Standard error of each value, from halves of the samples; None if not asked for.
    """

    values: Float[np.ndarray, "row column"]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    measure: str
    unit: str
    distance: bool
    chance: float
    n: int
    error: Float[np.ndarray, "row column"] | None = None

    def best(self) -> dict[str, str]:
        """The row most like each column: the layer that corresponds to an area."""
        values = -self.values if self.distance else self.values
        return {
            name: self.rows[int(np.nan_to_num(column, nan=-np.inf).argmax())]
            for name, column in zip(self.columns, values.T, strict=True)
        }

    def arrange(self, *, groups: Sequence[str] | None = None, dims: int = 2) -> Arrangement:
        """Layers or networks as points in a plane; for distances of one set with itself."""
        return arrange(self._distances(), names=self.rows, groups=groups, n_components=dims)

    def groups(self, n: int) -> dict[str, int]:
        """Clusters of average linkage, numbered from 1."""
        tree = linkage(squareform(self._distances(), checks=False), method="average")
        return dict(zip(self.rows, fcluster(tree, n, criterion="maxclust").tolist(), strict=True))

    def predict(
        self, values: Sequence[float] | np.ndarray, *, k: int = 3
    ) -> Float[np.ndarray, " row"]:
        """A property of each network (age, objective, score) from its nearest k, itself left out.

        Correlate it with the property itself.
        """
        d, known = self._distances().copy(), np.asarray(values, dtype=np.float64)
        if not 0 < k < len(d) or len(values) != len(d):
            raise ValueError(
                f"predict: {k} neighbours and {len(values)} values for {len(d)} networks."
            )
        np.fill_diagonal(d, np.inf)
        return known[np.argsort(d, axis=1, kind="stable")[:, :k]].mean(1)

    def plot(self) -> Figure:
        """The table, with the chance level in its title."""
        from neurofm.interpret.similarity.drawings import draw_layers

        return draw_layers(self)

    def _distances(self) -> np.ndarray:
        if not self.distance or self.rows != self.columns:
            known = [name for name, kind in MEASURES.items() if kind.distance]
            raise ValueError(
                f"{self.measure} of {len(self.rows)} by {len(self.columns)} layers is no table of "
                f"distances of one set. Compare the set with itself by one of {known}."
            )
        return self.values


def compare_layers(
    a: Activations | Mapping[str, Any],
    b: Activations | Mapping[str, Any] | None = None,
    *,
    measure: str | Measure = "cka",
    reduce: Reduce = "flatten",
    shuffles: int = 1,
    halves: int = 0,
    seed: int = 0,
) -> LayerSimilarity:
    """Compare all layers of one source with all of another, or with each other.

    Args:
        a: Layers of a network, areas of a brain, networks by name: what `record` returns, or names
            to arrays (or tensors) with a row per sample.
        b: The same samples in the same order; `a` if not given.
        measure: One of `MEASURES`, or a function of two arrays.
        reduce: How an entry of `Activations` becomes rows.
        shuffles: Orders of the samples drawn for the chance level; 0 leaves it out.
        halves: Random halves of the samples, over which the spread of a value is the standard error
            of that of all samples (a bootstrap repeats samples, which all measures take for
            likeness); 100 are plenty. Samples of one person or run are not independent: it is too
            small for them.
        seed: Of both.

    Raises:
        ValueError: An unknown measure, no layers, different samples, or halves of a measure that
            grows with the number of samples.
    """
    known = _known(measure)
    if halves and measure == "euclidean":
        raise ValueError("compare_layers: halves of a distance that grows with n; use 'angular'.")
    rows = _layers(a, reduce, known)
    columns = rows if b is None else _layers(b, reduce, known)
    n = len(next(iter(rows.values())))
    if any(len(x) != n for x in (*rows.values(), *columns.values())):
        lengths = {name: len(x) for name, x in (rows | columns).items()}
        raise ValueError(f"compare_layers: every layer needs the same samples, got {lengths}.")
    if measure == "cka" and sum(x.shape[1] for x in rows.values()) > n * len(rows):
        # Kernels once for every layer, then one inner product for each pair.
        known = Known(_prepared, known.unit)
        left, right = _kernels(rows), None if b is None else _kernels(columns)
    else:
        left, right = dict(rows), None if b is None else dict(columns)
    values = _table(left, right, known)
    rng, chance = np.random.default_rng(seed), []
    for _ in range(shuffles):
        order = rng.permutation(n)
        moved = {name: _reordered(x, order) for name, x in (right or left).items()}
        table = _table(left, moved, Known(known.function, known.unit, symmetric=False))
        chance.append(float(np.nanmean(table)) if np.isfinite(table).any() else np.nan)
    drawn = []
    for _ in range(halves):
        half = rng.permutation(n)[: n // 2]
        parts = [
            None if side is None else {name: _reordered(x, half) for name, x in side.items()}
            for side in (left, right)
        ]
        drawn.append(_table(parts[0] or {}, parts[1], known))
    return LayerSimilarity(
        values=values,
        rows=tuple(rows),
        columns=tuple(columns),
        measure=measure if isinstance(measure, str) else getattr(measure, "__name__", "custom"),
        unit=known.unit,
        distance=known.distance,
        chance=float(np.mean(chance)) if chance else float("nan"),
        n=n,
        error=np.std(drawn, axis=0, ddof=1) if halves > 1 else None,
    )


def _table(rows: Mapping[str, Any], columns: Mapping[str, Any] | None, known: Known) -> np.ndarray:
    others = list((columns if columns is not None else rows).values())
    values = np.empty((len(rows), len(others)))
    for i, x in enumerate(rows.values()):
        for j, y in enumerate(others):
            if columns is None and known.symmetric and j < i:
                values[i, j] = values[j, i]
            elif columns is None and known.distance and i == j:
                values[i, j] = 0.0
            else:
                values[i, j] = known.function(x, y)
    return values


def _kernels(layers: Mapping[str, Any]) -> dict[str, PreparedKernel]:
    return {name: linear_kernel(x) for name, x in layers.items()}


def _prepared(x: Any, y: Any) -> float:
    return prepared_cka(x, y)


def _reordered(x: Any, order: np.ndarray) -> Any:
    if not isinstance(x, PreparedKernel):
        return x[order]
    values = x.values[order][:, order]
    if len(order) < len(x.sums):
        return prepare_kernel(values, debiased=x.debiased)
    return PreparedKernel(values, x.sums[order], x.own, x.debiased)


def _layers(
    source: Activations | Mapping[str, Any], reduce: Reduce, known: Known
) -> dict[str, Any]:
    """A table for each layer; tensors stay tensors for what may run on a GPU."""
    if isinstance(source, Activations):
        found = {name: source.patterns(name, reduce=reduce) for name in source.names}
    else:
        rows = takes_either(_rows) if known.on_gpu else _rows
        found = {name: rows(x) for name, x in source.items()}
    empty = [name for name, x in found.items() if not x.shape[0]]
    if not found or empty:
        raise ValueError(f"compare_layers: no layers to compare, or without samples: {empty}.")
    return found


def _rows(x: Any) -> np.ndarray:
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return array.reshape(len(array), -1) if len(array) else array


def _known(measure: str | Measure) -> Known:
    if not isinstance(measure, str):
        return Known(measure, getattr(measure, "__name__", "custom"), symmetric=False)
    if measure not in MEASURES:
        close = near_misses(measure, list(MEASURES))
        raise ValueError(
            f"compare_layers: no measure {measure!r}.{close} Known are {', '.join(MEASURES)}."
        )
    return MEASURES[measure]
