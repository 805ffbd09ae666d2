"""VoxelData: contexts and queries of voxels, for training in-context encoders.

Every step has voxels of its own, all with a context of one size that is drawn anew for each step.
Validation and test have the same voxels and contexts, of the largest size, in every epoch.

Axes: batch = voxel; item of the context; query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import lightning
import numpy as np
import torch

from neurofm.batch import Contexts
from neurofm.data.voxel_sources import VoxelSource
from neurofm.nn.processes import place


class VoxelLoader:
    """Batches that depend on seed, epoch and step alone.

    With several processes each has voxels of its own; the context is of one size in all.

    Args:
        source: Gives voxels.
        steps: Batches in an epoch.
        batch_size: Voxels in a batch, over all processes.
        context: Smallest and largest context.
        n_query: Stimuli that are asked for.
        seed: Of the draws.
        fixed: The same batches in every epoch.
    """

    def __init__(
        self,
        source: VoxelSource,
        *,
        steps: int,
        batch_size: int,
        context: Sequence[int],
        n_query: int,
        seed: int = 0,
        fixed: bool = False,
    ) -> None:
        self.source, self.steps, self.batch_size = source, steps, batch_size
        self.context, self.n_query = (context[0], context[1]), n_query
        self.seed, self.fixed = seed, fixed
        self.epoch = -1
        self._position = 0
        self._resume = False

    def __len__(self) -> int:
        return self.steps

    def batch(self, epoch: int, step: int) -> Contexts:
        """One batch of this process."""
        rank, world = place()
        common = np.random.default_rng([self.seed, epoch, step])
        size = int(common.integers(self.context[0], self.context[1] + 1))
        rng = np.random.default_rng([self.seed, epoch, step, 1 + rank])
        voxels = self.source.draw(max(self.batch_size // world, 1), size + self.n_query, rng=rng)
        features, answers = torch.from_numpy(voxels.features), torch.from_numpy(voxels.responses)
        return Contexts(
            stimulus=features[:, :size],
            response=answers[:, :size],
            query=features[:, size:],
            y=answers[:, size:],
            weights=None if voxels.weights is None else torch.from_numpy(voxels.weights),
        )

    def __iter__(self) -> Iterator[Contexts]:
        if not self._resume:
            self.epoch, self._position = self.epoch + 1, 0
        self._resume = False
        for step in range(self._position, self.steps):
            self._position = step + 1
            yield self.batch(0 if self.fixed else self.epoch, step)

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of batches given out in it."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the last batch given out."""
        self.epoch, self._position = state["epoch"], state["position"]
        self._resume = 0 <= self._position < self.steps and self.epoch >= 0


class VoxelData(lightning.LightningDataModule):
    """Voxels for training, validation and test.

    Args:
        train: Source of voxels.
        validate: Another, of other stimuli.
        test: A third; `validate` if not given.
        context: Smallest and largest context of a training step.
        n_query: Stimuli that are asked for in each step.
        batch_size: Voxels in a step.
        steps_per_epoch: Of training.
        held_steps: Of validation and test.
        seed: Of the draws.

    Source of the defaults: BraInCoRL (contexts of 30 to 500, 100 queries, 64 voxels).
    """

    def __init__(
        self,
        train: VoxelSource,
        validate: VoxelSource,
        *,
        test: VoxelSource | None = None,
        context: Sequence[int] = (30, 500),
        n_query: int = 100,
        batch_size: int = 64,
        steps_per_epoch: int = 500,
        held_steps: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sources = {"train": train, "validate": validate, "test": test or validate}
        self.context, self.n_query, self.batch_size = (context[0], context[1]), n_query, batch_size
        self.steps_per_epoch, self.held_steps, self.seed = steps_per_epoch, held_steps, seed
        if not 1 <= context[0] <= context[1] or min(n_query - 1, batch_size, held_steps) < 1:
            raise ValueError(
                f"VoxelData: context {list(context)}, n_query {n_query}, batch_size {batch_size}, "
                f"held_steps {held_steps}; expected two sizes from 1 on that do not shrink, two "
                "queries or more, and at least 1 of the others."
            )
        self._check()

    @property
    def n_features(self) -> int:
        """Of a stimulus."""
        return self.sources["train"].n_features

    def _check(self) -> None:
        need = self.context[1] + self.n_query
        for side, source in self.sources.items():
            if source.n_features != self.n_features:
                raise ValueError(
                    f"VoxelData: {side} has {source.n_features} features, train has "
                    f"{self.n_features}. Use one embedding for all."
                )
            if source.n_stimuli < need:
                raise ValueError(
                    f"VoxelData: {side} has {source.n_stimuli} stimuli, expected at least {need}: "
                    f"a context of {self.context[1]} and {self.n_query} queries. Shorten either."
                )
            if side == "train":
                continue
            again = set(source.stimuli) & set(self.sources["train"].stimuli)
            if again:
                raise ValueError(
                    f"VoxelData: {len(again)} stimuli of the {side} side are in training too, such "
                    f"as {min(again)!r}. Give the sides other stimuli (`rows`, `stimuli_seed`)."
                )

    def loader(self, side: str) -> VoxelLoader:
        """Batches of "train", "validate" or "test"."""
        train = side == "train"
        return VoxelLoader(
            self.sources[side],
            steps=self.steps_per_epoch if train else self.held_steps,
            batch_size=self.batch_size,
            context=self.context if train else (self.context[1],) * 2,
            n_query=self.n_query,
            seed=self.seed + {"train": 0, "validate": 1, "test": 2}[side],
            fixed=not train,
        )

    def train_dataloader(self) -> Any:
        """New voxels in every step."""
        return cast(Any, self.loader("train"))

    def val_dataloader(self) -> Any:
        """The same voxels in every epoch."""
        return cast(Any, self.loader("validate"))

    def test_dataloader(self) -> Any:
        """The same voxels in every epoch."""
        return cast(Any, self.loader("test"))
