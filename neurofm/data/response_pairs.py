"""Responses of a brain made ready for encoding and decoding: averages, scales, sides of a split.

A split is of trials. A stimulus that was shown several times is on one side only, whatever the
split goes by; two files of the same picture count as one where their contents are given.

Source: Allen et al. 2022 (test on shared images, z-scores per session, means over repeats).
Axes: trial channel [time]; stimulus.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import numpy as np

from neurofm.data.rows import Split
from neurofm.io.quality import listed
from neurofm.types import Responses

_JOIN = "+"


def averaged(responses: Responses, *, at_least: int = 1) -> Responses:
    """One response per stimulus: the mean over its trials, in the order of first appearance.

    The run of a mean names all runs that are in it, joined by "+". Where a channel was measured in
    some trials only, the mean is over those.

    Args:
        at_least: Leave out stimuli that were shown less often.

    Raises:
        ValueError: No stimulus is left.
    """
    groups = {
        name: trials for name, trials in responses.repeats().items() if len(trials) >= at_least
    }
    if not groups:
        raise ValueError(
            f"{responses.recording.id}: no stimulus was shown {at_least} times or more. There are "
            "no repeats to average, and no noise ceiling can be known from these responses."
        )
    values = np.empty((len(groups), *responses.values.shape[1:]), dtype=np.float32)
    runs = []
    for row, trials in enumerate(groups.values()):
        some = responses.values[trials]
        if len(trials) == 1:
            values[row] = some[0]
        else:
            known = np.isfinite(some)
            total = np.where(known, some, 0).sum(axis=0, dtype=np.float64)
            count = known.sum(axis=0)
            values[row] = np.where(count, total / np.maximum(count, 1), np.nan)
        runs.append(_JOIN.join(dict.fromkeys(responses.run[i] for i in trials)))
    return replace(responses, values=values, stimulus=tuple(groups), run=tuple(runs))


def standardized(
    responses: Responses, train: Sequence[int] | np.ndarray | None = None, *, by: str = "run"
) -> Responses:
    """Responses in standard deviations, with means and deviations of the training trials.

    Args:
        train: Trials that say what is usual (positions, or bools); all if not given.
        by: "run": each run by the training trials of that run, as baselines differ. "all": one mean
            and deviation. Take "run" before averaging over repeats.

    Returns:
        Unit "z". A channel that is constant over the training trials becomes 0, with a warning.

    Raises:
        ValueError: A run has fewer than two training trials, or trials are means over runs.
    """
    if by not in ("run", "all"):
        raise ValueError(f"standardized: by is {by!r}, expected run or all.")
    chosen = np.ones(len(responses), dtype=bool)
    if train is not None:
        index = np.asarray(train)
        chosen = index if index.dtype == bool else np.isin(np.arange(len(responses)), index)
    values = responses.values.astype(np.float32)
    run = np.array(responses.run if by == "run" else ("all",) * len(responses))
    constant = np.zeros(values.shape[1], dtype=bool)
    for name in dict.fromkeys(run.tolist()):
        here = run == name
        usual = values[here & chosen]
        if len(usual) < 2:
            hint = (
                " Trials are means over runs: standardize before averaging, or pass by='all'."
                if _JOIN in name
                else " Pass by='all', or split by stimulus so that every run has training trials."
            )
            raise ValueError(
                f"{responses.recording.id}: run {name} has {len(usual)} training trials, expected "
                f"at least 2 to know its mean and deviation.{hint}"
            )
        mean, scale = _usual(usual)
        flat = scale <= 1e-6 * (np.abs(mean) + 1e-12)
        constant |= flat.reshape(len(flat), -1).all(axis=1)
        scale = np.where(flat, np.inf, scale)
        values[here] = ((values[here] - mean) / scale).astype(np.float32)
    if constant.any():
        names = [responses.sensors.names[i] for i in np.flatnonzero(constant)]
        warnings.warn(
            f"{responses.recording.id}: {len(names)} of {len(constant)} channels are constant over "
            f"the training trials of a run ({listed(names, most=3)}); they became 0 there.",
            stacklevel=2,
        )
    return replace(responses, values=values, unit="z")


def _usual(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over trials, of what was measured."""
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0).astype(np.float64)
    mean = filled.sum(axis=0) / count
    power = (np.where(known, filled - mean, 0) ** 2).sum(axis=0)
    return mean, np.sqrt(power / np.maximum(count - 1, 1))


def split_trials(
    responses: Responses,
    *,
    by: str = "stimulus",
    test: Sequence[str] | float,
    validate: Sequence[str] | float = 0.0,
    categories: Mapping[str, str] | None = None,
    contents: Mapping[str, np.ndarray] | None = None,
    repeats: str = "refuse",
    seed: int = 0,
) -> Split:
    """Which trials train, validate and test.

    Args:
        by: "stimulus" (a shared test set, say), "category" (those of the test are not trained on)
            or "run".
        test: Names of stimuli, categories or runs, or a share of them that is drawn.
        validate: The same; a share is of those that do not test.
        categories: Of each stimulus, for `by="category"`.
        contents: Of each stimulus: an array by name. Stimuli that are the same number for number
            may not be on two sides either.
        repeats: What to do with a stimulus that would be on two sides: "refuse", or "drop" its
            trials from training (and validation) where it tests.
        seed: Of what is drawn.

    Raises:
        ValueError: A name that is not there, an empty side, or a stimulus on two sides.
    """
    if by not in ("stimulus", "category", "run") or repeats not in ("refuse", "drop"):
        raise ValueError(
            f"split_trials: by {by!r}, repeats {repeats!r}; expected stimulus, category or run, "
            "and refuse or drop."
        )
    groups = _groups(responses, by, categories)
    names = list(dict.fromkeys(groups))
    rng = np.random.default_rng(seed)
    tested = _chosen(names, test, rng, what=f"test {by}", where=responses.recording.id)
    left = [name for name in names if name not in tested]
    validated = _chosen(left, validate, rng, what=f"validation {by}", where=responses.recording.id)
    side = np.array(
        ["test" if g in tested else "validate" if g in validated else "train" for g in groups]
    )
    same = same_stimuli(responses.stimulus, contents)
    side = _resolved(side, responses, same, repeats)
    for name in ("train", "test"):
        if not (side == name).any():
            raise ValueError(
                f"{responses.recording.id}: no trial is left to {name}. Of {len(names)} values of "
                f"{by}, {len(tested)} test and {len(validated)} validate."
            )
    members = {n: tuple(np.flatnonzero(side == n).tolist()) for n in ("train", "validate", "test")}
    return Split(**members, name=f"{by}-{len(tested)}-held-out", by=by)


def same_stimuli(names: Sequence[str], contents: Mapping[str, np.ndarray] | None) -> dict[str, str]:
    """The first name of what is the same stimulus: by name, and by content where it is known."""
    first: dict[str, str] = {}
    alias: dict[str, str] = {}
    for name in dict.fromkeys(names):
        value = None if contents is None else contents.get(name)
        if value is None:
            alias[name] = name
            continue
        array = np.ascontiguousarray(value)
        digest = sha256(f"{array.dtype}{array.shape}".encode() + array.tobytes()).hexdigest()
        alias[name] = first.setdefault(digest, name)
    return alias


def refuse_shared_stimuli(
    train: Sequence[str],
    test: Sequence[str],
    *,
    contents: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Stop where a stimulus is in both lists, under one name or with one content.

    Raises:
        ValueError: With the number of such stimuli and the first of them.
    """
    alias = same_stimuli([*train, *test], contents)
    trained = {alias[name]: name for name in train}
    both = [(trained[alias[name]], name) for name in dict.fromkeys(test) if alias[name] in trained]
    if both:
        one, other = both[0]
        what = repr(one) if one == other else f"{one!r}, which is {other!r} under another name"
        raise ValueError(
            f"{len(both)} of {len(set(test))} test stimuli are among the training stimuli, such as "
            f"{what}. What was learned by heart would count as predicted: leave them out on one "
            "side."
        )


def _groups(responses: Responses, by: str, categories: Mapping[str, str] | None) -> tuple[str, ...]:
    if by == "run":
        return responses.run
    if by == "stimulus":
        return responses.stimulus
    if categories is None:
        raise ValueError(f"{responses.recording.id}: a split by category needs `categories`.")
    unknown = [name for name in responses.stimulus if name not in categories]
    if unknown:
        raise ValueError(
            f"{responses.recording.id}: {len(set(unknown))} stimuli have no category, such as "
            f"{unknown[0]!r}."
        )
    return tuple(categories[name] for name in responses.stimulus)


def _chosen(
    names: list[str],
    wanted: Sequence[str] | float,
    rng: np.random.Generator,
    *,
    what: str,
    where: str,
) -> set[str]:
    if isinstance(wanted, int | float):
        if not 0 <= wanted < 1:
            raise ValueError(f"{where}: {what} is {wanted}, expected a share from 0 to below 1.")
        count = min(max(1, round(wanted * len(names))), len(names)) if wanted else 0
        return {names[i] for i in rng.permutation(len(names))[:count]}
    asked = [str(name) for name in wanted]
    missing = [name for name in asked if name not in set(names)]
    if len(missing) == len(asked) and asked:
        raise ValueError(
            f"{where}: none of {len(asked)} {what} values is there, such as {missing[0]!r}; there "
            f"are {listed(names)}."
        )
    if missing and not what.startswith("test stimulus"):  # of a shared set some may be unseen
        raise ValueError(f"{where}: {what} {listed(missing)} not found; there are {listed(names)}.")
    return set(asked)


def _resolved(
    side: np.ndarray, responses: Responses, same: Mapping[str, str], repeats: str
) -> np.ndarray:
    """Nothing is on two sides: the test keeps what it shares, or nobody does."""
    side = side.copy()
    identity = np.array([same[name] for name in responses.stimulus])
    rank = {"test": 0, "validate": 1, "train": 2}
    for first, second in (("test", "validate"), ("test", "train"), ("validate", "train")):
        both = np.isin(identity, identity[side == first]) & (side == second)
        if not both.any():
            continue
        example = responses.stimulus[int(np.flatnonzero(both)[0])]
        if repeats == "refuse":
            raise ValueError(
                f"{responses.recording.id}: {len(set(identity[both]))} stimuli are on the {first} "
                f"and on the {second} side, such as {example!r}. Split by stimulus, or pass "
                f'repeats="drop" to leave their {second} trials out.'
            )
        assert rank[first] < rank[second]
        side[both] = "dropped"
    return side
