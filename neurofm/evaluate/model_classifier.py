"""A brain model with a readout as a scikit-learn classifier of windows.

For pipelines, cross-validation, grid search and MOABB's evaluations, which know arrays and nothing
of recordings: whether a pretrained model has seen the people who are decoded cannot be checked
here (`neurofm benchmark` does).
Axes: window channel time; output = class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import nn

from neurofm import cards
from neurofm.amplitudes import (
    FAR_IN_A_BATCH,
    channel_amplitudes,
    check_amplitudes,
    summarize,
)
from neurofm.batch import Batch, BrainModel
from neurofm.evaluate.window_input import WindowInput, as_epochs
from neurofm.io import load_model
from neurofm.shapes import Float
from neurofm.tasks import Decode
from neurofm.tasks.in_memory import fit_windows

_CHUNK = 32  # windows predicted at once


class ModelClassifier(ClassifierMixin, BaseEstimator):
    """A model, pretrained or fresh, that is trained with a readout on the windows given to `fit`.

    Deterministic by `seed` on one machine; after `fit` it can be pickled.

    Args:
        model: Name of a card, file of weights, `class_path`/`init_args` of a fresh model, or a
            model, which is copied and never changed. Arguments that a spec leaves out and the class
            has are taken from the windows: `n_channels`, `n_times`, `sfreq`, `channels`,
            `n_outputs`, `n_classes`.
        sfreq: Hz; not needed for Epochs.
        channels: Names in order, for models that look names or places up; not needed for Epochs.
        kinds: As in `WindowInput`, like `unit` and `montage`.
        readout: As `class_path`/`init_args`; `dim`, `n_outputs` and `model` are filled in. A linear
            map of the pooled embedding if not given.
        adapt: What of the model learns, as `class_path`/`init_args` of `tasks.adaptations`; all of
            it if not given.
        lr: Of the readout, at its peak.
        backbone_lr: Of the model, as a fraction of `lr`.
        steps: Of training, whatever the number of windows.
        batch_size: Windows in a step.
        task: Further arguments of `neurofm.tasks.Decode`, such as `weight_decay`.
        trainer: Further arguments of Lightning's Trainer.
        seed: Of fresh weights, dropout and the order of windows.
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, Any] | nn.Module,
        *,
        sfreq: float | None = None,
        channels: Sequence[str] | None = None,
        kinds: str | Sequence[str] = "eeg",
        unit: str = "uV",
        montage: str | None = "standard_1005",
        readout: Mapping[str, Any] | None = None,
        adapt: Any = None,
        lr: float = 1e-3,
        backbone_lr: float = 1.0,
        steps: int = 300,
        batch_size: int = 16,
        task: Mapping[str, Any] | None = None,
        trainer: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.sfreq = sfreq
        self.channels = channels
        self.kinds = kinds
        self.unit = unit
        self.montage = montage
        self.readout = readout
        self.adapt = adapt
        self.lr = lr
        self.backbone_lr = backbone_lr
        self.steps = steps
        self.batch_size = batch_size
        self.task = task
        self.trainer = trainer
        self.seed = seed

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def fit(self, X: Any, y: Any) -> ModelClassifier:
        """Train on these windows.

        Args:
            X: `window channel time` in `unit`, or MNE Epochs.
            y: Label of each window, of any type.

        Raises:
            ValueError: One class only, or windows that are not what the model or the arguments say.
        """
        batch = self._batch(X, reset=True)
        if y is None:
            raise ValueError("ModelClassifier requires y to be passed, but the target y is None.")
        y = column_or_1d(y, warn=True)
        check_consistent_length(batch.x, y)
        check_classification_targets(y)
        if self.adapt is not None and not isinstance(self.adapt, Mapping):
            raise ValueError(
                f"ModelClassifier: adapt is {self.adapt!r}; expected a mapping such as "
                "{'class_path': 'neurofm.tasks.LoRA', 'init_args': {'rank': 4}}."
            )
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"ModelClassifier: all {len(y)} windows are of one class, {self.classes_[0]}; "
                "expected two or more."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._made(batch)
            task = Decode(
                cast(BrainModel, model),
                n_outputs=len(self.classes_),
                readout=self._readout(model),
                adapt=None if self.adapt is None else cards.build(dict(self.adapt)),
                lr=self.lr,
                backbone_lr=self.backbone_lr,
                **{"cache_tokens": False, **(self.task or {})},
            )
            fit_windows(
                task,
                replace(batch, y=torch.from_numpy(target).long()),
                steps=self.steps,
                batch_size=self.batch_size,
                seed=self.seed,
                trainer=self.trainer,
            )
        self.model_, self.readout_ = task.model, task.readout
        self.amplitudes_ = summarize(channel_amplitudes(batch, windows=_CHUNK))
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "window output"]:
        """Probability of each class, in the order of `classes_`.

        Raises:
            ValueError: Windows unlike those of training, in shape or amplitude.
        """
        check_is_fitted(self)
        batch = self._batch(X, reset=False)
        check_amplitudes(
            channel_amplitudes(batch),
            self.amplitudes_,
            model="ModelClassifier",
            what="the windows",
            far=FAR_IN_A_BATCH,
        )
        model, logits = cast(BrainModel, self.model_), []
        with torch.no_grad():
            for part in torch.arange(len(batch)).split(_CHUNK):
                some = batch._map(lambda tensor, part=part: tensor[part])
                logits.append(self.readout_(model.encode(some)))
        return torch.cat(logits).double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each window."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _batch(self, X: Any, *, reset: bool) -> Batch:
        if as_epochs(X) is None:
            X = validate_data(
                self,
                X,
                reset=reset,
                dtype="numeric",
                allow_nd=True,
                ensure_2d=False,
                ensure_all_finite=False,  # WindowInput says which window
            )
        about = WindowInput(self.sfreq, self.channels, self.kinds, self.unit, self.montage)
        try:
            return about.batch(X)
        except ValueError as error:
            raise ValueError(f"ModelClassifier: {error}") from error

    def _made(self, batch: Batch) -> nn.Module:
        if isinstance(self.model, nn.Module):
            return deepcopy(self.model)
        if not isinstance(self.model, Mapping):
            return cast(nn.Module, load_model(self.model))
        known = {
            "n_channels": batch.x.shape[1],
            "n_times": batch.x.shape[2],
            "sfreq": batch.sfreq,
            "channels": None if batch.names is None else list(batch.names),
            "n_outputs": len(self.classes_),
            "n_classes": len(self.classes_),
        }
        return _filled(self.model, known)

    def _readout(self, model: nn.Module) -> Any:
        if self.readout is None:
            return None
        known = {"dim": model.dim, "n_outputs": len(self.classes_), "model": model}
        return _filled(self.readout, known)


def _filled(spec: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """What a spec describes, with the arguments that it leaves out and its class takes."""
    takes = inspect.signature(cards.load_class(spec["class_path"])).parameters
    arguments = {name: value for name, value in known.items() if name in takes}
    return cards.build({**spec, "init_args": {**arguments, **(spec.get("init_args") or {})}})
