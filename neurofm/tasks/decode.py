"""Decode: predict labels of windows from a brain model.

The model is fine-tuned, or trained from scratch if its weights are fresh; `adapt` says what of it
learns (`neurofm.tasks.adaptations`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neurofm.batch import Batch, BrainModel, Readout
from neurofm.cards import configured
from neurofm.data.module import BrainData
from neurofm.metrics import balanced_accuracy
from neurofm.nn.processes import gather, place
from neurofm.readouts import PooledLinear
from neurofm.tasks.adaptations.base import Adaptation, Full, trained_parameters
from neurofm.tasks.adaptations.merging import adapted
from neurofm.tasks.base import Curve, Rate, Task
from neurofm.tasks.stored_tokens import OwnTokens
from neurofm.tasks.token_cache import TokenCache, has_frozen_tokenizer

log = logging.getLogger(__name__)


@configured
class Decode(Task):
    """Predict the class of each window.

    Args:
        model: Pretrained or fresh.
        n_outputs: Classes; must agree with the data's labels.
        readout: From embedding to logits; a linear map of the pooled embedding if not given.
        adapt: What of the model learns: all (`Full`) if not given; see
            `neurofm.tasks.adaptations`.
        lr: Of the readout, and of adapters.
        backbone_lr: Of the model's own weights, as a fraction of `lr`.
        label_smoothing: Of the cross-entropy.
        class_weights: Weight of each class in the training loss; all 1 if not given.
        focusing: Windows that are decoded already count less in the training loss, by this power of
            one minus the probability of their class (the focal loss); 0 counts all alike.
        allow_overlap: Test even if the model has seen recordings of the test side in an earlier
            training; the scores then come with `test/seen_in_training`, the number of those
            recordings.
        cache_tokens: Keep the tokens of a frozen tokenizer in memory.

    Source of the defaults: BrainOmni's downstream protocol (AdamW 0.9/0.99, weight decay 0.05, head
    at ten times the rate of the backbone, label smoothing 0.1); Lin et al. 2017 (focal loss; rare
    seizures in TFM-Tokenizer: weights 0.2 and 0.8, focusing 0.7).
    """

    def __init__(
        self,
        model: BrainModel,
        *,
        n_outputs: int,
        readout: Readout | None = None,
        adapt: Adaptation | None = None,
        lr: float = 3e-4,
        backbone_lr: float = 0.1,
        label_smoothing: float = 0.1,
        class_weights: Sequence[float] | None = None,
        focusing: float = 0.0,
        allow_overlap: bool = False,
        weight_decay: float = 0.05,
        betas: Sequence[float] = (0.9, 0.99),
        warmup: float = 0.1,
        cache_tokens: bool = True,
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, betas=betas, warmup=warmup)
        self.model = cast(nn.Module, model)
        self.readout = cast(nn.Module, readout or PooledLinear(model.dim, n_outputs))
        made = cast(Readout, self.readout).n_outputs
        if made != n_outputs:
            raise ValueError(f"Decode: the readout has {made} outputs, n_outputs is {n_outputs}.")
        self.n_outputs = n_outputs
        self.adapt = Full() if adapt is None else adapt
        self.backbone_lr = backbone_lr
        self.label_smoothing = label_smoothing
        if focusing < 0:
            raise ValueError(f"Decode: focusing is {focusing:g}, expected 0 or more.")
        weights = [1.0] * n_outputs if class_weights is None else list(class_weights)
        if len(weights) != n_outputs or min(weights) < 0 or not any(weights):
            raise ValueError(
                f"Decode: class_weights {weights}, expected {n_outputs} numbers of 0 or more, one "
                "per class, not all 0."
            )
        self.class_weights, self.focusing = weights, focusing
        self.allow_overlap = allow_overlap
        self.adapt.prepare(self.model)
        cached = cache_tokens and has_frozen_tokenizer(self.model)
        self._cache = TokenCache(cast(Any, model).tokenize) if cached else None
        self._own = OwnTokens(self.model)
        self._overlap = 0
        self._scored: list[Tensor] = []
        # Of the last whole validation or test: "y", "p", "recording" and "onset" of its windows.
        self.predicted: dict[str, np.ndarray] = {}

    def setup(self, stage: str) -> None:
        """Compare the number of classes with the data's, and forget tokens of other data."""
        super().setup(stage)
        if self._cache is not None:
            self._cache.clear()
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            if self.adapt.injects and not self._idle:
                self.rest()
            count, whole = trained_parameters(self)
            how = type(self.adapt).__name__
            log.info(
                "%s: %d of %d parameters learn (%.2f %%)", how, count, whole, 100 * count / whole
            )
        given = getattr(data, "n_outputs", self.n_outputs)
        if given != self.n_outputs:
            raise ValueError(
                f"Decode: n_outputs is {self.n_outputs}, but the data have {given} labels "
                f"({getattr(data, 'labels', None)}). Make the recipe's two values agree."
            )
        if stage == "fit" and isinstance(data, BrainData) and data.embeddings is None:
            _require_classes(data)

    def on_test_start(self) -> None:
        """Refuse, or label, a test on recordings that the model has seen."""
        leaks = self.overlap()
        if leaks and not self.allow_overlap:
            raise ValueError(
                f"Decode: {leaks[0].count} recordings of the test side were among those the model "
                f"was trained on, such as {leaks[0].example}. {leaks[0].remedy} To test all the "
                "same, with the score labelled: `allow_overlap: true`."
            )
        super().on_test_start()
        self._overlap = sum(leak.count for leak in leaks)

    def train(self, mode: bool = True) -> Decode:
        """Training mode, but for what rests (dropout and running statistics stay off)."""
        super().train(mode)
        if mode:
            self.adapt.settle(self.model)
        return self

    def rates(self) -> list[Rate]:
        """The readout and adapters at full rate, the model's own weights slower."""
        own = 1.0 if self.adapt.injects else self.backbone_lr
        parts = self.adapt.rates(self.model)
        return [(self.readout, 1.0), *((part, own * factor) for part, factor in parts)]

    def curves(self, cosine: Callable[[int, int], float], total: int) -> list[Curve]:
        """As every task's, or the adaptation's own."""
        usual = super().curves(cosine, total)
        own = [self.adapt.curve(self, cosine, readout=not i) for i in range(len(usual))]
        return [mine or other for mine, other in zip(own, usual, strict=True)]

    def on_train_start(self) -> None:
        """Remember the training side, and begin."""
        resumed = bool(self._resume)
        super().on_train_start()
        if not resumed:
            self.adapt.start(self)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """What learns in this step."""
        self.adapt.before_step(self)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What of the gradients is used."""
        self.adapt.before_update(self)

    def teardown(self, stage: str) -> None:
        """Thaw what only this run left alone."""
        self.adapt.end(self)
        super().teardown(stage)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Besides what every task keeps: the weights with adapters merged, to load the model by."""
        super().on_save_checkpoint(checkpoint)
        found = adapted(self.model)
        if found is not None:
            checkpoint["adapted"] = found

    def forward(self, batch: Batch) -> Tensor:
        """Logits, batch x class, of the batch as it is: nothing is taken from the cache."""
        return self.readout(cast(BrainModel, self.model).encode(batch))

    def _cached(self, batch: Batch) -> Batch:
        batch = self._own(batch)
        return batch if self._cache is None or batch.tokens is not None else self._cache(batch)

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Cross-entropy; smoothed, weighted and focused in training."""
        if batch.y is None:
            raise ValueError("Decode: the batch has no labels; set `labels` in the recipe's data.")
        logits = self(self._cached(batch))
        if stage == "train":
            loss = self._training_loss(logits, batch.y)
        else:
            loss = F.cross_entropy(logits, batch.y)
        right = (logits.argmax(1) == batch.y).float().mean()
        self.record({"loss": loss, "accuracy": right}, stage=stage, size=len(batch), bar="accuracy")
        if stage != "train":
            window = batch.recording, batch.onset.double().view(torch.int64)
            p = logits.detach().double().softmax(1).view(torch.int64)
            self._scored.append(torch.stack([batch.y, *window, *p.unbind(1)], 1))
        return loss

    def _training_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing, reduction="none")
        weight = logits.new_tensor(self.class_weights)[y]
        if self.focusing:
            right = logits.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
            weight = weight * (1 - right) ** self.focusing
        loss = (weight * each).mean()
        penalty = self.adapt.penalty(self.model)
        return loss if penalty is None else loss + penalty

    def _balanced(self, stage: str) -> None:
        scored, self._scored = torch.cat(self._scored), []
        if place()[1] > 1:
            scored = gather(scored).flatten(0, 1)
            # A batch that does not divide by the processes has some of its windows twice.
            windows, at = scored[:, 1:3].unique(dim=0, return_inverse=True)
            first = at.new_full((len(windows),), len(scored))
            number = torch.arange(len(scored), device=at.device)
            scored = scored[first.scatter_reduce(0, at, number, "amin")]
        true, p = scored[:, 0].cpu().numpy(), scored[:, 3:].contiguous().view(torch.float64).cpu()
        self.predicted = {
            "y": true,
            "p": p.numpy(),
            "recording": scored[:, 1].cpu().numpy(),
            "onset": scored[:, 2].contiguous().view(torch.float64).cpu().numpy(),
        }
        predicted = p.argmax(1).numpy()
        self.log(
            f"{stage}/balanced_accuracy", float(balanced_accuracy(true, predicted)), sync_dist=True
        )

    def on_validation_epoch_end(self) -> None:
        """Balanced accuracy over the whole validation side."""
        self._balanced("validate")

    def on_test_epoch_end(self) -> None:
        """Balanced accuracy over the whole test side."""
        self._balanced("test")
        if self._overlap:
            self.log("test/seen_in_training", float(self._overlap), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits, batch x class."""
        return self(self._cached(batch))


def _require_classes(data: BrainData) -> None:
    """Every label has a training window."""
    labels, y = data.labels, None if data.windows is None else data.windows.y
    if labels is None or y is None or data.split is None:
        return
    train, whole = (
        np.bincount(part, minlength=len(labels)) for part in (y[list(data.split.train)], y)
    )
    absent = [name for name, n in zip(labels, train, strict=True) if not n]
    if absent:
        found = ", ".join(f"{name} {n}" for name, n in zip(labels, whole, strict=True))
        raise ValueError(
            f"Decode: no training window of the classes {absent}; on all sides together: {found}. "
            "Correct `labels`, take more recordings or another split, or leave the classes out."
        )
