"""Cells of a suite: decode the test side of a fold and write what came out."""

from __future__ import annotations

import functools
import inspect
import time
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from neurofm import cards, metrics
from neurofm.batch import Batch
from neurofm.cli.benchmark.networks import Network
from neurofm.cli.benchmark.windows import Windows, windows_of
from neurofm.cli.run_folder import versions
from neurofm.data import Split
from neurofm.evaluate import FoldScores, per_subject
from neurofm.evaluate.fold import predict_fold, refuse_copies, take
from neurofm.evaluate.nested import choose, grid_of, inner_folds, with_values
from neurofm.evaluate.records import claimed, recorded, write_record
from neurofm.evaluate.suites import Cell, Suite

METRICS = ("balanced_accuracy", "accuracy", "kappa", "auroc", "log_loss", "calibration_error")


@dataclass(frozen=True)
class Group:
    """Cells that share windows, weights and seed.

    Args:
        cells: With the key of each.
    """

    cells: tuple[tuple[Cell, str], ...]

    @property
    def first(self) -> Cell:
        """Any of them."""
        return self.cells[0][0]


@dataclass(frozen=True)
class Runner:
    """Does one group after the other; sent to worker processes.

    Args:
        work: Folder of records and weights.
    """

    suite: Suite
    work: Path

    def __call__(self, group: Group) -> list[tuple[Cell, str]]:
        """Write a record for every cell; those that failed, and why."""
        folder = self.work / "records"
        with claimed(folder, group.cells[0][1]):  # another command may be at these cells
            cells = [item for item in group.cells if not recorded(folder, item[1])]
            return self._compute(Group(tuple(cells))) if cells else []

    def _compute(self, group: Group) -> list[tuple[Cell, str]]:
        began = time.process_time(), time.perf_counter()
        first, failed = group.first, []
        windows = windows_of(self.suite, first.dataset, first.method)
        method = self.suite.method(first.method, first.dataset) or {}
        decoder: _Arrays | Network
        if "estimator" in method:
            decoder = _Arrays(method, windows)
        else:
            decoder = Network(self.suite, method, windows, first, self.work)
        for number, (cell, key) in enumerate(group.cells):
            if number:  # what the group shares is counted once
                began = time.process_time(), time.perf_counter()
            try:
                record = {"key": key, **self._record(cell, decoder, windows)}
            except (ValueError, RuntimeError, ArithmeticError) as error:
                failed.append((cell, f"{type(error).__name__}: {error}"))
                continue
            record |= {
                "suite": self.suite.name,
                "cpu_s": round(time.process_time() - began[0], 3),
                "wall_s": round(time.perf_counter() - began[1], 3),
                "pretraining_cpu_s": decoder.pretraining.get("cpu_s", 0.0),
                "pretraining": decoder.pretraining.get("stages", []) if number == 0 else [],
                "versions": _versions(),
            }
            write_record(self.work / "records", record)
        return failed

    def _record(self, cell: Cell, decoder: _Arrays | Network, windows: Windows) -> dict[str, Any]:
        split = windows.split(self.suite, cell)
        refuse_copies(windows.rows, split, windows.copies)
        lightning.seed_everything(cell.seed, verbose=False)
        values = chosen_values(cell, decoder, windows, split)
        estimator = decoder.made(cell, values)
        scores = _predict(cell, estimator, decoder, windows, split)
        method = self.suite.method(cell.method, cell.dataset) or {}
        record = {
            "dataset": cell.dataset,
            "protocol": cell.protocol,
            "fold": cell.fold,
            "fold_name": windows.folds(self.suite, cell.protocol)[cell.fold].name,
            "method": cell.method,
            "weights": cell.weights,
            "reading": cell.reading,
            "share": cell.share,
            "seed": cell.seed,
            "windows": windows.hash(split),
            "n_train": len(split.train) + len(split.validate),
            "n_train_people": len(
                {windows.rows[i].subject for i in (*split.train, *split.validate)}
            ),
            "n_test": len(split.test),
            "classes": list(scores.classes),
            "align": _align(windows, method, estimator),
            "chosen": values,
            "epochs": getattr(estimator, "epochs", None),
            "parameters": int(getattr(estimator, "parameters", 0)),
            "people": scores_of(scores),
            "test": predictions_of(scores, windows),
        }
        return record


class _Arrays:
    """An estimator on arrays, or on batches if it `wants` them."""

    def __init__(self, method: Mapping[str, Any], windows: Any) -> None:
        self.method, self.windows = method, windows
        self.pretraining: dict[str, Any] = {}
        self.rows = windows.rows

    def made(self, cell: Cell, values: Mapping[str, Any]) -> Any:
        """An unfitted estimator with chosen arguments."""
        spec = with_values(deepcopy(self.method["estimator"]), values)
        made = cards.load_class(spec["class_path"])
        if "seed" in inspect.signature(made).parameters:
            spec["init_args"] = {"seed": cell.seed, **spec.get("init_args", {})}
        return cards.build(spec)

    def inputs(self, cell: Cell) -> np.ndarray | Batch:
        """What the estimator is given."""
        made = cards.load_class(self.method["estimator"]["class_path"])
        return self.windows.batch if getattr(made, "wants", "") == "batch" else self.windows.x

    def local(self, split: Split) -> Split:
        """The split itself: all windows are given."""
        return split


def _predict(
    cell: Cell, estimator: Any, decoder: _Arrays | Network, windows: Windows, split: Split
) -> FoldScores:
    own = decoder.local(split)
    scores = predict_fold(
        estimator,
        decoder.inputs(cell),
        decoder.rows,
        own,
        name=cell.method,
        fold=cell.fold,
        classes=windows.labels,
        sfreq=windows.batch.sfreq,
        names=windows.batch.names,
    )
    return replace(scores, window=np.array(split.test))


def chosen_values(
    cell: Cell, decoder: _Arrays | Network, windows: Any, split: Split
) -> dict[str, Any]:
    """The best values of a method's `choose`, by windows of the training side alone.

    By the area under the curve over inner folds; by the validation side where the fold has one.
    """
    options = list(grid_of(decoder.method.get("choose", {})))
    if len(options) < 2 or cell.reading == "linear probe":
        return {}
    own = decoder.local(split)
    members = [*own.train, *own.validate]
    rows = [decoder.rows[i] for i in members]
    inputs = take(decoder.inputs(cell), members)  # from here on there are no test windows
    inner = inner_folds(rows, split.by)
    if own.validate:
        n = len(own.train)
        held = tuple(range(n, len(members)))
        inner = [Split(tuple(range(n)), (), held, name="validation side", by=split.by)]

    def score(option: dict[str, Any], fold: Split) -> float:
        found = predict_fold(
            decoder.made(cell, option),
            inputs,
            rows,
            fold,
            name=f"{cell.method} with {option}",
            classes=windows.labels,
            sfreq=windows.batch.sfreq,
            names=windows.batch.names,
        )
        return metrics.auroc(found.y_true, found.probability)

    return choose(options, score, inner)


@functools.cache
def _versions() -> dict[str, str]:
    """Once per process: asking git takes longer than many a cell."""
    return versions()


def scores_of(scores: FoldScores) -> dict[str, dict[str, float]]:
    """Person to metric to value; those that one class leaves undefined are NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is undefined for")
        found = {metric: per_subject(scores, metric) for metric in METRICS}
    return {
        name: {metric: round(found[metric][name], 6) for metric in METRICS}
        for name in dict.fromkeys(scores.subject)
    }


def predictions_of(scores: FoldScores, windows: Windows) -> dict[str, list[Any]]:
    """What was said of every test window: `p` in the order of the classes.

    `window` is the moment of its event in its recording, seconds, the same for all methods.
    """
    return {
        "subject": list(scores.subject),
        "recording": list(scores.group),
        "window": [windows.trial_s(int(i)) for i in scores.window],
        "y": scores.y_true.tolist(),
        "p": np.round(scores.probability, 4).tolist(),
    }


def _align(windows: Windows, method: Mapping[str, Any], estimator: Any) -> str:
    said: Sequence[str] = (
        windows.align,
        str(getattr(estimator, "align", "none")),
        "features standardized offline" if method.get("standardize_features") else "none",
    )
    return ", ".join(word for word in said if word != "none") or "none"
