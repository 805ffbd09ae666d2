"""What every tokenizer checks of a batch before it looks at the signal."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from neurofm.batch import Batch
from neurofm.units import Kind


def check_batch(
    batch: Batch,
    *,
    name: str,
    kinds: Sequence[Kind],
    sfreq: float | None = None,
    least: int = 1,
) -> None:
    """Stop if a tokenizer cannot make sense of a batch.

    Args:
        name: Of the tokenizer, for the message.
        kinds: Kinds of channels it accepts.
        sfreq: Hz; None for a tokenizer of any rate.
        least: Samples of the shortest window it can take.

    Raises:
        ValueError: Rate, unit, kind of channel, a window without a channel or too short, or values
            that are not finite. Padded channels may hold anything.
    """
    if sfreq is not None and abs(batch.sfreq - sfreq) > 1e-3 * sfreq:
        raise ValueError(
            f"{name}: the batch has {batch.sfreq:g} Hz, expected {sfreq:g} Hz. "
            f"Prepare the data with Resample(sfreq={sfreq:g})."
        )
    if batch.unit not in ("physical", "z"):
        raise ValueError(f"{name}: unit {batch.unit!r} is not 'physical' or 'z'.")
    if batch.x.shape[-1] < least:
        raise ValueError(
            f"{name}: windows of {batch.x.shape[-1]} samples are shorter than the {least} of a "
            f"token. Set window_s to at least {least / batch.sfreq:g}."
        )
    mask = batch.channel_mask
    if not bool(mask.any(1).all()):
        empty = torch.nonzero(~mask.any(1)).flatten().tolist()
        raise ValueError(
            f"{name}: windows {empty} of the batch have no real channel. Drop windows whose "
            "channel_mask is all False."
        )
    for value in batch.kind[mask].unique().tolist():
        if Kind(value) not in kinds:
            names = ", ".join(kind.name for kind in kinds)
            raise ValueError(
                f"{name}: the batch has {Kind(value).name} channels, expected {names}. Prepare the "
                "data with PickKinds, or pass `kinds=` with that kind to treat it alike."
            )
    if not bool(batch.x[mask].isfinite().all()):
        raise ValueError(
            f"{name}: the batch holds NaN or infinite values. Interpolate or drop the channels "
            "concerned (`neurofm check` names them)."
        )
