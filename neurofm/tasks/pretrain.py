"""Pretrain: teach a brain model the structure of unlabelled signal through an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from neurofm.batch import Batch, BrainModel, Objective, Tokenizer
from neurofm.cards import configured
from neurofm.objectives import MaskedCodes
from neurofm.tasks.base import Task
from neurofm.tasks.code_use import CodeUse
from neurofm.tasks.stored_tokens import OwnTokens
from neurofm.tasks.token_cache import TokenCache, has_frozen_tokenizer


@configured
class Pretrain(Task):
    """Train a model by an objective on top of its frozen tokenizer.

    The loss is worth something only below `unigram_entropy`, the loss of a guess that knows how
    often each code occurs and nothing else; both are logged.

    Args:
        model: Its tokenizer is trained already and frozen. Batches may bring tokens that it made
            before (`neurofm tokenize`).
        objective: Masked codes if not given.
        cache_tokens: Keep each window's tokens in memory.

    Source of the defaults: stage 2 of BrainOmni tiny (AdamW 0.9/0.95, weight decay 0.05).
    """

    def __init__(
        self,
        model: BrainModel,
        *,
        objective: Objective | None = None,
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        betas: Sequence[float] = (0.9, 0.95),
        warmup: float = 0.1,
        final_lr: float = 0.1,
        cache_tokens: bool = True,
    ) -> None:
        super().__init__(
            lr=lr, weight_decay=weight_decay, betas=betas, warmup=warmup, final_lr=final_lr
        )
        self.model = cast(nn.Module, model)
        self.objective = cast(nn.Module, objective or MaskedCodes())
        cached = cache_tokens and has_frozen_tokenizer(self.model)
        self._cache = TokenCache(cast(Any, model).tokenize) if cached else None
        self._own = OwnTokens(self.model)
        self._use = CodeUse()

    def setup(self, stage: str) -> None:
        """Tokens kept from other data are worth nothing for these."""
        super().setup(stage)
        if self._cache is not None:
            self._cache.clear()

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Loss of the objective."""
        batch = self._own(batch)
        if batch.tokens is None and self._cache is not None:
            batch = self._cache(batch)
        elif batch.tokens is None and has_frozen_tokenizer(self.model):
            batch = replace(batch, tokens=cast(Any, self.model).tokenize(batch))
        out = self.objective(self.model, batch)
        self.record(out, stage=stage, size=len(batch), bar="loss")
        if batch.tokens is not None and batch.tokens.codes is not None:
            n_codes = cast(Tokenizer, self.model.tokenizer).n_codes
            # A model may predict the coarse levels alone; the loss is compared with theirs.
            levels = getattr(self.model, "n_levels", batch.tokens.codes.shape[-1])
            self._use.add(stage, batch.tokens.codes[batch.tokens.mask][:, :levels], n_codes)
        return out["loss"]

    def _entropy(self, stage: str) -> None:
        health = self._use.pop(stage)
        if health:
            self.log(f"{stage}/unigram_entropy", health["entropy"], sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Loss of a guess by frequency, training side."""
        super().on_train_epoch_end()
        self._entropy("train")

    def on_validation_epoch_end(self) -> None:
        """Loss of a guess by frequency, validation side."""
        self._entropy("validate")

    def on_test_epoch_end(self) -> None:
        """Loss of a guess by frequency, test side."""
        self._entropy("test")
