"""Small networks of braindecode, trained from scratch, as scikit-learn estimators on windows.

They take `window channel time` in microvolts, in a wider band than classical pipelines.

Source: Lawhern et al. 2018 (EEGNet) and the other networks of braindecode.
Axes: window channel time; output = class.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from neurofm.data.standardize import Standardize
from neurofm.models.braindecode import BraindecodeModel
from neurofm.shapes import Float


class BraindecodeClassifier(ClassifierMixin, BaseEstimator):
    """A braindecode network trained from scratch on few windows.

    Channels are standardised with the mean and deviation of the training windows. A share of the
    training windows, drawn by class, chooses the epoch; test windows are never seen.

    Args:
        name: Class name in `braindecode.models`.
        sfreq: Hz, of the windows.
        arguments: The network's further constructor arguments.
        max_epochs: Upper limit; the learning rate follows half a cosine over it.
        max_steps: Batches after which training ends whatever the epochs, in whole epochs.
        batch_size: Windows.
        lr: Of AdamW at the start.
        weight_decay: Of AdamW.
        validate: Share of the training windows that chooses the epoch; 0 keeps the last.
        patience: Epochs without a lower validation loss before training stops.
        seed: Of weights, dropout, shuffling and the validation windows.
    """

    def __init__(
        self,
        name: str = "EEGNet",
        *,
        sfreq: float = 160.0,
        arguments: Mapping[str, Any] | None = None,
        max_epochs: int = 80,
        max_steps: int | None = None,
        batch_size: int = 16,
        lr: float = 5e-3,
        weight_decay: float = 0.01,
        validate: float = 0.2,
        patience: int = 30,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.sfreq = sfreq
        self.arguments = arguments
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validate = validate
        self.patience = patience
        self.seed = seed

    def fit(
        self, x: Float[np.ndarray, "window channel time"], y: np.ndarray
    ) -> BraindecodeClassifier:
        """Train on these windows.

        Raises:
            ValueError: One class only, or too few windows to set some of each class aside.
        """
        self.classes_, target = np.unique(y, return_inverse=True)
        counts = np.bincount(target)
        if len(counts) < 2 or counts.min() < 2 or len(x) != len(target):
            found = dict(zip(self.classes_.tolist(), counts.tolist(), strict=True))
            raise ValueError(
                f"BraindecodeClassifier: {len(x)} windows, labels {found}; expected two or "
                "more classes with at least two windows each."
            )
        train = np.arange(len(target))
        held = train[:0]
        if self.validate:
            n_held = max(round(self.validate * len(target)), len(counts))
            train, held = train_test_split(
                train, test_size=n_held, stratify=target, random_state=self.seed
            )
        self.scale_ = Standardize("channel").fit(x[train])
        windows = torch.from_numpy(self.scale_.transform(x))
        labels = torch.from_numpy(target).long()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model_ = BraindecodeModel(
                self.name,
                n_channels=x.shape[1],
                n_times=x.shape[2],
                sfreq=self.sfreq,
                n_outputs=len(counts),
                arguments=self.arguments,
            )
            # Some networks use 0.01, with which the running statistics need hundreds of steps; a
            # few windows give a few dozen, and predictions then rest on the initial values.
            for layer in self.model_.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.momentum = 0.1
            self._train(windows, labels, torch.from_numpy(train), torch.from_numpy(held))
        return self

    def _train(self, x: Tensor, y: Tensor, train: Tensor, held: Tensor) -> None:
        model = self.model_
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        epochs = self.max_epochs
        if self.max_steps is not None:
            epochs = min(epochs, ceil(self.max_steps / ceil(len(train) / self.batch_size)))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        best, waited, weights = float("inf"), 0, None
        self.losses_: list[tuple[float, float]] = []  # of training and validation windows
        for _ in range(epochs):
            model.train()
            order = train[torch.randperm(len(train))]
            total = 0.0
            for part in order.split(self.batch_size):
                if len(part) < 2:  # batch normalisation needs two
                    continue
                loss = F.cross_entropy(model.logits(x[part]), y[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(part)
            schedule.step()
            if not len(held):
                self.losses_.append((total / len(train), float("nan")))
                continue
            model.eval()
            with torch.no_grad():
                judged = float(F.cross_entropy(model.logits(x[held]), y[held]))
            self.losses_.append((total / len(train), judged))
            if judged < best:
                best, waited, weights = judged, 0, deepcopy(model.state_dict())
            else:
                waited += 1
                if waited >= self.patience:
                    break
        if weights is not None:
            model.load_state_dict(weights)
        model.eval()

    def predict_proba(
        self, x: Float[np.ndarray, "window channel time"]
    ) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`."""
        windows = torch.from_numpy(self.scale_.transform(x))
        with torch.no_grad():
            logits = torch.cat([self.model_.logits(part) for part in windows.split(256)])
        return logits.double().softmax(1).numpy()

    def predict(self, x: Float[np.ndarray, "window channel time"]) -> np.ndarray:
        """The most probable class of each window."""
        return self.classes_[self.predict_proba(x).argmax(1)]
