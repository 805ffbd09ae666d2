"""Alignment: whiten the windows of each subject, so that subjects look alike.

x <- R^(-1/2) x, with R a mean of the covariances of a subject's windows (time mean removed, divisor
T - 1): the arithmetic mean, or the Riemannian one. Whatever matrix mixes the channels of a subject,
its aligned windows differ by a rotation only. Labels are not used. R is fitted on training windows,
or runs along with the windows as they arrive (causal).

Source: He & Wu 2020 (arXiv 1808.05464); causal form as in DBConformer (arXiv 2506.21140); Zanini et
al. 2018 (Riemannian).
Computed in float64, returned in float32.
Axes: window, channel, time. Groups (subjects or recordings) are names, one per window.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, Literal

import numpy as np

from neurofm.data.covariance import oas_share, riemannian_mean, shrunk
from neurofm.data.rows import Row
from neurofm.shapes import Float

_ALL = ""
_MODES = ("offline", "causal", "twice")


class ArithmeticMean:
    """Mean of covariances, one after the other.

    Args:
        rank_tolerance: See `EuclideanAlignment`.
    """

    def __init__(self, rank_tolerance: float) -> None:
        self.rank_tolerance = rank_tolerance
        self.reference: Float[np.ndarray, "channel channel"] = np.zeros((0, 0))
        self.count = 0

    def add(self, new: Float[np.ndarray, "window channel channel"], n_samples: int) -> None:
        """Take in covariances of windows of so many samples."""
        total = new.sum(axis=0) + (self.reference * self.count if self.count else 0.0)
        self.count += len(new)
        self.reference = total / self.count

    def state(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return {"count": self.count, "reference": self.reference.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` wrote."""
        self.count = int(state["count"])
        self.reference = np.array(state["reference"], dtype=np.float64)


class RiemannianMean:
    """Riemannian mean of covariances; it needs all of them again for every new one.

    Covariances of few samples are nearly singular, and their logarithms would decide the mean. They
    are whitened by their arithmetic mean and there shrunk towards the identity (OAS), so that the
    result does not depend on how the channels are mixed, and directions without variance stay out.

    Args:
        rank_tolerance: See `RiemannianAlignment`.
    """

    def __init__(self, rank_tolerance: float) -> None:
        self.rank_tolerance = rank_tolerance
        self.reference: Float[np.ndarray, "channel channel"] = np.zeros((0, 0))
        self.n_samples = 0
        self.covariances: Float[np.ndarray, "window channel channel"] = np.zeros((0, 0, 0))

    @property
    def count(self) -> int:
        """Windows so far."""
        return len(self.covariances)

    def add(self, new: Float[np.ndarray, "window channel channel"], n_samples: int) -> None:
        """Take in covariances of windows of so many samples."""
        self.covariances = np.concatenate([self.covariances, new]) if self.count else new
        self.n_samples = n_samples
        mean = self.covariances.mean(axis=0)
        values, vectors = np.linalg.eigh(mean)
        keep = values > self.rank_tolerance * max(float(values[-1]), 0.0)
        if not keep.any():
            self.reference = mean
            return
        values, vectors = values[keep], vectors[:, keep]
        whiten = vectors * values**-0.5
        white = whiten.T @ self.covariances @ whiten
        white = shrunk(white, oas_share(white, self.n_samples))
        # A constant window has no covariance, hence no logarithm; it says nothing of the others.
        white = white[np.trace(white, axis1=1, axis2=2) > self.rank_tolerance * len(values)]
        back = vectors * values**0.5
        self.reference = back @ riemannian_mean(white) @ back.T

    def state(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return {"n_samples": self.n_samples, "covariances": self.covariances.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` wrote."""
        self.add(np.array(state["covariances"], dtype=np.float64), int(state["n_samples"]))


class _Alignment:
    """What both alignments do; they differ in the mean."""

    mean: ClassVar[type[ArithmeticMean] | type[RiemannianMean]]

    def __init__(
        self,
        *,
        mode: Literal["offline", "causal", "twice"] = "offline",
        rank_tolerance: float = 1e-8,
    ) -> None:
        self._name = type(self).__name__
        if mode not in _MODES:
            raise ValueError(f"{self._name}: mode is {mode!r}, expected {', '.join(_MODES)}.")
        self.mode = mode
        self.rank_tolerance = rank_tolerance
        self.means: dict[str, ArithmeticMean | RiemannianMean] = {}
        self.fitted_on: tuple[Row, ...] = ()
        self._warned = False

    @property
    def references(self) -> dict[str, Float[np.ndarray, "channel channel"]]:
        """Mean covariance of each group."""
        return {group: mean.reference for group, mean in self.means.items()}

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        groups: Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
    ) -> _Alignment:
        """Forget everything, then take the mean covariance of each group.

        Args:
            groups: Subject or recording of each window; one group if not given.
            rows: What the windows are, for an audit.
        """
        self.means, self.fitted_on = {}, ()
        return self.update(x, groups, rows=rows)

    def update(
        self,
        x: Float[np.ndarray, "window channel time"],
        groups: Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
    ) -> _Alignment:
        """Add windows to the mean covariances."""
        self.fitted_on += declared(x, rows, self._name)
        for group, members in self._members(x, groups).items():
            mean = self.means.setdefault(group, self.mean(self.rank_tolerance))
            self._check_channels(x, mean)
            mean.add(np.stack([self._covariance(x[i], i) for i in members]), x.shape[2])
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"], groups: Sequence[str] | None = None
    ) -> Float[np.ndarray, "window channel time"]:
        """Aligned windows, without unit. The fitted state does not change.

        Raises:
            ValueError: Offline and a group was not fitted, or the channels differ from the fit.
        """
        result = np.empty(x.shape, dtype=np.float32)
        for group, members in self._members(x, groups).items():
            mean = self.means.get(group)
            if mean is not None:
                self._check_channels(x, mean)
            elif self.mode != "causal":
                name = f"group {group!r}" if group else "anything"
                raise ValueError(
                    f"{self._name}: transform before {name} was fitted (fitted: "
                    f"{', '.join(map(repr, self.means)) or 'nothing'}). Call fit on its "
                    'training windows, or use mode="causal".'
                )
            if self.mode != "causal" and mean is not None:
                root = self._inverse_root(mean.reference, group)
                result[members] = root @ x[members].astype(np.float64)
                continue
            running = self.mean(self.rank_tolerance) if mean is None else deepcopy(mean)
            for i in members:
                running.add(self._covariance(x[i], i)[None], x.shape[2])
                if not running.reference.any():  # nothing has changed yet
                    result[i] = 0
                    continue
                root = self._inverse_root(running.reference, group)
                result[i] = root @ x[i].astype(np.float64)
        if self.mode == "twice":
            again = type(self)(mode="causal", rank_tolerance=self.rank_tolerance)
            return again.transform(result, groups)
        return result

    def fit_transform(
        self, x: Float[np.ndarray, "window channel time"], groups: Sequence[str] | None = None
    ) -> Float[np.ndarray, "window channel time"]:
        """Fit on these windows and align them; in the causal mode, align them, then fit."""
        if self.mode == "causal":
            self.means = {}
            aligned = self.transform(x, groups)
            self.update(x, groups)
            return aligned
        return self.fit(x, groups).transform(x, groups)

    def state(self) -> dict[str, Any]:
        """Everything fitted, as plain lists and numbers."""
        return {
            "mode": self.mode,
            "rank_tolerance": self.rank_tolerance,
            "means": {group: mean.state() for group, mean in self.means.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> _Alignment:
        """The object that wrote `state`."""
        made = cls(mode=state["mode"], rank_tolerance=state["rank_tolerance"])
        for group, kept in state["means"].items():
            made.means[group] = cls.mean(made.rank_tolerance)
            made.means[group].restore(kept)
        return made

    def _inverse_root(
        self, reference: Float[np.ndarray, "channel channel"], group: str
    ) -> Float[np.ndarray, "channel channel"]:
        values, vectors = np.linalg.eigh(reference)
        keep = values > self.rank_tolerance * max(float(values[-1]), 0.0)
        if not keep.any():
            raise ValueError(
                f"{self._name}: {len(reference)} channels of{_named(group)} windows are constant, "
                "so they cannot be aligned. Leave the windows out."
            )
        if not keep.all() and not self._warned:
            self._warned = True
            power = np.diag(reference)
            flat = np.flatnonzero(power <= self.rank_tolerance * power.max()).tolist()
            which = f"channels {', '.join(map(str, flat))} are flat; " if flat else ""
            warnings.warn(
                f"{self._name}: the mean covariance of{_named(group)} windows has rank "
                f"{int(keep.sum())} of {len(keep)} channels ({which}average reference, "
                "interpolated or flat channels, or few samples take away directions); the missing "
                "directions are left at zero.",
                stacklevel=3,
            )
        weight = np.zeros_like(values)
        weight[keep] = values[keep] ** -0.5
        return (vectors * weight) @ vectors.T

    def _members(self, x: np.ndarray, groups: Sequence[str] | None) -> dict[str, list[int]]:
        """Positions of the windows of each group, in order."""
        if not len(x):
            raise ValueError(f"{self._name}: there are no windows.")
        if groups is not None and len(groups) != len(x):
            raise ValueError(
                f"{self._name}: {len(groups)} groups for {len(x)} windows; expected one each."
            )
        found: dict[str, list[int]] = {}
        for i in range(len(x)):
            found.setdefault(_ALL if groups is None else str(groups[i]), []).append(i)
        return found

    def _check_channels(self, x: np.ndarray, mean: ArithmeticMean | RiemannianMean) -> None:
        if mean.count and x.shape[1] != len(mean.reference):
            raise ValueError(
                f"{self._name}: fitted on {len(mean.reference)} channels, got {x.shape[1]}. Fit on "
                "the same montage."
            )

    def _covariance(self, window: np.ndarray, index: int) -> Float[np.ndarray, "channel channel"]:
        if window.shape[1] < 2:
            raise ValueError(
                f"{self._name}: window {index} has {window.shape[1]} samples, expected 2 or more."
            )
        if not np.isfinite(window).all():
            bad = np.flatnonzero(~np.isfinite(window).all(axis=1))[0]
            raise ValueError(
                f"{self._name}: window {index} contains NaN or infinity, first in channel {bad}. "
                "Leave it out or repair the recording first (InterpolateBads)."
            )
        centred = window - window.mean(axis=1, keepdims=True, dtype=np.float64)
        centred[(window == window[:, :1]).all(axis=1)] = 0  # the mean of equal numbers is rounded
        return centred @ centred.T / (window.shape[1] - 1)


class EuclideanAlignment(_Alignment):
    """Whiten each group of windows with the arithmetic mean of its covariances.

    `fit` and `update` look at windows, `transform` never does so in the offline mode; what the
    test side contributes is therefore visible in the calls. Offline alignment of test windows
    with all of them is fit_transform on the test windows: it uses unlabelled test data, and a
    score made with it should say so. Given the `rows` of the windows, `fitted_on` names them, and
    `find_leaks(..., fitted=[Fitted("alignment", alignment.fitted_on)])` says it.

    Args:
        mode: "offline" uses the fitted reference of the group. "causal" goes through the windows in
            order, each aligned with the mean covariance up to and including itself, starting from
            the fitted reference where there is one; later windows never matter, and constant ones
            before any other become zeros. "twice" aligns offline and what comes out causally once
            more, as DBConformer and MVCNet do with test windows within people: for comparison with
            their numbers.
        rank_tolerance: Directions whose variance is below this share of the largest are removed
            instead of amplified (an average reference takes away one, a flat channel another).
    """

    mean = ArithmeticMean


class RiemannianAlignment(_Alignment):
    """Whiten each group of windows with the Riemannian mean of its covariances.

    A few windows with artefacts move this mean less than the arithmetic one. The causal form takes
    a time per window that grows with the windows before.

    Args:
        mode: As in `EuclideanAlignment`.
        rank_tolerance: As in `EuclideanAlignment`.
    """

    mean = RiemannianMean


def _named(group: str) -> str:
    return f" group {group!r}'s" if group else ""


def declared(x: np.ndarray, rows: Sequence[Row] | None, where: str) -> tuple[Row, ...]:
    """The rows of windows, one for each, or none.

    Raises:
        ValueError: Another number of rows than windows.
    """
    if rows is not None and len(rows) != len(x):
        raise ValueError(f"{where}: {len(rows)} rows for {len(x)} windows; expected one each.")
    return tuple(rows or ())
