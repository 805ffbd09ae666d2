"""BatchLoader: batches of windows in an order that can be repeated and resumed anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from crc32c import crc32c
from torch.utils.data import DataLoader

from neurofm.batch import Batch
from neurofm.data.mixing import Mixing, Plan, plan_batches
from neurofm.data.windows import Bucket, Windows
from neurofm.nn.processes import place


def _identity(batch: Any) -> Any:
    return batch


class BatchLoader:
    """Batches of windows in an order that depends on seed and epoch alone.

    With several processes each gives out its part of every batch: which windows form a step does
    not depend on how many processes there are, and a run may go on with another number of them.

    Args:
        windows: Where batches come from.
        indices: Windows to draw.
        batch_size: Windows in a batch, over all processes; a multiple of their number.
        shuffle: A new order each epoch.
        seed: Of the order.
        drop_last: Leave out an incomplete last batch of a bucket, unless it is its only one.
        num_workers: Worker processes that read; the order does not depend on them.
        bucket: What the windows of a batch have in common, see `Windows.buckets`; always the rate.
        mixing: How many windows of each corpus an epoch has; all windows once if not given. With a
            mixture and several buckets in a corpus, epochs may differ by a batch or two.
    """

    def __init__(
        self,
        windows: Windows,
        indices: Sequence[int] | np.ndarray,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        num_workers: int = 0,
        bucket: Bucket = "rate",
        mixing: Mixing | None = None,
    ) -> None:
        if not len(indices):
            raise ValueError("BatchLoader: no windows in this part of the split.")
        if batch_size < 1:
            raise ValueError(f"BatchLoader: batch_size is {batch_size}, expected at least 1.")
        if mixing is not None and mixing.n_windows != len(indices):
            raise ValueError(
                f"BatchLoader: the mixture is of {mixing.n_windows} windows, expected one of the "
                f"{len(indices)} windows given."
            )
        self.windows = windows
        self.indices = np.asarray(indices, dtype=np.int32)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.bucket = bucket
        self.mixing = mixing
        self.epoch = -1
        self.position = 0
        self._resume = False
        self._buckets = windows.buckets(bucket)[self.indices]
        self._made: tuple[tuple[int, int, int], Plan] | None = None

    def plan(self, epoch: int | None = None) -> Plan:
        """The batches of this process in an epoch, the current one if not given."""
        epoch = max(self.epoch, 0) if epoch is None else epoch
        rank, world = place()
        if self._made is None or self._made[0] != (epoch, rank, world):
            drawn: np.ndarray = np.arange(len(self.indices), dtype=np.int32)
            if self.mixing is not None:
                drawn = self.mixing.draw(epoch)
            shuffle = None
            if self.shuffle:
                shuffle = np.random.default_rng([self.seed, epoch])
                drawn = shuffle.permutation(drawn)
            plan = plan_batches(
                self.indices[drawn],
                self._buckets[drawn],
                batch_size=self.batch_size,
                drop_last=self.drop_last,
                rank=rank,
                world=world,
                shuffle=shuffle,
            )
            self._made = (epoch, rank, world), plan
        return self._made[1]

    def __len__(self) -> int:
        return len(self.plan())

    def __iter__(self) -> Iterator[Batch]:
        if not self._resume:
            self.epoch, self.position = self.epoch + 1, 0
        self._resume = False
        plan = self.plan()
        loader: DataLoader[Batch] = DataLoader(
            self.windows,
            batch_sampler=_Rest(plan, self.position),
            num_workers=self.num_workers,
            collate_fn=_identity,
            # Its own random numbers: taking one of the global ones would change a resumed run.
            generator=torch.Generator().manual_seed(self.seed),
        )
        for batch in loader:
            self.position += 1
            yield batch

    def finish(self) -> None:
        """Declare the epoch over, although batches are left (`limit_train_batches`)."""
        self.position = len(self)

    def _order(self) -> dict[str, Any]:
        """All that the order of windows depends on, apart from the epoch."""
        windows = self.windows
        content = crc32c(self.indices.tobytes())
        for array in (windows.recording, windows.start):
            content = crc32c(np.ascontiguousarray(array).tobytes(), content)
        for store in windows.stores:
            content = crc32c(store.digest.encode(), content)
        return {
            "windows": len(self.indices),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
            "bucket": self.bucket,
            "mixture": None if self.mixing is None else dict(self.mixing.counts),
            "content": f"{content:08x}",
        }

    def state_dict(self) -> dict[str, Any]:
        """Epoch, number of batches already given out in it, and what their order depends on."""
        over = self.position >= len(self)
        return {
            "epoch": self.epoch,
            "position": self.position,
            "over": over,
            "order": self._order(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind the last batch given out.

        Raises:
            ValueError: In the middle of an epoch the remaining windows would be other ones.
        """
        resume = state["epoch"] >= 0 and not state["over"]
        before = state["order"]
        changed = [
            f"{name} {before.get(name)} is now {value}"
            for name, value in self._order().items()
            if before.get(name) != value
        ]
        if resume and changed:
            raise ValueError(
                f"This checkpoint was taken in the middle of an epoch and {', '.join(changed)}: "
                "windows would be repeated or skipped. Resume with the same data, or start a new "
                "run from the model by `neurofm.load_model`."
            )
        self.epoch, self.position, self._resume = state["epoch"], state["position"], resume


class _Rest:
    """The batches of a plan from some position on, as a sampler."""

    def __init__(self, plan: Plan, first: int) -> None:
        self.plan, self.first = plan, first

    def __len__(self) -> int:
        return len(self.plan) - self.first

    def __iter__(self) -> Iterator[list[int]]:
        return (self.plan[i].tolist() for i in range(self.first, len(self.plan)))
