"""Protocols of suites: who and what is on each side, in which order, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from neurofm.data.audit import find_leaks
from neurofm.data.rows import Row, Split, overlapping


def rows_of(
    *, people: int = 6, sessions: int = 2, runs: int = 2, trials: int = 10, step: float = 4.0
) -> list[Row]:
    """Windows of 2 s, classes in turn; runs have the same names in every session."""
    return [
        Row(
            f"{p:03d}",
            f"{s}",
            f"{r}",
            f"toy_sub-{p:03d}_ses-{s}_run-{r}",
            step * t,
            step * t + 2,
            "ab"[t % 2],
        )
        for p in range(1, people + 1)
        for s in range(sessions)
        for r in range(runs)
        for t in range(trials)
    ]


PROTOCOLS: dict[str, dict[str, Any]] = {
    "leave_one_run_out": {},
    "leave_one_session_out": {},
    "leave_one_subject_out": {},
    "leave_one_subject_out, validated": {"validate": 0.2},
    "subject_k_fold": {"k": 3},
    "monte_carlo_subjects": {"splits": 3, "seed": 4},
    "chronological": {"per_class": 3},
    "chronological, 80/20": {"share": 0.8},
    "within_session": {"k": 3},
    "within_session, of runs": {"k": 3, "unit": "run"},
    "contiguous_k_fold": {"k": 4},
    "crossed_groups": {"train": ["0"], "test": ["1"], "groups": [["1", "2", "3"], ["4", "5", "6"]]},
}
INSIDE = ("leave_one_run_out", "leave_one_session_out", "chronological", "within", "contiguous")


def folds_of(title: str, rows: list[Row]) -> list[Split]:
    from neurofm.evaluate.folds import make_folds

    return make_folds(rows, {"folds": title.partition(",")[0], **PROTOCOLS[title]})


def values(rows: list[Row], members: tuple[int, ...], *names: str) -> set[tuple[Any, ...]]:
    return {tuple(getattr(rows[i], name) for name in names) for i in members}


@pytest.mark.parametrize("title", PROTOCOLS)
def test_no_fold_leaks_and_every_training_side_has_all_classes(title: str) -> None:
    rows = rows_of()
    folds = folds_of(title, rows)

    assert folds == folds_of(title, rows)  # repeatable
    assert len({fold.name for fold in folds}) == len(folds)
    for fold in folds:
        assert find_leaks(rows, fold) == []
        assert values(rows, fold.train, "label") == {("a",), ("b",)}
        if title.startswith(INSIDE):
            assert values(rows, fold.train, "subject") == values(rows, fold.test, "subject")
            assert len(values(rows, fold.test, "subject")) == 1
        elif title != "crossed_groups":
            everyone = [values(rows, side, "subject") for side in fold.sides.values()]
            assert sum(map(len, everyone)) == len(set.union(*everyone))


@pytest.mark.parametrize("title", PROTOCOLS)
def test_a_leak_planted_in_any_protocol_is_found(title: str) -> None:
    rows = rows_of()
    fold = folds_of(title, rows)[0]
    i, j = fold.train[0], fold.test[-1]
    late = replace(rows[i], start=rows[i].start + 1, stop=rows[i].stop + 1)

    assert find_leaks([late if k == j else row for k, row in enumerate(rows)], fold)
    assert find_leaks(rows, replace(fold, test=(*fold.test, i)))


@pytest.mark.parametrize(
    ("title", "per_person"),
    [
        ("leave_one_run_out", 4),  # run 0 of one session is not that of the other
        ("leave_one_session_out", 2),
        ("within_session", 6),
        ("within_session, of runs", 12),
        ("contiguous_k_fold", 4),
    ],
)
def test_every_window_of_a_person_is_tested_once(title: str, per_person: int) -> None:
    rows = rows_of()
    folds = folds_of(title, rows)

    assert len(folds) == 6 * per_person
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(rows)))


def test_a_run_left_out_is_that_of_its_session_alone() -> None:
    rows = rows_of()
    for fold in folds_of("leave_one_run_out", rows):
        assert len(values(rows, fold.test, "session", "run")) == 1
        assert len(values(rows, fold.train, "session", "run")) == 3


def test_parts_of_a_session_are_contiguous_and_stay_in_it() -> None:
    rows = rows_of()
    for fold in folds_of("within_session", rows):
        assert len(values(rows, (*fold.train, *fold.test), "subject", "session")) == 1
        for label in "ab":
            own = [i for i in (*fold.train, *fold.test) if rows[i].label == label]
            order = sorted(own, key=lambda i: (rows[i].run, rows[i].start))
            at = [order.index(i) for i in fold.test if rows[i].label == label]
            assert sorted(at) == list(range(min(at), max(at) + 1))


def test_few_shot_trains_on_the_first_trials_of_each_class() -> None:
    rows = rows_of()
    for title, n in (("chronological", 3), ("chronological, 80/20", 16)):
        folds = folds_of(title, rows)
        assert len(folds) == 6
        for fold in folds:
            for label in "ab":
                train, test = (
                    [
                        (rows[i].session, rows[i].run, rows[i].start)
                        for i in side
                        if rows[i].label == label
                    ]
                    for side in (fold.train, fold.test)
                )
                assert len(train) == n and max(train) < min(test)  # type: ignore[type-var]


def test_windows_that_overlap_the_test_part_train_nothing() -> None:
    from neurofm.evaluate.folds import contiguous_k_fold

    rows = rows_of(people=1, sessions=1, runs=1, trials=40, step=0.5)
    for fold in contiguous_k_fold(rows, k=4):
        assert fold.train and not overlapping(rows, fold.test, fold.train)


def test_people_with_a_label_of_their_own_are_dealt_by_it() -> None:
    from neurofm.evaluate.folds import monte_carlo_subjects

    ill = {"001", "002", "003", "004", "005"}
    rows = [replace(row, label="ab"[row.subject in ill]) for row in rows_of(people=15)]
    for fold in monte_carlo_subjects(rows, splits=4, stratify=True):
        counts = [
            (len(group & ill), len(group - ill))
            for group in ({rows[i].subject for i in side} for side in fold.sides.values())
        ]
        assert counts == [(3, 6), (1, 2), (1, 2)]


def test_people_are_crossed_with_runs() -> None:
    rows = rows_of()
    first, second = folds_of("crossed_groups", rows)
    assert values(rows, first.test, "subject") == {("001",), ("002",), ("003",)}
    assert values(rows, second.train, "subject", "run") == {(f"00{p}", "0") for p in (4, 5, 6)}
    assert values(rows, second.test, "run") == {("1",)}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("within_session", {"k": 11}, r"001, 0: windows by class .* cannot be cut into 11 folds"),
        ("within_session", {"k": 1}, "1 folds, expected 2 or more"),
        ("chronological", {}, "expected one of both"),
        ("chronological", {"per_class": 30}, "30 for training leave none"),
        ("subject_k_fold", {"k": 9}, "needs at least 9 groups"),
        ("monte_carlo_subjects", {"splits": 0}, "0 splits"),
        ("crossed_groups", {"train": ["0"], "test": ["0"], "groups": [["1"], ["2"]]}, "both sides"),
        ("crossed_groups", {"train": ["0"], "test": ["1"], "groups": [["1"], ["1"]]}, "common"),
        ("crossed_groups", {"train": ["0"], "test": ["1"], "groups": [["1"], ["9"]]}, "0 windows"),
    ],
)
def test_what_rows_do_not_allow_is_said(name: str, arguments: dict[str, Any], words: str) -> None:
    from neurofm.evaluate.folds import make_folds

    with pytest.raises(ValueError, match=words):
        make_folds(rows_of(), {"folds": name, **arguments})


def test_one_class_or_one_run_is_said_by_name() -> None:
    from neurofm.evaluate.folds import contiguous_k_fold, leave_one_run_out, leave_one_subject_out

    one = [replace(row, label="a") for row in rows_of()]
    with pytest.raises(ValueError, match="001: the windows are all of class a"):
        contiguous_k_fold(one)
    with pytest.raises(ValueError, match="subject 001 has the runs"):
        leave_one_run_out(rows_of(sessions=1, runs=1))
    lonely = [replace(r, label="c") if r.subject == "002" else r for r in rows_of(people=2)]
    with pytest.raises(ValueError, match="no window of class"):
        leave_one_subject_out(lonely)
