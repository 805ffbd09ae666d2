"""MIRepNet: parity, invariances, contracts, learning."""

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
from neurofm.batch import Batch, BrainModel, Objective, Readout, Tokenizer
from neurofm.cards import spec_of
from neurofm.io import convert_checkpoint
from neurofm.models import MIRepNet
from neurofm.objectives import MaskedTokensAndClasses
from neurofm.readouts import class_head
from neurofm.tokenizers import MIRepNetTokenizer
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden" / "mirepnet"
UPSTREAM = GOLDEN / "upstream_keys_base_pretraining.json"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(n: int = 3, channels: int = 45, time: int = 300) -> Batch:
    return Batch(
        x=torch.randn(n, channels, time, generator=generator(1)),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.EEG), dtype=torch.int8),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=250.0,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
        y=torch.arange(n) % 2,
    )


def pad(batch: Batch, n: int, fill: float) -> Batch:
    """Append padded channels; whatever lies in them must not matter."""
    padded = {}
    for key in PER_CHANNEL:
        value = getattr(batch, key)
        shape = (value.shape[0], n, *value.shape[2:])
        filler = {"kind": -1, "channel_mask": False, "has_position": False}.get(key, fill)
        padded[key] = torch.cat([value, torch.full(shape, filler, dtype=value.dtype)], 1)
    return replace(batch, **padded)


def small(**changes: object) -> MIRepNet:
    torch.manual_seed(0)
    tokenizer = MIRepNetTokenizer(16, n_temporal=4, n_spatial=8)
    arguments = {"depth": 2, "heads": 4, "n_classes": 2, "decoder_depth": 1} | changes
    return MIRepNet(tokenizer, **arguments).eval()


def embed(model: MIRepNet, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch).tokens


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
    assert len(lines) == 14
    assert [line.name for line in lines if not line.passed] == []


def test_a_model_recorded_outside_of_pretraining_is_read(checker: ModuleType) -> None:
    fixture = checker.Fixture(GOLDEN)
    state = fixture.tensors("state_dict")
    state = {key: value for key, value in state.items() if not key.startswith("decoder.")}
    model = checker.module("mirepnet").model_of(fixture.config, state)
    with torch.no_grad():
        tokens = model.tokenizer.embed(fixture.tensors("inputs")["x"])
    torch.testing.assert_close(tokens, fixture.tensors("outputs")["tokens"], **CLOSE)


def test_roles_are_satisfied() -> None:
    model = small()
    assert isinstance(model, BrainModel)
    assert isinstance(model.tokenizer, Tokenizer)
    assert isinstance(MaskedTokensAndClasses(), Objective)
    assert isinstance(class_head(model, 2), Readout)


def test_published_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in MIRepNet(decoder=d).parameters()) for d in (True, False)]
    unread = 45 * 256  # the original's channel embedding
    assert sizes == [6_734_339 - unread, 5_143_043]


def test_every_tensor_of_the_original_has_a_place_but_the_one_nothing_reads() -> None:
    listed = json.loads(UPSTREAM.read_text())["keys"]
    upstream = {key: torch.empty(entry["shape"], device="meta") for key, entry in listed.items()}
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in MIRepNet().state_dict().items()}
    renamed = MIRepNet.rename_keys(upstream)
    assert {key: tuple(value.shape) for key, value in renamed.items()} == own
    assert len(own) == len(upstream) - 1 == 142


def test_a_published_checkpoint_converts_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    listed = json.loads(UPSTREAM.read_text())["keys"]
    state = {key: torch.zeros(entry["shape"]) for key, entry in listed.items()}
    state["embedding.bn.num_batches_tracked"] = torch.tensor(7)
    torch.save(state, tmp_path / "MIRepNet.pth")
    out = tmp_path / "mirepnet.safetensors"
    found = convert_checkpoint(tmp_path / "MIRepNet.pth", "mirepnet", out)
    assert found.unused == ("embedding.chan_embed.weight",)
    assert int(load_model(out).tokenizer.norm.num_batches_tracked) == 7
    del state["clshead.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"head\.bias"):
        convert_checkpoint(tmp_path / "short.pth", "mirepnet", out)


def test_one_convolution_equals_the_two_it_stands_for() -> None:
    tokenizer = small().tokenizer.double()
    x = torch.randn(2, 45, 200, dtype=torch.float64)
    kernel, bias = tokenizer.fused()
    both = tokenizer.spatial(tokenizer.temporal(x.unsqueeze(1))).squeeze(2)
    torch.testing.assert_close(F.conv1d(x, kernel, bias), both)
    x.requires_grad_(True)
    F.conv1d(x, *tokenizer.fused()).square().sum().backward()
    fused = tokenizer.temporal.weight.grad.clone()
    tokenizer.zero_grad()
    tokenizer.spatial(tokenizer.temporal(x.unsqueeze(1))).square().sum().backward()
    torch.testing.assert_close(fused, tokenizer.temporal.weight.grad)


def test_attention_divides_by_the_root_of_all_features() -> None:
    attention = small().blocks[0].attention
    x = torch.randn(1, 5, 16)
    query, key, value = (
        layer(x)[0].unflatten(-1, (4, 4)).transpose(0, 1)
        for layer in (attention.query, attention.key, attention.value)
    )
    weight = (query @ key.transpose(1, 2) / 16**0.5).softmax(-1)
    expected = attention.out((weight @ value).transpose(0, 1).flatten(-2))
    torch.testing.assert_close(attention(x)[0], expected, **CLOSE)


def test_padding_channels_does_not_change_embedding() -> None:
    model, batch = small(), make_batch()
    expected = embed(model, batch)
    for fill in (0.0, 1e3, float("nan")):
        torch.testing.assert_close(embed(model, pad(batch, 3, fill)), expected, **CLOSE)


def test_batch_size_does_not_change_embedding() -> None:
    model, batch = small(), make_batch()
    rows = ("onset", "subject", "recording", "y", *PER_CHANNEL)
    single = [
        embed(model, replace(batch, **{key: getattr(batch, key)[i : i + 1] for key in rows}))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(single), embed(model, batch), **CLOSE)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model, batch = small(), make_batch()
    assert torch.equal(embed(model, batch), embed(model, batch))
    model.train()
    assert not torch.equal(embed(model, batch), embed(model, batch))


def test_tokens_say_where_they_come_from() -> None:
    tokens = small().tokenizer(make_batch(time=1000))
    assert tokens.values.shape == (3, 61, 16)
    assert tokens.mask.all() and (tokens.channel == -1).all() and tokens.codes is None
    # The first token sees samples 0 to 98, the next ones begin 15 samples later each.
    assert tokens.time[0, :3].mul(250).tolist() == pytest.approx([49.5, 64.5, 79.5])
    x = torch.zeros(1, 45, 129)
    x[..., 114:] = 1.0  # beyond the second token
    model = small().tokenizer
    quiet = model.embed(torch.zeros(1, 45, 129))
    assert torch.equal(model.embed(x)[:, :2], quiet[:, :2])
    assert not torch.equal(model.embed(x)[:, 2], quiet[:, 2])


def test_tokens_computed_beforehand_are_used() -> None:
    model, batch = small(), make_batch()
    cached = replace(batch, tokens=model.tokenize(batch), x=torch.zeros_like(batch.x))
    assert torch.equal(embed(model, cached), embed(model, batch))
    wrong = replace(cached.tokens, values=cached.tokens.values[..., :8])
    with pytest.raises(ValueError, match="another tokenizer"):
        model.encode(replace(cached, tokens=wrong))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 160.0}, r"160 Hz, expected 250 Hz.*Resample"),
        ({"unit": "uV"}, "unit 'uV'"),
        ({"channel_mask": torch.zeros(3, 45, dtype=torch.bool)}, "no real channel"),
        ({"x": torch.full((3, 45, 300), torch.nan)}, "NaN"),
        ({"x": torch.randn(3, 45, 98)}, r"98 samples.*window_s to at least 0\.396"),
        ({"kind": torch.full((3, 45), int(Kind.EOG), dtype=torch.int8)}, "EOG channels.*PickKinds"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().encode(replace(make_batch(), **change))


@pytest.mark.parametrize("channels", [22, 64])
def test_another_montage_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} real channels, expected the 45 electrodes"):
        small().encode(make_batch(channels=channels))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads 5"):
        small(heads=5)
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.5"):
        small(mask_ratio=1.5)
    with pytest.raises(ValueError, match="decoder: true"):
        small(decoder=False).reconstruct_hidden(make_batch())


def test_save_and_load(tmp_path: Path) -> None:
    model, batch = small(), make_batch()
    loaded = load_model(save_model(model, tmp_path / "m.safetensors"))
    assert torch.equal(embed(loaded, batch), embed(model, batch))
    assert spec_of(loaded) == spec_of(model)


def test_the_smallest_noise_is_kept_and_the_share_is_exact() -> None:
    noise = torch.rand(4, 61, generator=generator())
    hidden = small().hide(noise)
    assert (~hidden).sum(1).tolist() == [30] * 4  # int(61 * 0.5)
    assert (noise.masked_fill(hidden, 0).amax(1) < noise.masked_fill(~hidden, 2).amin(1)).all()


def test_hidden_tokens_leave_no_trace_in_what_is_given_back() -> None:
    model, batch = small(), make_batch()
    tokens = model.tokenize(batch).values
    hidden = model.hide(torch.rand(tokens.shape[:2], generator=generator()))
    changed = torch.where(hidden.unsqueeze(-1), 99.0, tokens)
    one, other = (model.reconstruct(part, hidden) for part in (tokens, changed))
    assert torch.equal(one.reconstruction, other.reconstruction)
    assert torch.equal(one.logits, other.logits)


def test_both_losses_count_as_weighted() -> None:
    model, batch = small(), make_batch()
    out = MaskedTokensAndClasses(reconstruction=2.0, classification=0.5)(
        model, batch, generator=generator()
    )
    expected = 2 * out["reconstruction"] + 0.5 * out["classification"]
    torch.testing.assert_close(out["loss"], expected)
    alone = MaskedTokensAndClasses(classification=0.0)(
        model, replace(batch, y=None), generator=generator()
    )
    torch.testing.assert_close(alone["loss"], out["reconstruction"])
    assert set(alone) == {"loss", "reconstruction", "spread"}


@pytest.mark.parametrize("detach", [True, False])
def test_the_target_is_pulled_along_only_if_asked_for(detach: bool) -> None:
    found = small().reconstruct_hidden(make_batch(), generator=generator())
    target = found.target.detach().requires_grad_(True)
    given = replace(found, target=target, reconstruction=found.reconstruction.detach())
    loss = MaskedTokensAndClasses(detach_target=detach).losses(given, None)["loss"]
    assert loss.requires_grad != detach


def test_labels_the_objective_cannot_use_are_refused() -> None:
    objective, batch = MaskedTokensAndClasses(), make_batch()
    with pytest.raises(ValueError, match=r"no labels.*classification: 0"):
        objective(small(), replace(batch, y=None))
    with pytest.raises(ValueError, match=r"classes 0 to 1.*reach 2"):
        objective(small(), replace(batch, y=torch.tensor([0, 1, 2])))


def test_the_pretrained_head_is_kept_if_the_number_of_classes_is() -> None:
    model, batch = small(), make_batch()
    embedding = model.encode(batch)
    kept, fresh = class_head(model, 2).eval(), class_head(model, 4).eval()
    torch.testing.assert_close(kept(embedding), model.classify(embedding.tokens))
    assert fresh(embedding).shape == (3, 4)
    with torch.no_grad():
        kept.linear.bias.add_(1)
    assert not torch.equal(kept.linear.bias, model.head.bias)
    model.head = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"no linear head on its 16 features.*PooledLinear"):
        class_head(model, 2)


def rhythms(n: int, seed: int) -> Batch:
    """A rhythm of 12 Hz that one of two groups of electrodes lacks, by class, in noise."""
    batch = make_batch(n)
    drawn = generator(seed)
    y = torch.randint(0, 2, (n,), generator=drawn)
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=drawn)
    wave = (2 * torch.pi * 12 * torch.arange(300) / 250 + phase).sin()
    has = (torch.arange(45) // 23 == y[:, None]).unsqueeze(-1)
    return replace(batch, x=has * wave + 0.5 * torch.randn(n, 45, 300, generator=drawn), y=y)


def test_a_planted_rhythm_is_learned_and_carries_over_to_new_windows() -> None:
    model = small(dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    objective = MaskedTokensAndClasses()
    first = None
    for step in range(60):
        out = objective(model, rhythms(16, step), generator=generator(step))
        first = out["reconstruction"].item() if first is None else first
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert out["reconstruction"] < 0.3 * first
    model.eval()
    new = rhythms(64, 1000)
    with torch.no_grad():
        right = class_head(model, 2)(model.encode(new)).argmax(1) == new.y
    assert right.float().mean() > 0.9
