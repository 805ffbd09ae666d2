"""EphysTokenizer: causality, vocabulary, decoding, planted rhythms, and the released weights."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from neurofm import cards
from neurofm.batch import Batch
from neurofm.io import convert_checkpoint, load_tokenizer
from neurofm.tokenizers import EphysTokenizer, read_vocabulary
from neurofm.tokenizers.ephys_vocabulary import vocabulary_of
from neurofm.units import Kind

GOLDEN = Path(__file__).parent / "golden"
SFREQ = 100.0


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


@pytest.mark.parametrize("options", [{}, {"rnn_type": "lstm", "rnn_n_layers": 2}])
def test_a_token_depends_on_the_past_alone(options: dict[str, Any]) -> None:
    made = tokenizer(**options)
    x = torch.randn(1, 2, 20)
    changed = x.clone()
    changed[..., 12:] += 3
    assert torch.equal(made.tokens_of(x)[..., :12], made.tokens_of(changed)[..., :12])
    assert torch.equal(made.tokens_of(x[..., :9]), made.tokens_of(x)[..., :9])


@pytest.mark.parametrize("padding", ["causal", "same"])
def test_reconstruction_is_the_sum_of_the_kernels_of_the_tokens(padding: Any) -> None:
    made = tokenizer(token_kernel_padding=padding)
    tokens = torch.randint(0, 6, (1, 20))
    got = made.rebuild(torch.nn.functional.one_hot(tokens, 6).float())[0]
    left = 3 if padding == "causal" else 1
    want = torch.zeros(20) + made.kernels.bias.sum()
    for t in range(20):
        for k in range(4):
            if 0 <= t + k - left < 20:
                want[t] += made.kernels.weight[:, tokens[0, t + k - left], k].sum()
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_vocabulary_ranks_by_frequency_and_rare_tokens_become_zero() -> None:
    counts = torch.tensor([0, 5, 5, 9, 0, 1])
    order, labels = vocabulary_of(counts)
    assert order.tolist() == [3, 1, 2, 5]
    assert labels.tolist() == [0, 2, 3, 1, 0, 4]
    made = tokenizer(n_used=3)
    made.set_vocabulary(counts)
    assert made.label_map.tolist() == [0, 2, 3, 1, 0, 0]
    zero = made.decode_labels(torch.zeros(1, 1, 20, dtype=torch.int64))
    want = made.rebuild(torch.nn.functional.one_hot(torch.zeros(1, 20).long(), 6).float())
    torch.testing.assert_close(zero[0], want)


def test_a_label_without_a_token_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match="stands for no token"):
        tokenizer().decode_labels(torch.zeros(1, 1, 20, dtype=torch.int64))


def test_codes_decode_to_the_reconstruction_of_each_window() -> None:
    made, batch = tokenizer(), noise(times=40)
    with torch.no_grad():
        got = made.decode(made(batch), batch)
        rows = made.windows(made.prepare(batch))
        logits = made.logits(made.states(rows.flatten(0, 2)))
        want = made.rebuild(made.weights(logits)).unflatten(0, (2, 4, 2)).flatten(2)
    torch.testing.assert_close(got, want)


def test_margin_drops_both_ends_and_keeps_times() -> None:
    made, batch = tokenizer(margin=3), noise(times=50)
    tokens = made(batch)
    assert tokens.codes.shape[1] == 4 * 44 == 4 * made.steps(50)
    assert tokens.time[0, 0] == pytest.approx(0.03)


def test_temperature_falls_in_training_to_its_end() -> None:
    made = tokenizer(anneal=4).train()
    seen = []
    for _ in range(6):
        made.loss(noise())["loss"].backward()
        seen.append(float(made.temperature))
    assert seen[1] == pytest.approx(0.5005) and seen[3:] == pytest.approx([1e-3] * 3)
    made.eval().loss(noise())
    assert float(made.temperature) == pytest.approx(1e-3)


def test_vocabulary_file_is_read_without_running_it(tmp_path: Path) -> None:
    file = tmp_path / "vocab.pkl"
    content = {"token_order": np.array([3, 1]), "total_token_counts": np.array([9, 5])}
    file.write_bytes(pickle.dumps(content))
    assert read_vocabulary(file)["token_order"].tolist() == [3, 1]
    file.write_bytes(pickle.dumps({"token_order": print}))
    with pytest.raises(ValueError, match=r"builtins\.print"):
        read_vocabulary(file)


def test_published_tokenizer_converts_with_its_vocabulary(tmp_path: Path) -> None:
    card = cards.read("models", "ephys_tokenizer")
    made = cards.build({key: card[key] for key in ("class_path", "init_args")})
    listed = load_upstream(made)
    order = torch.arange(65).flip(0)
    vocabulary = {"token_order": order, "total_token_counts": torch.arange(65, 0, -1)}
    torch.save(listed | vocabulary, tmp_path / "up.pt")
    convert_checkpoint(tmp_path / "up.pt", "ephys_tokenizer", tmp_path / "ours.safetensors")
    found: Any = load_tokenizer(tmp_path / "ours.safetensors")
    assert found.label_map[64] == 1 and found.token_count[64] == 65 and found.label_map[65] == 0
    torch.save(listed, tmp_path / "bare.pt")
    with pytest.warns(UserWarning, match="without their vocabulary"):
        convert_checkpoint(tmp_path / "bare.pt", "ephys_tokenizer", tmp_path / "bare.safetensors")


def load_upstream(made: EphysTokenizer) -> dict[str, Tensor]:
    names = {
        "rnn.0.": "encoder_layer.rnn_layers.0.",
        "temperature": "token_weights_layer._temperature",
        "scores.": "token_weights_layer.dense_layer.",
        "norm.": "token_weights_layer.norm_layer.",
        "kernels.": "decoder_layer.token_basis_layer.",
    }
    state = made.state_dict()
    return {
        key.replace(ours, theirs, 1): state[key]
        for ours, theirs in names.items()
        for key in state
        if key.startswith(ours)
    }


def test_tokenizer_learns_to_describe_rhythms() -> None:
    made = tokenizer(n_tokens=16, rnn_n_units=16, sequence_length=50, token_dim=8, anneal=150)
    optimizer = torch.optim.Adam(made.train().parameters(), lr=2e-2)
    generator = torch.Generator().manual_seed(0)

    def rhythms(n: int) -> Batch:
        rate, phase = torch.rand(2, n, 8, 1, generator=generator)
        angle = 2 * torch.pi * ((8 + 4 * rate) * torch.arange(50) / SFREQ + phase)
        return batch_of(30 * angle.sin())

    for _ in range(200):
        optimizer.zero_grad()
        made.loss(rhythms(4))["loss"].backward()
        optimizer.step()
    assert made.eval().loss(rhythms(8))["explained_variance"] > 80


@pytest.mark.corpus
def test_released_tokenizer_makes_the_recorded_tokens() -> None:
    folder = os.environ.get("NEUROFM_MEG_GPT_TOKENIZER")
    if folder is None:
        pytest.skip("needs model_state.pt and vocab.pkl: set NEUROFM_MEG_GPT_TOKENIZER to both")
    state = torch.load(Path(folder) / "model_state.pt", map_location="cpu", weights_only=True)
    card = cards.read("models", "ephys_tokenizer")
    released = cards.build({key: card[key] for key in ("class_path", "init_args")}).eval()
    vocabulary = read_vocabulary(Path(folder) / "vocab.pkl")
    released.load_state_dict(released.rename_keys(state | vocabulary))
    known = load_file(GOLDEN / "meg_gpt" / "released_tokenizer_check.safetensors")
    z = known["recording"].T
    z = (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True)
    with torch.no_grad():
        labels = released.label_map[released.tokens_of(z[None])]
        assert torch.equal(labels[0].T.int(), known["tokens_margin0"])
        margin = released.label_map[released.tokens_of(z[None], margin=10)]
        assert torch.equal(margin[0].T.int(), known["tokens_margin10"])
        signal = released.decode_labels(labels[..., :400])[0].T
    torch.testing.assert_close(signal, known["reconstruction_first_400"], atol=1e-4, rtol=1e-4)
