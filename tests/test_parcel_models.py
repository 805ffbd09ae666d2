"""WAVE and transformers over parcels: masks, times, objectives, learning; ablation of networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_batches import generator

from neurofm.batch import Batch
from neurofm.cards import build, spec_of
from neurofm.data import Windows, prepare_corpus
from neurofm.data.steps.bold import StandardizeRun
from neurofm.evaluate.network_ablation import ablate_networks, networks_of, read_networks, without
from neurofm.io import Corpus, SyntheticParcelReader
from neurofm.models import WAVE, ParcelTransformer
from neurofm.models.parcel_masks import BlockShares, crossed_blocks, random_tokens
from neurofm.models.parcel_transformer import take
from neurofm.objectives import HiddenLatents, NextVolume
from neurofm.tasks import Pretrain
from neurofm.tasks.in_memory import fit_windows
from neurofm.units import Kind

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def parcels(n: int = 4, channels: int = 6, time: int = 16) -> Batch:
    """Noise."""
    return Batch(
        x=torch.randn(n, channels, time, generator=generator()),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.BOLD)),
        position=0.05 * torch.randn(channels, 3, generator=generator(2)).expand(n, -1, -1),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=0.5,
        onset=torch.arange(float(n), dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        unit="z",
    )


def wave(**changes: object) -> WAVE:
    torch.manual_seed(0)
    arguments = {"n_parcels": 6, "width": 16, "depth": 1, "heads": 2, "n_positions": 20}
    return WAVE(**{**arguments, "n_estimates": 3, "pretraining": True, **changes}).eval()


def transformer(**changes: object) -> ParcelTransformer:
    torch.manual_seed(0)
    arguments = {"patch": 4, "width": 16, "depth": 1, "heads": 2, "decoder_depth": 1}
    arguments |= {"decoder_width": 16, "decoder_heads": 2}
    return ParcelTransformer(**{**arguments, **changes}).eval()


# WAVE


def test_padding_behind_the_volumes_changes_nothing() -> None:
    model, x = wave(), torch.randn(2, 7, 6, generator=generator())
    time = 2.0 * torch.arange(7.0).expand(2, -1)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    tokens, real = model.embedded(x, time, mask)
    assert real.sum(1).tolist() == [8, 5]
    whole = model.pooled(model.attended(tokens, real), real)
    tokens, real = model.embedded(x[1:, :4], time[1:, :4], mask[1:, :4])
    torch.testing.assert_close(model.pooled(model.attended(tokens, real), real), whole[1:], **CLOSE)


def test_the_class_token_sees_every_volume_and_volumes_see_no_later_one() -> None:
    model, batch = wave(), parcels(1, time=5)
    changed = replace(batch, x=batch.x + (torch.arange(5) == 3))
    with torch.no_grad():
        before, after = model.encode(batch), model.encode(changed)
    moved = (before.tokens - after.tokens).abs().amax(-1)[0] > 1e-6
    assert moved.tolist() == [False, False, False, True, True]
    assert not torch.allclose(before.pooled(), after.pooled())


def test_truncated_rows_are_those_of_the_original_and_rounded_ones_are_right() -> None:
    times = torch.tensor([[0.0, 0.6, 1.4, -1.0]])
    assert wave().rows(times).tolist() == [[0, 3, 7, 1500]]
    truncated = wave(time_index="truncate", time_step_s=0.3).rows(times)
    # int(1 / 0.3) is 3, so that 1.5 s would be row 4.5: the original's own error.
    assert truncated.tolist() == [[0, 1, 4, 1000]]
    with pytest.raises(ValueError, match="times reach 300"):
        wave().rows(torch.tensor([[400.0]]))


def test_windows_that_do_not_fit_wave_are_refused() -> None:
    with pytest.raises(ValueError, match="built for 20"):
        wave().encode(parcels(1, time=20))
    with pytest.raises(ValueError, match="7 channels"):
        wave().encode(parcels(1, channels=7))
    with pytest.raises(ValueError, match="pretraining is off"):
        wave(pretraining=False).predict_volume(parcels())
    with pytest.raises(ValueError, match="without a projection"):
        wave(n_estimates=None).estimates(parcels())


def test_a_hidden_volume_is_not_seen() -> None:
    model, batch = wave(), parcels(3)
    found = model.predict_volume(batch, generator=generator(7))
    at = [(batch.x[i] == found.target[i, :, None]).all(0).nonzero().item() for i in range(3)]
    assert min(at) >= 1
    x = batch.x.clone()
    for i, place in enumerate(at):
        x[i, :, place:] += 5  # it and all after it
    again = model.predict_volume(replace(batch, x=x), generator=generator(7))
    torch.testing.assert_close(again.prediction, found.prediction)
    torch.testing.assert_close(again.before, found.before)


def test_augmentations_are_for_training_alone() -> None:
    model, batch = wave(zeroed=0.5, shuffled=5, dropout=0.0), parcels(2, time=8)
    plain = wave(dropout=0.0)
    torch.testing.assert_close(model.encode(batch).pooled(), plain.encode(batch).pooled())
    x = batch.x.transpose(1, 2)
    changed = model._augmented(x)
    assert 0.3 < (changed == 0).float().mean() < 0.7
    only = wave(shuffled=5)._augmented(x)
    torch.testing.assert_close(only[:, 5:], x[:, 5:])
    torch.testing.assert_close(only[:, :5].sort(1).values, x[:, :5].sort(1).values)
    assert not torch.equal(only, x)


# Masks


def test_random_tokens_hide_their_share_of_real_ones() -> None:
    real = torch.ones(3, 40, dtype=torch.bool)
    real[1, 20:] = False
    hidden = random_tokens(real, 0.25, generator())
    assert hidden.sum(1).tolist() == [10, 5, 10] and not bool((hidden & ~real).any())


def test_blocks_cross_parcels_and_times_and_never_overlap() -> None:
    real = torch.ones(5, 20, dtype=torch.bool)
    real[0, 15:] = False
    for seed in range(5):
        blocks = crossed_blocks(real, 10, BlockShares(), generator(seed))
        assert not bool((blocks.shown & blocks.hidden).any())
        assert not bool((blocks.shown | blocks.hidden)[~real].any())
        assert int(blocks.shown.flatten(1).sum(1).min()) >= 4
        for shown, hidden in zip(blocks.shown, blocks.hidden, strict=True):
            parcels_hidden = hidden.any(1) & ~shown.any(1)
            times_hidden = hidden.any(0) & ~shown.any(0)
            assert parcels_hidden.any() and times_hidden.any()
            both = parcels_hidden.unsqueeze(1) & times_hidden.unsqueeze(0)
            assert bool(hidden[both].all())  # double-cross
            assert 1 <= int(parcels_hidden.sum()) <= 6 and 1 <= int(times_hidden.sum()) <= 4
    with pytest.raises(ValueError, match="longer windows"):
        crossed_blocks(real, 1, BlockShares(), generator())


def test_taken_tokens_lie_side_by_side() -> None:
    tokens = torch.arange(10.0).view(2, 5, 1)
    chosen = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    found, real, at = take(tokens, chosen)
    assert found[real].flatten().tolist() == [1, 3, 4, 5] and real.sum(1).tolist() == [3, 1]
    assert at[0].tolist() == [1, 3, 4]


# The transformer


def test_order_of_parcels_does_not_matter_but_places_do() -> None:
    batch, model = parcels(), transformer()
    order = torch.randperm(6, generator=generator(3))
    swapped = replace(batch, x=batch.x[:, order], position=batch.position[:, order])
    with torch.no_grad():
        whole = model.encode(batch)
        torch.testing.assert_close(model.encode(swapped).pooled(), whole.pooled(), **CLOSE)
        moved = model.encode(replace(batch, position=batch.position[:, order]))
    assert whole.tokens.shape == (4, 24, 16)
    assert not torch.allclose(moved.pooled(), whole.pooled(), atol=1e-4)


def test_places_may_come_from_a_table() -> None:
    model = transformer(places=[[0.1 * i, 0.2] for i in range(6)])
    batch = parcels()
    with torch.no_grad():
        one = model.encode(batch).pooled()
        two = model.encode(replace(batch, position=batch.position + 1)).pooled()
    torch.testing.assert_close(one, two)
    with pytest.raises(ValueError, match="7 channels, expected 6"):
        model.encode(parcels(channels=7))


def test_hidden_samples_are_not_seen() -> None:
    model, batch = transformer(hidden=0.5), parcels()
    found = model.reconstruct_signal(batch, generator=generator(5))
    patches = batch.x.unflatten(-1, (-1, 4)).flatten(1, 2)
    torch.testing.assert_close(found.true_signal, patches)
    noisy = torch.where(found.hidden.unsqueeze(-1), patches + 9, patches)
    x = noisy.unflatten(1, (6, 4)).flatten(2)
    again = model.reconstruct_signal(replace(batch, x=x), generator=generator(5))
    torch.testing.assert_close(again.signal, found.signal, **CLOSE)


def test_the_copy_follows_slowly_and_learns_nothing_by_itself() -> None:
    model = transformer(pretraining="latents", copy_rate=0.9, copy_steps=10).train()
    with torch.no_grad():
        model.inner.summary += 1.0
    before = model.copy.summary.clone()
    out = HiddenLatents()(model, parcels(), generator=generator())
    torch.testing.assert_close(model.copy.summary, before.lerp(model.inner.summary, 0.1))
    out["loss"].backward()
    assert all(p.grad is None for p in model.copy.parameters())
    assert int(model.steps) == 1 and not model.copy.training
    model.eval()
    HiddenLatents()(model, parcels(), generator=generator())
    assert int(model.steps) == 1
    with pytest.raises(ValueError, match="needs 'masked'"):
        model.reconstruct_signal(parcels())
    assert int(build(spec_of(model)).steps) == 0


# Learning, and ablation


@pytest.mark.slow
def test_next_volumes_of_a_new_person_are_foreseen(tmp_path: Path) -> None:
    reader = SyntheticParcelReader(subjects=7, runs=2)
    corpus = Corpus("rest", {"modality": "fmri"}, None, reader)
    windows = Windows(prepare_corpus(corpus, [StandardizeRun()], tmp_path), window_s=16.0)
    batch = windows.batch(range(len(windows)))
    train, test = (batch._map(lambda t, i=i: t[i]) for i in (batch.subject < 6, batch.subject == 6))
    model = wave(n_parcels=70, width=64, depth=2, heads=4, n_positions=64)
    task = Pretrain(model, objective=NextVolume(), lr=2e-3)
    fit_windows(task, train, steps=200, batch_size=64, seed=0)
    with torch.no_grad():
        found = [NextVolume()(model, test, generator=generator(i)) for i in range(10)]
    mean = {key: np.mean([float(part[key]) for part in found]) for key in found[0]}
    assert mean["loss"] < 0.95 * min(mean["persistence"], mean["median"])


def test_simulated_networks_follow_each_other() -> None:
    reader = SyntheticParcelReader(subjects=1, runs=1, parcels=3, minutes=30.0, noise=0.3)
    signal = reader.load(reader.recordings()[0])
    assert {e.label for e in signal.events} == {"rest_a", "rest_b"}
    assert networks_of(signal.sensors).keys() == reader.networks().keys()
    mean = np.stack([signal.data[i].mean(0) for i in reader.networks().values()])
    for event in signal.events[:6]:
        first = round(event.onset * 0.5) + 2
        part = mean[:, first : first + 30]
        ahead = np.mean([np.corrcoef(part[i - 1, :-2], part[i, 2:])[0, 1] for i in range(1, 7)])
        behind = np.mean([np.corrcoef(part[i + 1, :-2], part[i, 2:])[0, 1] for i in range(6)])
        assert (ahead > behind) == (event.label == "rest_a")


def test_ablation_finds_the_network_that_carries_the_score() -> None:
    batch = parcels(64, channels=20)
    told = batch.x[:, 4:8].mean((1, 2))

    def score(given: Batch) -> float:
        return float(
            torch.corrcoef(torch.stack([given.x[:, 4:8].mean((1, 2)), told]))[0, 1].nan_to_num()
        )

    networks = {"carrier": [4, 5, 6, 7], "other": [0, 1, 2, 3], "larger": list(range(10, 18))}
    found = {item.network: item for item in ablate_networks(score, batch, networks, n_sets=99)}
    assert found["carrier"].p == 0.01 and found["carrier"].q <= 0.03
    assert found["carrier"].score == pytest.approx(1.0) and found["carrier"].cost > 0.5
    assert found["other"].p > 0.2 and found["larger"].p > 0.2
    assert bool((batch.x[:, 4:8] != 0).any()) and bool((without(batch, [4]).x[:, 4] == 0).all())
    assert "p = 0.01" in str(found["carrier"])


def test_bad_networks_are_refused(tmp_path: Path) -> None:
    batch = parcels()
    for wrong in ([], [6], [0, 0], list(range(6))):
        with pytest.raises(ValueError, match="expected at least one and not all"):
            ablate_networks(lambda _: 0.0, batch, {"x": wrong})
    file = tmp_path / "networks.json"
    file.write_text('{"visual": [0, 1]}')
    assert read_networks(file) == {"visual": [0, 1]}
    file.write_text('{"visual": ["a"]}')
    with pytest.raises(ValueError, match="lists of parcels"):
        read_networks(file)
