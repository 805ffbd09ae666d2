"""FLEEG's client networks: parity, limits of norms, what is shared, bad input, learning."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch, BrainModel
from neurofm.cards import spec_of
from neurofm.models import FLEEG, FLEEGClients
from neurofm.readouts import class_head
from neurofm.tasks import federated_mean
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden" / "fleeg"
# Clients of the original: channels, samples, kernels, pools, parameters.
PUBLISHED = [
    (62, 1000, (10, 10, 10), (3, 3, 3), 305_077),
    (30, 2000, (8, 8, 8), (5, 4, 3), 272_527),
    (32, 1000, (10, 10, 10), (3, 3, 3), 286_327),
    (22, 1000, (10, 10, 10), (3, 3, 3), 280_077),
    (60, 800, (8, 8, 8), (2, 3, 4), 291_277),
    (64, 1536, (22, 22, 22), (4, 3, 3), 381_627),
    (128, 1750, (10, 10, 10), (4, 4, 3), 346_327),
    (128, 2000, (20, 20, 10), (6, 3, 3), 359_077),
    (22, 200, (6, 6, 6), (1, 2, 3), 254_977),
]


def make_batch(n: int = 3, channels: int = 4, time: int = 128, sfreq: float = 64.0) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        x=20 * torch.randn(n, channels, time, generator=generator),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG), dtype=torch.int8),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        y=torch.arange(n) % 2,
    )


def small(**changes: Any) -> FLEEG:
    arguments: dict[str, Any] = {
        "n_channels": 4,
        "n_times": 128,
        "sfreq": 64.0,
        "filters": (6, 6, 6, 8),
        "kernels": (8, 4, 4),
        "pools": (2, 2, 2),
        "shared_kernel": 4,
        "shared_pool": 2,
    }
    torch.manual_seed(0)
    return FLEEG(**arguments | changes).eval()


def other(**changes: Any) -> FLEEG:
    """A client of other channels, rate and length, whose last layers have the same shapes."""
    format = {"n_channels": 6, "n_times": 96, "sfreq": 48.0, "kernels": (5, 4, 4)}
    return small(**format | {"pools": (2, 3, 1)} | changes)


def large(model: FLEEG) -> FLEEG:
    """All filters beyond their limits."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(100)
    return model


def logits(model: FLEEG, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(batch)


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    path = Path(__file__).with_name("check_golden.py")
    spec = importlib.util.spec_from_file_location("check_golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def test_every_tensor_of_the_original_agrees(checker: ModuleType) -> None:
    lines = checker.check(GOLDEN)
    assert len(lines) == 16
    assert [line.name for line in lines if not line.passed] == []


@pytest.mark.parametrize("client", PUBLISHED, ids=str)
def test_published_clients_have_their_sizes_and_share_the_head(client: tuple[Any, ...]) -> None:
    channels, times, kernels, pools, n_parameters = client
    with torch.device("meta"):
        model = FLEEG(channels, times, kernels=kernels, pools=pools)
    assert sum(p.numel() for p in model.parameters()) == n_parameters
    assert model.n_moments == 7


def test_every_tensor_of_the_original_has_a_place() -> None:
    listed = json.loads((GOLDEN / "upstream_keys.json").read_text())["state_dict"]
    upstream = {key: torch.empty(entry["shape"], device="meta") for key, entry in listed.items()}
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in FLEEG().state_dict().items()}
    renamed = {key: tuple(value.shape) for key, value in FLEEG.rename_keys(upstream).items()}
    assert renamed == own


def test_one_convolution_equals_the_two_it_stands_for() -> None:
    model, x = large(small()).double(), torch.randn(2, 4, 128, dtype=torch.float64)
    temporal = torch.renorm(model.temporal.weight, 2, 0, 2.0)
    spatial = torch.renorm(model.spatial.weight, 2, 0, 2.0)
    both = F.conv2d(F.conv2d(x.unsqueeze(1), temporal, model.temporal.bias), spatial).squeeze(2)
    torch.testing.assert_close(F.conv1d(x, *model.fused()), both)


def test_evaluation_leaves_the_weights_and_gives_the_numbers_of_the_original() -> None:
    model, faithful, batch = large(small()), large(small(limit_in_evaluation=True)), make_batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert torch.equal(logits(model, batch), logits(faithful, batch))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert faithful.spatial.weight.flatten(1).norm(dim=1).max() <= 2.00001
    torch.testing.assert_close(logits(faithful, batch), logits(model, batch))  # already cut


def test_training_cuts_filters_to_their_limits() -> None:
    model = large(small()).train()
    model.logits(make_batch()).sum().backward()
    norms = {n: p.flatten(1).norm(dim=1) for n, p in model.named_parameters() if p.ndim > 1}
    for name, norm in norms.items():
        torch.testing.assert_close(norm, torch.full_like(norm, 0.5 if name == "head.weight" else 2))
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_roles_are_satisfied_and_the_head_can_be_taken_over() -> None:
    model, batch = small(), make_batch()
    assert isinstance(model, BrainModel)
    assert model.encode(batch).pooled().shape == (3, model.dim)
    taken = class_head(model, 2).eval()
    torch.testing.assert_close(taken(model.encode(batch)), model.logits(batch))


def test_padding_and_batch_size_do_not_change_logits() -> None:
    model, batch = small(), make_batch()
    per_channel = ("x", "channel_mask", "kind", "position", "orientation", "has_position")
    more = {}
    for name in per_channel:
        value = getattr(batch, name)
        fill = {"kind": -1, "channel_mask": False, "has_position": False}.get(name, torch.nan)
        extra = torch.full((3, 2, *value.shape[2:]), fill, dtype=value.dtype)
        more[name] = torch.cat([value, extra], 1)
    whole = logits(model, batch)
    assert torch.equal(logits(model, replace(batch, **more)), whole)
    single = [logits(model, batch._map(lambda t, i=i: t[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(torch.cat(single), whole)


def test_save_and_load(tmp_path: Path) -> None:
    model, batch = small(), make_batch()
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(loaded.logits(batch), model.logits(batch))
    assert spec_of(loaded) == spec_of(model)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (make_batch(channels=5), "5 channels, expected 4"),
        (make_batch(sfreq=48.0), r"48 Hz, expected 64 Hz.*Resample"),
        (make_batch(time=100), "windows of 100 samples, expected 128"),
        (replace(make_batch(), x=torch.full((3, 4, 128), torch.nan)), "NaN"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().encode(batch)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"20 samples is used up .*longer windows"):
        small(n_times=20)
    with pytest.raises(ValueError, match="0 to 5 private groups"):
        small(private=6)


# Sharing


@pytest.mark.parametrize(("private", "n"), [(0, 8), (1, 5), (3, 3), (4, 2), (5, 0)])
def test_groups_are_shared_from_the_output_on_and_norms_never(private: int, n: int) -> None:
    names = small(private=private).shared_names()
    assert len(names) == n
    assert not any("norm" in name for name in names)
    assert names == small(private=0).shared_names()[len(small(private=0).shared_names()) - n :]


def test_what_is_sent_is_a_copy_inside_the_limits_and_what_comes_is_taken_over() -> None:
    one, two = large(small()), other()
    sent = one.shared()
    assert sent["head.weight"].norm(dim=1).max() <= 0.50001
    before = {key: value.clone() for key, value in two.state_dict().items()}
    two.receive(federated_mean([sent, two.shared()], [3, 1]))
    expected = 0.75 * sent["head.bias"] + 0.25 * before["head.bias"]
    torch.testing.assert_close(two.head.bias.detach(), expected)
    changed = {k for k, v in two.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == set(two.shared_names())
    sent["head.bias"].add_(1)
    assert not torch.equal(sent["head.bias"], one.head.bias)


def test_averages_of_what_does_not_fit_are_refused() -> None:
    one, wide = small().shared(), small(filters=(6, 6, 6, 9)).shared()
    with pytest.raises(ValueError, match="client 1 sent"):
        federated_mean([one, wide], [1, 1])
    with pytest.raises(ValueError, match="not all zero"):
        federated_mean([one, one], [0, 0])
    with pytest.raises(ValueError, match="client 0 sent NaN"):
        federated_mean([{**one, "head.bias": torch.full((2,), torch.nan)}], [1])
    with pytest.raises(ValueError, match="the client shares"):
        small().receive(wide)


def test_clients_that_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_moments.*'a': 4, 'b': 12.*choose pools"):
        FLEEGClients([small(), small(pools=(2, 1, 2))], names=["a", "b"])
    with pytest.raises(ValueError, match="one for each dataset"):
        FLEEGClients([small()], names=["a", "b"])


def test_a_window_goes_to_the_client_of_its_format(tmp_path: Path) -> None:
    model = FLEEGClients([small(), other()], names=["a", "b"]).eval()
    theirs = make_batch(channels=6, time=96, sfreq=48.0)
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(loaded.encode(theirs).tokens, model["b"].encode(theirs).tokens)
    assert isinstance(loaded, BrainModel)
    with pytest.raises(ValueError, match=r"5 channels of 128 samples at 64 Hz fit no client"):
        model.encode(make_batch(channels=5))
    with pytest.raises(ValueError, match=r"fit \['a', 'b'\].*Name the client"):
        FLEEGClients([small(), small()], names=["a", "b"]).encode(make_batch())
    with pytest.raises(ValueError, match="no client for 'c'"):
        model["c"]


def test_a_planted_rhythm_is_learned_and_carries_over_to_new_windows() -> None:
    def rhythms(n: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        batch, y = make_batch(n), torch.randint(0, 2, (n,), generator=generator)
        phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator)
        wave = (2 * torch.pi * 10 * torch.arange(128) / 64 + phase).sin()
        has = (torch.arange(4) // 2 == y[:, None]).unsqueeze(-1)
        noise = torch.randn(n, 4, 128, generator=generator)
        return replace(batch, x=20 * (has * wave + 0.5 * noise), y=y)

    model = small().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        batch = rhythms(32, step)
        loss = F.cross_entropy(model.logits(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = rhythms(200, 1000)
    assert (logits(model.eval(), new).argmax(1) == new.y).float().mean() > 0.9
