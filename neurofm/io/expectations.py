"""What a model says it expects, compared with how it was built and with what it is given.

`expect` puts the `Contract` of a card or file on a model. From then on its tokenizer (or the model
itself, where it has none) compares every batch with it before it looks at the signal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from neurofm.amplitudes import FAR_IN_A_BATCH, channel_amplitudes, check_amplitudes
from neurofm.batch import Batch
from neurofm.contract import Contract, Given


def built_for(model: nn.Module) -> Contract:
    """What a network can take because of how it was built: rate, kinds, number of channels.

    Read from the attributes of the model and its parts: `contract`, or `sfreq`, `kinds` and
    `n_channels` with `by_place` ("all": exactly so many, "first": at most).
    """
    joined = Contract()
    where = f"{type(model).__name__} and its parts"
    for part in _parts(model):
        own = getattr(part, "_built_for", None) or getattr(part, "contract", None)
        joined = joined.joined(own if isinstance(own, Contract) else _read(part), where=where)
    return joined


def _parts(model: nn.Module) -> list[nn.Module]:
    found = [model]
    for holder in (model, getattr(model, "tokenizer", None)):
        for name in ("tokenizer", "encoder"):
            part = getattr(holder, name, None)
            if isinstance(part, nn.Module) and all(part is not item for item in found):
                found.append(part)
    return found


def _read(part: nn.Module) -> Contract:
    sfreq = None if getattr(part, "resample", False) else getattr(part, "sfreq", None)
    kinds = getattr(part, "kinds", None) or ()
    n, place = getattr(part, "n_channels", None), getattr(part, "by_place", None)
    return Contract(
        sfreq=sfreq if isinstance(sfreq, (int, float)) else None,
        kinds=tuple(kind.name.lower() for kind in kinds),
        n_channels=n if place == "all" else None,
        max_channels=n if place == "first" else None,
    )


def expect(model: nn.Module, card: Mapping[str, Any], *, where: str, anew: bool = False) -> None:
    """Put what a card says on a model: `card`, `contract`, and the check of every batch.

    Args:
        card: Its `expects` and `statistics`, where there are any.
        where: Name of the card or file.
        anew: Forget what its tokenizer expected: both were trained on the same data since.

    Raises:
        ValueError: `expects` has unknown fields, or contradicts how the network was built.
    """
    said = Contract.of(card.get("expects") or {}, where=where)
    part = getattr(model, "tokenizer", None)
    part = part if isinstance(part, nn.Module) else model
    built = built_for(model)
    # A tokenizer with a card of its own knows what it was trained on where the model does not say.
    apart = part is not model and hasattr(part, "_built_for") and not anew
    base = part.contract if apart else Contract()
    contract = cast(Contract, base).joined(said, where=f"{where}: it and its tokenizer")
    contract = contract.joined(built, where=f"{where}: `expects` and `init_args`")
    known = (card.get("statistics") or {}).get("amplitude") or getattr(part, "_amplitudes", {})
    model.card = dict(card)  # type: ignore[assignment]
    own = built_for(part)
    inner = getattr(model, "encoder", None)
    if isinstance(inner, nn.Module):
        alone = built_for(inner)
        inner._built_for, inner.contract = alone, contract  # type: ignore[assignment]
        inner._amplitudes = known  # type: ignore[assignment]
    for item, alone in ((part, own), (model, built)):
        item._built_for, item.contract = alone, contract  # type: ignore[assignment]
        item._amplitudes = known  # type: ignore[assignment]
    if not getattr(part, "_compares", False):
        part._compares = True  # type: ignore[assignment]
        part.register_forward_pre_hook(_before_forward)


def contract_of(model: Any) -> Contract:
    """The contract of a card or file, or what the network was built for."""
    return getattr(model, "contract", None) or built_for(model)


def compare_input(model: nn.Module, batch: Batch) -> None:
    """Compare a batch with the contract that `expect` put on a model; nothing if there is none."""
    contract = getattr(model, "contract", None)
    if not isinstance(contract, Contract):
        return
    name = type(model).__name__
    contract.compare(Given.of(batch), model=name, what="the batch")
    known = getattr(model, "_amplitudes", None)
    # Attributions scale a signal down to nothing on purpose, and follow gradients to it.
    if not known or batch.x.requires_grad or batch.x.device.type != "cpu":
        return
    if not torch.compiler.is_compiling():
        found = channel_amplitudes(batch)
        check_amplitudes(found, known, model=name, what="the batch", far=FAR_IN_A_BATCH)


def _before_forward(module: nn.Module, given: tuple[Any, ...]) -> None:
    if given and isinstance(given[0], Batch):
        compare_input(module, given[0])
