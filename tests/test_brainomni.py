"""BrainTokenizer and BrainOmni on batches: invariances, contracts, learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neurofm.batch import Batch, BrainModel, Objective, Readout, Tokenizer
from neurofm.models import BrainOmni
from neurofm.nn import Rotary
from neurofm.objectives import MaskedCodes
from neurofm.readouts import LatentMLP, PooledLinear
from neurofm.tokenizers import BrainTokenizer
from neurofm.tokenizers.normalize import normalize_amplitude, normalize_positions
from neurofm.units import Kind

SMALL = {
    "window_length": 64,
    "n_filters": 4,
    "ratios": (4, 2, 2),
    "n_dim": 16,
    "n_head": 2,
    "n_neuro": 4,
    "codebook_dim": 16,
    "codebook_size": 16,
    "num_quantizers": 2,
}
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(n: int = 3, channels: int = 6, time: int = 160, *, meg: bool = True) -> Batch:
    g = generator(1)
    kind = torch.full((n, channels), int(Kind.EEG), dtype=torch.int8)
    if meg:
        kind[:, -3] = Kind.MAG
        kind[:, -2:] = Kind.GRAD
    x = 20 * torch.randn(n, channels, time, generator=g)
    x[kind == Kind.MAG] *= 10
    orientation = torch.nn.functional.normalize(torch.randn(n, channels, 3, generator=g), dim=-1)
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=kind,
        position=0.1 * torch.randn(n, channels, 3, generator=g),
        orientation=orientation * (kind != Kind.EEG).unsqueeze(-1),
        has_position=torch.ones(n, channels, dtype=torch.bool),
        sfreq=256.0,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.int64),
        recording=torch.zeros(n, dtype=torch.int64),
    )


PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")


def on_channels(batch: Batch, index: torch.Tensor) -> Batch:
    return replace(batch, **{key: getattr(batch, key)[:, index] for key in PER_CHANNEL})


def on_rows(batch: Batch, index: slice) -> Batch:
    keys = (*PER_CHANNEL, "onset", "subject", "recording")
    return replace(batch, **{key: getattr(batch, key)[index] for key in keys})


def pad(batch: Batch, n: int, fill: float = 0.0) -> Batch:
    """Append padded channels; whatever lies in them must not matter."""
    padded = {}
    for key in PER_CHANNEL:
        value = getattr(batch, key)
        shape = (value.shape[0], n, *value.shape[2:])
        filler = {"kind": -1, "channel_mask": False, "has_position": False}.get(key, fill)
        padded[key] = torch.cat([value, torch.full(shape, filler, dtype=value.dtype)], 1)
    return replace(batch, **padded)


@pytest.fixture
def tokenizer() -> BrainTokenizer:
    """With sources that look at different channels, and codebooks started from a first batch."""
    torch.manual_seed(0)
    made = BrainTokenizer(**SMALL)
    for part in (made.sensors, made.compression, made.expansion):
        for parameter in part.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.5)
    made.eval()
    made(make_batch(), generator=generator())
    return made


@pytest.fixture
def model(tokenizer: BrainTokenizer) -> BrainOmni:
    torch.manual_seed(1)
    return BrainOmni(tokenizer, lm_dim=32, lm_head=4, lm_depth=3).eval()


def embed(model: BrainOmni, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model.encode(batch).tokens


def test_roles_are_satisfied(model: BrainOmni) -> None:
    assert isinstance(model, BrainModel)
    assert isinstance(model.tokenizer, Tokenizer)
    assert isinstance(MaskedCodes(), Objective)
    assert isinstance(PooledLinear(8, 2), Readout)
    assert isinstance(LatentMLP(8, 2), Readout)


def test_padding_channels_does_not_change_embedding(model: BrainOmni) -> None:
    batch = make_batch()
    expected = embed(model, batch)
    torch.testing.assert_close(embed(model, pad(batch, 4)), expected, **CLOSE)
    torch.testing.assert_close(embed(model, pad(batch, 2, fill=1e3)), expected, **CLOSE)


def test_recordings_of_different_layout_share_a_batch(model: BrainOmni) -> None:
    wide = make_batch(n=1, channels=8)
    narrow = make_batch(n=1, channels=5, meg=False)
    filled = pad(narrow, 3)
    both = replace(
        wide,
        **{key: torch.cat([getattr(wide, key), getattr(filled, key)]) for key in PER_CHANNEL},
        onset=torch.zeros(2, dtype=torch.float64),
        subject=torch.zeros(2, dtype=torch.int64),
        recording=torch.zeros(2, dtype=torch.int64),
    )
    expected = torch.cat([embed(model, wide), embed(model, narrow)])
    torch.testing.assert_close(embed(model, both), expected, **CLOSE)


def test_order_of_channels_does_not_change_embedding(model: BrainOmni) -> None:
    batch = make_batch()
    shuffled = on_channels(batch, torch.tensor([3, 0, 5, 1, 4, 2]))
    torch.testing.assert_close(embed(model, shuffled), embed(model, batch), **CLOSE)


def test_batch_size_does_not_change_embedding(model: BrainOmni) -> None:
    batch = make_batch()
    single = torch.cat([embed(model, on_rows(batch, slice(i, i + 1))) for i in range(3)])
    torch.testing.assert_close(single, embed(model, batch), **CLOSE)


def test_decoded_signal_of_real_channels_ignores_padding(tokenizer: BrainTokenizer) -> None:
    batch = make_batch(time=128)
    with torch.no_grad():
        expected = tokenizer.decode(tokenizer(batch), batch)
        padded = pad(batch, 3)
        got = tokenizer.decode(tokenizer(padded), padded)
    assert expected.shape == batch.x.shape
    torch.testing.assert_close(got[:, :6], expected, **CLOSE)
    assert got[:, 6:].abs().max() == 0


def test_losses_ignore_padding(tokenizer: BrainTokenizer) -> None:
    batch = make_batch(time=128)
    losses = []
    for extra in (0, 3):
        padded = pad(batch, extra, fill=7.0)
        x, pos, kind, mask = tokenizer.prepare(padded)
        keep = torch.arange(6 + extra).expand(3, -1) >= 2
        noise = torch.zeros(tokenizer.windows(x).shape)
        with torch.no_grad():
            losses.append(tokenizer.losses(x, pos, kind, mask=mask, keep=keep, noise=noise))
    for key in losses[0]:
        torch.testing.assert_close(losses[1][key], losses[0][key], **CLOSE)


def test_one_channel_is_never_hidden_from_the_encoder(tokenizer: BrainTokenizer) -> None:
    batch = on_channels(make_batch(), torch.tensor([0]))
    assert tokenizer.loss(batch, generator=generator())["loss"].isfinite()


def test_unknown_positions_are_accepted_and_matter_only_where_known(model: BrainOmni) -> None:
    batch = make_batch()
    unknown = replace(batch, has_position=torch.zeros_like(batch.has_position))
    moved = replace(unknown, position=unknown.position + 1)
    assert embed(model, unknown).isfinite().all()
    assert torch.equal(embed(model, moved), embed(model, unknown))
    assert not torch.allclose(embed(model, unknown), embed(model, batch))


def test_tokens_say_where_they_come_from(tokenizer: BrainTokenizer) -> None:
    tokens = tokenizer(make_batch(n=2, time=120), overlap=0.25)
    steps = 4 * 3  # windows at 0, 48 and 96 samples (the last two completed), 4 steps of 16 each
    assert tokens.values.shape == (2, 4 * steps, 16)
    assert tokens.codes.shape == (2, 4 * steps, 2)
    assert tokens.channel[0].tolist() == [s for s in range(4) for _ in range(steps)]
    assert tokens.time[0, :5].mul(256).tolist() == [8, 24, 40, 56, 56]
    # Steps beginning at 120 samples or later lie wholly in the zeros that complete the windows.
    assert tokens.mask[0, :steps].tolist() == [True] * 10 + [False] * 2


def test_amplitude_constants_are_those_of_the_original_in_si_units() -> None:
    batch = make_batch()
    per_si = {Kind.EEG: 1e6, Kind.MAG: 1e15, Kind.GRAD: 1e13}
    eps = {Kind.EEG: 1e-5, Kind.MAG: 1e-13, Kind.GRAD: 1e-13}
    got = normalize_amplitude(batch.x, batch.kind, batch.channel_mask)
    for kind in per_si:
        chosen = batch.kind[0] == kind
        si = batch.x[0, chosen].double() / per_si[kind]
        si = si - si.mean(0)
        expected = si / (si.std(correction=0) + eps[kind])
        torch.testing.assert_close(got[0, chosen].double(), expected, **CLOSE)


def test_positions_of_electrodes_and_coils_are_scaled_apart() -> None:
    batch = make_batch(channels=8)
    known = batch.has_position.clone()
    known[:, 0] = False
    got = normalize_positions(batch.position, batch.kind, known)
    assert got[:, 0].abs().max() == 0
    for group in (slice(1, 5), slice(5, 8)):
        torch.testing.assert_close(got[:, group].mean(1), torch.zeros(3, 3), **CLOSE)
        radius = got[:, group].square().sum(-1).mean(1)
        torch.testing.assert_close(radius, torch.full((3,), 1 / 3), **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 160.0}, r"160 Hz, expected 256 Hz.*Resample"),
        ({"unit": "uV"}, "unit 'uV'"),
        ({"channel_mask": torch.zeros(3, 6, dtype=torch.bool)}, "no real channel"),
        ({"x": torch.full((3, 6, 160), torch.nan)}, "NaN"),
        ({"kind": torch.full((3, 6), int(Kind.EOG), dtype=torch.int8)}, "EOG channels.*PickKinds"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    model: BrainOmni, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(replace(make_batch(), **change))


def test_intracranial_channels_are_accepted_when_asked_for() -> None:
    tokenizer = BrainTokenizer(**SMALL, kinds=("eeg", "seeg"))
    batch = make_batch(meg=False)
    as_seeg = replace(batch, kind=torch.full_like(batch.kind, int(Kind.SEEG)))
    tokenizer.eval()
    expected = tokenizer(batch, generator=generator())
    assert torch.equal(tokenizer(as_seeg).codes, expected.codes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window_length": 100}, "not a multiple of 16"),
        ({"n_head": 3}, "not a multiple of n_head"),
        ({"quantize_optimize_method": "simvq"}, "not supported"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BrainTokenizer(**SMALL | arguments)


def test_more_levels_than_the_tokenizer_has_are_refused(tokenizer: BrainTokenizer) -> None:
    with pytest.raises(ValueError, match="num_quantizers_used is 5"):
        BrainOmni(tokenizer, lm_dim=32, lm_head=4, num_quantizers_used=5)


def test_tokens_computed_beforehand_are_used(model: BrainOmni) -> None:
    batch = make_batch()
    expected = embed(model, batch)
    cached = replace(batch, tokens=model.tokenize(batch), x=torch.zeros_like(batch.x))
    assert torch.equal(embed(model, cached), expected)
    wrong = replace(cached.tokens, values=cached.tokens.values[..., :8])
    with pytest.raises(ValueError, match="another tokenizer"):
        model.encode(replace(cached, tokens=wrong))


def test_dropout_is_off_in_evaluation_and_on_in_training(model: BrainOmni) -> None:
    batch = make_batch()
    assert torch.equal(embed(model, batch), embed(model, batch))
    model.train()
    assert not torch.equal(embed(model, batch), embed(model, batch))
    assert not model.tokenizer.training


def test_the_tokenizer_stays_frozen(model: BrainOmni) -> None:
    model.train().requires_grad_(True)
    before = {key: value.clone() for key, value in model.tokenizer.state_dict().items()}
    MaskedCodes()(model, make_batch(), generator=generator())["loss"].backward()
    assert all(p.grad is None for p in model.tokenizer.parameters())
    assert not any(p.requires_grad for p in model.tokenizer.parameters())
    for key, value in model.tokenizer.state_dict().items():
        assert torch.equal(value, before[key])


def test_gradients_reach_the_signal_and_leave_the_embedding_as_it_is(model: BrainOmni) -> None:
    batch = make_batch(meg=False)
    expected = embed(model, batch)
    signal = replace(batch, x=batch.x.clone().requires_grad_(True))
    out = model.encode(signal).tokens
    torch.testing.assert_close(out, expected, **CLOSE)
    out[..., 0].sum().backward()
    assert (signal.x.grad.abs().sum((0, 2)) > 0).all()


def test_gradients_of_a_lone_channel_are_finite(model: BrainOmni) -> None:
    # Alone of its kind it is its own mean, so the model sees zeros.
    batch = make_batch()
    signal = replace(batch, x=batch.x.clone().requires_grad_(True))
    model.encode(signal).tokens[..., 0].sum().backward()
    assert signal.x.grad.isfinite().all()


def test_embedding_has_unit_length_and_skips_the_last_block(model: BrainOmni) -> None:
    batch = make_batch()
    tokens = embed(model, batch)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(tokens.shape[:2]), **CLOSE)
    assert not torch.allclose(model.encode(batch, skip_last_block=False).tokens, tokens)


def test_released_rotary_is_rebuilt_for_long_inputs() -> None:
    x = torch.randn(1, 300, 8)
    rotate, cosine = Rotary(8), Rotary(8, mode="cosine")
    assert not torch.allclose(rotate(x[:, :240]), cosine(x[:, :240]))
    assert torch.equal(rotate(x), cosine(x))


def test_rotary_products_depend_on_distance_alone() -> None:
    query, key = torch.randn(2, 1, 1, 8).unbind(0)
    turned_query, turned_key = (Rotary(8)(part.expand(1, 20, 8)) for part in (query, key))
    product = (turned_query @ turned_key.transpose(1, 2))[0]
    torch.testing.assert_close(product.diagonal(3), product[0, 3].expand(17), **CLOSE)


def test_masking_hides_the_asked_fraction_and_only_real_tokens(model: BrainOmni) -> None:
    batch = make_batch(n=8, time=1000)
    found = model.predict_hidden(batch, generator=generator())
    real = model.tokenize(batch).mask
    assert not (found.hidden & ~real).any()
    assert float(found.hidden[real].float().mean()) == pytest.approx(0.5, abs=0.05)
    assert found.logits.shape == (*found.codes.shape, 16)


def test_fewer_predicted_levels_than_codes(tokenizer: BrainTokenizer) -> None:
    model = BrainOmni(tokenizer, lm_dim=32, lm_head=4, lm_depth=1, num_quantizers_used=1)
    losses = MaskedCodes()(model, make_batch(), generator=generator())
    assert set(losses) == {"loss", "accuracy", "accuracy_0"}


def test_masked_prediction_overfits_a_tiny_batch(tokenizer: BrainTokenizer) -> None:
    torch.manual_seed(0)
    model = BrainOmni(tokenizer, lm_dim=32, lm_head=4, lm_depth=1, lm_dropout=0.0).train()
    batch = make_batch(n=1, time=64)
    batch = replace(batch, tokens=model.tokenize(batch))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = None
    for _ in range(60):
        losses = MaskedCodes()(model, batch, generator=generator())
        first = losses["loss"].item() if first is None else first
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert first > 2.5
    assert losses["loss"].item() < 1.0


def test_training_step_lowers_the_reconstruction_loss(tokenizer: BrainTokenizer) -> None:
    batch = make_batch(n=2, time=64)
    tokenizer.train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=4e-3)
    seen = []
    for step in range(25):
        losses = tokenizer.loss(batch, generator=generator(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        seen.append(losses["loss"].item())
    assert sum(seen[-5:]) < sum(seen[:5]) - 0.5
    gradients = [p.grad for p in tokenizer.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_spread_start_gives_centred_sources_that_differ() -> None:
    torch.manual_seed(0)
    batch = make_batch(n=4, channels=12, time=64, meg=False)
    alike = {}
    for start in ("published", "spread"):
        tokenizer = BrainTokenizer(**SMALL, start=start).train()
        tokenizer.loss(batch, generator=generator())
        x, pos, kind, mask = tokenizer.prepare(batch)
        with torch.no_grad():
            latent = tokenizer.encode_windows(
                tokenizer.windows(x), tokenizer.sensors(pos, kind), mask
            )
            unit = torch.nn.functional.normalize(latent, dim=-1).flatten(0, -2)
        alike[start] = float((unit @ unit.t()).mean())
    assert alike["published"] > 0.9
    assert alike["spread"] < 0.2
