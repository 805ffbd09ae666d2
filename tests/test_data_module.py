"""BatchLoader and BrainData: order, resuming, processes, and splits by name and by fraction."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import chain, islice
from typing import Any

import pytest
import torch
import yaml

from neurofm.data import BatchLoader, BrainData, Split


def keys(batches: Any) -> list[list[tuple[int, float]]]:
    """(recording, onset) of every window, batch by batch."""
    return [
        list(zip(batch.recording.tolist(), batch.onset.tolist(), strict=True)) for batch in batches
    ]


def flat(batches: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(batches))


@pytest.fixture
def data(small) -> BrainData:
    data = small.data()
    data.setup()
    return data


def loader(data: BrainData, n: int = 20, **changes: Any) -> BatchLoader:
    arguments = {"batch_size": 6, "shuffle": True, "seed": 3} | changes
    return BatchLoader(data.windows, range(n), **arguments)


def in_processes(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)


# BatchLoader


def test_order_depends_on_seed_and_epoch_alone(data):
    first, second = loader(data), loader(data)
    torch.manual_seed(1)
    epochs = [keys(first), keys(first)]
    torch.manual_seed(2)
    assert [keys(second), keys(second)] == epochs
    assert epochs[0] != epochs[1]
    assert keys(loader(data, seed=4)) != epochs[0]
    assert sorted(flat(epochs[0])) == sorted(flat(epochs[1]))


def test_drawing_batches_leaves_the_global_random_numbers_alone(data):
    before = torch.get_rng_state()
    list(loader(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffling_windows_come_in_their_order(data):
    rows = data.rows
    found = flat(keys(loader(data, shuffle=False)))
    assert [onset for _, onset in found] == [row.start for row in rows[:20]]


def test_an_abandoned_epoch_starts_afresh(data):
    fixed = loader(data, shuffle=False)
    begun = keys(islice(fixed, 2))
    assert keys(islice(fixed, 2)) == begun
    assert len(keys(fixed)) == len(fixed) == 4


@pytest.mark.parametrize("taken", [0, 1, 3, 4])
def test_a_loader_with_the_state_of_another_goes_on_at_the_next_batch(data, taken):
    whole = loader(data)
    everything = keys(whole) + keys(whole)
    begun = loader(data)
    iterator = iter(begun)
    given = keys(islice(iterator, taken))
    fresh = loader(data)
    fresh.load_state_dict(begun.state_dict())
    rest = keys(fresh) + (keys(fresh) if 0 < taken < 4 else [])
    assert (given + rest)[: len(everything)] == everything[: len(given + rest)]
    assert len(given + rest) == (8 if taken else 4)


def test_a_state_in_mid_epoch_does_not_fit_other_data(data):
    begun = loader(data)
    next(iter(begun))
    with pytest.raises(ValueError, match=r"windows 20 is now 19, batch_size 6 is now 5"):
        loader(data, n=19, batch_size=5).load_state_dict(begun.state_dict())


def test_a_finished_epoch_may_be_followed_by_other_data(data):
    begun = loader(data)
    next(iter(begun))
    begun.finish()
    other = loader(data, n=19)
    other.load_state_dict(begun.state_dict())
    assert len(keys(other)) == len(other) == 4 and other.epoch == 1


@pytest.mark.parametrize("n", [20, 21])
def test_two_processes_share_the_windows(data, n, monkeypatch):
    shares = []
    for rank in range(2):
        in_processes(monkeypatch, rank, 2)
        part = loader(data, n=n)
        shares.append(keys(part))
        assert len(part) == len(shares[-1])
    sizes = [[len(batch) for batch in share] for share in shares]
    assert sizes[0] == sizes[1]
    counted = Counter(flat(shares[0] + shares[1]))
    assert len(counted) == n
    assert sum(counted.values()) - n == n % 2  # the surplus repeats one window


@pytest.mark.parametrize(("n", "sizes"), [(20, [6, 6, 6]), (18, [6, 6, 6]), (4, [4])])
def test_an_incomplete_last_batch_is_left_out_unless_it_is_the_only_one(data, n, sizes):
    part = loader(data, n=n, drop_last=True)
    assert [len(batch) for batch in part] == sizes and len(part) == len(sizes)


def test_every_process_keeps_a_batch_although_its_share_is_small(data, monkeypatch):
    in_processes(monkeypatch, 1, 2)
    assert [len(batch) for batch in loader(data, n=8, drop_last=True)] == [4]


def test_workers_give_the_same_batches(data):
    alone, helped = next(iter(loader(data))), next(iter(loader(data, num_workers=1)))
    assert torch.equal(alone.x, helped.x)


def test_nothing_to_draw_and_no_batch_size_are_refused(data):
    with pytest.raises(ValueError, match="no windows"):
        loader(data, n=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        loader(data, batch_size=0)


# BrainData


def sides(data: BrainData, entity: str) -> dict[str, set[str]]:
    return {
        name: {getattr(data.rows[i], entity) for i in members}
        for name, members in data.split.sides.items()
    }


def test_named_subjects_are_held_out_however_they_are_padded(small):
    for validate, test in ((["2"], ["3"]), (["002"], ["03"])):
        data = small.data(validate=validate, test=test)
        data.setup()
        assert sides(data, "subject") == {"train": {"001"}, "validate": {"002"}, "test": {"003"}}


def test_named_runs_are_held_out_for_every_subject(small):
    data = small.data(split_by="run", validate=[], test=["2"])
    data.setup()
    assert sides(data, "run") == {"train": {"01"}, "validate": set(), "test": {"02"}}
    assert sides(data, "subject")["test"] == {"001", "002", "003"}
    assert data.val_dataloader() == []


def test_fractions_deal_whole_subjects(small):
    data = small.data(validate=0.3, test=0.3)
    data.setup()
    found = sides(data, "subject")
    assert sorted(len(names) for names in found.values()) == [1, 1, 1]
    again = small.data(validate=0.3, test=0.3)
    again.setup()
    assert again.split == data.split


@pytest.mark.parametrize("window_s", [4.0, 4.006])  # not a whole number of samples
def test_time_splits_every_recording(small, window_s):
    data = small.data(split_by="time", validate=0.2, test=0.2, window_s=window_s)
    data.setup()
    assert all(len(names) == 6 for names in sides(data, "recording").values())
    with pytest.raises(ValueError, match="takes fractions"):
        small.data(split_by="time").setup()


def test_unknown_values_are_named_with_those_that_exist(small):
    with pytest.raises(ValueError, match=r"test names subject \['7'\].*'001', '002', '003'"):
        small.data(test=["7"]).setup()


def test_a_value_on_both_sides_is_refused(small):
    with pytest.raises(ValueError, match=r"\['002'\] is named by `validate` and by `test`"):
        small.data(test=["002"]).setup()


def test_a_list_and_a_fraction_do_not_go_together(small):
    with pytest.raises(ValueError, match="both as fractions"):
        small.data(validate=0.2).setup()


def test_an_empty_side_is_refused_when_it_is_asked_for(small):
    data = small.data(test=[])
    data.setup()
    with pytest.raises(ValueError, match="no window is on the test side of the split by subject"):
        data.test_dataloader()


def test_a_leaking_split_stops_the_run(small, monkeypatch):
    def leaky(self: BrainData, rows: list[Any]) -> Split:
        return Split((0, 1), (), (2, 3), name="bad", by="subject")

    monkeypatch.setattr(BrainData, "_split", leaky)
    with pytest.raises(ValueError, match=r"split bad .* leaks"):
        small.data().setup()


def test_windows_at_events_carry_the_class_of_their_label(small):
    data = small.data(labels=["right_hand", "left_hand"], window_s=2.0, offset_s=0.5)
    data.setup()
    assert data.n_outputs == 2
    batch = next(iter(data.test_dataloader()))
    for i, window in enumerate(data.split.test[: len(batch)]):
        assert data.rows[window].label == ["right_hand", "left_hand"][batch.y[i]]
    assert small.data().n_outputs == 0


def test_an_unknown_label_is_named_with_those_that_exist(small):
    with pytest.raises(ValueError, match=r"labelled 'foot'.*left_hand \(\d+\)"):
        small.data(labels=["foot"]).setup()


def test_training_is_shuffled_and_evaluation_in_order(data):
    train, test = data.train_dataloader(), data.test_dataloader()
    assert train.shuffle and train.drop_last
    order = [data.rows[i].start for i in data.split.test]
    assert [onset for _, onset in flat(keys(test))] == order
    assert keys(data.predict_dataloader()) == keys(test)


def test_the_split_audit_is_logged(small, caplog):
    with caplog.at_level(logging.INFO, logger="neurofm.data.module"):
        small.data().setup()
    assert "split audit: 3 subjects x 2 runs, train 62 / validate 62 / test 62" in caplog.text


def test_a_second_setup_prepares_nothing_again(small, tmp_path, monkeypatch):
    corpus = yaml.safe_load((small.folder / "corpus.yaml").read_text())
    corpus["reader"]["init_args"] |= {"subjects": 2, "runs": 1}
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(corpus))
    monkeypatch.setenv("NEUROFM_STORE", str(tmp_path / "store"))
    changes: dict[str, Any] = {"datasets": [str(tmp_path / "two.yaml")], "store": None}
    changes |= {"validate": [], "test": ["2"]}
    first = small.data(**changes)
    first.setup()
    assert first.stores[0].parent == tmp_path / "store"
    files = {file: file.stat().st_mtime_ns for file in first.stores[0].glob("recordings/*")}

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("read a recording again")

    monkeypatch.setattr("neurofm.io.SyntheticReader.load", fail)
    second = small.data(**changes)
    second.setup()
    assert {file: file.stat().st_mtime_ns for file in files} == files
    assert second.rows == first.rows


def test_setup_comes_before_rows_and_loaders(small):
    for use in (lambda d: d.rows, lambda d: d.train_dataloader()):
        with pytest.raises(ValueError, match=r"call setup\(\) first"):
            use(small.data())


def test_only_the_subjects_and_runs_asked_for_are_used(small):
    data = small.data(subjects=["1", "3"], runs=["2"], validate=[], test=["3"])
    data.setup()
    assert {row.recording.split("_")[-1] for row in data.rows} == {"run-02"}
    assert sides(data, "subject") == {"train": {"001"}, "validate": set(), "test": {"003"}}


def test_the_module_reads_no_torch_global_seed_for_its_split(small):
    splits = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        data = small.data(validate=0.3, test=0.3)
        data.setup()
        splits.append(data.split)
    assert splits[0] == splits[1]


def test_recordings_of_two_corpora_keep_their_subjects_apart(small, tmp_path):
    second = tmp_path / "other.yaml"
    # Other people: copies of the same recordings would be refused.
    card = (small.folder / "corpus.yaml").read_text()
    second.write_text(card.replace("runs: 2", "runs: 2\n    seed: 1"))
    data = small.data(
        datasets=[str(small.folder / "corpus.yaml"), str(second)],
        validate=[],
        test=["other/001", "other/002", "other/003"],
    )
    data.setup()
    assert sides(data, "subject")["train"] == {"corpus/001", "corpus/002", "corpus/003"}
