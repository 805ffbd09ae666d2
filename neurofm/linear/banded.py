"""Ridge with a penalty per feature space and voxel, and ridge on kernels, through himalaya.

Spaces of different size or scale should not share a penalty: the larger one would win. The search
is himalaya's, by random weights of the spaces; what is added here is the project's grammar: spaces
by name, runs kept together, scaling by training rows, NaN refused, and contributions of each space.

Source: la Tour et al. 2022 (himalaya); Nunez-Elizalde et al. 2019 (banded ridge).
Axes: row; feature; voxel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from neurofm.compat import optional
from neurofm.linear.blocks import check_features
from neurofm.linear.folds import make_folds
from neurofm.shapes import Float

PENALTIES = tuple(10.0**i for i in range(-3, 7))


class BandedRidge:
    """Ridge with a penalty for each feature space and voxel, by random search.

    Args:
        penalties: Overall strengths tried with every draw of the spaces' weights.
        n_iter: Draws of weights (equal ones first); 100 is usual for real data.
        folds: Held out to choose; with `groups`, whole runs.
        solver: "primal" (himalaya's GroupRidgeCV, for features fewer than rows), "kernel" (its
            MultipleKernelRidgeCV), or "auto".
        standardize: Divide every feature by its training standard deviation.
        backend: himalaya's: "numpy", "torch" or "torch_cuda".
        seed: Of the draws.

    Attributes (after `fit`):
        coef: For each space, weights of features as given, `feature voxel`.
        intercept: Per voxel.
        deltas: Log of each space's weight, `space voxel`: penalty of a space = exp(-delta).
        cv_score: Best mean held-out R2 in the search; NaN for constant voxels.
    """

    def __init__(
        self,
        penalties: Sequence[float | int] | np.ndarray = PENALTIES,
        *,
        n_iter: int = 100,
        folds: int | None = 5,
        solver: str = "auto",
        standardize: bool = True,
        backend: str = "torch",
        seed: int = 0,
    ) -> None:
        if solver not in ("auto", "primal", "kernel"):
            raise ValueError(f"BandedRidge: solver {solver!r} is not 'auto', 'primal', 'kernel'.")
        self.penalties = np.asarray(penalties, dtype=np.float64)
        self.n_iter, self.folds, self.solver = n_iter, folds, solver
        self.standardize, self.backend, self.seed = standardize, backend, seed

    def fit(
        self,
        spaces: Mapping[str, np.ndarray],
        y: Float[np.ndarray, "_ voxel"],
        groups: Sequence[Hashable] | np.ndarray | None = None,
    ) -> BandedRidge:
        """Search weights of the spaces and fit.

        Args:
            spaces: Name to features, `row feature`; two or more.
            groups: Run of each row.
        """
        if len(spaces) < 2:
            raise ValueError("BandedRidge: one feature space has one penalty: use VoxelwiseRidge.")
        self.scales, scaled = {}, []
        for name, x in spaces.items():
            values = np.asarray(x)
            check_features(values, len(y), name=f"space {name!r}")
            self.scales[name] = _scale(values, self.standardize)
            scaled.append(_apply(values, self.scales[name]))
        target, level, constant = _target(y)
        folds = make_folds(len(target), self.folds, groups=groups)
        n, features = len(target), sum(x.shape[1] for x in scaled)
        primal = self.solver == "primal" or (self.solver == "auto" and features < n)
        search = {"n_iter": self.n_iter, "alphas": self.penalties, "progress_bar": False}
        with _backend(self.backend) as himalaya:
            search["score_func"] = himalaya.scoring.r2_score
            if primal:
                model = himalaya.ridge.GroupRidgeCV(
                    groups="input", solver_params=search, cv=folds, random_state=self.seed
                ).fit(scaled, target)
                bounds = np.cumsum([x.shape[1] for x in scaled])[:-1]
                weights = np.split(_numpy(model.coef_), bounds)
            else:
                kernels = np.stack([x @ x.T for x in scaled])
                model = himalaya.kernel_ridge.MultipleKernelRidgeCV(
                    kernels="precomputed", solver_params=search, cv=folds, random_state=self.seed
                ).fit(kernels, target)
                dual, strength = _numpy(model.dual_coef_), np.exp(_numpy(model.deltas_))
                weights = [x.T @ dual * own for x, own in zip(scaled, strength, strict=True)]
            self.deltas = _numpy(model.deltas_)
            scores = _numpy(model.cv_scores_)
        self.coef = {
            name: w / self.scales[name][1][:, None] for name, w in zip(spaces, weights, strict=True)
        }
        shift = sum(self.scales[name][0] @ w for name, w in self.coef.items())
        self.intercept = level - shift
        self.cv_score = np.where(constant, np.nan, scores.max(0))
        return self

    def predict(self, spaces: Mapping[str, np.ndarray]) -> Float[np.ndarray, "row voxel"]:
        """Responses to new rows."""
        parts = self.predict_parts(spaces)
        level = self.intercept + sum(self.scales[k][0] @ w for k, w in self.coef.items())
        return sum(parts.values(), np.zeros(())) + level

    def predict_parts(
        self, spaces: Mapping[str, np.ndarray]
    ) -> dict[str, Float[np.ndarray, "row voxel"]]:
        """What each space adds to the predictions, centred on the training rows."""
        if set(spaces) != set(self.coef):
            raise ValueError(
                f"BandedRidge: spaces {sorted(spaces)}; fitted on {sorted(self.coef)}."
            )
        return {
            name: (np.asarray(spaces[name]) - self.scales[name][0]) @ weights
            for name, weights in self.coef.items()
        }

    def contributions(
        self, spaces: Mapping[str, np.ndarray], y: Float[np.ndarray, "_ voxel"]
    ) -> dict[str, Float[np.ndarray, " voxel"]]:
        """R2 on these rows in one part per space (product measure); the parts add up to it.

        R2 is about the training mean of each voxel, the level of a prediction without features. A
        part can be negative: a space that makes the others' predictions worse.
        """
        parts = self.predict_parts(spaces)
        level = self.intercept + sum(self.scales[k][0] @ w for k, w in self.coef.items())
        true = np.asarray(y, dtype=np.float64) - level
        whole = sum(parts.values(), np.zeros(()))
        below = (true**2).sum(0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                name: np.where(below > 0, ((2 * true - whole) * part).sum(0) / below, np.nan)
                for name, part in parts.items()
            }


class KernelRidge:
    """Ridge on a kernel of the features, with a penalty per voxel.

    Args:
        kernel: himalaya's: "linear", "rbf", "polynomial", "sigmoid" or "cosine".
        penalties: One is chosen for each voxel by held-out R2.
        kernel_params: Of the kernel, such as {"gamma": 0.01}.
        folds, standardize, backend: As `BandedRidge`.

    Attributes (after `fit`):
        penalty: Per voxel.
        cv_score: Mean held-out R2 at that penalty; NaN for constant voxels.
    """

    def __init__(
        self,
        kernel: str = "rbf",
        penalties: Sequence[float | int] | np.ndarray = PENALTIES,
        *,
        kernel_params: Mapping[str, float | int] | None = None,
        folds: int | None = 5,
        standardize: bool = True,
        backend: str = "torch",
    ) -> None:
        self.kernel, self.penalties = kernel, np.asarray(penalties, dtype=np.float64)
        self.kernel_params, self.folds = kernel_params, folds
        self.standardize, self.backend = standardize, backend

    def fit(
        self,
        x: Float[np.ndarray, "row feature"],
        y: Float[np.ndarray, "_ voxel"],
        groups: Sequence[Hashable] | np.ndarray | None = None,
    ) -> KernelRidge:
        """Choose penalties and fit."""
        values = np.asarray(x)
        check_features(values, len(y))
        self.scale = _scale(values, self.standardize)
        target, self.level, constant = _target(y)
        folds = make_folds(len(target), self.folds, groups=groups)
        with _backend(self.backend) as himalaya:
            self.model = himalaya.kernel_ridge.KernelRidgeCV(
                alphas=self.penalties,
                kernel=self.kernel,
                kernel_params=dict(self.kernel_params or {}),
                solver_params={"score_func": himalaya.scoring.r2_score},
                cv=folds,
                warn=False,
            ).fit(_apply(values, self.scale), target)
            self.penalty = np.where(constant, np.nan, _numpy(self.model.best_alphas_))
            self.cv_score = np.where(constant, np.nan, _numpy(self.model.cv_scores_))
        return self

    def predict(self, x: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "row voxel"]:
        """Responses to new rows."""
        with _backend(self.backend):
            return _numpy(self.model.predict(_apply(np.asarray(x), self.scale))) + self.level


Scale = tuple[np.ndarray, np.ndarray]


def _scale(x: np.ndarray, standardize: bool) -> Scale:
    mean = x.mean(0, dtype=np.float64)
    varies = x.max(0) > x.min(0)
    if not standardize:
        return mean, np.ones(x.shape[1])
    return mean, np.where(varies, x.std(0, dtype=np.float64), 1)


def _apply(x: np.ndarray, scale: Scale) -> np.ndarray:
    return (x - scale[0]) / scale[1]


def _target(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.asarray(y, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"y: responses of shape {values.shape}; expected row by voxel.")
    level = values.mean(0)
    if not np.isfinite(level).all():
        bad = np.flatnonzero(~np.isfinite(level))
        raise ValueError(
            f"y: NaN or infinite responses in {len(bad)} of {len(level)} voxels (first: voxel "
            f"{bad[0]}). Leave those voxels or rows out."
        )
    constant = values.max(0) == values.min(0)
    return np.where(constant, 0.0, values - level), level, constant


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)


@contextlib.contextmanager
def _backend(name: str) -> Iterator[Any]:
    """himalaya with a backend of ours; the user's own is put back."""
    himalaya = optional("himalaya")
    for part in ("backend", "kernel_ridge", "ridge", "scoring"):
        optional(f"himalaya.{part}")
    before = himalaya.backend.get_backend()
    himalaya.backend.set_backend(name)
    try:
        yield himalaya
    finally:
        himalaya.backend.set_backend(before)
