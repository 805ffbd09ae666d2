"""Whose tokens they are: a tokenizer known by its weights, its arguments and how it is called.

Tokens of one tokenizer are noise to a model of another, and nothing in their shape tells. So stored
tokens carry the name made here, and tasks compare it with that of the model's own tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurofm.batch import Tokens
from neurofm.cards import spec_of
from neurofm.shapes import Float, Int

Lookup = Callable[[Tensor], Tensor]


def token_options(model: nn.Module) -> dict[str, Any]:
    """How a model calls its tokenizer, beside the batch: its property `token_options`."""
    return dict(getattr(model, "token_options", {}))


def tokenizer_name(tokenizer: nn.Module, options: Mapping[str, Any]) -> str:
    """Class and hash of a tokenizer: equal names mean equal tokens of equal signals.

    Args:
        options: From `token_options`.
    """
    about = json.dumps([spec_of(tokenizer), dict(options)], sort_keys=True)
    found = hashlib.sha256(about.encode())
    for key, value in sorted(tokenizer.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        found.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"{type(tokenizer).__name__}-{found.hexdigest()[:16]}"


def check_started(tokenizer: nn.Module, *, where: str) -> None:
    """Stop at a code book that no data have touched: its codes mean nothing, or would be made up.

    Raises:
        ValueError: It has not been started.
    """
    for name, part in tokenizer.named_modules():
        held = dict(part.named_buffers(recurse=False))
        mark = held.get("initialized", held.get("count") if "codebook" in held else None)
        if mark is not None and not bool(mark.any()):
            raise ValueError(
                f"{where}: the code book of the {type(tokenizer).__name__} ({name or 'itself'}) is "
                "untrained, so its tokens mean nothing. Train it (`neurofm fit --config "
                "train_tokenizer_...`) and name that run, or name a converted checkpoint."
            )


def lookup_of(tokenizer: nn.Module) -> Lookup | None:
    """The function from codes, `batch token level`, to values, if the tokenizer has one."""
    for owner in (tokenizer, getattr(tokenizer, "quantizer", None)):
        found = getattr(owner, "lookup", None)
        if callable(found):
            return cast(Lookup, found)
    return None


def values_of(
    tokenizer: nn.Module, codes: Int[Tensor, "batch token level"]
) -> Float[Tensor, "batch token dim"] | None:
    """Values that codes stand for; None if the tokenizer cannot say."""
    lookup = lookup_of(tokenizer)
    if lookup is None:
        return None
    with torch.no_grad():
        try:
            found = lookup(codes)
        except (RuntimeError, ValueError, IndexError):
            return None
        if found.ndim == 4 and found.shape[2] == 1:  # a code book without the axis of levels
            found = found.squeeze(2)
    return found if found.shape[:2] == codes.shape[:2] and found.ndim == 3 else None


def with_values(tokens: Tokens, tokenizer: nn.Module) -> Tokens:
    """Stored tokens with the values that were not kept; padding of the batch stays zero.

    Raises:
        ValueError: The tokenizer cannot give them.
    """
    if tokens.values.shape[2]:
        return tokens
    found = None if tokens.codes is None else values_of(tokenizer, tokens.codes.clamp(min=0))
    if found is None:
        raise ValueError(
            f"{type(tokenizer).__name__}: cannot look up the values of codes, and the stored "
            "tokens hold codes alone. Make them with `neurofm tokenize --values float16`."
        )
    assert tokens.codes is not None
    padding = tokens.codes[..., :1] < 0
    return replace(tokens, values=found.masked_fill(padding, 0), codes=tokens.codes.clamp(min=0))
