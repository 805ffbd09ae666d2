"""The channels of a batch, for networks built for one montage, rate and length of window."""

from __future__ import annotations

from torch import Tensor

from neurofm.batch import Batch
from neurofm.contract import Contract
from neurofm.shapes import Float


def fixed_channels(
    batch: Batch, contract: Contract, *, model: str
) -> Float[Tensor, "batch channel time"]:
    """Samples of the contract's channels, without padding.

    Args:
        contract: With `n_channels`.
        model: Name, for messages.

    Raises:
        ValueError: The batch is not what the contract says, or its padding comes before channels.
    """
    contract.check(batch, model=model)
    n = contract.n_channels or batch.x.shape[1]
    if batch.x.shape[1] == n:
        return batch.x
    if not bool(batch.channel_mask[:, :n].all()):
        raise ValueError(
            f"{model}: padding lies among the first {n} channels of the batch. Put it behind them, "
            "as `collate` does."
        )
    return batch.x[:, :n]
