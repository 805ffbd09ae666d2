"""How a layer changes in the course of training, and whether its numbers are numbers.

Source: Kornblith et al. 2019 (alignment of representations); Roy & Vetterli 2007 (effective rank).
Axes: sample unit; `... query key` for attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.interpret.similarity import linear_cka
from neurofm.shapes import Bool, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = ("cka", "effective_rank", "dead_units")


def effective_rank(x: Float[np.ndarray, "sample unit"]) -> float:
    """Exponential of the entropy of the singular values of centred activations.

    1 if all samples lie on a line, the number of units if no direction stands out. NaN if nothing
    varies or something is not finite.
    """
    values = _matrix("effective_rank", x)
    if not np.isfinite(values).all():
        return float("nan")
    centred = values - values.mean(0)
    if len(centred) < centred.shape[1]:
        centred = centred.T
    # Of the smaller product: the roots of its eigenvalues.
    share = np.sqrt(np.clip(np.linalg.eigvalsh(centred.T @ centred), 0.0, None))
    share = share[share > share.max(initial=0.0) * 1e-7]
    if not len(share) or not share.max() > 1e-12 * max(np.abs(values).max(), 1e-300):
        return float("nan")
    share = share / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def dead_units(x: Float[np.ndarray, "sample unit"], *, eps: float | int = 0.0) -> float:
    """Share of units that say nothing: the same value, up to `eps`, for every sample."""
    values = _matrix("dead_units", x)
    return float((np.ptp(values, axis=0) <= eps).mean())


@takes_either
def attention_entropy(
    attention: Float[np.ndarray, "*lead query key"],
    *,
    mask: Bool[np.ndarray, "*lead query"] | None = None,
) -> Float[np.ndarray, "*lead"]:
    """Entropy of the attention of each query in nats, mean over queries.

    Log of the number of keys is attention everywhere, 0 is one key; collapse goes to either.

    Args:
        attention: Probabilities.
        mask: True for real queries.
    """
    p = np.asarray(attention, dtype=np.float64)
    if (p < 0).any():
        raise ValueError("attention_entropy: negative values; expected probabilities.")
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)
    if mask is None:
        return entropy.mean(-1)
    return (entropy * mask).sum(-1) / np.maximum(mask.sum(-1), 1)


@takes_either
def not_finite(x: np.ndarray) -> tuple[int, int]:
    """How many values are NaN, and how many infinite."""
    return int(np.isnan(x).sum()), int(np.isinf(x).sum())


@dataclass
class History:
    """Measures of layers over steps or epochs.

    Args:
        over: "step" or "epoch", a column of each row.
        rows: `layer/measure` to value, and `over`.
    """

    over: str
    rows: list[dict[str, float]] = field(default_factory=list)

    def plot(self, measures: Sequence[str] | None = None) -> Figure:
        """A panel for each measure, a line per layer.

        Args:
            measures: Which ones; all if not given.
        """
        from neurofm.interpret.monitoring.drawings import draw_history

        found = (key.rpartition("/")[2] for row in self.rows for key in row if "/" in key)
        return draw_history(self.rows, measures or list(dict.fromkeys(found)), over=self.over)


@dataclass
class Drift:
    """Compares layers on the same samples with themselves some epochs earlier.

    Args:
        back: Epochs between the two sides of the alignment.
    """

    back: int = 1
    history: History = field(default_factory=lambda: History("epoch"))
    _kept: list[dict[str, np.ndarray]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.back < 1:
            raise ValueError(f"Drift: back is {self.back}; expected one epoch or more.")

    def add(self, layers: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Measures of this epoch as `layer/measure`; no alignment before `back` epochs passed.

        The alignment is debiased linear CKA: 1 is the same up to rotation and scale.

        Args:
            layers: Name to `sample unit`, always the same samples in the same order.
        """
        now = {name: _matrix("Drift", value) for name, value in layers.items()}
        row: dict[str, float] = {}
        before = self._kept[0] if len(self._kept) == self.back else {}
        for name, value in now.items():
            if name in before:
                if before[name].shape != value.shape:
                    raise ValueError(
                        f"Drift: {name!r} has shape {value.shape}, but {before[name].shape} "
                        "earlier; give the same samples every time."
                    )
                known = np.isfinite(before[name]).all() and np.isfinite(value).all()
                row[f"{name}/cka"] = linear_cka(before[name], value) if known else float("nan")
            row[f"{name}/effective_rank"] = effective_rank(value)
            row[f"{name}/dead_units"] = dead_units(value)
        self._kept = [*self._kept, now][-self.back :]
        self.history.rows.append(row | {"epoch": float(len(self.history.rows))})
        return row

    def plot(self) -> Figure:
        """Each measure over epochs, a line per layer."""
        return self.history.plot(MEASURES)


def _matrix(name: str, x: np.ndarray) -> np.ndarray:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"{name}: shape {values.shape}; expected sample unit, not empty.")
    return values
