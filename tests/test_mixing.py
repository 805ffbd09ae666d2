"""Epochs of several corpora: shares, deals to processes, and resuming anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurofm.data import BatchLoader, Mixing, Windows
from neurofm.data.mixing import plan_batches, shares
from neurofm.io import seal, write_recording
from neurofm.types import Recording, Sensors, Signal
from neurofm.units import Kind

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=4)


# Shares


def test_shares_follow_weights_and_temperature():
    held = {"a": 900, "b": 100}
    assert shares(held) == {"a": 0.9, "b": 0.1}
    assert shares(held, {"a": 3.0, "b": 1.0}) == {"a": 0.75, "b": 0.25}
    assert shares(held, temperature=2.0)["a"] == pytest.approx(0.75)
    assert shares(held, temperature=1e9)["a"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("weights", "temperature", "message"),
    [
        ({"a": 1.0}, 1.0, r"weights name \['a'\], but windows come from \['a', 'b'\]"),
        ({"a": 1.0, "b": -1.0}, 1.0, "0 or more"),
        ({"a": 0.0, "b": 0.0}, 1.0, "not all 0"),
        ({"a": float("nan"), "b": 1.0}, 1.0, "0 or more"),
        ({"a": 1.0, "b": 1.0}, 2.0, "Drop one of the two"),
        (None, 0.5, "expected 1 or more"),
    ],
)
def test_shares_that_make_no_sense_are_refused(weights, temperature, message):
    with pytest.raises(ValueError, match=message):
        shares({"a": 1, "b": 1}, weights, temperature=temperature)


# Mixing


def mixing_of(n: list[int], **options: Any) -> tuple[Mixing, np.ndarray]:
    corpus = np.random.default_rng(0).permutation(np.repeat(np.arange(len(n)), n))
    return Mixing(corpus, [f"c{i}" for i in range(len(n))], **options), corpus


@given(sizes, st.lists(st.floats(0.05, 1), min_size=4, max_size=4), st.integers(0, 50))
def test_an_epoch_has_the_same_shares_every_time_and_no_window_twice(n, weights, epoch):
    given_weights = {f"c{i}": weights[i] for i in range(len(n))}
    mixing, corpus = mixing_of(n, weights=given_weights)
    drawn = mixing.draw(epoch)
    assert len(set(drawn.tolist())) == len(drawn) == sum(mixing.counts.values())
    found = Counter(corpus[drawn].tolist())
    for i, (name, share) in enumerate(mixing.shares.items()):
        assert found[i] == mixing.counts[name]
        assert abs(found[i] - share * len(drawn)) < 1
    # As large as it can be: one corpus is used up, give or take the rounding of its share.
    assert any(mixing.counts[f"c{i}"] >= n[i] - 1 for i in range(len(n)))


@given(sizes, st.integers(1, 120), st.integers(0, 30))
def test_a_longer_epoch_repeats_no_window_more_than_once_more_than_another(n, total, epoch):
    weights = {f"c{i}": 1.0 for i in range(len(n))}
    mixing, corpus = mixing_of(n, weights=weights, epoch_windows=total)
    drawn = mixing.draw(epoch)
    assert len(drawn) == total
    for i in range(len(n)):
        times = np.bincount(drawn, minlength=len(corpus))[corpus == i]
        assert times.max() - times.min() <= 1
        assert times.mean() == pytest.approx(mixing.repeats[f"c{i}"])


def test_every_window_comes_once_before_one_comes_again():
    mixing, corpus = mixing_of([100, 10], weights={"c0": 0.7, "c1": 0.3})
    assert mixing.counts == {"c0": 23, "c1": 10}
    large = np.concatenate([mixing.draw(epoch) for epoch in range(13)])
    large = large[corpus[large] == 0]
    for low in range(0, len(large) - 100, 100):
        assert len(set(large[low : low + 100].tolist())) == 100


def test_without_shares_an_epoch_is_every_window_in_order():
    mixing, corpus = mixing_of([5, 9])
    np.testing.assert_array_equal(mixing.draw(3), np.arange(len(corpus)))


def test_a_corpus_of_weight_zero_is_left_out_and_a_missing_one_is_named():
    mixing, corpus = mixing_of([8, 4], weights={"c0": 0.0, "c1": 2.0})
    assert set(corpus[mixing.draw(0)].tolist()) == {1}
    with pytest.raises(ValueError, match=r"no window of \['b'\]"):
        Mixing(np.zeros(3, dtype=int), ["a", "b"], weights={"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="epoch_windows is 0"):
        mixing_of([3], epoch_windows=0)


# Plans


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=80),
    st.integers(1, 7),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_a_plan_gives_every_window_to_one_process_and_mixes_no_buckets(
    bucket, each, world, drop_last, shuffled
):
    codes, batch_size = np.array(bucket), each * world
    drawn = np.random.default_rng(1).permutation(len(codes))
    alone, *plans = [
        plan_batches(
            drawn,
            codes[drawn],
            batch_size=batch_size,
            drop_last=drop_last,
            rank=rank,
            world=processes,
            shuffle=np.random.default_rng(2) if shuffled else None,
        )
        for rank, processes in [(0, 1), *((rank, world) for rank in range(world))]
    ]
    times = Counter(int(i) for plan in plans for i in plan.order)
    for whole, *parts in zip(alone, *plans, strict=True):
        assert len({len(part) for part in parts}) == 1 and 1 <= len(parts[0]) <= each
        together = [int(i) for part in parts for i in part]
        # The windows of a step, in their order, are those of one process.
        assert together == np.resize(whole, len(together)).tolist()
        assert len({int(codes[i]) for i in together}) == 1
    assert sum(times.values()) - len(times) == plans[0].padding
    if not drop_last:
        assert len(times) == len(codes)
    for value, held in Counter(bucket).items():
        kept = sum(codes[i] == value for i in times)
        assert (
            max(held // batch_size * batch_size, 1) <= kept <= held
        )  # the only batch of a bucket is never left out


def test_batches_of_several_buckets_are_interleaved():
    bucket = np.repeat([0, 1], 500)
    plan = plan_batches(np.arange(1000), bucket, batch_size=10, shuffle=np.random.default_rng(0))
    order = np.array([bucket[batch[0]] for batch in map(plan.__getitem__, range(len(plan)))])
    assert 20 < (np.diff(order) != 0).sum() < 80
    with pytest.raises(IndexError):
        plan[len(plan)]


# Loader


KINDS = {
    "eeg": (Kind.EEG, 4, 100.0),
    "meg": (Kind.MAG, 7, 100.0),
    "fast": (Kind.EEG, 3, 128.0),
}


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Windows:
    """Three corpora: two of one rate, one of another; two sensor sets in the MEG."""
    folders = []
    for dataset, (kind, channels, sfreq) in KINDS.items():
        folder = Path(tmp_path_factory.mktemp(dataset))
        for subject in range(3):
            generator = np.random.default_rng([len(dataset), subject])
            n = channels + (dataset == "meg" and subject == 2)
            data = generator.normal(0, 30, (n, round((9 + subject) * sfreq))).astype(np.float32)
            position = generator.normal(0, 0.05, (n, 3)) if subject < 2 else np.zeros((n, 3))
            sensors = Sensors.of_kind([f"{dataset}{i}" for i in range(n)], kind, position)
            signal = Signal(data, sfreq, sensors, (), Recording(dataset, f"{subject}"))
            write_recording(folder, signal, key=f"{dataset}{subject}")
        seal(folder)
        folders.append(folder)
    return Windows(folders, window_s=1.0)


def keys(batches: Any) -> list[list[tuple[int, float]]]:
    """(recording, onset) of every window, batch by batch."""
    return [list(zip(b.recording.tolist(), b.onset.tolist(), strict=True)) for b in batches]


def loader(windows: Windows, **changes: Any) -> BatchLoader:
    mixing = Mixing(
        windows.table.store[windows.recording],
        list(KINDS),
        weights={"eeg": 0.5, "meg": 0.3, "fast": 0.2},
        seed=3,
    )
    options = {"batch_size": 6, "shuffle": True, "seed": 3, "mixing": mixing} | changes
    return BatchLoader(windows, range(len(windows)), **options)


def in_processes(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)


@pytest.mark.parametrize("bucket", ["rate", "size", "sensors"])
def test_rates_never_share_a_batch_and_buckets_are_pure(windows, bucket):
    table = windows.table
    kinds = set()
    for batch in loader(windows, bucket=bucket, mixing=None):
        recording = batch.recording.numpy()
        assert len(set(table.sfreq[recording])) == 1 and batch.sfreq == table.sfreq[recording[0]]
        kinds.add(frozenset(batch.kind[batch.channel_mask].tolist()))
        if bucket == "size":
            counts = batch.channel_mask.sum(1)
            assert counts.max() <= 1.25 * counts.min()
        if bucket == "sensors":
            assert len(set(table.sensors[recording])) == 1 and batch.channel_mask.all()
    mixed = frozenset({int(Kind.EEG), int(Kind.MAG)})
    assert (mixed in kinds) == (bucket == "rate")


def test_an_unknown_bucket_is_refused(windows):
    with pytest.raises((ValueError, TypeError), match=r"'rate', 'size',? or 'sensors'|Literal"):
        windows.buckets("kind")


def test_shares_hold_in_what_is_given_out(windows):
    part = loader(windows)
    for _ in range(3):
        drawn = [key for batch in keys(part) for key in batch]
        found = Counter(int(windows.table.store[i]) for i, _ in drawn)
        assert dict(found) == dict(enumerate(part.mixing.counts.values()))
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("bucket", ["rate", "sensors"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_resuming_at_every_position_repeats_and_skips_nothing(windows, bucket, rank, monkeypatch):
    in_processes(monkeypatch, rank, 3)
    whole = loader(windows, bucket=bucket)
    everything = keys(whole) + keys(whole)
    once = len(whole.plan(0))
    for taken in range(1, len(everything)):
        begun = loader(windows, bucket=bucket)
        if taken >= once:
            list(begun)
        given_out = everything[: taken - taken % once] + keys(islice(iter(begun), taken % once))
        fresh = loader(windows, bucket=bucket)
        fresh.load_state_dict(begun.state_dict())
        rest = keys(fresh)
        if len(given_out) + len(rest) < len(everything):
            rest += keys(fresh)
        assert given_out + rest == everything


@pytest.mark.parametrize("bucket", ["rate", "sensors"])
def test_processes_together_draw_what_one_would(windows, bucket, monkeypatch):
    whole = keys(loader(windows, bucket=bucket))
    alone = Counter(key for batch in whole for key in batch)
    parts, rates, padding = [], [], 0
    for rank in range(3):
        in_processes(monkeypatch, rank, 3)
        part = loader(windows, bucket=bucket)
        batches = list(part)
        assert len(batches) == len(part)
        parts.append(keys(batches))
        rates.append([batch.sfreq for batch in batches])
        padding = part.plan(0).padding
    assert rates[0] == rates[1] == rates[2]
    together = Counter(key for part in parts for batch in part for key in batch)
    assert set(together) == set(alone)
    for one, *own in zip(whole, *parts, strict=True):
        assert [key for part in own for key in part][: len(one)] == one
    assert sum(together.values()) - len(together) == padding < 3 * len(KINDS) * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_does_not_depend_on_workers(windows, workers):
    alone = loader(windows)
    helped = loader(windows, num_workers=workers)
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.recording, other.recording)


def test_a_place_in_an_epoch_fits_no_other_mixture_bucket_or_content(windows, tmp_path):
    begun = loader(windows)
    next(iter(begun))
    state = begun.state_dict()
    for changes, message in (
        ({"mixing": None}, "mixture"),
        ({"bucket": "sensors"}, "bucket rate is now sensors"),
        ({"drop_last": True}, "drop_last False is now True"),
    ):
        with pytest.raises(ValueError, match=message):
            loader(windows, **changes).load_state_dict(state)
    moved = Windows(windows.stores, window_s=1.0)
    moved._start = moved._start + 1
    with pytest.raises(ValueError, match="epoch and content"):
        loader(moved).load_state_dict(state)


def test_a_mixture_of_other_windows_is_refused(windows):
    with pytest.raises(ValueError, match=r"mixture is of \d+ windows, expected one of the 5"):
        BatchLoader(windows, range(5), batch_size=2, mixing=loader(windows).mixing)
