"""Tokens read from a store, made into what a model's own tokenizer would have given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import nn

from neurofm.batch import Batch
from neurofm.data.tokenized.identity import token_options, tokenizer_name, with_values
from neurofm.tasks.token_cache import has_frozen_tokenizer


class OwnTokens:
    """Refuses stored tokens of another tokenizer; looks up values that were not stored.

    Args:
        model: Its tokenizer does not change while this is in use.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._name = ""

    def __call__(self, batch: Batch) -> Batch:
        """The batch with complete tokens; one without stored tokens comes back as it is.

        Raises:
            ValueError: The tokens are not those of the model's tokenizer, or it is not frozen.
        """
        tokens = batch.tokens
        if tokens is None or not tokens.made_by:
            return batch
        own = self._expected(tokens.made_by)
        if tokens.made_by != own:
            raise ValueError(
                f"The stored tokens were made by {tokens.made_by}, the model's tokenizer is {own}. "
                "Tokenize with the model's own (`neurofm tokenize --config RECIPE`), or build the "
                "model on the tokenizer that made them."
            )
        tokenizer = cast(nn.Module, cast(Any, self._model).tokenizer)
        return replace(batch, tokens=with_values(tokens, tokenizer))

    def _expected(self, made_by: str) -> str:
        if not has_frozen_tokenizer(self._model):
            raise ValueError(
                f"The data are stored tokens (made by {made_by}), but {type(self._model).__name__} "
                "has no frozen tokenizer whose tokens they could be. Train on the signal: leave "
                "`tokens` out of the recipe's data."
            )
        if not self._name:
            tokenizer = cast(nn.Module, cast(Any, self._model).tokenizer)
            self._name = tokenizer_name(tokenizer, token_options(self._model))
        return self._name
