"""EncodeInContext: learn to read the encoding model of a voxel from a few of its responses.

Meta-training: a step shows the network contexts of many voxels and scores the linear models that
it reads from them on stimuli outside the contexts.

Source: leomqyu/BraInCoRL (Apache-2.0), arXiv 2505.15813.
Axes: batch = voxel; item of the context; query; weight, the bias last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import ContextEncoder, Contexts
from neurofm.cards import configured
from neurofm.data.voxel_data import VoxelData, VoxelLoader
from neurofm.models import predict_each
from neurofm.shapes import Float
from neurofm.tasks.base import Task
from neurofm.tasks.in_memory import fit_quietly


def weight_loss(
    weights: Float[Tensor, "batch weight"],
    known: Float[Tensor, "batch weight"],
    *,
    l2: float | int = 1.0,
) -> Float[Tensor, ""]:
    """Distance of linear models: 1 - cosine without the bias, plus `l2` times the squared error."""
    cosine = F.cosine_similarity(weights[:, :-1], known[:, :-1], dim=1)
    return (1 - cosine).mean() + l2 * F.mse_loss(weights, known)


@configured
class EncodeInContext(Task):
    """Train an in-context encoder of voxels.

    The loss is the squared error of the predicted responses. Where the voxels' true weights are
    known (made-up voxels, or weights fitted to all data) the distance from them is logged too.

    Args:
        model: Reads weights from contexts.
        lr: Constant, until the validation loss stops falling.
        weight_decay: Of all parameters.
        factor: On the learning rate, when that has not fallen for `patience` epochs.
        patience: Epochs.
        cooldown: Epochs after a reduction in which nothing is counted.
        min_lr: The learning rate is not reduced below it.
        monitor: Logged number that says whether training goes on well, lower is better; published:
            `validate/weight_loss`, which needs true weights.

    Source of the defaults: BraInCoRL.
    """

    best = ("validate/explained_variance", "max")

    def __init__(
        self,
        model: ContextEncoder,
        *,
        lr: float = 1e-4,
        weight_decay: float = 0.1,
        factor: float = 0.1,
        patience: int = 5,
        cooldown: int = 2,
        min_lr: float = 1e-5,
        monitor: str = "validate/loss",
    ) -> None:
        super().__init__(lr=lr, weight_decay=weight_decay, betas=(0.9, 0.999), eps=1e-8)
        self.model = cast(nn.Module, model)
        self.factor, self.patience, self.cooldown = factor, patience, cooldown
        self.min_lr, self.monitor = min_lr, monitor

    def setup(self, stage: str) -> None:
        """Compare the number of features with the data's."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        given, mine = getattr(data, "n_features", None), cast(Any, self.model).n_features
        if given is not None and given != mine:
            raise ValueError(
                f"EncodeInContext: the model reads {mine} features, the data have {given}. Make "
                "the recipe's n_features agree with the embedding."
            )

    def forward(self, batch: Contexts) -> Tensor:
        """Predicted responses, batch x query."""
        return predict_each(self.model(batch.stimulus, batch.response), batch.query)

    def step(self, batch: Contexts, stage: str) -> Tensor:
        """Squared error of the responses to the queries."""
        weights = self.model(batch.stimulus, batch.response)
        predicted = predict_each(weights, batch.query)
        loss = F.mse_loss(predicted, batch.y)
        found = {"loss": loss}
        if stage != "train":
            error = (batch.y - predicted).var(1, correction=0)
            explained = 1 - error / batch.y.var(1, correction=0).clamp(min=1e-12)
            found["explained_variance"] = explained.mean()
            if batch.weights is not None:
                found["weight_loss"] = weight_loss(weights, batch.weights)
        self.record(found, stage=stage, size=len(batch), bar="loss")
        return loss

    def predict_step(self, batch: Contexts, batch_idx: int) -> Tensor:
        """Predicted responses, batch x query."""
        return self(batch)

    def configure_optimizers(self) -> Any:
        """AdamW on everything; the rate falls when validation stops improving."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=self.factor,
            patience=self.patience,
            threshold=1e-4,
            cooldown=self.cooldown,
            min_lr=self.min_lr,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": self.monitor},
        }

    # Going on after an interruption

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Besides what every task keeps: the place in the epoch."""
        super().on_save_checkpoint(checkpoint)
        loader = self.trainer.train_dataloader
        if isinstance(loader, VoxelLoader):
            checkpoint["voxels"] = loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the place, if training goes on."""
        super().on_load_checkpoint(checkpoint)
        self._place = checkpoint.get("voxels")

    def on_train_start(self) -> None:
        """Go on at the next batch."""
        super().on_train_start()
        state, self._place = getattr(self, "_place", None), None
        loader = self.trainer.train_dataloader
        if state is not None and isinstance(loader, VoxelLoader):
            loader.load_state_dict(state)

    @contextmanager
    def _named(self, batch: Any) -> Iterator[None]:
        """The model names what is wrong with a context by itself."""
        yield

    def _stop(self, step: int, batch: Any) -> None:
        finite = bool(batch.response.isfinite().all()) and bool(batch.y.isfinite().all())
        raise ValueError(
            f"EncodeInContext: the loss of step {step} is NaN or infinite"
            + (
                f", but the responses are not: the training diverges. Use a smaller lr than "
                f"{self.lr:g}, or trainer.gradient_clip_val."
                if finite
                else ", and so are responses. Leave those voxels or trials out."
            )
        )


def meta_train(
    task: EncodeInContext, data: VoxelData, *, epochs: int, **trainer: Any
) -> list[dict[str, float]]:
    """Train without logs and checkpoints, as in a notebook.

    Args:
        task: Is changed; in evaluation mode afterwards.
        epochs: Of `data.steps_per_epoch` steps.
        trainer: Arguments of Lightning's Trainer, such as `accelerator="gpu"`.

    Returns:
        The numbers of each epoch's validation by name.
    """
    history = History()
    settings = {"gradient_clip_val": 1.0, **trainer, "max_epochs": epochs}
    fit_quietly(task, settings, callbacks=history, datamodule=data)
    task.eval()
    return history.epochs


class History(lightning.Callback):
    """Keeps the numbers of each validation."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """After the task has logged them."""
        found = trainer.callback_metrics
        kept = {name: float(value) for name, value in found.items() if name.startswith("validate")}
        self.epochs.append(kept)
