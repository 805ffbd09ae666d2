"""BrainData: splits by name and by fraction, mixtures, and options by data set."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
import yaml

from neurofm.data import BrainData, Split


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


@pytest.fixture(scope="module")
def pair(small, tmp_path_factory) -> list[str]:
    """Cards of two simulated corpora, of three people and two runs, and of two people and one."""
    folder = tmp_path_factory.mktemp("pair")
    card = yaml.safe_load((small.folder / "corpus.yaml").read_text())
    (folder / "large.yaml").write_text(yaml.safe_dump(card))
    card["reader"]["init_args"] |= {"subjects": 2, "runs": 1, "seed": 5}
    (folder / "little.yaml").write_text(yaml.safe_dump(card))
    return [str(folder / "large.yaml"), str(folder / "little.yaml")]


def test_every_dataset_may_have_its_own_steps_subjects_and_runs(small, pair):
    pick = {"class_path": "neurofm.data.PickKinds", "init_args": {"kinds": ["eeg"]}}
    faster = {"class_path": "neurofm.data.Resample", "init_args": {"sfreq": 32.0}}
    data = small.data(
        datasets=pair,
        preprocess={"large": [pick], "little": [pick, faster]},
        subjects={"large": ["1", "3"]},
        runs={"large": ["2"]},
        validate=["little/2"],
        test=["large/3"],
    )
    data.setup()
    assert {(row.subject, row.run) for row in data.rows} == {
        ("large/001", "02"),
        ("large/003", "02"),
        ("little/001", "01"),
        ("little/002", "01"),
    }
    assert sides(data, "subject") == {
        "train": {"large/001", "little/001"},
        "validate": {"little/002"},
        "test": {"large/003"},
    }
    assert {batch.sfreq for batch in data.train_dataloader()} == {32.0, 64.0}


def test_weights_set_the_shares_of_training_epochs_alone(small, pair, caplog):
    data = small.data(
        datasets=pair,
        weights={"large": 1.0, "little": 3.0},
        validate=[],
        test=["large/2"],
        batch_size=4,
    )
    data.setup()
    with caplog.at_level(logging.INFO, logger="neurofm.data.module"):
        train = data.train_dataloader()
    table = data.windows.table
    for _ in range(2):
        found = Counter(int(i) for batch in train for i in table.store[batch.recording.numpy()])
        assert found[0] + found[1] == 80 and abs(found[1] - 3 * found[0]) <= 8
    assert train.mixing.counts == {"large": 21, "little": 61}  # of 82; the last 2 fill no batch
    assert "61 of little (0.98 times each)" in caplog.text
    assert len(flat(keys(data.test_dataloader()))) == len(data.split.test)


def test_a_temperature_evens_datasets_out_and_epochs_may_be_short(small, pair):
    data = small.data(
        datasets=pair, temperature=1e9, epoch_windows=20, validate=[], test=["large/2"]
    )
    data.setup()
    assert data.train_dataloader().mixing.counts == {"large": 10, "little": 10}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"large": 1.0, "small": 1.0}}, r"weights are given for \['small'\]"),
        ({"subjects": {"tiny": ["1"]}}, r"subjects are given for \['tiny'\]"),
        ({"datasets": ["twice"]}, "name one dataset twice"),
    ],
)
def test_options_by_dataset_that_fit_none_are_refused(small, pair, changes, message):
    if changes.get("datasets") == ["twice"]:
        changes = {"datasets": [pair[0], pair[0]]}
    with pytest.raises(ValueError, match=message):
        small.data(**{"datasets": pair, "validate": [], "test": ["large/2"]} | changes).setup()


def test_a_split_of_distinct_rows_is_the_split_of_all_rows(small):
    for changes in (
        {"validate": 0.3, "test": 0.3},
        {"split_by": "run", "validate": [], "test": ["2"]},
    ):
        data = small.data(labels=["left_hand", "right_hand"], window_s=2.0, **changes)
        data.setup()
        assert data.split == data._split_rows(list(data.rows))
