"""Retrieve: from brain activity to the embedding of a stimulus, and to the stimulus among others.

A window's estimate should be more similar to the embedding of its own stimulus than to those of
others (contrast), and close to it (squared error). Scores are those of a search, by cosine, among
all different stimuli of the validation or test side; how many those are is logged beside them.

Source: Defossez et al. 2023 (arXiv 2208.12266), Benchetrit et al. 2024 (arXiv 2310.19812).
Axes: batch = window; candidate = different stimulus; feature [time].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, BrainModel, Readout
from neurofm.cards import configured
from neurofm.data import StimulusTable
from neurofm.metrics import ranks
from neurofm.nn.processes import batch_mean, gather, place
from neurofm.nn.retrieval import ClipLoss
from neurofm.readouts import PooledLinear
from neurofm.shapes import Float, Int
from neurofm.tasks.base import Task

_ROWS = 512  # searches at once


@runtime_checkable
class Contrast(Protocol):
    """A loss of estimates and candidates, such as `neurofm.nn.ClipLoss`."""

    def forward(self, estimate: Tensor, candidate: Tensor) -> Tensor:
        """Loss; the first candidates are the targets of the estimates."""
        ...


@configured
class Retrieve(Task):
    """Estimate the embedding of the stimulus of each window.

    Logged for validation and test: `top_1`, `top_5` and `relative_median_rank` (0 = always found,
    about 0.5 = chance) of single windows, with `candidates`, the number of stimuli searched. Where
    a person met a stimulus several times, the same with `_averaged`: of the mean of the person's
    estimates. With `pool` the same with `_pool`, for the larger set.

    Args:
        model: With `estimates(batch)`, such as `models.ImageBrainModule`; of any other the
            `readout` reads the estimate.
        n_outputs: Features of the embedding; must agree with the data's.
        readout: From embedding to estimate; a linear map of the pooled embedding if not given.
            Without effect where the model has estimates of its own.
        contrast: `nn.ClipLoss()` if not given.
        share: Weight of the contrast; the squared error has the rest.
        pool: File of a `StimulusTable` with further candidates for the test.
        top_k: How many of the most similar candidates count as found.

    Source of the defaults: Benchetrit et al. 2024 (Adam 3e-4, share 0.75).
    """

    def __init__(
        self,
        model: BrainModel,
        *,
        n_outputs: int,
        readout: Readout | None = None,
        contrast: Contrast | None = None,
        share: float = 0.75,
        pool: Path | str | None = None,
        top_k: Sequence[int] = (1, 5),
        lr: float = 3e-4,
        weight_decay: float = 0.0,
        betas: Sequence[float] = (0.9, 0.999),
        warmup: float = 0.0,
        final_lr: float = 1.0,
    ) -> None:
        super().__init__(
            lr=lr, weight_decay=weight_decay, betas=betas, warmup=warmup, final_lr=final_lr
        )
        if not 0 <= share <= 1:
            raise ValueError(f"Retrieve: share is {share}, expected 0 to 1.")
        self.model = cast(nn.Module, model)
        self.readout: nn.Module | None = None
        if not hasattr(model, "estimates"):
            self.readout = cast(nn.Module, readout or PooledLinear(model.dim, n_outputs))
            width = cast(Readout, self.readout).n_outputs
        else:
            width = getattr(model, "n_estimates", model.dim)
        if width != n_outputs:
            raise ValueError(
                f"Retrieve: {type(self.readout or model).__name__} has {width} outputs, n_outputs "
                f"is {n_outputs}. Build it for embeddings of {n_outputs} features."
            )
        self.n_outputs, self.share, self.top_k = n_outputs, share, tuple(top_k)
        self.contrast = cast(nn.Module, contrast or ClipLoss())
        self.pool = None if pool is None else StimulusTable.read(pool)
        self._scored: list[dict[str, Tensor]] = []
        # Of the last whole validation or test, float32 and int64: "estimate", "target", "subject",
        # "recording" and "onset" of its windows.
        self.retrieved: dict[str, np.ndarray] = {}

    def setup(self, stage: str) -> None:
        """Compare the number of features with the data's."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        given = getattr(data, "n_outputs", self.n_outputs)
        if given != self.n_outputs:
            raise ValueError(
                f"Retrieve: n_outputs is {self.n_outputs}, but the data's embeddings have {given} "
                "features. Name the embeddings the model is built for (`embeddings` of the data)."
            )

    def estimates(self, batch: Batch) -> dict[str, Tensor]:
        """By use: "clip" to search with, and "mse", the same where the model has but one."""
        if self.readout is None:
            found = cast(Any, self.model).estimates(batch)
        else:
            found = {"clip": self.readout(cast(BrainModel, self.model).encode(batch))}
        return {"mse": found["clip"], **found}

    def forward(self, batch: Batch) -> Tensor:
        """Estimates to search with, batch x feature [x time]."""
        return self.estimates(batch)["clip"]

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Contrast and squared error.

        Raises:
            ValueError: The batch has no embeddings as targets.
        """
        if batch.y is None or not batch.y.is_floating_point():
            raise ValueError(
                "Retrieve: the targets of the batch are no embeddings. Set `embeddings` in the "
                "recipe's data."
            )
        found = self.estimates(batch)
        target = batch.y.float()
        values = {}
        loss = target.new_zeros(())
        if self.share > 0:
            values["contrast"] = self.contrast(found["clip"], target)
            loss = loss + self.share * values["contrast"]
        if self.share < 1:
            error = F.mse_loss(found["mse"].float(), target)
            values["squared_error"] = batch_mean(error, len(target))
            loss = loss + (1 - self.share) * values["squared_error"]
        self.record({"loss": loss, **values}, stage=stage, size=len(batch), bar="loss")
        if stage != "train":
            self._scored.append(
                {
                    "estimate": found["clip"].detach().float(),
                    "target": target,
                    "subject": batch.subject,
                    "recording": batch.recording,
                    "onset": batch.onset.double(),
                }
            )
        return loss

    def _score(self, stage: str) -> None:
        scored, self._scored = self._scored, []
        whole = {key: torch.cat([part[key] for part in scored]) for key in scored[0]}
        if place()[1] > 1:
            whole = {key: gather(value).flatten(0, 1) for key, value in whole.items()}
        found = {key: value.cpu().numpy() for key, value in whole.items()}
        # A batch that does not divide by the processes has some of its windows twice.
        windows = np.stack([found["recording"].astype(np.float64), found["onset"]], axis=1)
        first = np.sort(np.unique(windows, axis=0, return_index=True)[1])
        self.retrieved = {key: value[first] for key, value in found.items()}
        estimate, target = self.retrieved["estimate"], self.retrieved["target"]
        scores = search_scores(
            estimate, target, subject=self.retrieved["subject"], top_k=self.top_k
        )
        if stage == "test" and self.pool is not None:
            larger = search_scores(
                estimate,
                target,
                subject=self.retrieved["subject"],
                pool=self.pool.vectors,
                top_k=self.top_k,
            )
            scores |= {f"{name}_pool": value for name, value in larger.items()}
        for name, value in scores.items():
            self.log(f"{stage}/{name}", value, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Search among the stimuli of the validation side."""
        self._score("validate")

    def on_test_epoch_end(self) -> None:
        """Search among the stimuli of the test side."""
        self._score("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Estimates to search with."""
        return self(batch)


def search_scores(
    estimate: Float[np.ndarray, "window feature *time"],
    target: Float[np.ndarray, "window feature *time"],
    *,
    subject: Int[np.ndarray, " window"] | None = None,
    pool: Float[np.ndarray, "stimulus feature *time"] | None = None,
    top_k: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """Scores of a search among all different targets, and of averaged repeats.

    Args:
        subject: Whose windows: estimates of one person and target are averaged; of all windows of
            a target if not given.
        pool: Further candidates.
        top_k: Left out where there are no more candidates.

    Returns:
        "candidates"; "top_1", "top_5", "relative_median_rank" of single windows; the same with
        "_averaged" if a target comes more than once.
    """
    flat = np.ascontiguousarray(target.reshape(len(target), -1))
    candidates, which = np.unique(flat, axis=0, return_inverse=True)
    which = which.reshape(-1)
    if pool is not None:
        more = np.unique(pool.reshape(len(pool), -1).astype(flat.dtype), axis=0)
        known = {row.tobytes() for row in candidates}
        fresh = np.array([row.tobytes() not in known for row in more], dtype=bool)
        candidates = np.concatenate([candidates, more[fresh]])
    guesses = estimate.reshape(len(estimate), -1)
    scores = {"candidates": float(len(candidates))}
    scores |= _named(_ranks(candidates, guesses, which), len(candidates), top_k, "")
    person = np.zeros(len(which), dtype=np.int64) if subject is None else subject
    pairs, group = np.unique(np.stack([person, which]), axis=1, return_inverse=True)
    if pairs.shape[1] < len(which):
        group = group.reshape(-1)
        count = np.bincount(group)
        mean = np.zeros((len(count), guesses.shape[1]))
        np.add.at(mean, group, guesses)
        rank = _ranks(candidates, mean / count[:, None], pairs[1])
        scores |= _named(rank, len(candidates), top_k, "_averaged")
    return scores


def _ranks(candidates: np.ndarray, guesses: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Number of better candidates, in parts that fit into memory."""
    parts = [
        ranks(candidates, guesses[i : i + _ROWS], which=which[i : i + _ROWS])
        for i in range(0, len(guesses), _ROWS)
    ]
    return np.concatenate(parts)


def _named(rank: np.ndarray, n: int, top_k: Sequence[int], end: str) -> dict[str, float]:
    scores = {f"top_{k}{end}": float((rank < k).mean()) for k in top_k if k < n}
    return {**scores, f"relative_median_rank{end}": float(np.median(rank) / n)}
