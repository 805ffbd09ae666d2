"""Layers of a network over the time course of brains: when is which layer's geometry there?

    found = compare_over_time(layers, movies, generator=generator)
    found.plot(); found.latencies()

Source: Cichy et al. 2016 (layers over time); Maris & Oostenveld 2007 (clusters).
Axes: subject, layer, moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from neurofm.interpret.rsa.bootstrap import resample
from neurofm.interpret.rsa.clusters import MapTest, cluster_test, sign_flips
from neurofm.interpret.rsa.movies import Movie, latency
from neurofm.shapes import Float
from neurofm.types import RDM, Result

MIN_PEOPLE = 5  # fewer cannot reach p = 0.05 by flips of signs


@dataclass(frozen=True)
class LayerTime:
    """Similarity of layers with people at every moment.

    Args:
        layers: Names, first layer first.
        times: Seconds.
        scores: `subject layer moment`.
        ceiling: Lower and upper noise ceiling of each moment.
        test: Clusters in time, corrected for all layers and moments; None with fewer than five
            people.
        method: Of the comparison.
        n_conditions: Stimuli.
    """

    layers: tuple[str, ...]
    times: Float[np.ndarray, " moment"]
    scores: Float[np.ndarray, "subject layer moment"]
    ceiling: Float[np.ndarray, "moment 2"]
    test: MapTest | None
    method: str
    n_conditions: int

    def latencies(
        self,
        *,
        generator: np.random.Generator,
        kind: str = "peak",
        after: float | int | None = None,
    ) -> list[Result]:
        """When each layer's similarity begins or peaks, with intervals over people."""
        return [
            latency(
                self.scores[:, i],
                self.times,
                generator=generator,
                kind=kind,
                after=after,
                name=name,
            )
            for i, name in enumerate(self.layers)
        ]

    def plot(self) -> Any:
        """Layer by time, what is significant outlined, and the best layer under the ceiling."""
        from neurofm.figures import plot_score_map

        ceiling = (self.ceiling[:, 0], self.ceiling[:, 1])
        return plot_score_map(
            self.scores.mean(0),
            title=f"{self.n_conditions} stimuli, {len(self.scores)} people",
            unit=f"similarity of RDMs ({self.method})",
            rows=self.layers,
            columns=self.times.tolist(),
            xlabel="time (s)",
            ceiling=ceiling if np.isfinite(self.ceiling).all() else None,
            significant=None if self.test is None else self.test.significant(),
        )


def compare_over_time(
    layers: Mapping[str, RDM],
    movies: Mapping[str, Movie],
    *,
    generator: np.random.Generator,
    method: str = "cosine_cov",
    threshold: float | int = 2.0,
    n_permutations: int = 1000,
) -> LayerTime:
    """Similarity of every layer with every person at every moment.

    Args:
        movies: Name of a person to RDMs at the same moments (`rsa.movie`).
        threshold: In t, for the clusters.
    """
    if not layers or not movies:
        raise ValueError(f"compare_over_time: {len(layers)} layers and {len(movies)} people.")
    first = next(iter(movies.values()))
    for name, one in movies.items():
        if one.labels != first.labels or not np.array_equal(one.times, first.times):
            raise ValueError(
                f"compare_over_time: {name} has {len(one.labels)} conditions at {len(one.times)} "
                f"moments; expected the same as others, {len(first.labels)} at {len(first.times)}."
            )
    for name, model in layers.items():
        if model.labels != first.labels:
            raise ValueError(
                f"compare_over_time: layer {name!r} has conditions {model.labels[:3]} ..., the "
                f"movies {first.labels[:3]} ...; expected the same in the same order."
            )
    x = np.stack([one.values for one in layers.values()])
    found = [
        resample(x, np.stack([one.values[t] for one in movies.values()]), method)
        for t in range(len(first.times))
    ]
    scores = np.stack([one.by_subject[0].T for one in found], axis=2)
    test = None
    if len(movies) >= MIN_PEOPLE:
        flips = sign_flips(len(movies), n_permutations, generator=generator)
        moments = len(first.times)
        in_time = sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(moments, moments))
        graph = sparse.kron(sparse.eye_array(len(x)), in_time)
        test = cluster_test(scores, flips, threshold=threshold, neighbours=graph)
    return LayerTime(
        layers=tuple(layers),
        times=first.times,
        scores=scores,
        ceiling=np.concatenate([one.ceiling for one in found]),
        test=test,
        method=method,
        n_conditions=len(first.labels),
    )
