"""Encode: predict the responses of a brain from stimuli.

The model may be of one person or of many; responses that were not measured count nowhere. How well
each channel is predicted is its correlation over the held-out stimuli; the epoch in which its mean
is highest is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.batch import Pairs, ResponseModel
from neurofm.cards import configured
from neurofm.nn.response_losses import masked_concordance, masked_huber, masked_mse
from neurofm.tasks.base import Task
from neurofm.tasks.channel_scores import ChannelScores
from neurofm.tasks.guard import damaged_pairs, some

_LOSSES: dict[str, tuple[Any, ...]] = {
    "mse": (masked_mse,),
    "huber": (masked_huber,),
    "mse+concordance": (masked_mse, masked_concordance),
}


@configured
class Encode(Task):
    """Predict responses to stimuli.

    A model may say more than a prediction: `penalty()` is added to the training loss, `loss_parts`
    are numbers of channels (hemispheres) whose losses are added and whose scores are averaged, and
    `take_regions` is given the data's name of an area for each channel.

    Args:
        model: From stimuli to responses.
        loss: "mse", "huber" (errors above 1 count linearly), or "mse+concordance" (the published
            loss of the semantic readout: squared error and 1 - concordance).
        lr: Learning rate, after a warm-up.
        warmup: Fraction of all steps spent rising from a tenth of it.
        final_lr: Learning rate at the end, as a fraction; 1 keeps it.

    Source of the defaults: transformer brain encoder (AdamW 5e-4, weight decay 1e-4, constant). The
    semantic readout took Adam 1e-4, TRIBE Adam 1e-4 with a tenth of warm-up and a decay.
    """

    best = ("validate/r", "max")

    def __init__(
        self,
        model: ResponseModel,
        *,
        loss: str = "mse",
        lr: float = 5e-4,
        weight_decay: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.999),
        warmup: float = 0.0,
        final_lr: float = 1.0,
    ) -> None:
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            betas=betas,
            eps=1e-8,
            warmup=warmup,
            final_lr=final_lr,
        )
        if loss not in _LOSSES:
            raise ValueError(f"Encode: loss {loss!r}, expected one of {', '.join(_LOSSES)}.")
        self.model = cast(nn.Module, model)
        self.loss = loss
        self._scores = ChannelScores()
        # Of the last whole validation or test: correlations, `person channel`, NaN where a
        # response was constant or measured fewer than twice.
        self.r: np.ndarray = np.zeros((0, model.n_channels))

    @property
    def _parts(self) -> list[int]:
        n = cast(ResponseModel, self.model).n_channels
        return list(getattr(self.model, "loss_parts", (n,)))

    def setup(self, stage: str) -> None:
        """Compare the number of channels with the data's, and tell the model their areas."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        n = cast(ResponseModel, self.model).n_channels
        given = getattr(data, "n_channels", None)
        if isinstance(given, int) and given != n:
            raise ValueError(
                f"Encode: the model predicts {n} channels, the data have {given}. Make the "
                "recipe's n_channels agree; are the responses of other people or another mask?"
            )
        names = getattr(data, "regions", None)
        if names and getattr(self.model, "needs_regions", False):
            cast(Any, self.model).take_regions(tuple(names))

    def forward(self, batch: Pairs) -> Tensor:
        """Responses, batch x channel, or batch x channel x time."""
        return cast(ResponseModel, self.model).respond(batch.stimulus, subject=batch.subject)

    def step(self, batch: Pairs, stage: str) -> Tensor:
        """The loss over what was measured."""
        prediction, parts = self(batch), self._parts
        if prediction.shape != batch.y.shape:
            raise ValueError(
                f"Encode: the model gives {list(prediction.shape)} for responses of "
                f"{list(batch.y.shape)}; batch, channels and samples must agree."
            )
        sides = zip(
            *(value.split(parts, 1) for value in (prediction, batch.y, batch.mask)), strict=True
        )
        losses = [function(*side) for side in sides for function in _LOSSES[self.loss]]
        loss = torch.stack(losses).sum()
        self.record({"loss": loss}, stage=stage, size=len(batch), bar="loss")
        if stage != "train":
            self._scores.add(prediction, batch.y, batch.mask, batch.subject)
        elif hasattr(self.model, "penalty"):
            loss = loss + self.model.penalty()  # type: ignore[operator]
        return loss

    def _summarize(self, stage: str) -> None:
        scores, self._scores = self._scores.result(), ChannelScores()
        if scores is None:
            return
        self.r = scores.r
        sides = np.split(scores.r, np.cumsum(self._parts)[:-1], axis=1)
        means = [float(np.nanmean(side)) for side in sides if np.isfinite(side).any()]
        if not means:
            warnings.warn(
                f"Encode: no channel has two measured responses that differ among the {stage} "
                "stimuli, so nothing can be scored.",
                stacklevel=2,
            )
        self.log_dict(
            {
                f"{stage}/r": float(np.mean(means)) if means else 0.0,
                f"{stage}/scored": float(np.isfinite(scores.r).sum()),
                f"{stage}/unscored": float(scores.unscored),
                f"{stage}/constant_predictions": float(scores.constant),
            },
            prog_bar=False,
        )

    def on_validation_epoch_end(self) -> None:
        """Correlations over the whole validation side."""
        self._summarize("validate")

    def on_test_epoch_end(self) -> None:
        """Correlations over the whole test side."""
        self._summarize("test")

    def predict_step(self, batch: Pairs, batch_idx: int) -> Tensor:
        """Responses, as `forward`."""
        return self(batch)

    @contextmanager
    def _named(self, batch: Any) -> Iterator[None]:
        """Models of responses name what is wrong with a stimulus by themselves."""
        yield

    def _stop(self, step: int, batch: Any) -> None:
        begin = f"Encode: the loss of step {step} is NaN or infinite"
        damaged = damaged_pairs(batch)
        if damaged:
            raise ValueError(
                f"{begin}, and so are values of {some(damaged)}. Leave them out; a response that "
                "was not measured has mask False."
            )
        raise ValueError(
            f"{begin}, but stimuli and responses are not: the training diverges. Resume from the "
            f"last checkpoint with a smaller lr than {self.lr:g} or with "
            "trainer.gradient_clip_val."
        )
