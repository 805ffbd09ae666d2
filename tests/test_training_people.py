"""Folds for learning curves against the number of people to train on."""

from __future__ import annotations

import pytest

from neurofm.data.rows import Row
from neurofm.evaluate.folds import leave_one_subject_out

ROWS = [
    Row(f"{p:03d}", None, "1", f"toy_sub-{p}", 4.0 * t, 4.0 * t + 2, "ab"[t % 2])
    for p in range(6)
    for t in range(4)
]


def people(members: tuple[int, ...]) -> set[str]:
    return {ROWS[i].subject for i in members}


def test_smaller_draws_are_contained_in_larger_ones_and_never_hold_the_person_who_is_decoded():
    whole = leave_one_subject_out(ROWS)
    earlier = [set() for _ in whole]
    for n in (1, 3, 5):
        folds = leave_one_subject_out(ROWS, train_people=n)
        assert [fold.test for fold in folds] == [fold.test for fold in whole]
        for i, fold in enumerate(folds):
            drawn = people(fold.train)
            assert len(drawn) == n and earlier[i] <= drawn
            assert not drawn & people(fold.test)
            assert len(fold.train) == 4 * n  # all windows of a person
            earlier[i] = drawn
    assert [fold.train for fold in folds] == [fold.train for fold in whole]


def test_another_seed_draws_other_people():
    draws = {
        tuple(tuple(sorted(people(f.train))) for f in folds)
        for folds in (leave_one_subject_out(ROWS, train_people=2, seed=s) for s in range(3))
    }
    assert len(draws) == 3


@pytest.mark.parametrize("n", [0, 6])
def test_more_people_than_there_are_is_an_error(n):
    with pytest.raises(ValueError, match=f"train_people is {n}; expected 1 to 5"):
        leave_one_subject_out(ROWS, train_people=n)
