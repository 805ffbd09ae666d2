"""Shape distances of noisy responses: means and trial-to-trial noise together.

Every stimulus is answered by a distribution; one rotation of the second network has to bring its
means onto the means and its covariances onto the covariances of the first.

    d² = min over T of the mean over stimuli of alpha |mu - nu T|² + (2 - alpha) B²(S, Tᵀ W T)

with the Bures distance B² = tr S + tr W - 2 |S^½ Tᵀ W^½|_*. Alpha 2 sees the means alone, 1 is the
2-Wasserstein distance of Gaussians, 0 sees the noise alone.

Source: Duong et al. 2023. Their text weighs the rows that are aligned by the square roots of alpha
and 2 - alpha; without the roots another objective is minimised.
Axes: stimulus; trial; unit; start = one rotation to begin from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import require_finite, takes_either
from neurofm.interpret.similarity.shape import nearest_rotation, random_rotation
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TOLERANCE, _ROUNDS = 1e-10, 1000
_AT_ONCE = 4_000_000  # entries of matrices of all starts
_FLOOR = 1e-6  # of distances whose inverse is a weight


@dataclass(frozen=True)
class StochasticShape:
    """A distance, and the rotation that gives it.

    Args:
        distance: In the unit of the responses.
        rotation: T, for which responses of the second network times T come closest to the first.
        means: Share of the squared distance of each stimulus that its means have.
        noise: That of its covariances.
        starts: Distance reached from each start, the alignment of the means first.
        alpha: Weight of the means.
    """

    distance: float
    rotation: Float[np.ndarray, "unit unit"]
    means: Float[np.ndarray, " stimulus"]
    noise: Float[np.ndarray, " stimulus"]
    starts: Float[np.ndarray, " start"]
    alpha: float

    @property
    def n_at_best(self) -> int:
        """Starts that reached the distance; few of many say that a better one may exist."""
        return int((self.starts < self.distance * (1 + 1e-6) + 1e-12).sum())

    def plot(self) -> Figure:
        """What means and noise of each stimulus add to the squared distance."""
        from neurofm.interpret.similarity.drawings import draw_stochastic

        return draw_stochastic(self)


@takes_either
def response_moments(
    trials: Float[np.ndarray, "stimulus trial unit"],
    *,
    dims: int | None = None,
    ridge: float | int = 1e-6,
) -> tuple[Float[np.ndarray, "stimulus dim"], Float[np.ndarray, "stimulus dim dim"]]:
    """Mean and covariance of the responses to each stimulus.

    Args:
        dims: Principal components of all trials together that are kept; all units if not given. A
            third of the trials of a stimulus or fewer leaves covariances that can be trusted.
        ridge: Share of the mean variance that is added to each variance.

    Raises:
        ValueError: Not more trials than units, so that covariances are singular.
    """
    x = np.asarray(trials, dtype=np.float64)
    if x.ndim != 3 or not np.isfinite(x).all():
        raise ValueError(
            f"response_moments: responses of shape {x.shape}, finite {bool(np.isfinite(x).all())}; "
            "expected stimulus by trial by unit without NaN."
        )
    if dims is not None:
        rows = x.reshape(-1, x.shape[2])
        axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2]
        x = (x - rows.mean(0)) @ axes[:dims].T
    n, p = x.shape[1:]
    if n <= p:
        raise ValueError(
            f"response_moments: {n} trials of each stimulus for {p} units; covariances need more "
            f"trials than units. Use dims={max(n // 3, 1)} or fewer."
        )
    mean = x.mean(1)
    away = x - mean[:, None]
    covariance = away.swapaxes(1, 2) @ away / (n - 1)
    scale = np.trace(covariance, axis1=1, axis2=2)[:, None, None] / p
    return mean, covariance + ridge * scale * np.eye(p)


@takes_either
def stochastic_score(
    mean_x: Float[np.ndarray, "stimulus unit"],
    covariance_x: Float[np.ndarray, "stimulus unit unit"],
    mean_y: Float[np.ndarray, "_ other"],
    covariance_y: Float[np.ndarray, "_ other other"],
    *,
    rotation: Float[np.ndarray, "unit unit"] | None = None,
    alpha: float | int = 1.0,
) -> float:
    """The distance for one rotation, that of no rotation if none is given."""
    task = _Task(mean_x, covariance_x, mean_y, covariance_y, alpha)
    t = np.eye(mean_x.shape[1]) if rotation is None else np.asarray(rotation, np.float64)
    return float(np.sqrt(max(sum(part.mean() for part in task.parts(t)), 0.0)))


@takes_either
def stochastic_distance(
    mean_x: Float[np.ndarray, "stimulus unit"],
    covariance_x: Float[np.ndarray, "stimulus unit unit"],
    mean_y: Float[np.ndarray, "_ other"],
    covariance_y: Float[np.ndarray, "_ other other"],
    *,
    alpha: float | int = 1.0,
    n_starts: int = 10,
    generator: np.random.Generator | None = None,
) -> StochasticShape:
    """The least distance over rotations and reflections.

    Translations are not free: subtract what both networks should not be compared by.

    Args:
        n_starts: Random rotations to begin from, beside the alignment of the means. Below alpha 2
            the problem has several minima.
        generator: Of the starts; a fixed one if not given.

    Raises:
        ValueError: Shapes that do not fit, NaN, or alpha outside 0 to 2.
    """
    task = _Task(mean_x, covariance_x, mean_y, covariance_y, alpha)
    starts = [nearest_rotation(mean_y.T @ mean_x)]
    if alpha < 2:
        rng = generator or np.random.default_rng(0)
        starts += [random_rotation(mean_x.shape[1], rng) for _ in range(n_starts)]
    losses, rotations = task.fit(np.stack(starts))
    reached = np.sqrt(np.maximum(losses, 0.0))
    best = rotations[int(reached.argmin())]
    means, noise = task.parts(best)
    return StochasticShape(float(reached.min()), best, means, noise, reached, float(alpha))


@takes_either
def energy_score(
    x: Float[np.ndarray, "stimulus trial unit"],
    y: Float[np.ndarray, "stimulus trials unit"],
    *,
    rotation: Float[np.ndarray, "unit unit"] | None = None,
) -> float:
    """Root of the mean energy distance over stimuli, for one rotation of `y`; no Gaussians assumed.

    d² = E|x - yT| - E|x - x'| / 2 - E|y - y'| / 2 over different trials; 0 where that is negative.
    """
    x, y = _samples(x, y)
    t = np.eye(x.shape[2]) if rotation is None else np.asarray(rotation, np.float64)
    squared = _apart(x, y @ t).mean((1, 2)) - (_within(x) + _within(y)) / 2
    return float(np.sqrt(max(squared.mean(), 0.0)))


@takes_either
def energy_distance(
    x: Float[np.ndarray, "stimulus trial unit"],
    y: Float[np.ndarray, "stimulus trials unit"],
    *,
    n_starts: int = 10,
    generator: np.random.Generator | None = None,
) -> tuple[float, Float[np.ndarray, "unit unit"]]:
    """The least energy distance over rotations, and its rotation."""
    x, y = _samples(x, y)
    rng = generator or np.random.default_rng(0)
    starts = [nearest_rotation(y.mean(1).T @ x.mean(1))]
    starts += [random_rotation(x.shape[2], rng) for _ in range(n_starts)]
    turned = [_reweighted(x, y, start) for start in starts]
    scores = [energy_score(x, y, rotation=t) for t in turned]
    best = int(np.argmin(scores))
    return scores[best], turned[best]


class _Task:
    """One pair of networks: square roots of covariances are taken once for all rotations."""

    def __init__(
        self,
        mean_x: np.ndarray,
        covariance_x: np.ndarray,
        mean_y: np.ndarray,
        covariance_y: np.ndarray,
        alpha: float | int,
    ) -> None:
        if not 0 <= alpha <= 2:
            raise ValueError(f"stochastic shape: alpha {alpha}; expected 0 (noise) to 2 (means).")
        given = (mean_x, covariance_x, mean_y, covariance_y)
        mean_x, covariance_x, mean_y, covariance_y = (np.asarray(g, np.float64) for g in given)
        square = (*mean_x.shape, mean_x.shape[-1])
        if mean_y.shape != mean_x.shape or {covariance_x.shape, covariance_y.shape} != {square}:
            raise ValueError(
                f"stochastic shape: means of {mean_x.shape} and {mean_y.shape}, covariances of "
                f"{covariance_x.shape} and {covariance_y.shape}; expected stimulus by unit and "
                "stimulus by unit by unit, alike on both sides. Reduce the wider network first."
            )
        if not all(np.isfinite(g).all() for g in given):
            raise ValueError("stochastic shape: NaN or infinite means or covariances.")
        self.alpha = float(alpha)
        self.mu, self.nu = mean_x, mean_y
        self.s, self.w = _root(covariance_x), _root(covariance_y)
        self.traces = np.trace(covariance_x + covariance_y, axis1=1, axis2=2)

    def parts(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted squared distance of means and of covariances, for each stimulus."""
        overlap = np.linalg.svd(self.s @ t.T @ self.w, compute_uv=False).sum(-1)
        return self._parts(t, overlap)

    def fit(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Loss and rotation that each start leads to; as many at once as memory allows."""
        at_once = max(1, _AT_ONCE // self.s.size)
        parts = [self._fit(starts[i : i + at_once]) for i in range(0, len(starts), at_once)]
        losses, rotations = zip(*parts, strict=True)
        return np.concatenate(losses), np.concatenate(rotations)

    def _fit(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Alternate between rotations of each stimulus' noise and the one of all."""
        cross = self.alpha * self.nu.T @ self.mu
        rotations, losses = starts.copy(), np.full(len(starts), np.inf)
        going = np.arange(len(starts))
        for _ in range(_ROUNDS):
            t = rotations[going][:, None]  # start 1 unit unit
            u, overlap, v = np.linalg.svd(self.s @ t.swapaxes(-1, -2) @ self.w)
            means, noise = self._parts(t[:, 0], overlap.sum(-1))
            loss = (means + noise).mean(-1)
            better = losses[going] - loss > _TOLERANCE * np.abs(loss)
            losses[going] = loss
            going = going[better]
            if not len(going):
                break
            q = (u[better] @ v[better]).swapaxes(-1, -2)
            turn = (2 - self.alpha) * (self.w @ q @ self.s).sum(1)
            rotations[going] = nearest_rotation(cross + turn)
        return losses, rotations

    def _parts(self, t: np.ndarray, overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = ((self.mu - self.nu @ t) ** 2).sum(-1)
        return self.alpha * means, (2 - self.alpha) * (self.traces - 2 * overlap)


def _reweighted(x: np.ndarray, y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Procrustes whose pairs count by one over their distance, which minimises the distances."""
    before = np.inf
    for _ in range(_ROUNDS):
        apart = _apart(x, y @ t)
        loss = float(apart.mean())
        if before - loss <= _TOLERANCE * loss:
            break
        before = loss
        weights = 1 / np.maximum(apart, _FLOOR)
        t = nearest_rotation((y.swapaxes(1, 2) @ weights.swapaxes(1, 2) @ x).sum(0))
    return t


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of every two trials of a stimulus: `stimulus trial trial`."""
    return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1)


def _within(x: np.ndarray) -> np.ndarray:
    """Mean distance of two different trials of each stimulus."""
    n = x.shape[1]
    return _apart(x, x).sum((1, 2)) / (n * (n - 1))


def _samples(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 3 or y.ndim != 3 or (len(x), x.shape[2]) != (len(y), y.shape[2]):
        raise ValueError(
            f"energy distance: responses of shape {x.shape} and {y.shape}; expected stimulus by "
            "trial by unit with the same stimuli and as many units."
        )
    if min(x.shape[1], y.shape[1]) < 2:
        raise ValueError("energy distance: one trial has no distance to another; 2 are needed.")
    for side in (x, y):
        require_finite("energy distance", side, "stimuli")
    return x, y


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    scaled = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    return scaled @ vectors.swapaxes(1, 2)
