"""BrainData: corpora, preprocessing, windows and a split, as one Lightning data module.

Recordings are prepared once to the store, windows are cut from it, and the split is made by
subject, session, run or time before any window is drawn; a leak stops the run. The training loader
has a state, so that a checkpoint taken in the middle of an epoch resumes at the next window.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader

from neurofm.batch import Batch
from neurofm.data.audit import audit_summary, refuse_leakage
from neurofm.data.prepare import prepare_corpus
from neurofm.data.preprocess import build_steps, default_steps
from neurofm.data.rows import Row, Split
from neurofm.data.splits import by_group, by_time
from neurofm.data.windows import Windows
from neurofm.io import Store, open_corpus
from neurofm.io.corpus import same_entity

log = logging.getLogger(__name__)
By = Literal["subject", "session", "run", "recording", "time"]


def _identity(batch: Any) -> Any:
    return batch


class BatchLoader:
    """Batches of windows in an order that depends on seed, epoch and world size alone.

    Args:
        windows: Where batches come from.
        indices: Windows to draw.
        batch_size: Windows in a batch, per process.
        shuffle: A new order each epoch.
        seed: Of the order.
        drop_last: Leave out an incomplete last batch, unless it is the only one.
        num_workers: Worker processes that read.
    """

    def __init__(
        self,
        windows: Windows,
        indices: Sequence[int],
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        if not len(indices):
            raise ValueError("BatchLoader: no windows in this part of the split.")
        if batch_size < 1:
            raise ValueError(f"BatchLoader: batch_size is {batch_size}, expected at least 1.")
        self.windows = windows
        self.indices = np.asarray(indices, dtype=np.int64)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.epoch = -1
        self.position = 0
        self._resume = False

    def _share(self) -> tuple[int, int, int]:
        """Rank, number of processes, and windows of each; the surplus repeats from the start."""
        rank, world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return rank, world, -(-len(self.indices) // world)

    def _batches(self) -> list[list[int]]:
        order = self.indices
        if self.shuffle:
            order = np.random.default_rng([self.seed, max(self.epoch, 0)]).permutation(order)
        rank, world, each = self._share()
        order = np.resize(order, each * world)[rank::world]
        return [
            order[i * self.batch_size : (i + 1) * self.batch_size].tolist()
            for i in range(len(self))
        ]

    def __len__(self) -> int:
        each = self._share()[2]
        whole = each // self.batch_size
        return whole if self.drop_last and whole else -(-each // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self._resume:
            self.epoch, self.position = self.epoch + 1, 0
        self._resume = False
        loader: DataLoader[Batch] = DataLoader(
            self.windows,
            batch_sampler=self._batches()[self.position :],
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

    def _order(self) -> list[int]:
        """All that the order of windows depends on, apart from the epoch."""
        return [len(self.indices), self.batch_size, self.seed, self.shuffle, self._share()[1]]

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
        if resume and state["order"] != self._order():
            names = ("windows", "batch_size", "seed", "shuffle", "processes")
            changed = [
                f"{name} {before} is now {now}"
                for name, before, now in zip(names, state["order"], self._order(), strict=True)
                if before != now
            ]
            raise ValueError(
                f"This checkpoint was taken in the middle of an epoch and {', '.join(changed)}: "
                "windows would be repeated or skipped. Resume with the same data, or start a new "
                "run from the model by `neurofm.load_model`."
            )
        self.epoch, self.position, self._resume = state["epoch"], state["position"], resume


class BrainData(lightning.LightningDataModule):
    """Windows of one or several corpora, split for training.

    Args:
        datasets: Names of dataset cards, or paths to cards of your own.
        preprocess: Steps as `class_path`/`init_args`; the dataset's default steps if not given.
        root: Folder of the recordings; otherwise `$NEUROFM_DATA/<folder of the card>`.
        store: Where prepared recordings are kept; otherwise `$NEUROFM_STORE` or the user's cache.
        subjects: Only these.
        runs: Only these.
        labels: Cut windows at events with these labels, which become classes 0, 1, ...; without
            labels windows tile the recordings.
        window_s: Length of a window, seconds.
        stride_s: Distance of unlabelled windows, seconds; their length if not given.
        offset_s: Start of a labelled window after the onset of its event, seconds.
        split_by: What may not be on two sides of the split.
        validate: Values of `split_by` for validation (`["8"]`), or a fraction of them.
        test: Values of `split_by` for test, or a fraction of them.
        batch_size: Windows in a batch.
        num_workers: Reader processes; reading is fast, 0 is often best.
        seed: Of the split (where fractions are given) and of the order of windows.
        dtype: "int16" (half the bytes) or "float32" in the store.
    """

    def __init__(
        self,
        datasets: list[str],
        *,
        preprocess: list[dict[str, Any]] | None = None,
        root: Path | str | None = None,
        store: Path | str | None = None,
        subjects: list[str] | None = None,
        runs: list[str] | None = None,
        labels: list[str] | None = None,
        window_s: float = 4.0,
        stride_s: float | None = None,
        offset_s: float = 0.0,
        split_by: By = "subject",
        validate: list[str] | float = 0.1,
        test: list[str] | float = 0.1,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        dtype: Literal["int16", "float32"] = "int16",
    ) -> None:
        super().__init__()
        self.datasets = datasets
        self.preprocess = preprocess
        self.root = None if root is None else Path(root)
        self.store = None if store is None else Path(store)
        self.subjects, self.runs = subjects, runs
        self.labels = labels
        self.window_s, self.stride_s, self.offset_s = window_s, stride_s, offset_s
        self.split_by, self.validate, self.test = split_by, validate, test
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.dtype: Literal["int16", "float32"] = dtype
        self.stores: list[Path] = []
        self.windows: Windows | None = None
        self.split: Split | None = None

    @property
    def n_outputs(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.labels or ())

    @property
    def rows(self) -> list[Row]:
        """One row per window."""
        if self.windows is None:
            raise ValueError("BrainData: call setup() first.")
        return self.windows.rows

    def prepare_data(self) -> None:
        """Preprocess what the store does not hold yet; what it holds is left alone."""
        self.stores = [self._prepare(name) for name in self.datasets]

    def _prepare(self, name: str) -> Path:
        corpus = open_corpus(name, root=self.root)
        steps = (
            build_steps(self.preprocess, line_freq=corpus.line_freq)
            if self.preprocess is not None
            else build_steps(default_steps(), line_freq=corpus.line_freq)
        )
        return prepare_corpus(
            corpus,
            steps,
            self.store,
            subjects=self.subjects,
            runs=self.runs,
            dtype=self.dtype,
        )

    def setup(self, stage: str | None = None) -> None:
        """Cut windows, split them, and refuse a split that leaks."""
        if self.windows is not None:
            return
        if not self.stores:
            self.prepare_data()
        self.windows = Windows(
            [Store(path) for path in self.stores],
            window_s=self.window_s,
            stride_s=self.stride_s,
            labels=self.labels,
            offset_s=self.offset_s,
            subjects=self.subjects,
            runs=self.runs,
        )
        self.split = self._split(self.windows.rows)
        refuse_leakage(self.windows.rows, self.split)
        log.info(audit_summary(self.windows.rows, self.split))

    def _split(self, rows: list[Row]) -> Split:
        if isinstance(self.validate, list) or isinstance(self.test, list):
            if not (isinstance(self.validate, list) and isinstance(self.test, list)):
                raise ValueError(
                    "BrainData: give both `validate` and `test` as lists of values of "
                    f"`split_by: {self.split_by}`, or both as fractions."
                )
            return self._named_split(rows, self.validate, self.test)
        fractions = (1 - self.validate - self.test, self.validate, self.test)
        if self.split_by == "time":
            return by_time(rows, fractions=fractions)
        return by_group(rows, by=self.split_by, fractions=fractions, seed=self.seed)

    def _named_split(self, rows: list[Row], validate: list[str], test: list[str]) -> Split:
        if self.split_by == "time":
            raise ValueError("BrainData: `split_by: time` takes fractions, not lists.")
        values = [str(getattr(row, self.split_by)) for row in rows]
        sides: dict[str, set[str]] = {}
        for side, names in {"validate": validate, "test": test}.items():
            # "04" in a file name and 4 in a recipe are the same run.
            found = {name: {v for v in set(values) if same_entity(v, name)} for name in names}
            unknown = [name for name, match in found.items() if not match]
            if unknown:
                raise ValueError(
                    f"BrainData: {side} names {self.split_by} {unknown}, which no window has; "
                    f"there are {sorted(set(values))}."
                )
            sides[side] = set().union(*found.values())
        both = sorted(sides["validate"] & sides["test"])
        if both:
            raise ValueError(
                f"BrainData: {self.split_by} {both} is named by `validate` and by `test`; each "
                "belongs to one side."
            )
        part = [
            "test" if v in sides["test"] else "validate" if v in sides["validate"] else "train"
            for v in values
        ]
        chosen = {
            name: tuple(i for i, p in enumerate(part) if p == name)
            for name in ("train", "validate", "test")
        }
        held = "-".join(map(str, test)) or "nothing"
        return Split(**chosen, name=f"{self.split_by}-{held}", by=self.split_by)

    def _loader(self, side: str) -> BatchLoader:
        if self.windows is None or self.split is None:
            raise ValueError("BrainData: call setup() first.")
        train = side == "train"
        if not getattr(self.split, side):
            raise ValueError(
                f"BrainData: no window is on the {side} side of the split by {self.split_by} "
                f"(validate: {self.validate}, test: {self.test}). Name other values, or give a "
                "larger fraction."
            )
        return BatchLoader(
            self.windows,
            getattr(self.split, side),
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            drop_last=train,
            num_workers=self.num_workers,
        )

    def train_dataloader(self) -> BatchLoader:
        """Shuffled windows of the training side."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Windows of the validation side, in order; no loader if that side is empty."""
        if self.split is not None and not self.split.validate:
            return []
        return self._loader("validate")

    def test_dataloader(self) -> BatchLoader:
        """Windows of the test side, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """Windows of the test side, in order."""
        return self._loader("test")
