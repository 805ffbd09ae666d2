"""Protocols: which windows train and which are decoded, fold by fold.

A protocol is a function from rows to splits, named in a suite card. Those across people come from
`neurofm.data.splits`; here are those inside a person, a session or a recording, and those in which
people, and not only windows, play a part. In every fold `by` is what the two sides do not share;
inner folds (`neurofm.evaluate.nested`) separate the same.

Source: protocols of arXiv 2601.17883 and 2601.00573; Jayaram & Barachant 2018 (within session).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from neurofm.data.rows import Row, Split, overlapping
from neurofm.data.splits import (
    by_group,
    chronological_few_shot,
    chronology,
    kfold,
    leave_one_out,
    natural_order,
)
from neurofm.evaluate.protocol import within_subject
from neurofm.io.rules import same_entity

Unit = Literal["subject", "session", "run", "recording"]


def leave_one_run_out(rows: Sequence[Row]) -> list[Split]:
    """Every run of every person is decoded by what the person's other runs taught."""
    return within_subject(rows, by="run")


def leave_one_session_out(rows: Sequence[Row]) -> list[Split]:
    """Every session of every person is decoded by what the person's other sessions taught."""
    return within_subject(rows, by="session")


def leave_one_subject_out(
    rows: Sequence[Row],
    *,
    validate: float = 0.0,
    train_people: int | None = None,
    seed: int = 0,
) -> list[Split]:
    """Every person is decoded by what all others taught, or so many of them.

    Args:
        validate: Fraction of the others that validates instead.
        train_people: How many of those who are left train, for learning curves: drawn for every
            fold, smaller draws contained in larger ones of the same seed. None = all.
        seed: Of the draw.

    Raises:
        ValueError: There are fewer people to train on.
    """
    folds = leave_one_out(rows, "subject", validate=validate)
    if train_people is None:
        return folds
    found = []
    for number, fold in enumerate(folds):
        others = sorted({rows[i].subject for i in fold.train}, key=natural_order)
        if not 1 <= train_people <= len(others):
            raise ValueError(
                f"leave_one_subject_out: train_people is {train_people}; expected 1 to "
                f"{len(others)}, the people that are left to train on."
            )
        order = np.random.default_rng([seed, number]).permutation(len(others))
        drawn = {others[i] for i in order[:train_people]}
        train = tuple(i for i in fold.train if rows[i].subject in drawn)
        found.append(replace(fold, train=train, name=f"{fold.name}, {train_people} others"))
    return found


def subject_k_fold(
    rows: Sequence[Row], *, k: int = 5, seed: int = 0, validate: float = 0.0
) -> list[Split]:
    """K groups of people; those of each are decoded by what all others taught."""
    return kfold(rows, "subject", k, seed=seed, validate=validate)


def monte_carlo_subjects(
    rows: Sequence[Row],
    *,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    splits: int = 5,
    seed: int = 0,
    stratify: bool = False,
) -> list[Split]:
    """People dealt to train, validation and test, again and again.

    Args:
        fractions: Of the people, for train, validate, test.
        splits: How often they are dealt.
        seed: Of the first deal; the next ones have the next seeds.
        stratify: Deal the people of each class (the most frequent label of a person) by
            themselves, so that every side has some: for labels that belong to people.

    Raises:
        ValueError: Fewer than one deal, or too few people (of a class).
    """
    if splits < 1:
        raise ValueError(f"monte_carlo_subjects: {splits} splits, expected 1 or more.")
    if not stratify:
        return [by_group(rows, "subject", fractions, seed + i) for i in range(splits)]
    labels: dict[str, dict[str, int]] = {}
    for row in rows:
        own = labels.setdefault(row.subject, {})
        own[str(row.label)] = own.get(str(row.label), 0) + 1
    strata: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        counts = labels[row.subject]
        strata.setdefault(max(sorted(counts), key=counts.__getitem__), []).append(i)
    return [_stratified(rows, strata, fractions, seed + i) for i in range(splits)]


def _stratified(
    rows: Sequence[Row], strata: Mapping[str, list[int]], fractions: Sequence[float], seed: int
) -> Split:
    sides: dict[str, list[int]] = {"train": [], "validate": [], "test": []}
    for label, members in sorted(strata.items()):
        try:
            part = by_group([rows[i] for i in members], "subject", fractions, seed)
        except ValueError as error:
            raise ValueError(f"people of class {label!r}: {error}") from error
        for side, chosen in part.sides.items():
            sides[side] += [members[i] for i in chosen]
    train, validate, test = (tuple(sorted(sides[s])) for s in ("train", "validate", "test"))
    return Split(train, validate, test, name=f"subject-seed-{seed}", by="subject")


def chronological(
    rows: Sequence[Row], *, per_class: int | None = None, share: float | None = None
) -> list[Split]:
    """The first windows of each class of a person train, all later ones are decoded.

    Args:
        per_class: So many windows of each class.
        share: Or this share of each class; 0.8 is the chronological 80/20 split.

    Raises:
        ValueError: Not exactly one of both is given, or a class has too few windows.
    """
    if (per_class is None) == (share is None):
        raise ValueError(
            f"chronological: per_class is {per_class} and share is {share}; expected one of both."
        )
    return chronological_few_shot(rows, float(share) if share is not None else int(per_class or 0))


def within_session(rows: Sequence[Row], *, k: int = 5, unit: Unit = "session") -> list[Split]:
    """K contiguous parts of every session; each is decoded by what the session's others taught.

    Args:
        k: Parts.
        unit: What is cut: a session (a person's whole data where sessions have no name) or a run.

    Raises:
        ValueError: A class of a session has fewer windows than there are parts.
    """
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for i, row in enumerate(rows):
        at: dict[Unit, tuple[str | None, ...]] = {
            "subject": (),
            "session": (row.session,),
            "run": (row.session, row.run),
            "recording": (row.recording,),
        }
        groups.setdefault((row.subject, *at[unit]), []).append(i)
    found = []
    for names in sorted(groups, key=lambda names: [natural_order(name) for name in names]):
        title = ", ".join(name for name in names if name is not None)
        found += contiguous_parts(rows, groups[names], k=k, title=title)
    return found


def contiguous_k_fold(rows: Sequence[Row], *, k: int = 5) -> list[Split]:
    """K contiguous parts of every person's data; each is decoded by what the others taught."""
    return within_session(rows, k=k, unit="subject")


def contiguous_parts(
    rows: Sequence[Row], members: Sequence[int], *, k: int, title: str
) -> list[Split]:
    """Cut the windows of each class, in their order in time, into k parts, and test each part once.

    Every class is cut by itself, so that every part holds all of them. Training windows that share
    time with a test window are dropped.

    Raises:
        ValueError: Fewer windows of a class than parts, or one class only.
    """
    if k < 2:
        raise ValueError(f"{title}: {k} folds, expected 2 or more.")
    classes: dict[str, list[int]] = {}
    for i in sorted(members, key=lambda i: chronology(rows[i])):
        classes.setdefault(str(rows[i].label), []).append(i)
    counts = {label: len(own) for label, own in sorted(classes.items())}
    if len(counts) < 2:
        raise ValueError(
            f"{title}: the windows are all of class {', '.join(counts)}; expected two or more "
            "classes. Choose other labels, or leave it out."
        )
    if min(counts.values()) < k:
        raise ValueError(
            f"{title}: windows by class {counts} cannot be cut into {k} folds. Use "
            f"{min(counts.values())} folds or fewer, or leave it out."
        )
    parts = {label: np.array_split(np.array(own), k) for label, own in classes.items()}
    found = []
    for fold in range(k):
        test = sorted(int(i) for own in parts.values() for i in own[fold])
        rest = sorted(set(members) - set(test))
        train = tuple(sorted(set(rest) - overlapping(rows, test, rest)))
        name = f"{title}, part {fold + 1} of {k}"
        found.append(Split(train, (), tuple(test), name=name, by="time"))
    return found


def crossed_groups(
    rows: Sequence[Row],
    *,
    train: Sequence[str],
    test: Sequence[str],
    groups: Sequence[Sequence[str]],
) -> list[Split]:
    """One decoder for each group of people, taught by some of their runs and tested on others.

    Pretraining sees the people of the other groups only.

    Args:
        train: Runs.
        test: Runs.
        groups: Of people; the data set's `groups` in a suite.

    Raises:
        ValueError: A run is on both sides, a person in two groups, or a group has no windows.
    """
    everyone = [str(name) for group in groups for name in group]
    if len(groups) < 2 or len(set(everyone)) < len(everyone):
        raise ValueError(
            f"crossed_groups: groups of people {[list(map(str, g)) for g in groups]}; expected two "
            "or more without a common person."
        )
    found = []
    for i, group in enumerate(groups):
        own = [j for j, row in enumerate(rows) if is_among(row.subject, group)]
        sides = [
            tuple(j for j in own if any(same_entity(rows[j].run or "", str(run)) for run in runs))
            for runs in (train, test)
        ]
        if not all(sides) or set(sides[0]) & set(sides[1]):
            raise ValueError(
                f"crossed_groups: group {i + 1} ({', '.join(map(str, group))}) has {len(sides[0])} "
                f"windows in runs {list(train)} to train and {len(sides[1])} in runs {list(test)} "
                "to test; expected some of both, and no run on both sides."
            )
        found.append(Split(sides[0], (), sides[1], name=f"group {i + 1}", by="run"))
    return found


def is_among(subject: str, names: Sequence[str]) -> bool:
    """Whether a person is one of those named; "1" and "001" are the same."""
    own = subject.rpartition("/")[2]
    return any(same_entity(own, str(name).rpartition("/")[2]) for name in names)


FOLDS: dict[str, Callable[..., list[Split]]] = {
    function.__name__: function
    for function in (
        leave_one_run_out,
        leave_one_session_out,
        leave_one_subject_out,
        subject_k_fold,
        monte_carlo_subjects,
        chronological,
        within_session,
        contiguous_k_fold,
        crossed_groups,
    )
}


def check_protocol(name: str, spec: Mapping[str, Any], *, where: str) -> None:
    """Refuse a protocol that no function makes.

    Raises:
        ValueError: Unknown `folds`, or an argument that this function does not take.
    """
    made = FOLDS.get(spec.get("folds", ""))
    if made is None:
        raise ValueError(
            f"{where}: protocol {name} has folds {spec.get('folds')!r}; expected one of "
            f"{', '.join(FOLDS)}."
        )
    taken = set(list(inspect.signature(made).parameters)[1:]) | {"folds", "title", "validation"}
    unknown = sorted(set(spec) - taken)
    if unknown:
        raise ValueError(
            f"{where}: protocol {name} has {', '.join(unknown)}; {spec['folds']} takes "
            f"{', '.join(sorted(taken - {'folds'}))}."
        )


def make_folds(
    rows: Sequence[Row], spec: Mapping[str, Any], *, groups: Sequence[Sequence[str]] = ()
) -> list[Split]:
    """The folds of a protocol as a suite card writes it.

    Args:
        spec: `folds`, and arguments of that function.
        groups: Of people, for a function that takes them.

    Raises:
        ValueError: The rows do not allow this protocol; see its function.
    """
    made = FOLDS[spec["folds"]]
    arguments = {k: v for k, v in spec.items() if k not in ("folds", "title", "validation")}
    if "groups" in inspect.signature(made).parameters:
        arguments.setdefault("groups", groups)
    return made(rows, **arguments)
