"""SPDNet on covariances that are recentred by recording, as an estimator.

What aligning signals cannot do: covariances are shrunk first, as the device recorded them, and
recentred afterwards, so that directions in which there is next to nothing but noise are not blown
up to be as loud as the others.

Source: SPDNet (Huang & Van Gool 2017); recentring by domain as in TSMNet (Kobler et al. 2022,
arXiv 2206.01323), with Euclidean means (He & Wu 2020); mirror images as in MVCNet
(arXiv 2502.17482).
Axes: window channel time; output = class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from neurofm.batch import Batch
from neurofm.data.views import ReflectChannels
from neurofm.models.spdnet import SPDNet
from neurofm.nn.spd import shrunk_covariance
from neurofm.readouts import PooledLinear
from neurofm.shapes import Float, Int


class SPDNetClassifier(ClassifierMixin, BaseEstimator):
    """Small networks on recentred covariances; their probabilities are averaged.

    Windows of a recording are recentred by those that are given together: in training by its
    training windows, in prediction by all windows to be predicted, without labels. So a prediction
    uses unlabelled test windows, which the attribute `align` says.

    Mixtures are learned by a few steps of Adam with a readout beside them; the readout is then
    solved anew, as logistic regression, which from few windows keeps it from fitting noise.

    Args:
        widths: As in `SPDNet`, but at most all channels; all of them if not given.
        classes: Names of the classes in their order, to learn from mirror images as well: "left"
            and "right" in them are exchanged, and so are the channels. None for no mirror images.
        shrinkage: Share of white noise in every covariance, before recentring.
        networks: That are averaged.
        steps: Of training each, whatever the number of windows; with 0 mixtures stay random, and
            with all channels the classifier is logistic regression in the tangent space.
        batch_size: Covariances in a step, mirror images included.
        lr: Of Adam, at the start; it follows half a cosine.
        dropout: Of features, in these steps.
        c: Inverse strength of the ridge penalty of the readout, of features whose mean squared norm
            is 1.
        seed: Of weights, dropout and order.
    """

    wants: ClassVar[str] = "batch"
    align: ClassVar[str] = "euclidean offline"

    def __init__(
        self,
        *,
        widths: Sequence[int] | None = (48,),
        classes: Sequence[str] | None = None,
        shrinkage: float = 0.02,
        networks: int = 3,
        steps: int = 60,
        batch_size: int = 64,
        lr: float = 1e-3,
        dropout: float = 0.5,
        c: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.widths = widths
        self.classes = classes
        self.shrinkage = shrinkage
        self.networks = networks
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr
        self.dropout = dropout
        self.c = c
        self.seed = seed

    def fit(self, x: Batch, y: Int[np.ndarray, " window"]) -> SPDNetClassifier:
        """Train on these windows.

        Args:
            y: Positions of classes.

        Raises:
            ValueError: One class only, windows without a covariance, or channels without a partner.
        """
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"SPDNetClassifier: all {len(y)} windows are of class {self.classes_.tolist()}; "
                "expected two or more classes."
            )
        matrix = recentred(x, self.shrinkage)
        target = torch.from_numpy(np.searchsorted(self.classes_, y))
        if self.classes is not None:
            reflect = ReflectChannels(self.classes)
            order = reflect.order(x)
            images = np.asarray(reflect.mirrored)[y]
            known = np.isin(images, self.classes_)  # the mirror image of a class may be missing
            mirrored = matrix[torch.from_numpy(known)][:, order][:, :, order]
            matrix = torch.cat([matrix, mirrored])
            places = np.searchsorted(self.classes_, images[known])
            target = torch.cat([target, torch.from_numpy(places)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.networks_ = [self._trained(matrix, target) for _ in range(self.networks)]
        return self

    def _trained(
        self, matrix: Float[Tensor, "window channel channel"], target: Tensor
    ) -> tuple[SPDNet, LogisticRegression]:
        n = matrix.shape[1]
        widths = (n,) if self.widths is None else [min(width, n) for width in self.widths]
        model = SPDNet(n_channels=n, widths=widths)
        self._learn_mixtures(model, matrix, target)
        model.eval()
        features = _features(model, matrix)
        power = float((features**2).sum(1).mean())
        readout = LogisticRegression(C=self.c / power, class_weight="balanced", max_iter=1000)
        return model, readout.fit(features, target.numpy())

    def _learn_mixtures(self, model: SPDNet, matrix: Tensor, target: Tensor) -> None:
        readout = PooledLinear(model.dim, len(self.classes_), zero=True)
        dropout = nn.Dropout(self.dropout)
        parameters = [*model.parameters(), *readout.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(self.steps, 1))
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.steps):
            if len(order) < min(self.batch_size, len(target)):
                order = torch.randperm(len(target))
            part, order = order[: self.batch_size], order[self.batch_size :]
            logits = readout.linear(dropout(model.of_covariances(matrix[part])))
            loss = F.cross_entropy(logits, target[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    @property
    def parameters(self) -> int:
        """Numbers of all networks."""
        mixtures = sum(p.numel() for model, _ in self.networks_ for p in model.parameters())
        return mixtures + sum(r.coef_.size + r.intercept_.size for _, r in self.networks_)

    def predict_proba(self, x: Batch) -> Float[np.ndarray, "window output"]:
        """Probability of each class.

        Raises:
            ValueError: A recording with a single window, or as for `fit`.
        """
        alone = [i for i in x.recording.unique().tolist() if int((x.recording == i).sum()) == 1]
        if alone:
            raise ValueError(
                f"SPDNetClassifier: one window only of the recordings {alone}. Recentred by itself "
                "it is the identity, whatever it holds. Give all windows of a recording together."
            )
        matrix = recentred(x, self.shrinkage)
        found = [readout.predict_proba(_features(m, matrix)) for m, readout in self.networks_]
        return np.mean(found, axis=0)

    def predict(self, x: Batch) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]


def _features(model: SPDNet, matrix: Tensor) -> Float[np.ndarray, "window feature"]:
    with torch.no_grad():
        return model.of_covariances(matrix).double().numpy()


def recentred(x: Batch, shrinkage: float) -> Float[Tensor, "window channel channel"]:
    """Shrunk covariances whose mean over the windows of each recording is the identity.

    Raises:
        ValueError: Windows of one sample, of different channels, or a recording whose covariances
            are singular.
    """
    n = x.x.shape[-1]
    if n < 2 or not bool(x.channel_mask.all()):
        raise ValueError(
            f"SPDNetClassifier: windows of {n} samples and up to {x.x.shape[1]} channels; expected "
            "two samples or more, and the same channels in all windows (PickChannels)."
        )
    matrix = shrunk_covariance(x.x.double(), shrinkage)
    result = torch.empty(matrix.shape)
    for recording in x.recording.unique():
        own = x.recording == recording
        values, vectors = torch.linalg.eigh(matrix[own].mean(0))
        if not bool(values[0] > 1e-12 * values[-1].abs()):
            raise ValueError(
                f"SPDNetClassifier: the mean covariance of recording {int(recording)} is singular "
                f"(flat channels?). Interpolate its channels, or raise shrinkage ({shrinkage:g})."
            )
        whiten = (vectors * values**-0.5) @ vectors.T
        result[own] = (whiten @ matrix[own] @ whiten).float()
    return result
