"""Statistics fitted on some windows and applied to others: Euclidean alignment, standardisation.

Euclidean alignment whitens the windows of each subject with the mean of their covariances, so that
subjects look alike: x <- R^(-1/2) x with R = mean of cov(x), time mean removed, divisor T - 1.
Fitted on training windows, or running along with the windows as they arrive (online, causal).

Source: He & Wu 2020 (arXiv 1808.05464); online form as in DBConformer (arXiv 2506.21140).
Computed in float64, returned in float32.
Axes: window, channel, time. Groups (subjects or recordings) are names, one per window.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from neurofm.data.rows import Row
from neurofm.shapes import Float, Int

_ALL = ""


class EuclideanAlignment:
    """Whiten each group of windows with its mean covariance.

    `fit` and `update` look at windows, `transform` never does so in the offline mode; what the
    test side contributes is therefore visible in the calls. Offline alignment of test windows
    with all of them is fit_transform on the test windows: it uses unlabelled test data, and a
    score made with it should say so. Given the `rows` of the windows, `fitted_on` names them, and
    `find_leaks(..., fitted=[Fitted("alignment", alignment.fitted_on)])` says it.

    Args:
        mode: "offline" uses the fitted reference of the group. "online" goes through the windows in
            order, each aligned with the mean covariance up to and including itself, starting from
            the fitted reference where there is one; later windows never matter. "twice" aligns
            offline and what comes out online once more, as DBConformer and MVCNet do with test
            windows within people: for comparison with their numbers.
        rank_tolerance: Directions whose variance is below this share of the largest are removed
            instead of amplified (an average reference takes away one).
    """

    def __init__(
        self,
        *,
        mode: Literal["offline", "online", "twice"] = "offline",
        rank_tolerance: float = 1e-8,
    ) -> None:
        if mode not in ("offline", "online", "twice"):
            raise ValueError(
                f"EuclideanAlignment: mode is {mode!r}, expected offline, online or twice."
            )
        self.mode = mode
        self.rank_tolerance = rank_tolerance
        self.references: dict[str, Float[np.ndarray, "channel channel"]] = {}
        self.counts: dict[str, int] = {}
        self.fitted_on: tuple[Row, ...] = ()
        self._warned = False

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        groups: Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
    ) -> EuclideanAlignment:
        """Forget everything, then take the mean covariance of each group.

        Args:
            groups: Subject or recording of each window; one group if not given.
            rows: What the windows are, for an audit.
        """
        self.references, self.counts, self.fitted_on = {}, {}, ()
        return self.update(x, groups, rows=rows)

    def update(
        self,
        x: Float[np.ndarray, "window channel time"],
        groups: Sequence[str] | None = None,
        *,
        rows: Sequence[Row] | None = None,
    ) -> EuclideanAlignment:
        """Add windows to the mean covariances."""
        self.fitted_on += _declared(x, rows, "EuclideanAlignment")
        for group, members in _members(x, groups, "EuclideanAlignment").items():
            total = sum(_covariance(x[i], i) for i in members)
            count = self.counts.get(group, 0)
            old = self.references.get(group)
            if old is not None:
                _check_channels(x, len(old), "EuclideanAlignment")
                total = total + old * count
            self.counts[group] = count + len(members)
            self.references[group] = np.asarray(total / self.counts[group])
        return self

    def transform(
        self, x: Float[np.ndarray, "window channel time"], groups: Sequence[str] | None = None
    ) -> Float[np.ndarray, "window channel time"]:
        """Aligned windows, without unit. The fitted state does not change.

        Raises:
            ValueError: Offline and a group was not fitted, or the channels differ from the fit.
        """
        result = np.empty(x.shape, dtype=np.float32)
        for group, members in _members(x, groups, "EuclideanAlignment").items():
            reference = self.references.get(group)
            if reference is not None:
                _check_channels(x, len(reference), "EuclideanAlignment")
            elif self.mode != "online":
                name = f"group {group!r}" if group else "anything"
                raise ValueError(
                    f"EuclideanAlignment: transform before {name} was fitted (fitted: "
                    f"{', '.join(map(repr, self.references)) or 'nothing'}). Call fit on its "
                    'training windows, or use mode="online".'
                )
            if self.mode != "online" and reference is not None:
                root = self._inverse_root(reference, group)
                for i in members:
                    result[i] = root @ x[i].astype(np.float64)
                continue
            count = self.counts.get(group, 0)
            running = np.zeros((x.shape[1], x.shape[1])) if reference is None else reference
            for i in members:
                running = (running * count + _covariance(x[i], i)) / (count + 1)
                count += 1
                result[i] = self._inverse_root(running, group) @ x[i].astype(np.float64)
        if self.mode == "twice":
            again = EuclideanAlignment(mode="online", rank_tolerance=self.rank_tolerance)
            return again.transform(result, groups)
        return result

    def fit_transform(
        self, x: Float[np.ndarray, "window channel time"], groups: Sequence[str] | None = None
    ) -> Float[np.ndarray, "window channel time"]:
        """Fit on these windows and align them; online, align them causally, then fit."""
        if self.mode == "online":
            self.references, self.counts = {}, {}
            aligned = self.transform(x, groups)
            self.update(x, groups)
            return aligned
        return self.fit(x, groups).transform(x, groups)

    def state(self) -> dict[str, Any]:
        """Everything fitted, as plain lists and numbers."""
        return {
            "mode": self.mode,
            "rank_tolerance": self.rank_tolerance,
            "counts": dict(self.counts),
            "references": {group: value.tolist() for group, value in self.references.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EuclideanAlignment:
        """The object that wrote `state`."""
        made = cls(mode=state["mode"], rank_tolerance=state["rank_tolerance"])
        made.counts = {group: int(count) for group, count in state["counts"].items()}
        made.references = {
            group: np.array(value, dtype=np.float64) for group, value in state["references"].items()
        }
        return made

    def _inverse_root(
        self, reference: Float[np.ndarray, "channel channel"], group: str
    ) -> Float[np.ndarray, "channel channel"]:
        values, vectors = np.linalg.eigh(reference)
        keep = values > self.rank_tolerance * max(float(values[-1]), 0.0)
        if not keep.any():
            raise ValueError(
                f"EuclideanAlignment: the windows of group {group!r} are constant, so they cannot "
                "be aligned. Leave them out."
            )
        if not keep.all() and not self._warned:
            self._warned = True
            warnings.warn(
                f"EuclideanAlignment: the mean covariance of group {group!r} has rank "
                f"{int(keep.sum())} of {len(keep)} channels (average reference, interpolated or "
                "flat channels, or few samples); the missing directions are left at zero.",
                stacklevel=3,
            )
        weight = np.zeros_like(values)
        weight[keep] = values[keep] ** -0.5
        return (vectors * weight) @ vectors.T


class Standardize:
    """Subtract a mean and divide by a standard deviation, both fitted on training windows.

    Args:
        per: "channel": each channel its own. "kind": one pair for all channels of a kind, which
            keeps their relative amplitudes; `fit` and `transform` then take the kinds.
    """

    def __init__(self, per: Literal["channel", "kind"] = "channel") -> None:
        if per not in ("channel", "kind"):
            raise ValueError(f"Standardize: per is {per!r}, expected channel or kind.")
        self.per = per
        self.mean: dict[int, float] = {}
        self.std: dict[int, float] = {}
        self.fitted_on: tuple[Row, ...] = ()

    def fit(
        self,
        x: Float[np.ndarray, "window channel time"],
        kind: Int[np.ndarray, " channel"] | None = None,
        *,
        rows: Sequence[Row] | None = None,
    ) -> Standardize:
        """Take the statistics of training windows.

        Args:
            kind: `Kind` of each channel, for `per="kind"`.
            rows: What the windows are, for an audit; kept as `fitted_on`.
        """
        if not x.size:
            raise ValueError("Standardize: there are no windows to fit.")
        keys = self._keys(x, kind)
        mean, std = {}, {}
        for key in np.unique(keys):
            values = x[:, keys == key]
            if not np.isfinite(values).all():
                raise ValueError(
                    f"Standardize: {self.per} {int(key)} contains NaN or infinity in the training "
                    "windows. Repair or leave out those recordings."
                )
            mean[int(key)] = float(values.mean(dtype=np.float64))
            std[int(key)] = float(values.std(dtype=np.float64))
        flat = [key for key, value in std.items() if value == 0]
        if flat:
            warnings.warn(
                f"Standardize: {len(flat)} of {len(std)} {self.per}s are constant in the training "
                "windows; they come out as zero.",
                stacklevel=2,
            )
        self.mean, self.std = mean, std
        self.fitted_on = _declared(x, rows, "Standardize")
        return self

    def transform(
        self,
        x: Float[np.ndarray, "window channel time"],
        kind: Int[np.ndarray, " channel"] | None = None,
    ) -> Float[np.ndarray, "window channel time"]:
        """Windows with the training mean and scale removed; float32.

        Raises:
            ValueError: Before `fit`, or with channels or kinds that were not fitted.
        """
        if not self.mean:
            raise ValueError("Standardize: call fit on the training windows before transform.")
        keys = self._keys(x, kind)
        unknown = sorted(set(keys.tolist()) - set(self.mean))
        if unknown or (self.per == "channel" and x.shape[1] != len(self.mean)):
            raise ValueError(
                f"Standardize: fitted on {len(self.mean)} {self.per}s {sorted(self.mean)[:8]}, got "
                f"{x.shape[1]} channels{f' with unknown {self.per} {unknown}' if unknown else ''}. "
                "Fit on windows of the same montage."
            )
        mean = np.array([self.mean[key] for key in keys.tolist()])
        std = np.array([self.std[key] for key in keys.tolist()])
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
        return ((x - mean[:, None]) * scale[:, None]).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """Everything fitted, as plain dicts and numbers."""
        return {"per": self.per, "mean": dict(self.mean), "std": dict(self.std)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Standardize:
        """The object that wrote `state`; keys may have become strings on the way through JSON."""
        made = cls(state["per"])
        made.mean = {int(key): float(value) for key, value in state["mean"].items()}
        made.std = {int(key): float(value) for key, value in state["std"].items()}
        return made

    def _keys(self, x: np.ndarray, kind: np.ndarray | None) -> np.ndarray:
        if self.per == "channel":
            return np.arange(x.shape[1])
        if kind is None or len(kind) != x.shape[1]:
            raise ValueError(
                f'Standardize: per="kind" needs the kind of each of the {x.shape[1]} channels, got '
                f"{'none' if kind is None else len(kind)}."
            )
        return np.asarray(kind, dtype=np.int64)


def _members(x: np.ndarray, groups: Sequence[str] | None, where: str) -> dict[str, list[int]]:
    """Positions of the windows of each group, in order."""
    if not len(x):
        raise ValueError(f"{where}: there are no windows.")
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"{where}: {len(groups)} groups for {len(x)} windows; expected one each.")
    found: dict[str, list[int]] = {}
    for i in range(len(x)):
        found.setdefault(_ALL if groups is None else str(groups[i]), []).append(i)
    return found


def _declared(x: np.ndarray, rows: Sequence[Row] | None, where: str) -> tuple[Row, ...]:
    if rows is not None and len(rows) != len(x):
        raise ValueError(f"{where}: {len(rows)} rows for {len(x)} windows; expected one each.")
    return tuple(rows or ())


def _check_channels(x: np.ndarray, fitted: int, where: str) -> None:
    if x.shape[1] != fitted:
        raise ValueError(
            f"{where}: fitted on {fitted} channels, got {x.shape[1]}. Fit on the same montage."
        )


def _covariance(window: np.ndarray, index: int) -> Float[np.ndarray, "channel channel"]:
    if window.shape[1] < 2:
        raise ValueError(
            f"EuclideanAlignment: window {index} has {window.shape[1]} samples, expected 2 or more."
        )
    if not np.isfinite(window).all():
        raise ValueError(
            f"EuclideanAlignment: window {index} contains NaN or infinity. Leave it out or repair "
            "the recording first (InterpolateBads)."
        )
    centred = window - window.mean(axis=1, keepdims=True, dtype=np.float64)
    return centred @ centred.T / (window.shape[1] - 1)
