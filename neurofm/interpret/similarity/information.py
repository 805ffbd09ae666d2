"""Mutual information of a layer with its input and with labels, from discretised activity.

A network without noise maps every input to one state, so that I(X;T) is the entropy of the states
that a grid (or a noise that is added) tells apart. The numbers belong to the estimator as much as
to the layer: they are compared between layers only where estimator, bins and n are the same, and
the entropy of n samples cannot exceed log2 n bits, whatever the layer.

Source: Chelombiev et al. 2019 (entropy-based adaptive binning; noise that follows the layer);
Kolchinsky & Tracey 2017 (bound of a mixture of Gaussians). The constant of the adaptive noise is
this project's choice.
Axes: sample; unit; edge = inner border of two bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.shapes import Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ESTIMATORS = ("quantile", "uniform", "kde")
_AT_ONCE = 4_000_000  # distances held together


@dataclass(frozen=True)
class Information:
    """What one layer knows, in bits.

    Args:
        input_bits: I(X;T), the entropy of the layer's states.
        label_bits: I(T;Y).
        chance_bits: Mean of `label_bits` over shuffled labels: few samples in many states look
            informative. NaN if none was drawn.
        entropy_of_labels: H(Y), the most that can be known of the labels.
        most_bits: log2 n, the most that n samples can show.
        estimator: "quantile", "uniform" or "kde".
        setting: Bins, or the noise as a share of the layer's largest value.
        n: Samples.
    """

    input_bits: float
    label_bits: float
    chance_bits: float
    entropy_of_labels: float
    most_bits: float
    estimator: str
    setting: float
    n: int

    @property
    def saturated(self) -> bool:
        """Every sample is a state of its own: the layer is at the ceiling of n."""
        return self.input_bits > 0.99 * self.most_bits


@dataclass(frozen=True)
class InformationPlane:
    """Layers (or epochs of one layer) by what they know of input and labels."""

    layers: Mapping[str, Information]

    def plot(self) -> Figure:
        """I(X;T) against I(T;Y), with their ceilings and the chance of shuffled labels."""
        from neurofm.interpret.similarity.drawings import draw_information

        return draw_information(self)


@takes_either
def quantile_edges(
    t: Float[np.ndarray, "sample unit"], bins: int = 30
) -> Float[np.ndarray, "unit edge"]:
    """Inner edges of bins that hold equally many samples, for each unit by itself."""
    t = _activity(t)
    _at_least_two(bins)
    return np.ascontiguousarray(np.quantile(t, np.arange(1, bins) / bins, axis=0).T)


@takes_either
def uniform_edges(
    t: Float[np.ndarray, "sample unit"], bins: int = 30
) -> Float[np.ndarray, "unit edge"]:
    """Inner edges of equal steps over the range of the whole layer, the same for all units."""
    t = _activity(t)
    _at_least_two(bins)
    edges = np.linspace(t.min(), t.max(), bins + 1)[1:-1]
    return np.tile(edges, (t.shape[1], 1))


@takes_either
def discretise(
    t: Float[np.ndarray, "sample unit"], edges: Float[np.ndarray, "unit edge"]
) -> Int[np.ndarray, "sample unit"]:
    """Bin of each value; a value on an edge belongs above it, so equal values share a bin."""
    t = _activity(t)
    if len(edges) != t.shape[1]:
        raise ValueError(f"discretise: edges of {len(edges)} units for {t.shape[1]} units.")
    found = [np.searchsorted(e, column, side="right") for e, column in zip(edges, t.T, strict=True)]
    return np.stack(found, axis=1)


@takes_either
def binned_information(
    t: Float[np.ndarray, "sample unit"],
    labels: Sequence[Any] | np.ndarray,
    *,
    bins: int = 30,
    rule: str = "quantile",
    shuffles: int = 20,
    seed: int = 0,
) -> Information:
    """I(X;T) and I(T;Y) of a layer whose units are put in bins.

    Args:
        t: Activations of the layer.
        labels: Class of each sample.
        bins: For each unit.
        rule: "quantile" (adaptive: equally many samples in a bin) or "uniform".
        shuffles: Of the labels, for `chance_bits`.

    Raises:
        ValueError: An unknown rule, NaN, or labels that do not fit.
    """
    if rule not in ESTIMATORS[:2]:
        raise ValueError(f"binned_information: rule {rule!r} is not 'quantile' or 'uniform'.")
    edges = (quantile_edges if rule == "quantile" else uniform_edges)(t, bins)
    code = np.ascontiguousarray(discretise(t, edges))
    rows = code.view(np.dtype((np.void, code.dtype.itemsize * code.shape[1]))).ravel()
    _, state = np.unique(rows, return_inverse=True)
    y = _labels(labels, len(t))

    drawn = _with_shuffled(y, shuffles, seed)
    within = [sum(share * _entropy(state[y == c]) for c, share in _shares(y)) for y in drawn]
    return _information(_entropy(state), within, y, rule, bins)


@takes_either
def kde_information(
    t: Float[np.ndarray, "sample unit"],
    labels: Sequence[Any] | np.ndarray,
    *,
    noise_ratio: float | int = 0.03,
    shuffles: int = 20,
    seed: int = 0,
) -> Information:
    """The same with Gaussian noise in the place of bins: an upper bound of the entropy.

    Args:
        noise_ratio: Standard deviation of the noise over the layer's largest absolute value, so
            that it follows the scale of the layer.
    """
    t = _activity(t)
    y = _labels(labels, len(t))
    sigma = float(noise_ratio) * float(np.abs(t).max())
    if not sigma > 0:
        raise ValueError(
            f"kde_information: noise of {sigma}; the ratio {noise_ratio} and the largest activity "
            f"{float(np.abs(t).max())} have to be over 0."
        )
    drawn = _with_shuffled(y, shuffles, seed)
    whole, own = _overlap(t, np.stack(drawn), sigma)
    count = np.bincount(y)[np.stack(drawn)]
    within = -np.log2(own / count).mean(1)
    entropy = -float(np.log2(whole / len(t)).mean())
    return _information(entropy, within.tolist(), y, "kde", noise_ratio)


def information_plane(
    layers: Mapping[str, Any],
    labels: Sequence[Any] | np.ndarray,
    *,
    estimator: str = "quantile",
    bins: int = 30,
    noise_ratio: float | int = 0.03,
    shuffles: int = 20,
    seed: int = 0,
) -> InformationPlane:
    """Every layer by one estimator."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"information_plane: estimator {estimator!r}; known are {ESTIMATORS}.")
    drawn = {"shuffles": shuffles, "seed": seed}
    if estimator == "kde":
        found = {
            name: kde_information(t, labels, noise_ratio=noise_ratio, **drawn)
            for name, t in layers.items()
        }
    else:
        found = {
            name: binned_information(t, labels, bins=bins, rule=estimator, **drawn)
            for name, t in layers.items()
        }
    return InformationPlane(found)


def _information(
    entropy: float, within: Sequence[float], y: np.ndarray, estimator: str, setting: float | int
) -> Information:
    """From the entropy within classes, of the labels themselves and then of shuffled ones."""
    chance = [entropy - h for h in within[1:]]
    return Information(
        input_bits=entropy,
        label_bits=float(entropy - within[0]),
        chance_bits=float(np.mean(chance)) if chance else float("nan"),
        entropy_of_labels=_entropy(y),
        most_bits=float(np.log2(len(y))),
        estimator=estimator,
        setting=float(setting),
        n=len(y),
    )


def _with_shuffled(y: np.ndarray, shuffles: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [y, *(rng.permutation(y) for _ in range(shuffles))]


def _overlap(t: np.ndarray, drawn: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Sum over samples of exp(-d² / 2σ²), of each sample: over all, and over its class in `drawn`.

    Kernels are made once for all shuffled labels, block by block.
    """
    norms = np.einsum("ij,ij->i", t, t)
    classes = np.arange(drawn.max() + 1)
    member = (drawn[:, :, None] == classes).astype(np.float64)  # drawn sample class
    whole, own = np.empty(len(t)), np.empty(drawn.shape)
    rows = max(1, _AT_ONCE // len(t))
    for start in range(0, len(t), rows):
        part = slice(start, start + rows)
        squared = norms[part, None] + norms - 2 * t[part] @ t.T
        near = np.exp(-np.maximum(squared, 0) / (2 * sigma**2))
        whole[part] = near.sum(1)
        for d in range(len(drawn)):
            own[d, part] = ((near @ member[d]) * member[d, part]).sum(1)
    return whole, own


def _shares(y: np.ndarray) -> list[tuple[Any, float]]:
    classes, counts = np.unique(y, return_counts=True)
    return list(zip(classes, (counts / len(y)).tolist(), strict=True))


def _entropy(state: np.ndarray) -> float:
    """Bits, of the shares of equal values."""
    _, counts = np.unique(state, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def _activity(t: np.ndarray) -> np.ndarray:
    t = np.asarray(t, dtype=np.float64)
    if t.ndim != 2 or not len(t):
        raise ValueError(f"information: activity of shape {t.shape}; expected sample by unit.")
    require_finite("information", t, "samples")
    return t


def _labels(labels: Sequence[Any] | np.ndarray, n: int) -> np.ndarray:
    y = np.unique(np.asarray(labels), return_inverse=True)[1].ravel()
    if len(y) != n:
        raise ValueError(f"information: {len(y)} labels for {n} samples.")
    return y


def _at_least_two(bins: int) -> None:
    if bins < 2:
        raise ValueError(f"information: {bins} bins; at least 2 tell states apart.")
