"""MegGPT: parity, invariances, continuation, refusals, a planted chain."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from neurofm.batch import Batch, Tokens
from neurofm.io import load_model, save_model
from neurofm.models import MegGPT
from neurofm.nn.sampling import Sampling
from neurofm.objectives import NextCodes
from neurofm.tokenizers import EphysTokenizer
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden"
SFREQ = 100.0


def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_golden", GOLDEN.parent / "check_golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = module
    spec.loader.exec_module(module)
    return module


def batch_of(x: Tensor, kind: Kind = Kind.SOURCE) -> Batch:
    n, channels = x.shape[:2]
    return Batch(
        x=x,
        channel_mask=torch.ones(n, channels, dtype=torch.bool),
        kind=torch.full((n, channels), int(kind)),
        position=torch.zeros(n, channels, 3),
        orientation=torch.zeros(n, channels, 3),
        has_position=torch.zeros(n, channels, dtype=torch.bool),
        sfreq=SFREQ,
        onset=torch.zeros(n, dtype=torch.float64),
        subject=torch.zeros(n, dtype=torch.long),
        recording=torch.arange(n),
    )


def noise(n: int = 2, channels: int = 4, times: int = 50) -> Batch:
    x = torch.randn(n, channels, times, generator=torch.Generator().manual_seed(0))
    return batch_of(20 * x.cumsum(-1))


def tokenizer(**options: Any) -> EphysTokenizer:
    torch.manual_seed(0)
    given: dict[str, Any] = {"n_tokens": 6, "rnn_n_units": 8, "sequence_length": 20, "token_dim": 4}
    return EphysTokenizer(**given | {"sfreq": SFREQ} | options).eval()


def model(tokens: EphysTokenizer | None = None, **options: Any) -> MegGPT:
    made = tokenizer() if tokens is None else tokens
    given: dict[str, Any] = {
        "sequence_length": 12,
        "n_channels": 5,
        "embedding_dim": 16,
        "token_embedding_dim": 16,
        "pos_embedding_dim": 16,
        "channel_embedding_dim": 16,
        "n_heads": 2,
        "model_dim": 16,
        "n_patches_in": [12, 4],
        "patch_len_in": [1, 3],
        "n_patches_out": [12, 6],
        "patch_len_out": [1, 1],
        "feed_forward_dim": 32,
        "loss_sequence_length": 6,
    }
    torch.manual_seed(1)
    return MegGPT(made, **given | options).eval()


CHANNEL_ATTENTION = {"do_chan_attention": [True, False]}
CROSS = {"do_chan_attention": [False, True], "do_cross_attention": [False, True]}
ROPE = {
    "pos_embedding_type": "rope",
    "n_patches_in": [12, 12],
    "patch_len_in": [1, 1],
    "n_patches_out": [12, 6],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    CHANNEL_ATTENTION,
    CHANNEL_ATTENTION | {"chan_attn_chandim": 3},
    CROSS,
    ROPE,
    ROPE | CROSS,
    {"pos_embedding_type": "sinusoidal", "pos_embedding_dim": 10},
    {"token_embedding_dim": 7, "channel_embedding_dim": 3, "embedding_dim": 12},
    {"norm_type": "batch", "feed_forward_activation": "leaky_relu"},
    {"norm_type": "group", "n_groups": 4, "unpatched_len_in": [0, 3]},
]


# Parity


def test_every_tensor_agrees() -> None:
    lines = checker().check(GOLDEN / "meg_gpt")
    assert len(lines) == 27
    assert [line.name for line in lines if not line.passed] == []


# Model


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
def test_padded_channels_and_batch_size_change_nothing(options: dict[str, Any]) -> None:
    made, batch = model(**options), noise()
    whole = made.encode(batch)
    assert whole.tokens.shape == (2, 4 * 4 * 6, 16)
    wide = torch.cat([batch.x, torch.randn(2, 1, 50)], 1)
    mask = torch.tensor([True] * 4 + [False]).expand(2, -1)
    padded = replace(batch_of(wide), channel_mask=mask)
    torch.testing.assert_close(made.encode(padded).pooled(), whole.pooled(), atol=1e-5, rtol=1e-4)
    one = [made.encode(batch_of(batch.x[i : i + 1])).tokens for i in range(2)]
    torch.testing.assert_close(torch.cat(one), whole.tokens, atol=1e-5, rtol=1e-4)
    assert torch.equal(made.encode(batch).tokens, whole.tokens)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
def test_what_comes_next_depends_on_the_past_alone(options: dict[str, Any]) -> None:
    made = model(**options)
    codes = torch.randint(0, 7, (1, 3, 12))
    other = codes.clone()
    other[..., 9:] = (other[..., 9:] + 1) % 7
    a, b = made.hidden(codes), made.hidden(other)  # steps 6 to 11
    torch.testing.assert_close(a[:, :, :3], b[:, :, :3])
    assert not torch.allclose(a[:, :, 3:], b[:, :, 3:])


def test_without_channel_embedding_any_number_and_order_of_channels_will_do() -> None:
    made = model(channel_embedding_dim=None)
    codes = torch.randint(0, 7, (1, 9, 12))
    order = torch.randperm(9)
    torch.testing.assert_close(made.hidden(codes[:, order]), made.hidden(codes)[:, order])
    assert made.encode(noise(channels=9)).tokens.shape[1] == 9 * 4 * 6


def test_labels_of_recordings_are_added_in_training_and_left_out_of_features() -> None:
    spec = {"name": "session", "n_classes": 2, "label_dim": 3, "of": "recording"}
    made, batch = model(extra_label_specs=[spec]), noise()
    swapped = replace(batch, recording=batch.recording.flip(0))
    assert torch.equal(made.encode(batch).tokens, made.encode(swapped).tokens)
    assert not torch.allclose(made.predict_next(batch).logits, made.predict_next(swapped).logits)
    with pytest.raises(ValueError, match="2 classes"):
        made.predict_next(replace(batch, recording=torch.tensor([0, 2])))


def test_prediction_pairs_each_step_with_the_code_after_it() -> None:
    made, batch = model(), noise()
    codes = made.tokenizer(batch).codes[..., 0].unflatten(1, (4, 50))
    found = made.predict_next(batch)
    assert found.codes.shape == (2 * 4, 4 * 6)  # four contexts of a window
    assert torch.equal(found.codes[1].view(4, 6), codes[0, :, 12 + 7 : 12 + 13])
    logits = made.head(made.hidden(codes[:1, :, 12:24]))[0]
    torch.testing.assert_close(found.logits[1].unflatten(0, (4, 6)), logits, atol=1e-5, rtol=1e-4)


def test_tokens_made_beforehand_are_used() -> None:
    made, batch = model(), noise()
    tokens = made.tokenize(batch)
    got = made.encode(replace(batch, x=torch.zeros_like(batch.x), tokens=tokens))
    assert torch.equal(got.tokens, made.encode(batch).tokens)


def test_save_and_load_give_the_same_model(tmp_path: Path) -> None:
    made, batch = model(**CROSS), noise()
    made.tokenizer.set_vocabulary(torch.tensor([1, 5, 5, 9, 2, 1]))
    found: Any = load_model(save_model(made, tmp_path / "m.safetensors"))
    assert torch.equal(found.encode(batch).tokens, made.encode(batch).tokens)


def test_masks_of_a_checkpoint_are_computed_and_a_lightning_prefix_is_dropped() -> None:
    key = "model.transformer_decoder.layers.1.gasp_time_attention."
    given = {
        key + "gasp_layer.attention_mask": torch.ones(1),
        key + "query_projection.bias": torch.ones(1),
    }
    assert list(model().rename_keys(given)) == ["layers.1.time_attention.query.bias"]


# Refusals


def test_inputs_it_cannot_take_are_named_with_a_remedy() -> None:
    made, batch = model(), noise()
    for changed, text in (
        (replace(batch, sfreq=250.0), r"Resample\(sfreq=100\)"),
        (replace(batch, kind=torch.full_like(batch.kind, int(Kind.BOLD))), "PickKinds"),
        (replace(batch, channel_mask=torch.zeros_like(batch.channel_mask)), "no real channel"),
        (replace(batch, x=batch.x * torch.nan), "NaN"),
        (noise(times=11), "at least 12 samples"),
        (noise(channels=6), "the model knows 5"),
    ):
        with pytest.raises(ValueError, match=text):
            made.encode(changed)
    with pytest.raises(ValueError, match="at least 13 samples"):
        made.predict_next(noise(times=12))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_patches_in": [12, 5]}, "layer 1 takes 15"),
        ({"n_patches_in": [12]}, "different numbers of layers"),
        ({"do_cross_attention": [True, False]}, "needs channel attention"),
        ({"loss_sequence_length": 7}, "the last layer gives 6"),
        ({"unpatched_len_in": [0, 7]}, "Use 6 or fewer"),
        ({"pos_embedding_type": "rope"}, "patches of 1 sample"),
        ({"n_codes": 5}, "the tokenizer has 7"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model(**options)


def test_without_a_tokenizer_it_says_how_to_get_one() -> None:
    made: Any = load_model("meg_gpt")
    with pytest.raises(ValueError, match=r"tokenizer=\.\.\."):
        made.encode(replace(noise(times=120), sfreq=250.0))


# Planted structure


def test_model_learns_a_planted_chain_and_continues_it() -> None:
    generator = torch.Generator().manual_seed(0)
    follows = torch.tensor([0, 3, 5, 2, 6, 4, 1])  # of each code, nine times in ten

    def chains(n: int) -> Batch:
        codes = torch.randint(1, 7, (n, 4, 13), generator=generator)
        stays = torch.rand(n, 4, 13, generator=generator) < 0.9
        for t in range(1, 13):
            codes[..., t] = torch.where(stays[..., t], follows[codes[..., t - 1]], codes[..., t])
        blank = torch.zeros(n, 4 * 13)
        tokens = Tokens(
            values=blank.unsqueeze(-1),
            codes=codes.flatten(1).unsqueeze(-1),
            mask=blank == 0,
            channel=blank.long(),
            time=blank,
        )
        return replace(noise(n, times=13), tokens=tokens)

    made = model(dropout=0.0).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        NextCodes()(made, chains(8))["loss"].backward()
        optimizer.step()
    scores = NextCodes()(made.eval(), chains(32))
    # The chain's entropy is 0.42: 0.9 + 0.1 / 6 for one code, 0.1 / 6 for each of five others.
    assert 0.4 < scores["loss"] < 0.55 and scores["top_1"] > 0.85
    prompt = made.random_prompt(2, 4, generator=generator)
    made_codes = made.generate_codes(prompt, 20)
    right = made_codes[..., 1:] == follows[made_codes[..., :-1]]
    assert right.float().mean() > 0.95


def test_continuation_is_one_forward_pass_for_every_sample() -> None:
    made, batch = model(**CROSS), noise()
    tokens = made.generate(batch, 5)
    assert tokens.time[0, 0] == pytest.approx(0.5) and tokens.mask.all()
    got = tokens.codes[..., 0].unflatten(1, (4, 5))
    codes = made.tokenize(batch).codes[..., 0].unflatten(1, (4, 50))[..., -12:]
    for step in range(5):
        scores = made.head(made.hidden(codes))[:, :, -1]
        assert torch.equal(scores.argmax(-1), got[..., step])
        codes = torch.cat([codes[..., 1:], got[..., step : step + 1]], -1)
    with pytest.raises(ValueError, match="expected exactly 12"):
        made.generate_codes(codes[..., 1:], 1)


def test_draws_repeat_with_their_generator_and_differ_without() -> None:
    made = model()

    def run(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        prompt = made.random_prompt(2, 3, generator=generator)
        assert prompt.min() > 0
        return made.generate_codes(prompt, 6, sampling=Sampling(top_k=7), generator=generator)

    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))


def test_random_prompts_follow_the_vocabulary() -> None:
    made = model()
    made.tokenizer.set_vocabulary(torch.tensor([0, 30, 0, 10, 0, 0]))
    drawn = made.random_prompt(50, 5, generator=torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {1, 2}
    assert (drawn == 1).float().mean() == pytest.approx(0.75, abs=0.03)
