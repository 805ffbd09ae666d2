"""Choices inside the training side: what inner folds separate; test windows decide nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurofm.data.audit import find_leaks
from neurofm.data.rows import Row, Split


def rows_of(people: int = 5, runs: int = 3, trials: int = 12) -> list[Row]:
    return [
        Row(f"{p}", None, f"{r}", f"toy_sub-{p}_run-{r}", 4.0 * t, 4.0 * t + 2, "ab"[t % 2])
        for p in range(people)
        for r in range(runs)
        for t in range(trials)
    ]


@pytest.mark.parametrize(
    ("by", "people", "runs", "separated", "n"),
    [
        ("subject", 5, 3, "subject", 4),
        ("subject", 1, 3, "run", 3),  # one person: the next thing below
        ("run", 2, 3, "run", 3),
        ("recording", 2, 2, "recording", 4),
        ("run", 1, 1, None, 4),
        ("time", 1, 3, None, 4),
    ],
)
def test_inner_folds_separate_what_the_outer_fold_does(
    by: str, people: int, runs: int, separated: str | None, n: int
) -> None:
    from neurofm.evaluate.nested import inner_folds

    rows = rows_of(people, runs)
    folds = inner_folds(rows, by, k=4)

    assert len(folds) == n
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(rows)))
    for fold in folds:
        train, held = fold.train, fold.test
        assert not find_leaks(rows, fold) and fold.by == (separated or "time")
        assert {rows[i].label for i in train} == {rows[i].label for i in held} == {"a", "b"}
        if separated:
            sides = [{getattr(rows[i], separated) for i in side} for side in (train, held)]
            assert not sides[0] & sides[1]


def test_too_few_windows_leave_nothing_to_choose_by() -> None:
    from neurofm.evaluate.nested import held_out, inner_folds

    rows = rows_of(1, 1, 2)
    assert inner_folds(rows, "time") == []
    assert inner_folds([row for row in rows_of(1, 1) if row.label == "a"], "time") == []
    assert held_out(rows, "time", share=0.2) == ()


@pytest.mark.parametrize(
    ("by", "kind", "n"), [("subject", "subject", 2), ("run", "run", 1), ("time", None, 0)]
)
def test_what_ends_a_training_is_whole_people_runs_or_the_last_trials(
    by: str, kind: str | None, n: int
) -> None:
    from neurofm.evaluate.nested import held_out

    rows = rows_of()
    aside = held_out(rows, by, share=0.34, seed=3)
    rest = set(range(len(rows))) - set(aside)

    assert aside and {rows[i].label for i in rest} == {"a", "b"}
    if kind is not None:
        groups = {getattr(rows[i], kind) for i in aside}
        assert len(groups) == n and not groups & {getattr(rows[i], kind) for i in rest}
        return
    for person in "01234":
        last = max((rows[i].run, rows[i].start) for i in rest if rows[i].subject == person)
        first = min((rows[i].run, rows[i].start) for i in aside if rows[i].subject == person)
        assert last < first  # type: ignore[operator]


def toy_batch(n: int) -> Any:
    import torch

    from neurofm.batch import Batch

    return Batch(
        x=torch.randn(n, 2, 8, generator=torch.Generator().manual_seed(0)),
        channel_mask=torch.ones(n, 2, dtype=torch.bool),
        kind=torch.zeros(n, 2, dtype=torch.int64),
        position=torch.zeros(n, 2, 3),
        orientation=torch.zeros(n, 2, 3),
        has_position=torch.zeros(n, 2, dtype=torch.bool),
        sfreq=100.0,
        onset=torch.arange(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


class Thresholds:
    """Says b where one feature is positive; which one is its argument."""

    def __init__(self, *, feature: int, seed: int = 0) -> None:
        self.feature, self.seed = feature, seed

    def fit(self, x: np.ndarray, y: np.ndarray) -> Thresholds:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x[:, self.feature, 0]))
        return np.stack([1 - p, p], 1)


def chosen(x: np.ndarray, rows: list[Row], split: Split) -> dict[str, Any]:
    from neurofm.cli.benchmark.decoding import _Arrays, chosen_values
    from neurofm.evaluate.suites import Cell

    windows = SimpleNamespace(
        x=x, rows=rows, labels=["a", "b"], batch=SimpleNamespace(sfreq=100.0, names=None)
    )
    method = {
        "estimator": {"class_path": "neurofm.evaluate.LinearProbe"},
        "choose": {"feature": [0, 1, 2]},
    }
    decoder = _Arrays(method, windows)  # type: ignore[arg-type]
    decoder.made = lambda cell, values: Thresholds(**values)  # type: ignore[method-assign]
    cell = Cell("d", "p", "m", "none", "trained", 0, 1.0, 0)
    return chosen_values(cell, decoder, windows, split)  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["subject", "run", "time"])
def test_test_labels_and_windows_choose_nothing(by: str, rng: np.random.Generator) -> None:
    rows = rows_of()
    y = np.array([row.label == "b" for row in rows])
    test = tuple(
        i for i, row in enumerate(rows) if (row.subject if by != "run" else row.run) == "1"
    )
    split = Split(tuple(sorted({*range(len(rows))} - {*test})), (), test, name="s", by=by)
    x = rng.normal(size=(len(rows), 3, 4))
    x[:, 1, 0] += 2 * y  # feature 1 tells the classes apart everywhere
    x[list(test), 2, 0] += 50 * y[list(test)] - 25  # feature 2 on the test side alone, perfectly

    first = chosen(x, rows, split)
    assert first == {"feature": 1}
    other = x.copy()
    other[list(test)] = rng.normal(size=(len(test), 3, 4)) * 100
    shuffled = [
        replace(row, label="ab"[int(rng.integers(2))]) if i in set(test) else row
        for i, row in enumerate(rows)
    ]
    assert chosen(other, shuffled, split) == first
    for_two = x.copy()
    train = list(split.train)
    for_two[train, 1, 0], for_two[train, 2, 0] = x[train, 2, 0], x[train, 1, 0]
    assert chosen(for_two, rows, split) == {"feature": 2}  # training windows do choose


def test_the_validation_side_of_a_fold_chooses_where_there_is_one(
    rng: np.random.Generator,
) -> None:
    rows = rows_of()
    y = np.array([row.label == "b" for row in rows])
    side = {
        name: tuple(i for i, r in enumerate(rows) if r.subject in name) for name in ("012", "3")
    }
    test = tuple(i for i, r in enumerate(rows) if r.subject == "4")
    split = Split(side["012"], side["3"], test, name="s", by="subject")
    x = rng.normal(size=(len(rows), 3, 4))
    x[list(side["012"]), 0, 0] += 3 * y[list(side["012"])]
    x[list(side["3"]), 2, 0] += 3 * y[list(side["3"])]

    assert chosen(x, rows, split) == {"feature": 2}


def test_values_go_to_their_paths_and_the_first_of_equals_is_taken() -> None:
    from neurofm.evaluate.nested import choose, grid_of, with_values

    spec = {"class_path": "x", "init_args": {"c": 1}}
    assert with_values(spec, {"init_args.c": 2, "other.d": 3}) == {
        "class_path": "x",
        "init_args": {"c": 2},
        "other": {"d": 3},
    }
    assert spec["init_args"] == {"c": 1}
    with pytest.raises(ValueError, match=r"class_path\.c does not lead"):
        with_values(spec, {"class_path.c": 2})
    options = list(grid_of({"a": [1, 2], "b": [3, 4]}))
    assert options[1] == {"a": 1, "b": 4} and len(options) == 4
    folds = [Split((), (), (), name="inner fold 1")]
    assert choose(options, lambda option, fold: float(option["a"]), folds) == options[2]
    assert choose(options, lambda option, fold: float("nan"), folds) == {}


def test_test_windows_do_not_reach_the_training_of_a_network(small: Any) -> None:
    import torch

    from neurofm.cli.benchmark.networks import FineTuned
    from neurofm.evaluate.fold import predict_fold

    data = small.data(labels=["left_hand", "right_hand"], window_s=2.0, offset_s=0.5)
    data.setup()
    batch, rows = data.windows.batch(range(len(data.rows))), list(data.rows)
    sides = [
        tuple(i for i, r in enumerate(rows) if (r.subject == "003") is t) for t in (False, True)
    ]
    split = Split(sides[0], (), sides[1], name="003", by="subject")
    how = {"epochs": 2, "validate": 0.5, "batch_size": 16, "task": {"lr": 1e-2}}
    readout = {
        "class_path": "neurofm.readouts.LatentStatistics",
        "init_args": {"dim": 16, "n_outputs": 2, "n_sources": 4},
    }
    model = small.model()

    def weights(batch: Any, rows: list[Row]) -> tuple[int | None, dict[str, torch.Tensor]]:
        tuned = FineTuned(model, readout, how, seed=1)
        predict_fold(tuned, batch, rows, split, name="m", classes=["left_hand", "right_hand"])
        return tuned.epochs, tuned.task.state_dict()

    epochs, first = weights(batch, rows)
    x = batch.x.clone()
    x[list(split.test)] = x[list(split.test)].flip(0)
    other = [replace(r, label="left_hand") if r.subject == "003" else r for r in rows]
    again, second = weights(replace(batch, x=x), other)

    assert epochs is not None and again == epochs
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_ends_with_the_weights_that_held_out_windows_like_best() -> None:
    import torch

    from neurofm.tasks.in_memory import Best

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))

        def forward(self, batch: Any) -> torch.Tensor:
            return self.w.expand(len(batch), 2)

    windows = toy_batch(4)
    task, trainer = Constant(), SimpleNamespace(current_epoch=0, should_stop=False)
    best = Best(replace(windows, y=torch.ones(4, dtype=torch.int64)), patience=2)
    for epoch, evidence in enumerate((0.1, 0.9, 0.5, 0.2)):
        trainer.current_epoch = epoch
        assert not trainer.should_stop
        task.w.data = torch.tensor([0.0, evidence])
        best.on_train_epoch_end(trainer, task)  # type: ignore[arg-type]

    assert trainer.should_stop
    assert best.restore(task) == 2 and float(task.w.detach()[1]) == pytest.approx(0.9)
