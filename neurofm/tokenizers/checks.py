"""What every tokenizer checks of a batch before it looks at the signal."""

from __future__ import annotations

from collections.abc import Sequence

from neurofm.batch import Batch
from neurofm.contract import Contract
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
            that are not finite; see `Contract.check`. Padded channels may hold anything.
    """
    Contract(
        kinds=tuple(kind.name.lower() for kind in kinds),
        sfreq=sfreq,
        min_window_s=least / batch.sfreq,
    ).check(batch, model=name)
