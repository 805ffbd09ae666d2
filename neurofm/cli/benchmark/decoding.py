"""Cells of a suite: decode a group of people from given weights and write what came out."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import lightning
import numpy as np
import torch
from torch import nn

from neurofm import cards
from neurofm.batch import Batch, BrainModel
from neurofm.cli.benchmark.training import Shuffled, fit, pretrain, stage_recipes
from neurofm.cli.run_folder import versions
from neurofm.data import BrainData, Split
from neurofm.evaluate import FoldScores, per_subject
from neurofm.evaluate.fold import predict_fold, refuse_seen_people
from neurofm.evaluate.probing import LinearProbe
from neurofm.evaluate.records import write_record
from neurofm.evaluate.suites import Cell, Suite, digest, nested_share, schedule, window_hash
from neurofm.io import load_model
from neurofm.io.seen import Seen
from neurofm.tasks import Decode
from neurofm.tasks.token_cache import has_frozen_tokenizer

METRICS = ("balanced_accuracy", "auroc")
_CHUNK = 32  # windows encoded at once


@dataclass(frozen=True)
class Group:
    """Cells that share data and weights.

    Args:
        cells: With the key of each.
    """

    cells: tuple[tuple[Cell, str], ...]

    @property
    def first(self) -> Cell:
        """Any of them: method, weights, fold and seed are those of all."""
        return self.cells[0][0]


class Windows:
    """The windows of one method and fold, and their split."""

    def __init__(self, suite: Suite, method: str, fold: int) -> None:
        spec = suite.methods[method]
        self.offset_s = float(spec["data"].get("offset_s", 0.0))
        self.module = BrainData(
            **{
                **suite.card["data"],
                **spec["data"],
                "runs": [*suite.runs["train"], *suite.runs["test"]],
                "subjects": suite.people[fold],
                "split_by": "run",
                "validate": [],
                "test": list(suite.runs["test"]),
            }
        )
        self.module.setup()
        self.rows = list(self.module.rows)
        self.whole = cast(Split, self.module.split)

    def split(self, share: float, seed: int) -> Split:
        """Train on a share of the labels."""
        train = nested_share(self.rows, self.whole.train, share, seed=seed)
        return replace(self.whole, train=train, name=f"{self.whole.name}, {share:.0%} of labels")

    def key(self, suite: Suite, cell: Cell) -> tuple[str, dict[str, Any]]:
        """Hash of all that decides the numbers of a cell, and what it is made of."""
        split = self.split(cell.share, cell.seed)
        trials = window_hash(self.rows, split.train, split.test, offset_s=self.offset_s)
        config = suite.config(cell, trials)
        return digest(config), config

    @cached_property
    def batch(self) -> Batch:
        """All windows."""
        windows = cast(Any, self.module.windows)
        return windows.batch(range(len(windows)))


@dataclass(frozen=True)
class Runner:
    """Does one group after the other; sent to worker processes.

    Args:
        work: Folder of records and weights.
    """

    suite: Suite
    work: Path

    def __call__(self, group: Group) -> int:
        """Write a record for every cell; their number."""
        first = group.first
        method = self.suite.methods[first.method]
        windows = Windows(self.suite, first.method, first.fold)
        began = time.process_time()
        decoder: _Classical | _Neural
        if "estimator" in method:
            decoder = _Classical(method, windows)
        else:
            decoder = _Neural(self.suite, method, windows, first, self.work)
        shared = time.process_time() - began
        for number, (cell, key) in enumerate(group.cells):
            began = time.process_time()
            split = windows.split(cell.share, cell.seed)
            lightning.seed_everything(cell.seed, verbose=False)
            scores = decoder.scores(cell, split)
            cost = time.process_time() - began
            record = {
                **_about(cell, key, windows, split),
                "suite": self.suite.name,
                "people": scores_of(scores),
                "cpu_s": round(cost + (shared if number == 0 else 0), 3),
                "pretraining_cpu_s": decoder.pretraining.get("cpu_s", 0.0),
                "pretraining": decoder.pretraining.get("stages", []) if number == 0 else [],
                "versions": _versions(),
            }
            write_record(self.work / "records", record)
        return len(group.cells)


@functools.cache
def _versions() -> dict[str, str]:
    """Once per process: asking git takes longer than many a cell."""
    return versions()


def scores_of(scores: FoldScores) -> dict[str, dict[str, float]]:
    """Person to metric to value."""
    found = {metric: per_subject(scores, metric) for metric in METRICS}
    return {
        name: {metric: round(found[metric][name], 6) for metric in METRICS}
        for name in dict.fromkeys(scores.subject)
    }


def _about(cell: Cell, key: str, windows: Windows, split: Split) -> dict[str, Any]:
    return {
        "key": key,
        "method": cell.method,
        "weights": cell.weights,
        "reading": cell.reading,
        "fold": cell.fold,
        "share": cell.share,
        "seed": cell.seed,
        "windows": window_hash(windows.rows, split.train, split.test, offset_s=windows.offset_s),
        "n_train": len(split.train),
        "n_test": len(split.test),
    }


class _Classical:
    """An estimator on arrays."""

    def __init__(self, method: Mapping[str, Any], windows: Windows) -> None:
        self.method, self.windows = method, windows
        self.pretraining: dict[str, Any] = {}
        self.x = windows.batch.x.numpy().astype(np.float64)

    def scores(self, cell: Cell, split: Split) -> FoldScores:
        spec = deepcopy(self.method["estimator"])
        made = cards.load_class(spec["class_path"])
        if "seed" in inspect.signature(made).parameters:
            spec["init_args"] = {**spec.get("init_args", {}), "seed": cell.seed}
        return predict_fold(
            cards.build(spec), self.x, self.windows.rows, split, name=cell.method, fold=cell.fold
        )


class _Neural:
    """A model, read by a probe or fine-tuned."""

    def __init__(
        self, suite: Suite, method: Mapping[str, Any], windows: Windows, cell: Cell, work: Path
    ) -> None:
        self.method, self.windows = method, windows
        self.pretraining: dict[str, Any] = {}
        if cell.weights == "pretrained":
            stages = stage_recipes(
                method,
                dataset=suite.card["data"]["datasets"][0],
                people=suite.others(cell.fold),
                seed=cell.seed,
            )
            file, self.pretraining = pretrain(stages, work, seed=cell.seed)
            self.model = cast(nn.Module, load_model(file))
        else:
            lightning.seed_everything(cell.seed, verbose=False)
            self.model = cast(nn.Module, cards.build(method["model"])).eval()
        self.seen = Seen.of(self.model)
        refuse_seen_people(windows.rows, self.seen, name=cell.method)
        self.batch = self._tokenized()
        self.features = self._features()

    def _tokenized(self) -> Batch:
        """All windows, with their tokens if those do not change in training."""
        batch = self.windows.batch
        # An untrained code book starts from the first batch it meets: from training windows.
        train = list(self.windows.whole.train[:_CHUNK])
        with torch.no_grad():
            cast(BrainModel, self.model).encode(_some(batch, train))
            if not has_frozen_tokenizer(self.model):
                return batch
            parts = [cast(Any, self.model).tokenize(_some(batch, part)) for part in _parts(batch)]
        tokens = type(parts[0])(
            **{
                key: None if getattr(parts[0], key) is None else torch.cat([*_all(parts, key)])
                for key in ("values", "mask", "channel", "time", "codes")
            }
        )
        return replace(batch, tokens=tokens)

    def _features(self) -> np.ndarray:
        """What the readout reads, of all windows."""
        readout = cards.build(self.method["readout"])
        with torch.no_grad():
            parts = [
                readout.features(cast(BrainModel, self.model).encode(_some(self.batch, part)))
                for part in _parts(self.batch)
            ]
        features = torch.cat(parts).double().numpy()
        if not self.method.get("standardize_features", False):
            return features
        recording = np.array([row.recording for row in self.windows.rows])
        return standardized(features, recording)

    def scores(self, cell: Cell, split: Split) -> FoldScores:
        rows, common = self.windows.rows, {"name": cell.method, "fold": cell.fold}
        if cell.reading == "linear probe":
            probe = LinearProbe(seed=cell.seed)
            return predict_fold(probe, self.features, rows, split, seen=self.seen, **common)  # type: ignore[arg-type]
        how = schedule(self.method["finetune"], cell.weights)
        readout = how.get("readout", self.method["readout"])
        tuned = FineTuned(self.model, readout, how, seed=cell.seed)
        return predict_fold(tuned, self.batch, rows, split, seen=self.seen, **common)  # type: ignore[arg-type]


def standardized(features: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """Features with mean 0 and deviation 1 over the windows of each recording, labels unused.

    What Euclidean alignment does to signals, done to features: people and sessions come to lie
    on top of each other.
    """
    result = np.empty_like(features)
    for name in np.unique(recording):
        own = recording == name
        deviation = features[own].std(0)
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
        result[own] = (features[own] - features[own].mean(0)) * scale
    return result


def _all(parts: Sequence[Any], key: str) -> Any:
    return (getattr(part, key) for part in parts)


def _parts(batch: Batch) -> list[list[int]]:
    order = list(range(len(batch)))
    return [order[i : i + _CHUNK] for i in range(0, len(order), _CHUNK)]


def _some(batch: Batch, members: Sequence[int]) -> Batch:
    index = torch.as_tensor(members)
    return batch._map(lambda tensor: tensor[index])


class FineTuned:
    """A copy of a model, fine-tuned with a readout by a fixed schedule.

    Args:
        model: Is not changed.
        readout: As `class_path`/`init_args`.
        how: `task`: arguments of `Decode`; `batch_size`; `steps`, the same for any number of
            windows; `trainer`: further arguments.
        seed: Of readout, dropout and order.
    """

    def __init__(
        self, model: nn.Module, readout: Mapping[str, Any], how: Mapping[str, Any], *, seed: int
    ) -> None:
        self.model, self.readout, self.how, self.seed = model, readout, how, seed

    def fit(self, x: Batch, y: np.ndarray) -> FineTuned:
        """Train on these windows."""
        self.classes_ = np.unique(y)
        lightning.seed_everything(self.seed, verbose=False)
        readout = cards.build(dict(self.readout))
        self.task = Decode(
            cast(BrainModel, deepcopy(self.model)),
            n_outputs=readout.n_outputs,
            readout=readout,
            cache_tokens=False,
            **self.how.get("task", {}),
        )
        batch = replace(x, y=torch.from_numpy(y).long())
        loader = Shuffled(batch, self.how["batch_size"], seed=self.seed)
        epochs = math.ceil(self.how["steps"] / len(loader))
        limits = {"max_steps": self.how["steps"], "max_epochs": epochs}
        fit(self.task, {**self.how.get("trainer", {}), **limits}, loader)
        self.task.eval()
        self._settle(batch)
        return self

    def _settle(self, batch: Batch) -> None:
        """Running statistics over all training windows, with the weights as they are now.

        Those of training follow the last few batches and weights that still changed.
        """
        norms = [m for m in self.task.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over batches
            norm.train()
        if norms:
            with torch.no_grad():
                for part in Shuffled(batch, 4 * _CHUNK, seed=self.seed):
                    self.task(part)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def predict_proba(self, x: Batch) -> np.ndarray:
        """Probability of each class."""
        with torch.no_grad():
            logits = torch.cat([self.task(_some(x, part)) for part in _parts(x)])
        return logits.double().softmax(1).numpy()
