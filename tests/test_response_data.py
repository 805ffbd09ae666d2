"""Responses are averaged, scaled and split as said, and a stimulus is on one side only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurofm.data import (
    ResponseData,
    averaged,
    refuse_shared_stimuli,
    same_stimuli,
    split_trials,
    standardized,
)
from neurofm.types import Recording, Responses, Sensors
from neurofm.units import Kind


def responses(subject="1", n=12, repeats=2, channels=3, start=0, time=None) -> Responses:
    rng = np.random.default_rng(int(subject))
    names = [f"s{start + i:02d}" for i in range(n)]
    stimulus = tuple(names * repeats)
    run = tuple(str(1 + r) for r in range(repeats) for _ in names)
    shape = (len(stimulus), channels) if time is None else (len(stimulus), channels, time)
    values = rng.standard_normal(shape).astype(np.float32)
    sensors = Sensors.of_kind([f"v{i}" for i in range(channels)], Kind.BOLD)
    return Responses(
        values, stimulus, run, sensors, Recording("toy", subject), sfreq=time and 100.0
    )


def test_means_are_over_what_was_measured():
    one = responses()
    values = one.values.copy()
    values[0, 0] = np.nan
    values[[1, 13], 2] = np.nan
    changed = type(one)(values, one.stimulus, one.run, one.sensors, one.recording)
    mean = averaged(changed)
    assert mean.stimulus == tuple(f"s{i:02d}" for i in range(12)) and mean.run[0] == "1+2"
    assert mean.values[0, 0] == values[12, 0]
    assert np.isnan(mean.values[1, 2]) and np.isfinite(mean.values).sum() == 35
    np.testing.assert_allclose(mean.values[5], one.values[[5, 17]].mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="no repeats to average, and no noise ceiling"):
        averaged(responses(repeats=1), at_least=2)


def test_scales_are_of_training_trials_of_the_run_alone():
    one = responses(n=30)
    shifted = one.values + 100.0 * (np.array(one.run) == "2")[:, None].astype(np.float32)
    moved = type(one)(shifted, one.stimulus, one.run, one.sensors, one.recording)
    train = np.arange(60) % 30 < 20
    z = standardized(moved, train)
    for run in ("1", "2"):
        here = (np.array(one.run) == run) & train
        np.testing.assert_allclose(z.values[here].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(z.values[here].std(0, ddof=1), 1, rtol=1e-4)
    changed = shifted.copy()
    changed[~train] *= 50
    other = type(one)(changed, one.stimulus, one.run, one.sensors, one.recording)
    np.testing.assert_array_equal(standardized(other, train).values[train], z.values[train])
    with pytest.raises(ValueError, match=r"run 1\+2 has 1 training.*before averaging"):
        standardized(averaged(one).pick([0, 1]).pick([0]))
    flat = shifted.copy()
    flat[:, 1] = 7
    constant = type(one)(flat, one.stimulus, one.run, one.sensors, one.recording)
    with pytest.warns(UserWarning, match=r"1 of 3 channels are constant .*v1"):
        assert not standardized(constant, train).values[:, 1].any()


def test_a_stimulus_is_on_one_side_whatever_the_split():
    one = responses(n=20)
    split = split_trials(one, test=0.2, validate=0.25, seed=1)
    sides = {k: {one.stimulus[i] for i in rows} for k, rows in split.sides.items()}
    assert [len(sides[k]) for k in ("train", "validate", "test")] == [12, 4, 4]
    assert not sides["train"] & sides["test"] and not sides["train"] & sides["validate"]
    assert split == split_trials(one, test=0.2, validate=0.25, seed=1)
    assert split != split_trials(one, test=0.2, validate=0.25, seed=2)
    with pytest.raises(ValueError, match=r"20 stimuli are on the test and on the train.*s00"):
        split_trials(one, by="run", test=["2"])
    with pytest.raises(ValueError, match="no trial is left to train"):
        split_trials(one, by="run", test=["2"], repeats="drop")
    categories = {name: name[-1] for name in one.stimulus}
    held = split_trials(one, by="category", test=["3", "7"], categories=categories)
    assert {one.stimulus[i][-1] for i in held.test} == {"3", "7"}
    with pytest.raises(ValueError, match=r"test category x not found"):
        split_trials(one, by="category", test=["3", "x"], categories=categories)
    with pytest.raises(ValueError, match="none of 1 test stimulus values"):
        split_trials(one, test=["nothing"])
    with pytest.raises(ValueError, match="needs `categories`"):
        split_trials(one, by="category", test=["3"])


def test_equal_content_counts_as_the_same_stimulus():
    one = responses(n=6)
    contents = {name: np.full((3, 2, 2), i) for i, name in enumerate(dict.fromkeys(one.stimulus))}
    contents["s05"] = contents["s00"].copy()
    assert same_stimuli(["s00", "s05", "s01"], contents)["s05"] == "s00"
    with pytest.raises(ValueError, match=r"1 stimuli are on the test and on the train.*'s00'"):
        split_trials(one, test=["s05"], contents=contents)
    dropped = split_trials(one, test=["s05"], contents=contents, repeats="drop")
    assert {one.stimulus[i] for i in dropped.train} == {"s01", "s02", "s03", "s04"}
    with pytest.raises(ValueError, match=r"1 of 1 test stimuli .*'s00', which is 's05' under"):
        refuse_shared_stimuli(["s00", "s01"], ["s05"], contents=contents)


def stimuli(n=30) -> dict[str, np.ndarray]:
    return {f"s{i:02d}": np.random.default_rng(i).random(4).astype(np.float32) for i in range(n)}


def test_people_take_turns_with_their_own_channels():
    people = [responses("1"), responses("2", channels=5)]
    data = ResponseData(
        responses=people, stimuli=stimuli(), split_by="stimulus", test=0.25, batch_size=4
    )
    assert data.n_channels == 5 and data.n_people == 2
    batches = list(data.train_dataloader())
    for batch in batches:
        assert len(batch.subject.unique()) == 1
        expected = 3 if int(batch.subject[0]) == 0 else 5
        assert (batch.mask.sum(1) == expected).all() and not batch.y[~batch.mask].any()
        vectors = np.stack([stimuli()[data.names[i]] for i in batch.index])
        np.testing.assert_array_equal(batch.stimulus, vectors)
    assert {int(b.subject[0]) for b in batches} == {0, 1}
    tested = {data.names[i] for batch in data.test_dataloader() for i in batch.index}
    trained = {data.names[i] for batch in batches for i in batch.index}
    assert tested and not tested & trained


def test_people_beside_each_other_share_rows_of_stimuli():
    people = [responses("1", n=12), responses("2", n=12, start=6, channels=2)]
    names = [f"s{i:02d}" for i in (0, 7, 15)]
    data = ResponseData(
        responses=people,
        stimuli=stimuli(),
        split_by="stimulus",
        test=names,
        validate=0.0,
        people="concatenate",
        batch_size=50,
        standardize="all",
    )
    assert data.n_channels == 5
    (batch,) = data.train_dataloader()
    seen = {data.names[i]: row for row, i in enumerate(batch.index)}
    assert len(seen) == 15
    assert batch.mask[seen["s01"]].tolist() == [True] * 3 + [False] * 2
    assert batch.mask[seen["s08"]].all()
    assert data.val_dataloader() == []


def test_a_share_is_drawn_once_for_all_people():
    people = [responses("1", n=20), responses("2", n=20, start=10)]
    data = ResponseData(responses=people, stimuli=stimuli(), split_by="stimulus", test=0.3)
    data.setup()  # a stimulus that one trains on and another tests would be refused
    tested = {data.names[i] for i in data.tables["test"].stimulus}
    assert len(tested) == 9 and len(data.tables["test"]) > 9


def test_whole_people_test_what_others_learned():
    people = [responses(str(i)) for i in (1, 2, 3, 4)]
    arguments = {"responses": people, "stimuli": stimuli(), "split_by": "subject"}
    data = ResponseData(**arguments, test=["3"], validate=0.3, batch_size=4)
    data.setup()
    sides = {side: set(table.subject.tolist()) for side, table in data.tables.items()}
    assert sides["test"] == {2} and len(sides["validate"]) == 1 and len(sides["train"]) == 2
    assert set.union(*sides.values()) == {0, 1, 2, 3}
    for change, words in (
        ({"test": ["9"]}, r"test names \['9'\]"),
        ({"test": ["1", "2", "3", "4"], "validate": 0.0}, "of 4 people 4 test"),
        ({"responses": [*people, responses("5", channels=4)]}, "whose channels are not the same"),
    ):
        with pytest.raises(ValueError, match=words):
            ResponseData(**arguments | change).setup()


def test_order_repeats_and_resumes():
    def make():
        return ResponseData(
            responses=[responses(n=40)], stimuli=stimuli(40), split_by="stimulus", batch_size=5
        ).train_dataloader()

    first, second = make(), make()
    one = [batch.index for batch in first] + [batch.index for batch in first]
    two = [batch.index for batch in second] + [batch.index for batch in second]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(torch.cat(one[: len(first)]), torch.cat(one[len(first) :]))
    third = make()
    iterator = iter(third)
    started = [next(iterator).index for _ in range(2)]
    resumed = make()
    resumed.load_state_dict(third.state_dict())
    rest = [batch.index for batch in resumed]
    assert all(torch.equal(a, b) for a, b in zip([*started, *rest], one, strict=False))
    assert len(rest) == len(first) - 2


def test_responses_over_time_keep_their_samples():
    data = ResponseData(
        responses=[responses(time=7)], stimuli=stimuli(), split_by="stimulus", batch_size=3
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.y.shape == (3, 3, 7) and batch.mask.shape == (3, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "either a dataset or responses"),
        ({"dataset": "simulated_oddball"}, "has recordings, not responses"),
        ({"responses": []}, "list of responses is empty"),
        ({"responses": [responses()]}, "no list of shared test stimuli"),
        ({"responses": [responses()], "split_by": "stimulus"}, "give `stimuli`"),
        (
            {"responses": [responses()], "split_by": "stimulus", "stimuli": {"a": np.ones(2)}},
            "12 of 12 stimuli have no vector",
        ),
        ({"dataset": "simulated_picture_fmri", "subjects": ["9"]}, "no subject"),
        ({"dataset": "simulated_picture_fmri", "people": "mixed"}, "people 'mixed'"),
    ],
)
def test_wrong_requests_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ResponseData(**arguments).setup()


def test_two_names_of_one_picture_across_people_are_refused():
    vectors = stimuli() | {"s29": stimuli()["s00"]}
    with pytest.raises(ValueError, match="under another name"):
        ResponseData(
            responses=[responses(n=30)], stimuli=vectors, split_by="stimulus", test=["s29"]
        ).setup()


def test_simulated_people_are_opened_by_name():
    small = {"subjects": 2, "runs": 3, "n_train": 30, "n_test": 6, "n_voxels": 12, "size": 32}
    data = ResponseData("simulated_picture_fmri", reader=small, subjects=["002"], batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch.stimulus.shape == (8, 3, 32, 32) and batch.y.shape == (8, 12)
    assert data.n_channels == 12 and set(data.regions) == {"V1", "V4", "LO", "none"}
    assert len(data.tables["test"]) == 6
