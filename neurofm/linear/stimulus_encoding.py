"""Encoding of one response per stimulus from features of images and their captions.

Ridge per voxel on standardised features and responses, folds over stimuli, and the two scores of
that literature, which are different numbers: 2V2 accuracy and correlation over voxels, beside the
usual correlation over stimuli.

Source: Oota et al. 2022 (visio-linguistic encoding; the grid of penalties and the MLP are choices
of this project, the paper published no code).
Axes: stimulus; feature; voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from neurofm.linear.blocks import check_features
from neurofm.linear.leave_one_out import LeaveOneOutRidge
from neurofm.metrics import correlation_per_channel, correlation_per_stimulus, two_v_two
from neurofm.shapes import Float

PENALTIES = tuple(10.0**i for i in range(-3, 7))


@runtime_checkable
class Estimator(Protocol):
    """Fits and predicts."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> object:
        """Features and responses, `stimulus feature` and `stimulus voxel`."""
        ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Responses, `stimulus voxel`."""
        ...


@dataclass(frozen=True)
class StimulusEncoding:
    """Scores of held-out stimuli, each the mean over folds.

    Args:
        predicted: Held-out predictions, in units of the training fold's standard deviations.
        two_v_two: Share of pairs matched right; chance 0.5.
        r_over_voxels: Correlation over voxels of each stimulus, then the mean over stimuli.
        r_over_stimuli: Correlation over stimuli of each voxel; NaN for constant voxels.
        by_fold: `two_v_two` and `r_over_voxels` of each fold.
    """

    predicted: Float[np.ndarray, "stimulus voxel"]
    two_v_two: float
    r_over_voxels: float
    r_over_stimuli: Float[np.ndarray, " voxel"]
    by_fold: Float[np.ndarray, "fold 2"]


def encode_stimuli(
    x: Float[np.ndarray, "stimulus feature"],
    y: Float[np.ndarray, "_ voxel"],
    *,
    estimator: Estimator | None = None,
    folds: int = 10,
    seed: int = 0,
) -> StimulusEncoding:
    """Cross-validate over stimuli in random order; one row per stimulus (average repeats first).

    Args:
        estimator: Ridge of penalties 1e-3 to 1e6 by leaving out one stimulus at a time if not
            given; `VoxelwiseRidge(folds=5)` for inner folds, `MLPHead()` for the nonlinear one.
        seed: Of the order in which stimuli are dealt to folds.
    """
    features, responses = np.asarray(x), np.asarray(y, dtype=np.float64)
    check_features(features, len(responses))
    n = len(responses)
    if folds < 2 or n < 3 * folds:
        raise ValueError(
            f"encode_stimuli: {n} stimuli are too few for {folds} folds of three or more."
        )
    if not np.isfinite(responses).all():
        raise ValueError("encode_stimuli: NaN or infinite responses; leave those voxels out.")
    model = estimator or LeaveOneOutRidge(PENALTIES)
    order = np.random.default_rng(seed).permutation(n)
    predicted = np.empty_like(responses)
    by_fold, by_voxel = [], []
    for test in np.array_split(order, folds):
        train = np.setdiff1d(order, test)
        moments = [_moments(values[train]) for values in (features, responses)]
        a, b = (
            (values - mean) / std
            for values, (mean, std) in zip((features, responses), moments, strict=True)
        )
        model.fit(a[train], b[train])
        made = predicted[test] = model.predict(a[test])
        true = b[test]
        by_fold.append((two_v_two(true, made), np.nanmean(correlation_per_stimulus(true, made))))
        by_voxel.append(correlation_per_channel(true, made))
    known = ~np.isnan(by_voxel)
    total, count = np.nansum(by_voxel, 0), known.sum(0)
    scores = np.array(by_fold, dtype=np.float64)
    return StimulusEncoding(
        predicted=predicted,
        two_v_two=float(scores[:, 0].mean()),
        r_over_voxels=float(scores[:, 1].mean()),
        r_over_stimuli=np.where(count > 0, total / np.maximum(count, 1), np.nan),
        by_fold=scores,
    )


class MLPHead:
    """The optional nonlinear baseline: one hidden layer, dropout, early stopping.

    Args:
        hidden: Units of the hidden layer.
        dropout: Of the hidden units.
        lr: Of Adam.
        epochs: At most.
        patience: Epochs without a lower validation error before it stops; the best weights are
            kept.
        validate: Share of the training stimuli that early stopping looks at.
        seed: Of weights, batches, dropout and the validation stimuli.
    """

    def __init__(
        self,
        *,
        hidden: int = 512,
        dropout: float | int = 0.2,
        lr: float | int = 1e-3,
        epochs: int = 200,
        patience: int = 10,
        batch_size: int = 64,
        validate: float | int = 0.1,
        seed: int = 0,
    ) -> None:
        self.hidden, self.dropout, self.lr = hidden, dropout, lr
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.validate, self.seed = validate, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> MLPHead:
        """Train on `stimulus feature` and `stimulus voxel`, standardised beforehand."""
        a, b = (torch.as_tensor(np.asarray(v, dtype=np.float32)) for v in (x, y))
        if len(a) != len(b) or len(a) < 10:
            raise ValueError(
                f"MLPHead: {len(a)} features, {len(b)} responses; expected 10 or more."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = nn.Sequential(
                nn.Linear(a.shape[1], self.hidden),
                nn.ReLU(),
                nn.Dropout(self.dropout),
                nn.Linear(self.hidden, b.shape[1]),
            )
            self._train(a, b)
        return self

    def _train(self, a: torch.Tensor, b: torch.Tensor) -> None:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.lr)
        order = torch.randperm(len(a))
        held = order[: max(2, round(self.validate * len(a)))]
        rest = order[len(held) :]
        best, since = float("inf"), 0
        kept = {k: v.clone() for k, v in self.network.state_dict().items()}
        for _ in range(self.epochs):
            self.network.train()
            for rows in rest[torch.randperm(len(rest))].split(self.batch_size):
                optimizer.zero_grad()
                F.mse_loss(self.network(a[rows]), b[rows]).backward()
                optimizer.step()
            self.network.eval()
            with torch.no_grad():
                error = float(F.mse_loss(self.network(a[held]), b[held]))
            since += 1
            if error < best:
                best, since = error, 0
                kept = {k: v.clone() for k, v in self.network.state_dict().items()}
            if since >= self.patience:
                break
        self.network.load_state_dict(kept)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Responses, `stimulus voxel`."""
        self.network.eval()
        with torch.no_grad():
            return self.network(torch.as_tensor(np.asarray(x, dtype=np.float32))).numpy()


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    std = np.where(values.max(0) > values.min(0), values.std(0, dtype=np.float64), 1)
    return values.mean(0, dtype=np.float64), std
