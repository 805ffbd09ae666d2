"""Du-IN: invariances, contracts, learning. Parity is in `test_du_in_parity.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from neurofm.batch import Batch, BrainModel, Embedding, Readout, Tokenizer
from neurofm.io import load_model, save_model
from neurofm.models import DuIn, DuInClassifier, DuInHead, for_new_subjects
from neurofm.models.du_in import shift_windows
from neurofm.objectives import MaskedCodes
from neurofm.tokenizers import DuInEncoder, DuInTokenizer
from neurofm.tokenizers.du_in_encoder import SubjectLayer
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
PER_CHANNEL = ("x", "channel_mask", "kind", "position", "orientation", "has_position")
PATCH = 20


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(n_subjects: int = 3, n_channels: int = 6, dropout: float = 0.2) -> DuInEncoder:
    return DuInEncoder(
        n_subjects,
        n_channels,
        patch=PATCH,
        n_fused=6,
        filters=(8, 4),
        kernels=(5, 3),
        strides=(4, 1),
        depth=2,
        heads=2,
        head_dim=8,
        dropout=dropout,
        sfreq=200.0,
    )


def make_tokenizer(**arguments: object) -> DuInTokenizer:
    sizes = {"n_codes": 12, "code_dim": 6, "decoder_depth": 1}
    upward = {"filters": (8, 8), "kernels": (5, 8), "strides": (5, 4)}
    parts = {"encoder": encoder(), **sizes, **upward, **arguments}
    return DuInTokenizer(parts.pop("encoder"), **parts)


def make_batch(n: int = 4, channels: int = 5, time: int = 160) -> Batch:
    g = generator(1)
    return Batch(
        x=30 * torch.randn(n, channels, time, generator=g),
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(Kind.SEEG)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=200.0,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.arange(n) % 3,
        recording=torch.zeros(n, dtype=torch.int64),
        y=torch.arange(n) % 2,
    )


def pad(batch: Batch, n: int, fill: float = 0.0) -> Batch:
    padded = {}
    for key in PER_CHANNEL:
        value = getattr(batch, key)
        filler = {"kind": int(Kind.PAD), "channel_mask": False, "has_position": False}
        shape = (value.shape[0], n, *value.shape[2:])
        extra = torch.full(shape, filler.get(key, fill), dtype=value.dtype)
        padded[key] = torch.cat([value, extra], 1)
    return replace(batch, **padded)


@pytest.fixture
def tokenizer() -> DuInTokenizer:
    torch.manual_seed(0)
    made = make_tokenizer(start="spread")
    made.train().loss(make_batch(), generator=generator())
    return made.eval()


@pytest.fixture
def model(tokenizer: DuInTokenizer) -> DuIn:
    torch.manual_seed(1)
    return DuIn(encoder(), tokenizer).eval()


# Batches


def test_attention_equals_the_softmax_written_out() -> None:
    torch.manual_seed(0)
    block, x = encoder().blocks.eval()[0], torch.randn(2, 7, 20)
    query, key, value = (
        getattr(block, name)(x).unflatten(-1, (2, 8)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    scores = block.query_norm(query) @ block.key_norm(key).transpose(2, 3) / 8**0.5
    seen = (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ value
    y = block.attention_norm(x + block.out(seen.transpose(1, 2).flatten(-2)))
    expected = block.feedforward_norm(y + block.narrow(F.relu(block.widen(y))))
    torch.testing.assert_close(block(x), expected, **CLOSE)


def test_later_blocks_start_with_smaller_weights() -> None:
    torch.manual_seed(0)
    made = DuInEncoder(depth=2)
    widths = [float(block.query.weight.detach().std()) for block in made.blocks]
    assert widths[0] == pytest.approx(0.02 / 2**0.5, rel=0.05)
    assert widths[1] == pytest.approx(0.02 / 4**0.5, rel=0.05)


def test_roles_are_satisfied(model: DuIn) -> None:
    assert isinstance(model, BrainModel)
    assert isinstance(model.tokenizer, Tokenizer)
    assert isinstance(model.tokenizer, BrainModel)
    assert isinstance(DuInHead(20, 2, n_tokens=8), Readout)


def test_padding_changes_nothing(model: DuIn) -> None:
    batch = make_batch()
    with torch.no_grad():
        expected, codes = model.encode(batch).tokens, model.tokenizer(batch).codes
        rebuilt = model.tokenizer.decode(model.tokenizer(batch), batch)
        losses = model.tokenizer.loss(batch)
        for padded in (pad(batch, 1), pad(batch, 4, fill=1e3)):
            torch.testing.assert_close(model.encode(padded).tokens, expected, **CLOSE)
            tokens = model.tokenizer(padded)
            assert torch.equal(tokens.codes, codes)
            again = model.tokenizer.decode(tokens, padded)
            torch.testing.assert_close(again[:, :5], rebuilt, **CLOSE)
            assert again[:, 5:].abs().max() == 0
            torch.testing.assert_close(model.tokenizer.loss(padded)["loss"], losses["loss"])


def test_windows_do_not_see_each_other_and_evaluation_repeats_itself(model: DuIn) -> None:
    batch = make_batch()
    rows = [*PER_CHANNEL, "onset", "subject", "recording", "y"]
    with torch.no_grad():
        whole = model.encode(batch).tokens
        assert torch.equal(model.encode(batch).tokens, whole)
        for i in range(len(batch)):
            one = replace(batch, **{key: getattr(batch, key)[i : i + 1] for key in rows})
            torch.testing.assert_close(model.encode(one).tokens, whole[i : i + 1], **CLOSE)


def test_gains_and_offsets_of_channels_do_not_matter_and_z_is_taken_as_it_is(model: DuIn) -> None:
    batch = make_batch()
    gain = torch.linspace(0.1, 9, 5).view(1, 5, 1)
    with torch.no_grad():
        expected = model.encode(batch).tokens
        louder = replace(batch, x=gain * batch.x + 100)
        torch.testing.assert_close(model.encode(louder).tokens, expected, atol=1e-4, rtol=1e-3)
        z = replace(batch, x=model.encoder.signal(batch), unit="z")
        torch.testing.assert_close(model.encode(z).tokens, expected, **CLOSE)


def test_subjects_and_places_of_channels_have_weights_of_their_own(model: DuIn) -> None:
    batch = make_batch()
    with torch.no_grad():
        expected = model.encode(batch).tokens
        others = replace(batch, subject=(batch.subject + 1) % 3)
        assert not torch.allclose(model.encode(others).tokens, expected, atol=1e-3)
        swapped = replace(batch, x=batch.x.flip(1))
        assert not torch.allclose(model.encode(swapped).tokens, expected, atol=1e-3)


def test_tokens_say_where_they_come_from(tokenizer: DuInTokenizer) -> None:
    tokens = tokenizer(make_batch(time=60))
    assert tokens.values.shape == (4, 3, tokenizer.dim)
    assert tokens.codes.shape == (4, 3, 1)
    assert tokens.channel.unique().tolist() == [-1]
    torch.testing.assert_close(tokens.time[0], torch.tensor([0.05, 0.15, 0.25]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sfreq": 256.0}, r"256 Hz, expected 200 Hz.*Resample"),
        ({"unit": "uV"}, "unit 'uV'"),
        ({"x": torch.zeros(4, 5, 165)}, r"165 samples.*window_s: 0.8"),
        ({"x": torch.zeros(4, 5, 10)}, r"10 samples.*window_s: 0.1"),
        ({"channel_mask": torch.zeros(4, 5, dtype=torch.bool)}, "no real channel"),
        ({"x": torch.full((4, 5, 160), torch.nan)}, "NaN"),
        ({"kind": torch.full((4, 5), int(Kind.EEG))}, r"EEG channels, expected SEEG.*PickKinds"),
        ({"subject": torch.tensor([0, 1, 2, 3])}, r"subject number 3.*for_new_subjects"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(
    model: DuIn, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode(replace(make_batch(), **change))


def test_more_channels_than_the_model_takes_are_refused(model: DuIn) -> None:
    with pytest.raises(ValueError, match=r"8 channels, the model takes 6.*PickChannels"):
        model.encode(make_batch(channels=8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DuInEncoder(patch=105), "not a multiple of 10"),
        (lambda: DuInEncoder(filters=(8, 8)), "2 filters, 3 kernels"),
        (lambda: make_tokenizer(strides=(5, 5)), "make 25 samples"),
        (lambda: DuIn(encoder(), make_tokenizer(), n_codes=7), "n_codes is 7"),
    ],
)
def test_impossible_sizes_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# Stages two and three


def test_every_token_is_predicted_without_being_seen(model: DuIn) -> None:
    tokens = torch.randn(2, 8, model.dim)
    hidden = model.hide(torch.rand(2, 8, generator=generator()))
    assert hidden.sum(1).tolist() == [4, 4]
    with torch.no_grad():
        expected = model.logits(tokens, hidden)
        for place in range(8):
            changed = tokens.clone()
            changed[:, place] += 5
            torch.testing.assert_close(
                model.logits(changed, hidden)[:, place], expected[:, place], **CLOSE
            )


def test_without_a_tokenizer_codes_cannot_be_predicted() -> None:
    with pytest.raises(ValueError, match="tokenizer="):
        DuIn(encoder()).predict_hidden(make_batch())


def test_the_tokenizer_stays_frozen(model: DuIn) -> None:
    model.train().requires_grad_(True)
    before = model.tokenizer.quantizer.codebook.clone()
    MaskedCodes()(model, make_batch(), generator=generator())["loss"].backward()
    assert not model.tokenizer.training
    assert all(parameter.grad is None for parameter in model.tokenizer.parameters())
    assert torch.equal(model.tokenizer.quantizer.codebook, before)
    assert model.encoder.subject.weight.grad.abs().sum() > 0


def test_a_shift_of_zero_leaves_the_window_and_others_move_it() -> None:
    x = torch.arange(1.0, 21.0).expand(200, 2, 20)
    moved = shift_windows(x, 0.1, generator=generator())
    places = {int(row[0, 10]) - 11 for row in moved}
    assert places == {-2, -1, 0, 1, 2}
    still = moved[moved[:, 0, 10] == 11]
    assert torch.equal(still, x[: len(still)])
    assert (moved[moved[:, 0, 10] == 9][:, :, :2] == 0).all()


def test_encoding_is_shifted_in_training_alone(tokenizer: DuInTokenizer) -> None:
    model = DuIn(encoder(dropout=0.0), shift=0.2)
    batch = make_batch()
    assert torch.equal(model.eval().encode(batch).tokens, model.encode(batch).tokens)
    model.train()
    assert not torch.allclose(model.encode(batch).tokens, model.encode(batch).tokens)


def test_bounded_scores_hold_the_loss_up_and_free_ones_do_not() -> None:
    embedding = Embedding(torch.ones(3, 2, 4), torch.ones(3, 2, dtype=torch.bool))
    y = torch.zeros(3, dtype=torch.int64)
    for bounded in (True, False):
        head = DuInHead(4, 5, n_tokens=2, hidden=(), bounded=bounded)
        with torch.no_grad():
            head.layers[0].bias.copy_(torch.tensor([99.0, -99, -99, -99, -99]))
        floor = -torch.tensor([1.0, 0, 0, 0, 0]).log_softmax(0)[0]
        loss = F.cross_entropy(head(embedding), y)
        torch.testing.assert_close(loss, floor if bounded else torch.tensor(0.0))
    with pytest.raises(ValueError, match="windows of 2 tokens, made for 3"):
        DuInHead(4, 5, n_tokens=3)(embedding)


def test_contrast_counts_only_when_asked_to() -> None:
    batch = make_batch()
    torch.manual_seed(0)
    losses = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        model = DuInClassifier(encoder(), n_outputs=2, n_tokens=8, contrast_weight=weight).eval()
        losses[weight] = model.loss(batch)
        assert model(batch).shape == (4, 2)
    torch.testing.assert_close(losses[0.0]["loss"], losses[0.0]["classes"])
    expected = losses[0.5]["classes"] + 0.5 * losses[0.5]["contrast"]
    torch.testing.assert_close(losses[0.5]["loss"], expected)


def test_contribution_is_that_of_each_subject() -> None:
    layer = SubjectLayer(2, 3, 4)
    x = torch.eye(3)
    for subject in range(2):
        with torch.no_grad():
            through = layer(x.unsqueeze(0), torch.tensor([subject]))[0]
        expected = (through - layer.bias[:, subject, None]).abs().mean(0)
        torch.testing.assert_close(layer.contribution()[subject], expected)


class Other(torch.nn.Module):
    """A brain model without subject layers."""

    dim = 2

    def encode(self, batch: Batch) -> Embedding:
        raise NotImplementedError


def test_new_subjects_get_fresh_layers_and_keep_the_rest(model: DuIn) -> None:
    model.card = {"license": "MIT"}
    made = for_new_subjects(model, n_subjects=5, n_channels=9)
    assert made.card == model.card
    assert made.tokenizer is None
    assert made.encoder.subject.weight.shape == (9 * 6, 5)
    new, old = made.state_dict(), model.state_dict()
    kept = [key for key in new if "encoder.subject." not in key]
    assert all(torch.equal(new[key], old[key]) for key in kept)
    others = replace(make_batch(channels=9), subject=torch.tensor([4, 3, 2, 1]))
    assert made.encode(others).tokens.isfinite().all()
    renewed = for_new_subjects(model.tokenizer, n_subjects=5)
    assert renewed.unmix.weight.shape[1] == 5
    with pytest.raises(TypeError, match="no subject layers"):
        for_new_subjects(Other(), n_subjects=1)


def test_saving_and_loading_keeps_every_number(model: DuIn, tmp_path: Path) -> None:
    batch = make_batch()
    loaded = load_model(save_model(model, tmp_path / "model.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded.encode(batch).tokens, model.encode(batch).tokens)
        assert torch.equal(loaded.tokenizer(batch).codes, model.tokenizer(batch).codes)


# Learning


def planted(n: int, seed: int) -> tuple[Batch, torch.Tensor]:
    """Windows of eight patches, each one of four waves; the next wave follows from the last."""
    g = generator(seed)
    time = torch.arange(PATCH) / PATCH
    waves = torch.stack([torch.sin(2 * torch.pi * (k + 1) * time) for k in range(4)])
    gain = torch.tensor([[2.0, 0, 0, 1], [0, 2, 0, -1], [0, 0, 2, 1], [-2, 2, 0, 0], [1, 0, 1, 2]])
    first = torch.randint(4, (n, 1), generator=g)
    which = (first + torch.arange(8)) % 4
    x = 20 * (gain[:, which] * 1.0).permute(1, 0, 2).unsqueeze(-1) * waves[which].unsqueeze(1)
    x = x.flatten(2) + 2 * torch.randn(n, 5, 8 * PATCH, generator=g)
    return replace(make_batch(n), x=x, subject=torch.zeros(n, dtype=torch.int64)), which


def test_planted_units_are_found_as_codes_and_predicted_from_their_neighbours() -> None:
    torch.manual_seed(0)
    arguments = {"beta": 0.1, "decay": 0.9, "start": "spread", "n_codes": 8}
    tokenizer = make_tokenizer(encoder=encoder(dropout=0.0), **arguments)
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=4e-3)
    for step in range(80):
        losses = tokenizer.train().loss(planted(16, step)[0], generator=generator(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    batch, which = planted(32, 1000)
    with torch.no_grad():
        codes = tokenizer.eval()(batch).codes[..., 0]
        assert tokenizer.loss(batch)["reconstruction"] < 0.5
    table = torch.zeros(8, 4).index_put_(
        (codes.flatten(), which.flatten()), torch.ones(codes.numel()), accumulate=True
    )
    assert table.amax(1).sum() / table.sum() > 0.95

    model = DuIn(encoder(dropout=0.0), tokenizer).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=4e-3)
    for step in range(90):
        losses = MaskedCodes()(model, planted(16, step)[0], generator=generator(step))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        found = MaskedCodes()(model.eval(), batch, generator=generator())
    share = torch.bincount(codes.flatten(), minlength=8) / codes.numel()
    entropy = -(share * share.clamp(min=1e-9).log()).sum()
    assert found["loss"] < 0.8 * entropy
