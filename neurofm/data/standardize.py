"""Mean and scale of training windows, applied to others.

Computed in float64, returned in float32. Axes: window, channel, time.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from neurofm.data.align import declared
from neurofm.data.rows import Row
from neurofm.shapes import Float, Int


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
        self.fitted_on = declared(x, rows, "Standardize")
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
