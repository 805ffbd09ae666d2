"""Tests at many moments or places at once, by flipping the signs of people.

Under no effect a person's score is as likely to be negative as positive. The largest t of each
pattern of signs, the largest cluster, or the largest enhanced value is what luck reaches anywhere
on the map, so that a place that exceeds it is beyond luck on the whole map.

Source: Nichols & Holmes 2002 (largest values); Maris & Oostenveld 2007 (mass of clusters); Smith &
Nichols 2009 (threshold-free enhancement).
Axes: subject; place = any grid (time; time x time; a volume) or the nodes of a graph; flip.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from neurofm.shapes import Bool, Float, Int

TAILS = ("greater", "two-sided")
_CHUNK = 4_000_000  # values of maps held at once
_GRID = {4: (2, 1), 8: (2, 2), 6: (3, 1), 18: (3, 2), 26: (3, 3)}  # neighbours: axes, reach


@dataclass(frozen=True)
class MapTest:
    """A map of t values and what luck reaches on it.

    Args:
        t: Of the mean over people against zero.
        p: Corrected for all places.
        null: The largest value of each pattern of signs (t, mass or enhanced value).
        value: What was compared with the null: t, mass of the place's cluster, enhanced value.
        label: Number of the cluster of each place, from 1; 0 outside. Zeros without clusters.
        masses: Of each cluster, sum of its t; negative for clusters of negative t.
        cluster_p: Of each cluster.
        n_subjects: People.
        kind: "max-t", "cluster mass" or "tfce".
    """

    t: Float[np.ndarray, "*place"]
    p: Float[np.ndarray, "*place"]
    null: Float[np.ndarray, " flip"]
    value: Float[np.ndarray, "*place"]
    label: Int[np.ndarray, "*place"]
    masses: Float[np.ndarray, " cluster"]
    cluster_p: Float[np.ndarray, " cluster"]
    n_subjects: int
    kind: str

    def significant(self, level: float = 0.05) -> Bool[np.ndarray, "*place"]:
        """Places beyond luck on the whole map."""
        return self.p <= level

    def plot(self, axis: Any = None, *, name: str = "place") -> Any:
        """t over a line, or as a matrix, with what is significant.

        Args:
            axis: Coordinates of a one-dimensional map; numbers if not given.
            name: Of the coordinate, with its unit.
        """
        from neurofm.figures import plot_curves, plot_matrix

        title = f"{self.kind}: {self.n_subjects} people, {int(self.significant().sum())} places"
        if self.t.ndim == 1:
            at = np.arange(len(self.t)) if axis is None else axis
            return plot_curves(
                {"mean of people": (at, self.t)},
                title=title,
                ylabel="t",
                xlabel=name,
                significant={"mean of people": self.significant()},
            )
        if self.t.ndim != 2:
            raise ValueError("MapTest.plot: draws lines and planes; take a slice of a volume.")
        ticks = None if axis is None else [f"{one:.3g}" for one in axis]
        return plot_matrix(
            self.t,
            title=title,
            unit="t",
            rows=ticks,
            columns=ticks,
            xlabel=name,
            ylabel=name,
            outlined=self.significant(),
        )


def sign_flips(
    n_subjects: int, n: int, *, generator: np.random.Generator
) -> Float[np.ndarray, "flip subject"]:
    """Patterns of signs, the true one first: all of them if there are no more than `n`."""
    if n_subjects < 2:
        raise ValueError(f"sign_flips: {n_subjects} person; expected two or more.")
    if n_subjects < 30 and 2**n_subjects <= n:
        return np.array(list(product((1.0, -1.0), repeat=n_subjects)))
    flips = generator.choice((1.0, -1.0), (n, n_subjects))
    flips[0] = 1.0
    return flips


def t_maps(
    data: Float[np.ndarray, " subject *place"], flips: Float[np.ndarray, "flip _"]
) -> Float[np.ndarray, " flip *place"]:
    """t of the mean of people against zero under each pattern of signs; 0 where all agree."""
    x = np.asarray(data, dtype=np.float64)
    if len(x) < 2 or flips.shape[1] != len(x):
        raise ValueError(
            f"t_maps: {len(x)} people and signs of {flips.shape[1]}; expected the same, at least 2."
        )
    if not np.isfinite(x).all():
        raise ValueError(
            f"t_maps: {int((~np.isfinite(x)).sum())} of {x.size} values are not finite. Leave "
            "those people or places out."
        )
    flat = x.reshape(len(x), -1)
    mean = flips @ flat / len(x)
    total = (flat**2).sum(0)
    spread = np.maximum(total - len(x) * mean**2, 0.0)
    still = spread <= 1e-20 * np.maximum(total, 1e-300)
    error = np.sqrt(spread / (len(x) - 1) / len(x))
    t = np.divide(mean, error, out=np.zeros_like(mean), where=~still)
    if still[0].any():
        warnings.warn(
            f"t_maps: {int(still[0].sum())} of {flat.shape[1]} places are the same in all people; "
            "t is undefined and taken as 0.",
            stacklevel=2,
        )
    return t.reshape(len(flips), *x.shape[1:])


def share_above(
    null: Float[np.ndarray, " flip"], value: np.ndarray, *, counted: bool
) -> Float[np.ndarray, "*place"]:
    """p of values: share of the null at least as large, the data counted once.

    Args:
        counted: The data are among the null already.
    """
    ordered = np.sort(null)
    # Sums in another order must not count as smaller.
    floor = np.asarray(value) - 1e-10 * np.maximum(np.abs(value), 1e-2)
    above = len(ordered) - np.searchsorted(ordered, floor)
    return (above + (not counted)) / (len(ordered) + (not counted))


def max_t(
    data: Float[np.ndarray, " subject *place"],
    flips: Float[np.ndarray, "flip _"],
    *,
    tail: str = "greater",
) -> MapTest:
    """Every place against the largest t of each pattern of signs."""
    _check_tail(tail)
    t = t_maps(data, np.ones((1, len(data))))[0]
    null = np.concatenate([_largest(one, tail) for one in _maps(data, flips)])
    value = np.abs(t) if tail == "two-sided" else t
    p = share_above(null, value, counted=_has_data(flips))
    none = np.zeros(t.shape, dtype=int)
    return MapTest(t, p, null, t, none, np.zeros(0), np.zeros(0), len(data), "max-t")


def cluster_test(
    data: Float[np.ndarray, " subject *place"],
    flips: Float[np.ndarray, "flip _"],
    *,
    threshold: float | int,
    neighbours: Any = None,
    tail: str = "greater",
) -> MapTest:
    """Neighbouring places above a threshold in t, by the sum of their t.

    A cluster says that there is an effect, not where it begins or ends.

    Args:
        threshold: In t, above 0.
        neighbours: None for neighbours on a grid that share a face; 4 or 8 in a plane, 6, 18 or 26
            in a volume; or a sparse matrix, place by place, as MNE's adjacency of sensors.
        tail: "two-sided" also takes clusters of negative t.
    """
    _check_tail(tail)
    if not threshold > 0:
        raise ValueError(f"cluster_test: threshold of {threshold} in t, expected above 0.")
    t = t_maps(data, np.ones((1, len(data))))
    graph = _neighbourhood(neighbours, t.shape[1:])
    null = []
    for maps in _maps(data, flips):
        largest = np.zeros(len(maps))
        for side in _sides(maps, tail):
            label, number = _label(side > threshold, graph)
            mass = np.bincount(label.ravel(), side.ravel(), number + 1)[1:]
            np.maximum.at(largest, _owner(label, number), mass)
        null.append(largest)
    flipped = np.concatenate(null)
    labels, masses = np.zeros(t.shape[1:], dtype=int), np.zeros(0)
    for sign, side in zip((1, -1), _sides(t, tail), strict=False):
        label, number = _label(side > threshold, graph)
        mass = np.bincount(label.ravel(), side.ravel(), number + 1)[1:]
        labels += np.where(label[0] > 0, label[0] + len(masses), 0)
        masses = np.concatenate([masses, sign * mass])
    cluster_p = share_above(flipped, np.abs(masses), counted=_has_data(flips))
    value = np.concatenate([[0.0], masses])[labels]
    p = np.concatenate([[1.0], cluster_p])[labels]
    return MapTest(t[0], p, flipped, value, labels, masses, cluster_p, len(data), "cluster mass")


def tfce_test(
    data: Float[np.ndarray, " subject *place"],
    flips: Float[np.ndarray, "flip _"],
    *,
    neighbours: Any = None,
    tail: str = "greater",
    extent: float | int = 0.5,
    height: float | int = 2.0,
    step: float | int = 0.1,
) -> MapTest:
    """Every place by the support of its neighbours, without a threshold; see `tfce`."""
    _check_tail(tail)
    t = t_maps(data, np.ones((1, len(data))))
    about: dict[str, Any] = {"extent": extent, "height": height, "step": step}
    graph = _neighbourhood(neighbours, t.shape[1:])
    value = _enhanced(t, graph, tail, **about)[0]
    parts = [_largest(_enhanced(maps, graph, tail, **about), tail) for maps in _maps(data, flips)]
    null = np.concatenate(parts)
    size = np.abs(value) if tail == "two-sided" else value
    p = share_above(null, size, counted=_has_data(flips))
    none = np.zeros(value.shape, dtype=int)
    return MapTest(t[0], p, null, value, none, np.zeros(0), np.zeros(0), len(data), "tfce")


def tfce(
    t: Float[np.ndarray, "*place"],
    *,
    neighbours: Any = None,
    extent: float | int = 0.5,
    height: float | int = 2.0,
    step: float | int = 0.1,
) -> Float[np.ndarray, "*place"]:
    """Threshold-free cluster enhancement: sum over heights h of (extent^E) (h^H) dh.

    Args:
        t: A map; negative values are enhanced by themselves and stay negative.
        neighbours: As in `cluster_test`.
        extent: E, the power of the size of the cluster around a place at a height.
        height: H, the power of the height.
        step: dh.
    """
    t = np.asarray(t, dtype=np.float64)
    graph = _neighbourhood(neighbours, t.shape)
    about: dict[str, Any] = {"extent": extent, "height": height, "step": step}
    return _enhanced(t[None], graph, "two-sided", **about)[0]


def _enhanced(
    maps: np.ndarray,
    graph: Any,
    tail: str,
    *,
    extent: float | int,
    height: float | int,
    step: float | int,
) -> np.ndarray:
    if not step > 0:
        raise ValueError(f"tfce: steps of {step}, expected above 0.")
    total = np.zeros(maps.shape)
    for sign, side in zip((1.0, -1.0), _sides(maps, tail), strict=False):
        for h in np.arange(step, side.max(initial=0.0) + step / 1e6, step):
            label, number = _label(side >= h, graph)
            sizes = np.bincount(label.ravel(), minlength=number + 1).astype(np.float64)
            sizes[0] = 0.0
            total += sign * (sizes**extent * h**height * step)[label]
    return total


def _sides(maps: np.ndarray, tail: str) -> list[np.ndarray]:
    return [maps, -maps] if tail == "two-sided" else [maps]


def _largest(maps: np.ndarray, tail: str) -> np.ndarray:
    flat = maps.reshape(len(maps), -1)
    return (np.abs(flat) if tail == "two-sided" else flat).max(1)


def _maps(data: np.ndarray, flips: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK // max(int(np.prod(data.shape[1:])), 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once, of the data
        for start in range(0, len(flips), step):
            yield t_maps(data, flips[start : start + step])


def _has_data(flips: np.ndarray) -> bool:
    return bool((flips == 1).all(1).any())


def _check_tail(tail: str) -> None:
    if tail not in TAILS:
        raise ValueError(f"tail {tail!r}: expected 'greater' or 'two-sided'.")


def _neighbourhood(neighbours: Any, shape: tuple[int, ...]) -> Any:
    """A structure for grids (no step from one map to another) or a sparse graph."""
    if sparse.issparse(neighbours) or isinstance(neighbours, np.ndarray):
        graph = sparse.csr_array(neighbours)
        places = int(np.prod(shape))
        if graph.shape != (places, places):
            raise ValueError(f"neighbours: matrix of {graph.shape} for {places} places.")
        return graph
    reach = 1
    if neighbours is not None:
        if _GRID.get(neighbours, (0, 0))[0] != len(shape):
            known = [k for k, (axes, _) in _GRID.items() if axes == len(shape)]
            raise ValueError(
                f"neighbours: {neighbours} on a map of {len(shape)} axes; expected one of {known}, "
                "None, or a sparse matrix."
            )
        reach = _GRID[neighbours][1]
    structure = np.zeros((3,) * (len(shape) + 1), dtype=bool)
    structure[1] = ndimage.generate_binary_structure(len(shape), reach)
    return structure


def _label(inside: np.ndarray, graph: Any) -> tuple[np.ndarray, int]:
    """Numbers of the clusters of all maps, none shared between maps."""
    if isinstance(graph, np.ndarray):
        label, number = ndimage.label(inside, structure=graph)
        return label, int(number)
    label, number = np.zeros(inside.shape, dtype=int), 0
    for one, into in zip(inside.reshape(len(inside), -1), label, strict=True):
        kept = np.flatnonzero(one)
        if len(kept):
            found, own = csgraph.connected_components(graph[kept][:, kept], directed=False)
            into.reshape(-1)[kept] = own + 1 + number
            number += int(found)
    return label, number


def _owner(label: np.ndarray, number: int) -> np.ndarray:
    """Map of each cluster."""
    owner = np.zeros(number + 1, dtype=int)
    flat = label.reshape(len(label), -1)
    maps, places = np.nonzero(flat)
    owner[flat[maps, places]] = maps
    return owner[1:]
