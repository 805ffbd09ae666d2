"""Representations over time: an RDM for every moment, and when it resembles a model.

    film = movie(epochs, conditions, runs, times=times, noise=baseline_covariance(before))
    course = film.compare(model, "spearman")
    film.generalise("corr")              # moment against moment

Filtering shifts latencies, and recordings that were filtered differently cannot be compared by
them.

Source: Cichy et al. 2014 (RSA over time); King & Dehaene 2014 (generalisation over time).
Axes: trial channel time = the epochs; moment = window of samples; pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurofm.interpret.rsa.comparators import compare
from neurofm.interpret.rsa.crossnobis import crossnobis_distances
from neurofm.interpret.rsa.measures import condition_means, dissimilarities
from neurofm.interpret.rsa.permutations import percentiles
from neurofm.shapes import Float
from neurofm.types import RDM, Result


@dataclass(frozen=True)
class Movie:
    """An RDM for every moment.

    Args:
        values: NaN where a pair has no distance.
        times: Middle of each moment, seconds.
        labels: Of the conditions.
        metric: Such as "crossnobis".
    """

    values: Float[np.ndarray, "moment pair"]
    times: Float[np.ndarray, " moment"]
    labels: tuple[str, ...]
    metric: str

    def at(self, time: float | int) -> RDM:
        """The RDM of the moment nearest to a time in seconds."""
        i = int(np.abs(self.times - time).argmin())
        return RDM(self.values[i], self.labels, self.metric)

    def compare(self, model: RDM, method: str = "rho-a") -> Float[np.ndarray, " moment"]:
        """Similarity of every moment with a model."""
        _same(self.labels, model.labels)
        return compare(self.values, model.values[None], method)[:, 0]

    def generalise(
        self, method: str = "corr", other: Movie | None = None
    ) -> Float[np.ndarray, "moment other"]:
        """Similarity of every moment with every moment, of itself or of another movie.

        The diagonal compares an RDM with itself and is 1 whatever the noise; read beside it.
        """
        other = self if other is None else other
        _same(self.labels, other.labels)
        return compare(self.values, other.values, method)

    def plot(self, model: RDM | None = None, *, method: str = "rho-a") -> Any:
        """Similarity with a model over time; without one, moment against moment."""
        from neurofm.figures import plot_curves, plot_matrix

        if model is not None:
            return plot_curves(
                {f"with {model.metric}": (self.times, self.compare(model, method))},
                title=f"{len(self.labels)} conditions, {self.metric}",
                ylabel=f"similarity of RDMs ({method})",
                xlabel="time (s)",
                references={"chance": 0.0},
            )
        return plot_matrix(
            self.generalise("corr"),
            title=f"{len(self.labels)} conditions, moment against moment",
            unit="correlation of RDMs",
            rows=[f"{t:.3g}" for t in self.times],
            columns=[f"{t:.3g}" for t in self.times],
            xlabel="time (s)",
            ylabel="time (s)",
        )


def movie(
    epochs: np.ndarray,
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable] | None = None,
    *,
    times: Float[np.ndarray, " time"] | None = None,
    metric: str = "crossnobis",
    noise: np.ndarray | None = None,
    window: int = 1,
    step: int = 1,
    how: str = "concat",
) -> Movie:
    """An RDM for every moment.

    Args:
        epochs: `trial channel time`.
        conditions: Of each trial.
        runs: Of each trial; needed for "crossnobis", which trials of one run would inflate.
        times: Seconds of each sample; numbers if not given.
        metric: "crossnobis", or a metric of `rsa.rdm`.
        noise: Covariance of the channels, `channel channel`, or one for each sample, `time channel
            channel`; white if not given.
        window: Samples of a moment.
        step: Samples from one moment to the next; `window` for moments that do not overlap.
        how: "concat" takes the samples of a moment as further channels, "mean" averages them.
    """
    cells, names, stamps = _cells(epochs, conditions, runs, times, metric, window, step, how)
    # moment run condition column
    by_time = noise is not None and np.ndim(noise) == 3
    if noise is not None:
        noise = np.asarray(noise, dtype=np.float64)
        n_channels = epochs.shape[1]
        if noise.shape[-2:] != (n_channels, n_channels):
            raise ValueError(f"movie: noise of {noise.shape} for {n_channels} channels.")
        noise = _over_window(noise, len(cells), window, step, how)
    about: dict[str, Any] = {} if by_time else {"noise": noise}
    parts = [cells] if not by_time else [cell[None] for cell in cells]
    found = []
    for i, part in enumerate(parts):
        if by_time and noise is not None:
            about = {"noise": noise[i]}
        if metric == "crossnobis":
            found.append(crossnobis_distances(part, **about))
        else:
            found.append(dissimilarities(part[:, 0], metric, **about))
    return Movie(np.concatenate(found), stamps, names, metric)


def generalised_crossnobis(
    epochs: Float[np.ndarray, "trial channel time"],
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable],
    *,
    noise: Float[np.ndarray, "channel channel"] | None = None,
    symmetric: bool = True,
) -> Float[np.ndarray, "time other pair"]:
    """Cross-validated distances between a difference at one time and the same at another.

    Large off the diagonal where the code of a difference is the same at both times; the diagonal is
    crossnobis.

    Args:
        symmetric: Average of both directions: fold means at t against the rest at t', and back.
    """
    cells, _, _ = _cells(epochs, conditions, runs, None, "crossnobis", 1, 1, "concat")
    if noise is not None:
        factor = np.linalg.cholesky(np.asarray(noise, dtype=np.float64))
        cells = np.linalg.solve(factor, cells.swapaxes(-1, -2)).swapaxes(-1, -2)
    cells = cells - cells.mean((1, 2), keepdims=True)
    n_times, n_runs, n, p = cells.shape
    total = cells.sum(1)
    rows, columns = np.triu_indices(n, 1)
    found = np.empty((n_times, n_times, len(rows)))
    for t in range(n_times):
        gram = np.matmul(total[t], total.swapaxes(-1, -2))
        for run in range(n_runs):
            gram -= np.matmul(cells[t, run], cells[:, run].swapaxes(-1, -2))
        own = np.diagonal(gram, axis1=1, axis2=2)
        found[t] = own[:, rows] + own[:, columns] - gram[:, rows, columns] - gram[:, columns, rows]
    found /= n_runs * (n_runs - 1) * p
    return (found + found.swapaxes(0, 1)) / 2 if symmetric else found


def latency(
    courses: Float[np.ndarray, "subject moment"],
    times: Float[np.ndarray, " moment"],
    *,
    generator: np.random.Generator,
    kind: str = "onset",
    fraction: float = 0.5,
    after: float | int | None = None,
    n_bootstrap: int = 1000,
    name: str = "course",
) -> Result:
    """When a course over time begins or peaks, with an interval over people.

    The mean over people is used, because courses of single people are too noisy for either; people
    are drawn with replacement for the interval.

    Args:
        courses: Scores with chance 0.
        times: Seconds.
        kind: "onset": the first moment from which the mean course stays above a fraction of its
            peak until the peak. "peak": of the mean course.
        fraction: Of the peak. A fixed level instead would make strong effects seem early.
        after: Seconds: earlier moments are not looked at; 0 for responses to an event.

    Returns:
        Seconds. `detail["undefined"]` is the share of samples whose course has no positive peak.
    """
    x, times = np.asarray(courses, dtype=np.float64), np.asarray(times, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != len(times):
        raise ValueError(f"latency: courses of shape {x.shape} for {len(times)} times.")
    if kind not in ("onset", "peak") or not 0 < fraction < 1:
        raise ValueError(
            f"latency: kind {kind!r}, fraction {fraction}; expected 'onset' or 'peak', and a "
            "fraction between 0 and 1."
        )
    kept = np.ones(len(times), dtype=bool) if after is None else times >= after
    if not kept.any():
        raise ValueError(f"latency: no moment after {after} s; the last is {times.max()} s.")
    x, times = x[:, kept], times[kept]
    draws = generator.integers(len(x), size=(n_bootstrap, len(x)))
    drawn = _moment(x[draws].mean(1), times, kind, fraction)
    low, high = percentiles(drawn)
    return Result(
        name=f"{kind} of {name}",
        value=float(_moment(x.mean(0)[None], times, kind, fraction)[0]),
        unit="s",
        low=low,
        high=high,
        n=len(x),
        detail={"kind": kind, "fraction": fraction, "undefined": float(np.isnan(drawn).mean())},
    )


def _moment(x: np.ndarray, times: np.ndarray, kind: str, fraction: float) -> np.ndarray:
    peak = x.argmax(1)
    height = np.take_along_axis(x, peak[:, None], 1)
    at = peak
    if kind == "onset":
        place = np.arange(x.shape[1])
        below = (x < fraction * height) & (place < peak[:, None])
        at = np.where(below, place + 1, 0).max(1)
    return np.where(height[:, 0] > 0, times[at], np.nan)


def _same(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    if first != second:
        raise ValueError(
            f"a movie of {len(first)} conditions ({', '.join(first[:3])} ...) and {len(second)} "
            f"({', '.join(second[:3])} ...): expected the same in the same order."
        )


def _cells(
    epochs: np.ndarray,
    conditions: Sequence[Hashable],
    runs: Sequence[Hashable] | None,
    times: np.ndarray | None,
    metric: str,
    window: int,
    step: int,
    how: str,
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Means of each run and condition at each moment, names, middle of the moments."""
    x = np.asarray(epochs, dtype=np.float64)
    if x.ndim != 3:
        raise ValueError(f"movie: epochs of shape {x.shape}; expected (trial, channel, time).")
    if how not in ("concat", "mean"):
        raise ValueError(f"movie: how {how!r}; expected 'concat' or 'mean'.")
    if not 1 <= window <= x.shape[2] or step < 1:
        raise ValueError(
            f"movie: windows of {window} samples in steps of {step}, of {x.shape[2]} samples."
        )
    stamps = np.arange(x.shape[2], dtype=np.float64) if times is None else np.asarray(times)
    if len(stamps) != x.shape[2]:
        raise ValueError(f"movie: {len(stamps)} times for {x.shape[2]} samples.")
    if (runs is None) == (metric == "crossnobis"):
        raise ValueError("movie: `runs` belong to 'crossnobis', and to no other metric.")
    folds = tuple(dict.fromkeys(runs)) if runs is not None else (0,)
    if metric == "crossnobis" and len(folds) < 2:
        raise ValueError(f"movie: crossnobis needs at least two runs, got {list(folds)}.")
    names = tuple(dict.fromkeys(conditions))
    cells, order = condition_means(
        x.reshape(len(x), -1),
        list(zip(conditions, [0] * len(x) if runs is None else runs, strict=True)),
    )
    place = {cell: i for i, cell in enumerate(order)}
    gone = [(c, r) for r in folds for c in names if (c, r) not in place]
    if gone:
        raise ValueError(
            f"movie: condition {gone[0][0]!r} does not occur in run {gone[0][1]!r} ({len(gone)} "
            "such cells). Leave the condition or the run out."
        )
    means = cells[[place[c, r] for r in folds for c in names]]
    means = means.reshape(len(folds), len(names), *x.shape[1:])
    moments = np.lib.stride_tricks.sliding_window_view(means, window, axis=-1)[..., ::step, :]
    if how == "mean":
        moments = moments.mean(-1, keepdims=True)
    # moment run condition (channel sample)
    moved = np.moveaxis(moments, 3, 0)
    middle = np.lib.stride_tricks.sliding_window_view(stamps, window)[::step].mean(-1)
    return moved.reshape(*moved.shape[:3], -1), tuple(map(str, names)), middle


def _over_window(noise: np.ndarray, n_moments: int, window: int, step: int, how: str) -> np.ndarray:
    """Covariance of the columns of a moment; samples are taken as independent of each other."""
    if noise.ndim == 3:
        spans = [noise[i * step : i * step + window] for i in range(n_moments)]
        return np.stack([_spread(span.mean(0), window, how) for span in spans])
    return _spread(noise, window, how)


def _spread(noise: np.ndarray, window: int, how: str) -> np.ndarray:
    return noise / window if how == "mean" else np.kron(noise, np.eye(window))
