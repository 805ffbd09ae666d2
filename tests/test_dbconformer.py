"""DBConformer: parity, variants, invariances, learning."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch, BrainModel, Readout
from neurofm.cards import spec_of
from neurofm.models import DBConformer, DBConformerHead
from neurofm.nn.attention_block import AllToAll, AttentionBlock
from neurofm.nn.conv_stem import ConvStem
from neurofm.tasks import Decode
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")
VARIANTS = [
    ({}, 40, 5 + 6),
    ({"channel_attention": False}, 40, 5 + 6),
    ({"gated": True}, 20, 5 + 6),
    ({"branch": "temporal"}, 20, 5),
    ({"branch": "spatial"}, 20, 6),
    ({"positions": False, "attention_scale": "head"}, 40, 5 + 6),
]


def make_batch(n: int = 3, channels: int = 6, time: int = 101, seed: int = 1) -> Batch:
    return Batch(
        x=torch.randn(n, channels, time, generator=torch.Generator().manual_seed(seed)),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG), dtype=torch.int8),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=100.0,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        y=torch.arange(n) % 2,
    )


def pad(batch: Batch, fill: float) -> Batch:
    """Append two padded channels; whatever lies in them must not matter."""
    padded = {}
    for key in PER_CHANNEL:
        value = getattr(batch, key)
        filler = {"kind": -1, "channel_mask": False, "has_position": False}.get(key, fill)
        more = torch.full((len(value), 2, *value.shape[2:]), filler, dtype=value.dtype)
        padded[key] = torch.cat([value, more], 1)
    return replace(batch, **padded)


def small(**changes: object) -> DBConformer:
    torch.manual_seed(0)
    arguments = {
        "n_channels": 6,
        "n_times": 101,
        "sfreq": 100.0,
        "patch": 20,
        "dim": 20,
        "n_filters": 4,
        "kernel": 15,
    }
    return DBConformer(**arguments | changes).eval()


def pooled(model: DBConformer, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch).pooled()


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    path = Path(__file__).with_name("check_golden.py")
    spec = importlib.util.spec_from_file_location("check_golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("folder", "n"), [("dbconformer", 23), ("dbconformer_alignment", 3)])
def test_every_tensor_of_the_original_agrees(checker: ModuleType, folder: str, n: int) -> None:
    lines = checker.check(GOLDEN / folder)
    assert len(lines) == n
    assert [line.name for line in lines if not line.passed] == []


def test_published_size_holds_every_tensor_of_the_original() -> None:
    listed = json.loads((GOLDEN / "dbconformer" / "upstream_keys.json").read_text())
    upstream = {
        key: torch.empty(entry["shape"], device="meta")
        for key, entry in listed["state_dict"].items()
    }
    with torch.device("meta"):
        model = DBConformer()
    renamed = {key: tuple(value.shape) for key, value in model.rename_keys(upstream).items()}
    assert renamed == {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == listed["n_parameters"] == 93_747


def test_a_variant_takes_its_own_part_of_a_checkpoint(checker: ModuleType) -> None:
    fixture = checker.Fixture(GOLDEN / "dbconformer")
    tensors = fixture.tensors("fixture_temporal_only")
    state = {k.removeprefix("sd."): v for k, v in tensors.items() if k.startswith("sd.")}
    model = small(n_channels=4, n_times=251, patch=50, kernel=63, branch="temporal")
    renamed = model.rename_keys({**state, "stranger": torch.zeros(1)})
    assert set(renamed) - set(model.state_dict()) == {"stranger"}
    assert set(model.state_dict()) <= set(renamed)


def test_roles_are_satisfied() -> None:
    assert isinstance(small(), BrainModel)
    assert isinstance(DBConformerHead(40, 2), Readout)


@pytest.mark.parametrize(("change", "dim", "tokens"), VARIANTS, ids=str)
def test_every_variant_encodes_learns_and_is_saved(
    change: dict[str, object], dim: int, tokens: int, tmp_path: Path
) -> None:
    model, batch = small(**change), make_batch()
    embedding = model.encode(batch)
    assert embedding.tokens.shape == (3, tokens, 20) and embedding.mask.all()
    assert embedding.pooled().shape == (3, model.dim) == (3, dim)
    torch.testing.assert_close(model.logits(batch.x), model.head(embedding))
    F.cross_entropy(model.logits(batch.x), batch.y).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(pooled(loaded, batch), pooled(model, batch))
    assert spec_of(loaded) == spec_of(model)


@pytest.mark.parametrize(("scale", "divisor"), [("all", 20), ("head", 2)])
def test_attention_divides_by_the_root_of_all_features_or_of_a_head(
    scale: str, divisor: int
) -> None:
    attention = AllToAll(20, 10, dropout=0.0, scale=scale)
    x = torch.randn(1, 5, 20)
    query, key, value = (
        layer(x)[0].unflatten(-1, (10, 2)).transpose(0, 1)
        for layer in (attention.query, attention.key, attention.value)
    )
    weight = (query @ key.transpose(1, 2) / divisor**0.5).softmax(-1)
    expected = attention.out((weight @ value).transpose(0, 1).flatten(-2))
    torch.testing.assert_close(attention(x)[0], expected, **CLOSE)


def test_published_attention_is_the_default() -> None:
    factors = {b.attention.factor for b in small().modules() if isinstance(b, AttentionBlock)}
    assert factors == {20**-0.5}


def test_channels_count_by_learned_weights_that_add_up_to_one() -> None:
    model, x = small(), make_batch().x
    spatial = model.tokens(x)[1]
    weights = model.channel_weights(spatial)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, 1))
    torch.testing.assert_close(model.fuse(model.tokens(x))[:, 20:], (weights * spatial).sum(1))
    plain = small(channel_attention=False)
    assert plain.channel_weights(spatial).unique().tolist() == pytest.approx([1 / 6])


def test_a_gate_mixes_the_means_of_both_branches() -> None:
    model, x = small(gated=True), make_batch().x
    temporal, spatial = (part.mean(1) for part in model.tokens(x))
    torch.nn.init.zeros_(model.gate.weight)
    for bias, expected in ((40.0, spatial), (-40.0, temporal), (0.0, (temporal + spatial) / 2)):
        torch.nn.init.constant_(model.gate.bias, bias)
        torch.testing.assert_close(model.fuse(model.tokens(x)), expected)


def test_the_last_sample_counts_only_if_it_fills_a_patch() -> None:
    x = torch.randn(2, 3, 101)
    stems = []
    for drop in (False, True):
        torch.manual_seed(0)
        stems.append(ConvStem(3, 4, patch=20, kernel=5, drop_last_sample=drop).eval())
    torch.testing.assert_close(stems[0](x), stems[1](x))
    shorter = x[..., :100]
    assert [stem(shorter).shape[-1] for stem in stems] == [5, 4]
    assert [stem.n_patches(100) for stem in stems] == [5, 4]
    torch.testing.assert_close(stems[0](shorter)[..., :4], stems[1](shorter))
    assert small(n_times=100, drop_last_sample=True).logits(torch.randn(2, 6, 100)).shape == (2, 2)


def test_the_stem_starts_small_and_filters_each_mixture_by_itself() -> None:
    stem = ConvStem(3, 64, patch=20, kernel=5).eval()
    for conv in (stem.spatial, stem.temporal):
        assert 0.005 < conv.weight.std() < 0.015 and conv.bias is None
    x = torch.randn(1, 3, 40)
    before = stem(x)
    with torch.no_grad():
        stem.spatial.weight[0] += 1
    changed = (stem(x) != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [0]


def test_padding_channels_does_not_change_embedding() -> None:
    model, batch = small(), make_batch()
    for fill in (0.0, float("nan")):
        torch.testing.assert_close(pooled(model, pad(batch, fill)), pooled(model, batch), **CLOSE)


def test_batch_size_does_not_change_embedding() -> None:
    model, batch = small(), make_batch()
    single = [pooled(model, batch._map(lambda t, i=i: t[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(torch.cat(single), pooled(model, batch), **CLOSE)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model, batch = small(), make_batch()
    assert torch.equal(pooled(model, batch), pooled(model, batch))
    model.train()
    assert not torch.equal(pooled(model, batch), pooled(model, batch))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 160.0}, r"160 Hz, expected 100 Hz.*Resample"),
        ({"x": torch.randn(3, 6, 90)}, r"90 samples, expected 101.*window_s"),
        ({"x": torch.full((3, 6, 101), torch.nan)}, "NaN"),
        ({"channel_mask": torch.zeros(3, 6, dtype=torch.bool)}, "no real channel"),
        ({"kind": torch.full((3, 6), int(Kind.EOG), dtype=torch.int8)}, "EOG channels"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().encode(replace(make_batch(), **change))


def test_another_montage_and_padding_in_front_are_refused() -> None:
    with pytest.raises(ValueError, match="8 channels, expected 6 in a fixed order"):
        small().encode(make_batch(channels=8))
    padded = pad(make_batch(), 0.0)
    front = {key: getattr(padded, key).roll(2, 1) for key in PER_CHANNEL}
    with pytest.raises(ValueError, match="padding lies among the first 6 channels"):
        small().encode(replace(padded, **front))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "dim 20 is not a multiple of heads 3"),
        ({"branch": "sideways"}, "'sideways'"),
        ({"branch": "temporal", "gated": True}, "gated mixes two branches"),
        ({"attention_scale": "none"}, "'none'"),
        ({"kernel": 14}, "kernel 14 is even"),
        ({"patch": 200}, "101 samples has no patch of 200"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message):  # TypeCheckError where types are checked
        small(**change)


def test_a_model_without_head_has_no_logits() -> None:
    with pytest.raises(ValueError, match=r"n_classes: null.*DBConformerHead"):
        small(n_classes=None).logits(make_batch().x)


def rhythms(n: int, seed: int) -> Batch:
    """A rhythm of 12 Hz that one of two groups of electrodes lacks, by class, in noise."""
    batch, drawn = make_batch(n, seed=seed), torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=drawn)
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=drawn)
    wave = (2 * torch.pi * 12 * torch.arange(101) / 100 + phase).sin()
    has = (torch.arange(6) // 3 == y[:, None]).unsqueeze(-1)
    return replace(batch, x=1.5 * has * wave + 0.5 * batch.x, y=y)


@pytest.mark.parametrize(("branch", "steps"), [("both", 30), ("temporal", 30), ("spatial", 60)])
def test_a_planted_rhythm_is_learned_and_carries_over_to_new_windows(
    branch: str, steps: int
) -> None:
    model = small(dropout=0.0, n_classes=None, branch=branch)
    task = Decode(model, n_outputs=2, readout=DBConformerHead(model.dim, 2, dropout=(0.0, 0.0)))
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    task.train()
    for step in range(steps):
        batch = rhythms(24, step)
        loss = F.cross_entropy(task(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.eval()
    new = rhythms(128, 1000)
    with torch.no_grad():
        assert (task(new).argmax(1) == new.y).float().mean() > 0.9
