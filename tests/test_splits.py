from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurofm.data import (
    Row,
    Split,
    audit_summary,
    by_group,
    by_time,
    chronological_few_shot,
    find_leaks,
    kfold,
    leave_one_out,
    overlapping,
    refuse_leakage,
)


def corpus(subjects: int = 4, runs: int = 3, windows: int = 10) -> list[Row]:
    """Alternating left and right windows of 2 s every 4 s."""
    return [
        Row(
            subject=f"{s:03d}",
            session=None,
            run=str(4 + 4 * r),
            recording=f"toy_sub-{s:03d}_run-{4 + 4 * r}",
            start=4.0 * w,
            stop=4.0 * w + 2.0,
            label=("left", "right")[w % 2],
            fingerprint=f"{s}/{r}",
        )
        for s in range(subjects)
        for r in range(runs)
        for w in range(windows)
    ]


def values(rows: list[Row], members: tuple[int, ...], key: str) -> set[str]:
    return {getattr(rows[i], key) for i in members}


def all_splits(rows: list[Row], seed: int) -> list[Split]:
    return [
        *leave_one_out(rows, "run", seed=seed),
        *leave_one_out(rows, "subject", validate=0.3, seed=seed),
        *kfold(rows, "subject", 2, seed=seed),
        *kfold(rows, "recording", 5, seed=seed, validate=0.2),
        by_group(rows, "subject", (0.5, 0.25, 0.25), seed),
        by_group(rows, "recording", (0.7, 0.1, 0.2), seed),
        by_time(rows, (0.6, 0.2, 0.2)),
        *chronological_few_shot(rows, 0.3),
        *chronological_few_shot(rows, 3),
    ]


def test_leaving_a_run_out_tests_that_run_of_every_subject():
    rows = corpus()
    splits = leave_one_out(rows, "run")
    assert [split.name for split in splits] == ["run-4", "run-8", "run-12"]  # natural order
    for split in splits:
        assert len(values(rows, split.test, "run")) == 1
        assert len(values(rows, split.test, "subject")) == 4
        assert not values(rows, split.test, "run") & values(rows, split.train, "run")
        assert sorted(split.train + split.test) == list(range(len(rows)))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), subjects=st.integers(4, 9), runs=st.integers(3, 5))
def test_every_split_is_disjoint_whole_and_repeatable(seed: int, subjects: int, runs: int):
    rows = corpus(subjects, runs, 20)
    splits = all_splits(rows, seed)
    assert splits == all_splits(rows, seed)
    for split in splits:
        everything = split.train + split.validate + split.test
        assert len(everything) == len(set(everything))
        assert split.train and split.test
        if split.by != "time":
            groups = [values(rows, side, split.by) for side in split.sides.values()]
            assert len(set.union(*groups)) == sum(map(len, groups))
        for left, right in ((split.train, split.validate), (split.train, split.test)):
            assert not overlapping(rows, left, right)


def test_validation_groups_come_out_of_training_alone():
    rows = corpus(6)
    plain = leave_one_out(rows, "subject")
    with_validation = leave_one_out(rows, "subject", validate=0.4)
    for without, split in zip(plain, with_validation, strict=True):
        assert split.test == without.test
        assert sorted(split.train + split.validate) == sorted(without.train)
        assert len(values(rows, split.validate, "subject")) == 2


def test_each_group_is_tested_exactly_once_over_k_folds():
    rows = corpus(7)
    tested = [i for split in kfold(rows, "subject", 3) for i in split.test]
    assert sorted(tested) == list(range(len(rows)))


def test_folds_without_a_seed_are_contiguous():
    rows = corpus(6)
    first = kfold(rows, "subject", 3, seed=None)[0]
    assert values(rows, first.test, "subject") == {"000", "001"}


def test_fractions_of_groups_are_respected():
    rows = corpus(20)
    split = by_group(rows, "subject", (0.6, 0.2, 0.2), seed=3)
    counts = [len(values(rows, side, "subject")) for side in split.sides.values()]
    assert counts == [12, 4, 4]


@settings(max_examples=50, deadline=None)
@given(
    length=st.floats(0.5, 4.0),
    stride=st.floats(0.25, 4.0),
    share=st.floats(0.3, 0.7),
    extra=st.floats(0.0, 5.0),
)
def test_time_split_keeps_the_gap_even_for_overlapping_windows(
    length: float, stride: float, share: float, extra: float
):
    rows = [Row("1", None, None, "r", k * stride, k * stride + length) for k in range(200)]
    split = by_time(rows, (share, 0.0, 1 - share), gap_s=length + extra)
    last = max(rows[i].stop for i in split.train)
    first = min(rows[i].start for i in split.test)
    assert first - last >= length + extra - 1e-6


def test_gap_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="gap_s=2"):
        by_time(corpus(), gap_s=1.0)


def test_few_shot_trains_on_the_first_windows_of_each_class():
    rows = corpus(2, 3, 10)
    for split in chronological_few_shot(rows, 4):
        for label in ("left", "right"):
            train = [i for i in split.train if rows[i].label == label]
            test = [i for i in split.test if rows[i].label == label]
            assert len(train) == 4
            assert max(train) < min(test)  # rows are in natural order: run 4 before run 12
    assert [len(s.train) for s in chronological_few_shot(rows, 0.3)] == [8, 8]


def test_few_shot_drops_test_windows_that_share_time_with_training():
    rows = [
        Row("1", None, None, "r", k * 1.0, k * 1.0 + 2.0, label=("a", "b")[k % 2])
        for k in range(20)
    ]
    with pytest.warns(UserWarning, match="dropped 1 test windows"):
        (split,) = chronological_few_shot(rows, 5)
    assert not overlapping(rows, split.train, split.test)


def test_overlap_agrees_with_comparing_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = rng.uniform(0, 30, 40).round(2)
        rows = [
            Row("1", None, None, f"r{rng.integers(3)}", s, s + rng.uniform(0.1, 3)) for s in start
        ]
        left = list(range(0, 20))
        right = list(range(20, 40))
        expected = {
            j
            for j in right
            for i in left
            if rows[i].recording == rows[j].recording
            and rows[i].start < rows[j].stop
            and rows[j].start < rows[i].stop
        }
        assert overlapping(rows, left, right) == expected


def test_touching_windows_do_not_overlap_despite_rounding():
    rows = [Row("1", None, None, "r", k / 160 * 7, (k + 1) / 160 * 7) for k in range(1000)]
    assert not overlapping(rows, range(0, 1000, 2), range(1, 1000, 2))


def test_too_few_groups_name_the_number_found():
    with pytest.raises(ValueError, match="needs at least 5 groups, the rows have 4"):
        kfold(corpus(4), "subject", 5)
    with pytest.raises(ValueError, match="needs at least 3 groups"):
        leave_one_out(corpus(2), "subject", validate=0.2)


def test_class_missing_from_training_is_named():
    rows = [
        Row(s, None, None, s, float(k), k + 1.0, label=label)
        for s, label in (("1", "left"), ("2", "right"))
        for k in range(4)
    ]
    with pytest.raises(ValueError, match="no window of class 'left'"):
        leave_one_out(rows, "subject")


def test_class_missing_from_a_test_side_is_counted():
    rows = corpus(3)
    rows = [row for row in rows if row.subject != "001" or row.label == "left"]
    with pytest.warns(UserWarning, match="1 of 3 splits"):
        leave_one_out(rows, "subject")


def test_rows_without_the_entity_are_refused_with_an_alternative():
    with pytest.raises(ValueError, match=r"120 of 120 rows have no session.*Split by subject"):
        leave_one_out(corpus(), "session")


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5), (0.0, 0.5, 0.5), (0.5, 0.4, 0.2), (1.5, -1.0, 0.5)]
)
def test_bad_fractions_are_refused(fractions: tuple[float, ...]):
    with pytest.raises(ValueError, match="fractions"):
        by_group(corpus(), "subject", fractions)


def test_few_shot_needs_a_window_left_to_test():
    with pytest.raises(ValueError, match=r"15 windows of class 'left'; 15 for training"):
        chronological_few_shot(corpus(), 15)


def test_overlap_of_many_windows_is_found():
    n = 200_000
    rows = [Row("1", None, None, f"r{k % 100}", float(k // 100), k // 100 + 1.0) for k in range(n)]
    assert not overlapping(rows, range(0, n // 2), range(n // 2, n))


def plant(kind: str, rows: list[Row], split: Split) -> tuple[list[Row], Split]:
    """The same rows or split with one leak of that kind between training and test."""
    rows = list(rows)
    i, j = split.train[0], split.test[0]
    if kind == "window":
        return rows, replace(split, test=(*split.test, i))
    if kind in ("subject", "session", "run"):
        own = {"subject": rows[i].subject, "session": rows[i].session, "run": rows[i].run}
        rows[j] = replace(rows[j], **own)
    elif kind == "recording":
        rows[j] = replace(rows[j], recording=rows[i].recording, start=1e6, stop=1e6 + 2)
    elif kind == "time":
        rows[j] = replace(rows[i], start=rows[i].start + 1.99, stop=rows[i].stop + 1.99)
    elif kind == "stimulus":
        rows[i], rows[j] = replace(rows[i], stimulus="cat"), replace(rows[j], stimulus="cat")
    elif kind == "duplicate":
        rows[j] = replace(rows[j], fingerprint=rows[i].fingerprint)
    return rows, split


@pytest.mark.parametrize(
    ("kind", "by"),
    [
        ("window", "subject"),
        ("subject", "subject"),
        ("session", "session"),
        ("run", "run"),
        ("recording", "subject"),
        ("time", "time"),
        ("stimulus", "subject"),
        ("duplicate", "run"),
    ],
)
def test_each_planted_leak_is_found_and_refused(kind: str, by: str):
    rows = [replace(row, session=f"s{row.run}") for row in corpus(6, 3, 20)]
    split = by_time(rows) if by == "time" else leave_one_out(rows, by)[0]
    refuse_leakage(rows, split)
    rows, split = plant(kind, rows, split)
    leaks = find_leaks(rows, split)
    assert kind in {leak.kind for leak in leaks}
    assert {(leak.left, leak.right) for leak in leaks} == {("train", "test")}
    with pytest.raises(ValueError, match=rf"split {split.name} .*leaks: "):
        refuse_leakage(rows, split)


@pytest.mark.filterwarnings("ignore:.*lack a class")
def test_a_hundred_random_clean_splits_raise_no_alarm():
    rng = np.random.default_rng(0)
    for seed in range(100):
        rows = corpus(int(rng.integers(4, 10)), int(rng.integers(3, 6)), int(rng.integers(15, 25)))
        splits = all_splits(rows, seed)
        split = splits[int(rng.integers(len(splits)))]
        assert find_leaks(rows, split) == []


def test_leaks_into_validation_count_too():
    rows = corpus(4)
    split = by_group(rows, "subject", (0.5, 0.25, 0.25))
    moved = replace(split, validate=(*split.validate, split.test[-1]), test=split.test[:-1])
    (leak, *_) = find_leaks(rows, moved)
    assert (leak.kind, leak.left, leak.right, leak.count) == ("subject", "validate", "test", 1)


def test_windows_split_at_random_after_overlapping_are_caught():
    rows = [Row("1", None, "1", "r", k * 1.0, k * 1.0 + 2.0) for k in range(100)]
    order = np.random.default_rng(0).permutation(100).tolist()
    split = Split(tuple(order[:80]), (), tuple(order[80:]), name="random", by="time")
    with pytest.raises(ValueError, match=r"share time.*by_time with a gap"):
        refuse_leakage(rows, split)


def test_a_leak_can_be_accepted_by_name_only():
    rows = [replace(row, stimulus=str(row.start)) for row in corpus()]
    split = leave_one_out(rows, "subject")[0]
    refuse_leakage(rows, split, allow=["stimulus"])
    with pytest.raises(ValueError, match=r"10 stimuli are on both sides.*allow=\['stimulus'\]"):
        refuse_leakage(rows, split)
    with pytest.raises(ValueError, match="expected some of"):
        refuse_leakage(rows, split, allow=["stimuli"])


def test_split_of_another_table_is_refused():
    split = leave_one_out(corpus(5), "subject")[0]
    with pytest.raises(ValueError, match="belongs to another table"):
        find_leaks(corpus(2), split)


def test_summary_is_one_line_with_the_numbers():
    rows = corpus(12, 3, 15)
    split = leave_one_out(rows, "run")[0]
    line = "split audit: 12 subjects x 3 runs, train 360 / test 180 windows, 0 leaks"
    assert audit_summary(rows, split) == line
    leaky = replace(split, by="subject")
    assert audit_summary(rows, leaky).endswith("1 leak (subject)")


def test_audit_of_many_windows_finds_nothing_in_a_clean_split():
    rows = corpus(100, 10, 200)
    split = by_group(rows, "subject")
    assert not find_leaks(rows, split)
