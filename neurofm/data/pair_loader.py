"""Pairs of stimuli and responses in memory; batches that can be repeated and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from neurofm.batch import Pairs
from neurofm.nn.processes import place


@dataclass(frozen=True)
class PairTable:
    """Rows of one side in memory.

    Args:
        vectors: Of all stimuli; first axis stimulus.
        values: NaN where not measured; `row channel [time]`.
        stimulus: Index into `vectors`.
        subject: Index into the list of people.
    """

    vectors: np.ndarray
    values: np.ndarray
    stimulus: np.ndarray
    subject: np.ndarray

    def __len__(self) -> int:
        return len(self.stimulus)

    def batch(self, rows: np.ndarray) -> Pairs:
        """Some rows."""
        y = self.values[rows]
        known = np.isfinite(y).reshape(*y.shape[:2], -1).all(axis=2)
        filled = np.where(known.reshape(*known.shape, *(1,) * (y.ndim - 2)), y, 0)
        return Pairs(
            stimulus=torch.from_numpy(self.vectors[self.stimulus[rows]]),
            y=torch.from_numpy(np.ascontiguousarray(filled, dtype=np.float32)),
            mask=torch.from_numpy(known),
            subject=torch.from_numpy(self.subject[rows]),
            index=torch.from_numpy(self.stimulus[rows]),
        )


class PairLoader:
    """Batches of pairs in an order that depends on seed and epoch alone.

    Args:
        table: Where rows come from.
        batch_size: Rows in a batch, over all processes.
        shuffle: A new order each epoch.
        seed: Of the order.
        together: Rows of one person in each batch.
    """

    def __init__(
        self,
        table: PairTable,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        together: bool = False,
    ) -> None:
        if batch_size < 1 or not len(table):
            raise ValueError(
                f"PairLoader: batch_size {batch_size}, {len(table)} rows; at least 1 of each."
            )
        self.table, self.batch_size, self.shuffle = table, batch_size, shuffle
        self.seed, self.together = seed, together
        self.epoch = -1
        self._position = 0
        self._resume = False

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Rows of each batch of an epoch, over all processes."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(len(self.table)) if self.shuffle else np.arange(len(self.table))
        people = self.table.subject[rows] if self.together else np.zeros(len(rows), dtype=int)
        batches = []
        for person in np.unique(people):
            own = rows[people == person]
            batches += [own[i : i + self.batch_size] for i in range(0, len(own), self.batch_size)]
        if self.shuffle and self.together:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def __len__(self) -> int:
        return len(self.plan(0))

    def __iter__(self) -> Iterator[Pairs]:
        if not self._resume:
            self.epoch, self._position = self.epoch + 1, 0
        self._resume = False
        rank, world = place()
        plan = self.plan(max(self.epoch, 0))
        for step in range(self._position, len(plan)):
            self._position = step + 1
            share = -(-len(plan[step]) // world)
            # A batch that does not divide gives its last rows twice, as elsewhere.
            rows = np.resize(plan[step], share * world)[rank * share : (rank + 1) * share]
            yield self.table.batch(rows)

    def finish(self) -> None:
        """Declare the epoch over, although batches are left (`limit_train_batches`)."""
        self._position = len(self)

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches given out in it."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the last batch given out."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._resume = self.epoch >= 0 and 0 <= self._position < len(self)
