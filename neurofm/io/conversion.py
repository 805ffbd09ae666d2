"""Published checkpoints into files of ours, with an account of every tensor.

A network that was published under other names knows how its tensors are called here
(`rename_keys`). All must find their place; nothing is written otherwise, and the account says what
was missing, unknown or misshapen, and which model card would fit better.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurofm import cards
from neurofm.io.checkpoint import save_model, sha256
from neurofm.io.expectations import expect
from neurofm.io.model_card import about
from neurofm.io.tensors import existing, read_tensors, some

Shape = tuple[int, ...]
_NEAR = 0.5  # fraction of a card's tensors from which on it is worth naming


@dataclass(frozen=True)
class Conversion:
    """What became of the tensors of a published checkpoint.

    Args:
        path: File written; None if nothing was.
        used: Our names of the tensors taken over.
        unused: Names in the checkpoint that the model computes itself.
        missing: Our names and shapes of tensors that the checkpoint lacks.
        unknown: Tensors of the checkpoint without a place, as they would be called here.
        misshapen: Our names, the shape in the checkpoint and the shape expected.
        nearest: Another card, and the fraction of its tensors that the checkpoint holds; None if
            no other fits better, or none has half of its tensors there.
    """

    path: Path | None
    used: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[tuple[str, Shape], ...] = ()
    unknown: tuple[tuple[str, Shape], ...] = ()
    misshapen: tuple[tuple[str, Shape, Shape], ...] = ()
    nearest: tuple[str, float] | None = None

    @property
    def complete(self) -> bool:
        """Whether every tensor found its place."""
        return not (self.missing or self.unknown or self.misshapen)


class ConversionError(ValueError):
    """A checkpoint that does not fit; `account` holds the full lists."""

    def __init__(self, message: str, account: Conversion) -> None:
        super().__init__(message)
        self.account = account


def convert_checkpoint(path: str | Path, model: str, out: str | Path) -> Conversion:
    """Turn a published checkpoint into a file of ours.

    Args:
        path: A flat state dict, as torch pickle (tensors only) or safetensors.
        model: Name of the model card it belongs to.
        out: Ends in `.safetensors`.

    Raises:
        ConversionError: A tensor is missing, unknown or has another shape; the message begins the
            lists, its `account` holds all of them. Nothing is written.
        ValueError: Damaged, needs more than tensors to be read, or a model without a published
            checkpoint.
    """
    source = existing(path)
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"convert: {out} must end in .safetensors.")
    card = cards.read("models", model)
    built: nn.Module = cards.build({key: card[key] for key in ("class_path", "init_args")})
    if not hasattr(built, "rename_keys"):
        raise ValueError(
            f"Model {model}: {type(built).__name__} knows no published checkpoint. A file of "
            "neurofm's own is loaded by neurofm.load_model as it is."
        )
    tensors = read_tensors(source)
    account, renamed = _account(built, tensors)
    if not account.complete:
        raise _refusal(account, built, tensors, where=f"{source} as {model}")
    bad = [key for key, value in renamed.items() if bool(value.isnan().any())]
    if bad:
        raise ValueError(f"{source}: NaN in {some(bad)}. Download the file again.")
    built.load_state_dict(renamed)
    name = Path(str(model)).stem
    expect(built, about(card) | {"card": name}, where=f"card {model}")
    origin = {"file": source.name, "sha256": sha256(source)}
    return Conversion(save_model(built, out, converted_from=origin), account.used, account.unused)


def _account(
    model: nn.Module, tensors: Mapping[str, Tensor]
) -> tuple[Conversion, dict[str, Tensor]]:
    """What fits, what does not, and the tensors under our names."""
    renamed: dict[str, Tensor] = model.rename_keys(dict(tensors))  # type: ignore[operator]
    own = model.state_dict()
    kept = {id(tensor) for tensor in renamed.values()}

    def shape(value: Tensor) -> Shape:
        return tuple(value.shape)

    fitting = [k for k in own if k in renamed and shape(renamed[k]) == shape(own[k])]
    found = Conversion(
        path=None,
        used=tuple(sorted(fitting)),
        unused=tuple(key for key, tensor in tensors.items() if id(tensor) not in kept),
        missing=tuple((k, shape(v)) for k, v in own.items() if k not in renamed),
        unknown=tuple((k, shape(v)) for k, v in renamed.items() if k not in own),
        misshapen=tuple(
            (k, shape(renamed[k]), shape(v))
            for k, v in own.items()
            if k in renamed and shape(renamed[k]) != shape(v)
        ),
    )
    return found, renamed


def _refusal(
    account: Conversion, model: nn.Module, tensors: Mapping[str, Tensor], *, where: str
) -> ConversionError:
    missing = [name for name, _ in account.missing]
    unknown = [name for name, _ in account.unknown]
    misshapen = [f"{name} {found} instead of {own}" for name, found, own in account.misshapen]
    n = len(model.state_dict())
    here = len(account.used) / max(n, len(account.used) + len(unknown) + len(misshapen))
    best = max(_fits(tensors), key=lambda item: item[1], default=("", 0.0))
    nearest = best if best[1] > max(here, _NEAR) else None
    if nearest is None:
        advice = "No other model card fits better: it is of another model or size."
    elif nearest[1] == 1:
        advice = f"It fits the card {nearest[0]} completely: use `--model {nearest[0]}`."
    else:
        advice = f"Nearest is the card {nearest[0]}: {nearest[1]:.0%} of its tensors are there."
    text = (
        f"{where}: does not fit {type(model).__name__} ({n} tensors, {len(account.used)} found). "
        f"Missing {len(missing)}: {some(missing)}. Unknown {len(unknown)}: {some(unknown)}. "
        f"Other shape {len(misshapen)}: {some(misshapen)}. {advice} Nothing was written."
    )
    fields = {**account.__dict__, "nearest": nearest}
    return ConversionError(text, Conversion(**fields))


def _fits(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """Every card with a published checkpoint, and the fraction of its tensors that are there."""
    bare = {key: torch.empty(value.shape, device="meta") for key, value in tensors.items()}
    for name in cards.names("models"):
        card = cards.read("models", name)
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not hasattr(cards.load_class(card["class_path"]), "rename_keys"):
                continue
            with torch.device("meta"):
                model: Any = cards.build({k: card[k] for k in ("class_path", "init_args")})
            account, renamed = _account(model, bare)
            yield name, len(account.used) / max(len(model.state_dict()), len(renamed))
