"""What models see: Batch, Tokens, Embedding, Pairs, Contexts, and the roles that pass them on.

Masks are True where there is data. A padded channel has kind -1, mask False and zeros elsewhere; a
channel that a recording lacks is never silently filled with zeros.
Axes: batch channel time; batch token dim level.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from neurofm.shapes import Bool, Float, Int


class _Movable:
    """Moves every tensor of a dataclass; Lightning calls `to` on whatever has it."""

    def _map(self, function: Any) -> Any:
        changed = {}
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changed[item.name] = function(value)
            elif isinstance(value, _Movable):
                changed[item.name] = value._map(function)
        return replace(self, **changed)  # type: ignore[type-var]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Any:
        """A copy on `device`."""
        return self._map(lambda tensor: _apply(tensor, "to", device, non_blocking=non_blocking))

    def pin_memory(self) -> Any:
        """A copy in page-locked memory."""
        return self._map(lambda tensor: _apply(tensor, "pin_memory"))


def _apply(tensor: Tensor, method: str, *args: Any, **options: Any) -> Tensor:
    """A method that copies, on as little as there is: what was expanded is so afterwards."""
    if all(tensor.stride()):
        return getattr(tensor, method)(*args, **options)
    few = tensor[tuple(slice(None if stride else 1) for stride in tensor.stride())]
    return getattr(few, method)(*args, **options).expand(tensor.shape)


@dataclass(frozen=True)
class Tokens(_Movable):
    """A window as tokens.

    Args:
        values: Continuous content.
        codes: Discrete content, coarse level first, or None.
        mask: True = real.
        channel: Channel (or latent source) each token came from; -1 = mixed.
        time: Seconds from the start of the window.
        made_by: Name of the tokenizer, of tokens read from a store. They may lack values (no
            features) where codes give them back; tasks fill them in.
    """

    values: Float[Tensor, "batch token dim"]
    mask: Bool[Tensor, "batch token"]
    channel: Int[Tensor, "batch token"]
    time: Float[Tensor, "batch token"]
    codes: Int[Tensor, "batch token level"] | None = None
    made_by: str = ""


@dataclass(frozen=True)
class Batch(_Movable):
    """Windows of recordings with the geometry of their sensors.

    Args:
        x: Working units of each channel's kind when `unit` is "physical"; z when it is "z". NaN
            throughout, in no memory, where only tokens were read (`has_signal`).
        channel_mask: True = a real channel, False = padding.
        kind: `units.Kind` of each channel; -1 = padding.
        position: Metres, head (or MNI) frame; 0 where `has_position` is False.
        orientation: Unit vector a MEG coil is sensitive along; zeros elsewhere.
        has_position: True where the position is known.
        sfreq: Hz, one per batch.
        onset: Seconds, float64, start of each window in its recording.
        subject: Index into the data module's list of subjects.
        recording: Index into the data module's list of recordings.
        y: Target: int64 class, or float features.
        unit: "physical" or "z".
        tokens: The window's tokens when they were computed beforehand by the model's own frozen
            tokenizer; models then skip tokenizing.
        names: Of the channels, when all windows share them in this order; else None.
        band: Hz, what filters left of the signal, when it is known and the same for all windows.
    """

    x: Float[Tensor, "batch channel time"]
    channel_mask: Bool[Tensor, "batch channel"]
    kind: Int[Tensor, "batch channel"]
    position: Float[Tensor, "batch channel 3"]
    orientation: Float[Tensor, "batch channel 3"]
    has_position: Bool[Tensor, "batch channel"]
    sfreq: float
    onset: Float[Tensor, " batch"]
    subject: Int[Tensor, " batch"]
    recording: Int[Tensor, " batch"]
    y: Tensor | None = None
    unit: str = "physical"
    tokens: Tokens | None = None
    names: tuple[str, ...] | None = None
    band: tuple[float, float] | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def has_signal(self) -> bool:
        """False where only tokens were read."""
        return any(self.x.stride())


@dataclass(frozen=True)
class Embedding(_Movable):
    """What a brain model makes of a window.

    Args:
        tokens: Features of each token.
        mask: True = real.
        summary: A model's own summary vector, if it has one.
    """

    tokens: Float[Tensor, "batch token dim"]
    mask: Bool[Tensor, "batch token"]
    summary: Float[Tensor, "batch feature"] | None = None

    def pooled(self) -> Float[Tensor, "batch feature"]:
        """`summary` if there is one, else the mean over real tokens."""
        if self.summary is not None:
            return self.summary
        weight = self.mask.unsqueeze(-1).to(self.tokens.dtype)
        return (self.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


@dataclass(frozen=True)
class Pairs(_Movable):
    """Stimuli and what brains answered to them: what encoding models learn from.

    Args:
        stimulus: Features, an image (`batch 3 height width`, 0 to 1) or features over time
            (`batch time feature`), first axis batch.
        y: Responses, `batch channel` or `batch channel time`; 0 where not measured.
        mask: True = measured.
        subject: Index into the data module's list of people.
        index: Index into the data module's list of stimuli.
    """

    stimulus: Tensor
    y: Float[Tensor, "batch channel *time"]
    mask: Bool[Tensor, "batch channel"]
    subject: Int[Tensor, " batch"]
    index: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Contexts(_Movable):
    """What voxels answered to a few stimuli, and to others: what in-context encoders learn from.

    The batch axis is the voxel: each has stimuli of its own.

    Args:
        stimulus: Unit-norm features of the context.
        response: z-scored answers to them.
        query: Features of the stimuli that are asked for.
        y: Answers to those.
        weights: Of the linear model that the voxel was made by, or that was fitted to all that is
            known of it; the bias last. None where there is none.
    """

    stimulus: Float[Tensor, "batch item feature"]
    response: Float[Tensor, "batch item"]
    query: Float[Tensor, "batch query feature"]
    y: Float[Tensor, "batch query"]
    weights: Float[Tensor, "batch weight"] | None = None

    def __len__(self) -> int:
        return len(self.y)


@runtime_checkable
class Tokenizer(Protocol):
    """Turns a batch into tokens. Optional: `decode(tokens, batch) -> batch channel time`."""

    dim: int
    n_codes: int

    def forward(self, batch: Batch) -> Tokens:
        """Tokens of each window."""
        ...


@runtime_checkable
class BrainModel(Protocol):
    """Turns a batch into an embedding."""

    dim: int

    def encode(self, batch: Batch) -> Embedding:
        """Features of each window."""
        ...


@runtime_checkable
class Readout(Protocol):
    """Turns an embedding into a prediction."""

    n_outputs: int

    def forward(self, embedding: Embedding) -> Tensor:
        """batch output"""
        ...


@runtime_checkable
class ResponseModel(Protocol):
    """Turns stimuli into the responses of a brain: an encoding model."""

    n_channels: int

    def respond(self, stimulus: Tensor, *, subject: Tensor | None = None) -> Tensor:
        """batch channel, or batch channel time, from `Pairs.stimulus` and `Pairs.subject`"""
        ...


@runtime_checkable
class ContextEncoder(Protocol):
    """Turns what a voxel answered to a few stimuli into its linear encoding model."""

    n_features: int

    def forward(self, stimulus: Tensor, response: Tensor, mask: Tensor | None = None) -> Tensor:
        """batch weight, the bias last, from `Contexts.stimulus` and `Contexts.response`"""
        ...


@runtime_checkable
class Objective(Protocol):
    """A reason to train: returns a dict with "loss" and whatever else is worth logging."""

    def forward(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        """Loss of one batch."""
        ...
