"""BatchLoader: order, resuming, and the shares of several processes."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import Any

import pytest
import torch

from neurofm.data import BatchLoader, BrainData


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
    assert [len(batch) for batch in loader(data, n=5, drop_last=True)] == [3]


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(data, monkeypatch):
    in_processes(monkeypatch, 1, 4)
    with pytest.raises(ValueError, match=r"batch_size 6 .* no multiple of their number, 4. Use 4"):
        len(loader(data))


def test_a_place_in_an_epoch_is_the_same_for_another_number_of_processes(data, monkeypatch):
    alone = keys(loader(data))
    in_processes(monkeypatch, 1, 2)
    begun = loader(data)
    next(iter(begun))
    in_processes(monkeypatch, 0, 1)
    rest = loader(data)
    rest.load_state_dict(begun.state_dict())
    assert keys(rest) == alone[1:]


def test_workers_give_the_same_batches(data):
    alone, helped = next(iter(loader(data))), next(iter(loader(data, num_workers=1)))
    assert torch.equal(alone.x, helped.x)


def test_nothing_to_draw_and_no_batch_size_are_refused(data):
    with pytest.raises(ValueError, match="no windows"):
        loader(data, n=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        loader(data, batch_size=0)
