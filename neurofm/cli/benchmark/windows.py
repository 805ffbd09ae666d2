"""The windows of a data set as a method sees them, the folds on them, and what cells are called.

Recordings are prepared once; a process keeps the windows of the last few combinations in memory, so
that no fold filters or reads anything again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from neurofm import cards
from neurofm.batch import Batch
from neurofm.data import BrainData, Split
from neurofm.data.rows import Row
from neurofm.evaluate.fold import copies_in
from neurofm.evaluate.suites import Cell, Suite, digest, nested_share, window_hash

_KEPT = 4  # combinations of data set and preparation in the memory of a process
_cache: OrderedDict[str, Windows] = OrderedDict()


class Windows:
    """Windows of a data set, prepared as a method asks.

    Args:
        method: Name in the suite.
    """

    def __init__(self, suite: Suite, dataset: str, method: str) -> None:
        about = suite.datasets[dataset]
        spec = cast(dict[str, Any], suite.method(method, dataset))["data"]
        self.dataset = dataset
        self.labels = suite.labels(dataset)
        self.preprocess = spec.get("preprocess") or []
        self.offset_s = float(spec.get("offset_s", 0.0)) + float(about.get("cue_s", 0.0))
        self.module = BrainData(
            **{
                **about["data"],
                **spec,
                "offset_s": self.offset_s,
                "split_by": "recording",
                "validate": [],
                "test": [],
            }
        )
        self.module.setup()
        self.rows: list[Row] = list(self.module.rows)
        onsets = event_onsets(self.module.windows, offset_s=self.offset_s)
        self.trials = [replace(r, start=t) for r, t in zip(self.rows, onsets, strict=True)]
        self._folds: dict[str, list[Split]] = {}

    def folds(self, suite: Suite, protocol: str) -> list[Split]:
        """The folds of a protocol; training sides whole."""
        key = digest(suite.protocols[protocol])
        if key not in self._folds:
            self._folds[key] = suite.folds(self.dataset, protocol, self.rows)
        return self._folds[key]

    def split(self, suite: Suite, cell: Cell) -> Split:
        """The fold of a cell, its training side cut to its share of the labels."""
        whole = self.folds(suite, cell.protocol)[cell.fold]
        if cell.share == 1:
            return whole
        train = nested_share(self.trials, whole.train, cell.share, seed=cell.seed)
        return replace(whole, train=train, name=f"{whole.name}, {cell.share:.0%} of labels")

    def hash(self, split: Split) -> str:
        """Of the trials on both sides."""
        train = [*split.train, *split.validate]
        return window_hash(self.trials, train, split.test)

    def key(self, suite: Suite, cell: Cell) -> tuple[str, dict[str, Any]]:
        """Hash of all that decides the numbers of a cell, and what it is made of."""
        split = self.split(suite, cell)
        people = suite.others(self.dataset, self.rows, split)
        config = suite.config(cell, self.hash(split), pretraining=people)
        return digest(config), config

    def trial_s(self, row: int) -> float:
        """Seconds of the event in its recording, the same for windows of every length and rate."""
        return round(self.trials[row].start * 50) / 50

    @property
    def align(self) -> str:
        """What the preparation learned from unlabelled windows, those of the test side included."""
        found = []
        for spec in self.preprocess:
            step = spec["class_path"].rpartition(".")[2]
            said = getattr(cards.build(spec), "align", None)
            if said or step == "AlignRecording":
                found.append(said or "euclidean offline")
        return ", ".join(found) or "none"

    @cached_property
    def batch(self) -> Batch:
        """All windows."""
        windows = cast(Any, self.module.windows)
        return windows.batch(range(len(windows)))

    @cached_property
    def x(self) -> np.ndarray:
        """All windows as an array, window channel time."""
        return self.batch.x.numpy()

    @cached_property
    def copies(self) -> list[tuple[int, int]]:
        """Windows that hold the same samples."""
        return copies_in(self.x)


def event_onsets(windows: Any, *, offset_s: float) -> list[float]:
    """Seconds of the event of each window.

    Unlike the first sample of the window it is the same at every rate.

    Args:
        windows: With labels (`neurofm.data.Windows`).
        offset_s: Of the windows after their events.
    """
    table, found = windows.table, np.zeros(len(windows))
    name = np.array([*table.event_label.names, ""])[table.event_label.index]
    for recording in np.unique(windows.recording):
        own = np.flatnonzero(windows.recording == recording)
        at = windows.start[own] / table.sfreq[recording] - offset_s
        for k in np.unique(windows.y[own]):
            of_class = (table.event_recording == recording) & (name == windows.labels[k])
            onset, mine = table.event_onset[of_class], windows.y[own] == k
            found[own[mine]] = onset[np.abs(at[mine, None] - onset).argmin(1)]
    return found.tolist()


def windows_of(suite: Suite, dataset: str, method: str) -> Windows:
    """The windows of a data set and method; those of the last few are kept."""
    spec = cast(dict[str, Any], suite.method(method, dataset))["data"]
    key = digest([suite.datasets[dataset], spec])
    if key not in _cache:
        _cache[key] = Windows(suite, dataset, method)
    _cache.move_to_end(key)
    while len(_cache) > _KEPT:
        _cache.popitem(last=False)
    return _cache[key]


def forget_windows() -> None:
    """Free what `windows_of` keeps."""
    _cache.clear()


def used_rows(splits: Sequence[Split]) -> list[int]:
    """Rows on any side, in order."""
    return sorted({i for split in splits for side in split.sides.values() for i in side})


def local(split: Split, used: Sequence[int]) -> Split:
    """A split of the rows that are used, by their position among these."""
    at = {row: i for i, row in enumerate(used)}
    train, validate, test = (
        tuple(at[i] for i in side) for side in (split.train, split.validate, split.test)
    )
    return replace(split, train=train, validate=validate, test=test)
