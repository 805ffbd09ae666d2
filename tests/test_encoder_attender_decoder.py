from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from neurofm import cards
from neurofm.interpret.predictivity import neural_predictivity, ridge_map
from neurofm.io.simulated.whisking import simulate_whisking
from neurofm.models import ConvRNNEncoder, EncoderAttenderDecoder, GPTAttender, StepsDecoder
from neurofm.models.recurrent_cells import LSTMCell, TimeDecayCell, cell_of

CELLS = ["time_decay", "gru", "lstm", "ugrnn", "intersection"]
SMALL = {"channels": (4, 5, 6, 6, 6, 5), "hidden": 8, "dim": 8}


def clips(n: int = 2, steps: int = 6) -> torch.Tensor:
    return torch.randn(n, steps, 6, 5, 7, generator=torch.Generator().manual_seed(0))


def small(**options) -> ConvRNNEncoder:
    torch.manual_seed(0)
    return ConvRNNEncoder(**{**SMALL, **options}).eval()


# Cells


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_remembers_and_keeps_the_shape(name: str, layer_norm: bool) -> None:
    torch.manual_seed(0)
    cell = cell_of(name, 3, kernel=3, layer_norm=layer_norm)
    x = torch.randn(2, 3, 4, 5)
    out, state = cell(x, torch.zeros(cell.n_states, 2, 3, 4, 5))
    later, _ = cell(x, state)
    assert out.shape == x.shape and state.shape == (cell.n_states, *x.shape)
    assert not torch.allclose(out, later, atol=1e-4)


def test_the_state_of_a_time_decay_cell_halves_at_first() -> None:
    cell = TimeDecayCell(2)
    state = torch.full((1, 1, 2, 1, 1), 8.0)
    out, following = cell(torch.ones(1, 2, 1, 1), state)
    assert out.flatten().tolist() == [5, 5] and torch.equal(following[0], out)


def test_an_lstm_over_one_place_is_torch_s() -> None:
    torch.manual_seed(0)
    cell, torch_s = LSTMCell(3, kernel=1), torch.nn.LSTMCell(3, 3)
    weight = cell.map.weight.flatten(1).detach()  # input, forget, output, candidate
    order = [0, 1, 3, 2]
    torch_s.weight_ih.data = torch.cat([weight[3 * i : 3 * i + 3, :3] for i in order])
    torch_s.weight_hh.data = torch.cat([weight[3 * i : 3 * i + 3, 3:] for i in order])
    bias = cell.map.bias.detach().clone()
    bias[3:6] += 1
    torch_s.bias_ih.data = torch.cat([bias[3 * i : 3 * i + 3] for i in order])
    torch_s.bias_hh.data.zero_()
    x, h, c = torch.randn(3, 2, 3)
    out, state = cell(x[..., None, None], torch.stack([h, c])[..., None, None])
    expected = torch_s(x, (h, c))
    torch.testing.assert_close(out.flatten(1), expected[0])
    torch.testing.assert_close(state[1].flatten(1), expected[1])


# The graph


def reached(encoder: ConvRNNEncoder, node: int, changed: int) -> list[bool]:
    """In which steps a node's output depends on the input of one step."""
    x = clips(1, 9)
    other = x.clone()
    other[:, changed] += 1
    found: list[list[torch.Tensor]] = [[], []]
    for given, kept in zip((x, other), found, strict=True):
        hook = encoder.nodes[node].register_forward_hook(lambda m, a, out, k=kept: k.append(out[0]))
        encoder(given)
        hook.remove()
    return [not torch.equal(a, b) for a, b in zip(*found, strict=True)]


def test_what_enters_needs_a_step_per_layer() -> None:
    encoder = small()
    for node in range(6):
        changed = reached(encoder, node, 2)
        assert changed == [step >= 2 + node for step in range(9)]


def test_feedback_reaches_a_lower_node_through_a_higher_one() -> None:
    """Without decay and with one feedback edge, node 2 answers again two steps later."""
    encoder = small(feedback=[(3, 2)])
    plain = small(feedback=[])
    for one in (encoder, plain):
        for node in one.nodes:
            node.cell.decay.data.fill_(-100)  # nothing is remembered
    assert reached(plain, 1, 2) == [step == 3 for step in range(9)]
    assert reached(encoder, 1, 2) == [step in (3, 5, 7) for step in range(9)]


def test_vectors_of_all_steps_end_with_that_of_the_last() -> None:
    x = clips()
    every, last = small()(x), small(return_all=False)(x)
    assert every.shape == (2, 6, 8) and last.shape == (2, 1, 8)
    assert torch.equal(every[:, -1:], last)
    longer = small()(clips(2, 9)[:, :6])
    assert longer.shape == every.shape


def test_the_published_size_has_its_nodes() -> None:
    with torch.device("meta"):
        encoder = ConvRNNEncoder()
    widths = [node.conv.weight.shape[:2] for node in encoder.nodes]
    assert [tuple(w) for w in widths] == [
        (96, 6),
        (128, 96 + 256 + 384),
        (256, 128 + 384 + 384),
        (384, 256 + 384 + 256),
        (384, 384 + 256),
        (256, 384),
    ]
    assert encoder.fc7.weight.shape == (1024, (256 + 384 + 128) * 4 * 6)
    assert encoder.fc8.weight.shape == (512, 1024)


# Attender and decoder


def test_an_action_sees_its_step_and_those_before() -> None:
    torch.manual_seed(0)
    attender = GPTAttender(8, depth=2, heads=2, per_step=2).eval()
    x = torch.randn(1, 8, 8)
    other = x.clone()
    other[:, 4] += 1  # of the third step
    changed = (attender(x) != attender(other)).any(-1)[0]
    assert attender(x).shape == (1, 4, 8)
    assert changed.tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="whole steps"):
        attender(x[:, :7])
    with pytest.raises(ValueError, match="at most 4"):
        GPTAttender(8, heads=2, block=4)(x)


def test_the_published_attender_has_its_size() -> None:
    with torch.device("meta"):
        attender = GPTAttender()
    assert attender.position.shape == (65, 512) and len(attender.blocks) == 8
    assert attender.out.bias is None
    assert attender.blocks[0].widen.weight.shape == (2048, 512)


def test_a_decoder_reads_the_last_step_or_all() -> None:
    x = torch.randn(2, 3, 8)
    last = StepsDecoder(8, 4)
    assert torch.equal(last(x), last(x[:, 2:]))
    every = StepsDecoder(8, 4, n_steps=3, steps="all", hidden=(6, 5))
    assert [layer.out_features for layer in every.layers[::2]] == [6, 5, 4]
    assert every(x).shape == (2, 4)
    with pytest.raises(ValueError, match="built for 3"):
        every(x[:, :2])
    with pytest.raises(ValueError, match="'first'"):
        StepsDecoder(8, 4, steps="first")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"feedback": [(2, 3)]}, "later and an earlier"),
        ({"skips": [6]}, "before the last"),
        ({"cell": "elman"}, "elman"),
        ({"in_shape": (6, 1, 7)}, "2 x 2"),
    ],
)
def test_graphs_that_cannot_be_are_refused(options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**options)


def test_maps_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(6, 5, 7\)"):
        small()(clips()[..., :6])


# Neurons


def test_averages_over_time_predict_neurons_that_are_made_of_them() -> None:
    torch.manual_seed(0)
    attender, decoder = GPTAttender(8, depth=1, heads=2), StepsDecoder(8, 3)
    model = EncoderAttenderDecoder(small(cell="ugrnn"), attender, decoder)
    x = clips(24, 10)
    found = model.eval().time_averages(x)
    assert {"encoder", "attender", *(f"encoder.nodes.{i}" for i in range(6))} == set(found)
    torch.testing.assert_close(found["encoder"], model.encoder(x).mean(1))
    rng = np.random.default_rng(0)
    features = found["encoder"].double().numpy()
    features = (features - features.mean(0)) / features.std(0)
    clean = features @ rng.standard_normal((features.shape[1], 5))
    clean = (clean - clean.mean(0)) / clean.std(0)
    neurons = clean + 0.3 * rng.standard_normal((10, *clean.shape))
    options = {"mapping": ridge_map(1e-3), "n_bootstraps": 3}
    own = neural_predictivity(features, neurons, **options)
    other = neural_predictivity(rng.standard_normal(features.shape), neurons, **options)
    assert own.score() > 0.6 > other.score()


def test_presets_are_the_published_variants() -> None:
    names = [name for name in cards.names("models") if name.startswith("whisker_")]
    assert len(names) >= 5
    for name in names:
        card = cards.read("models", name)
        with torch.device("meta"):
            model = cards.build({key: card[key] for key in ("class_path", "init_args")})
        assert model.encoder.dim == 512 and model.decoder.n_outputs == 117


@pytest.mark.slow
@pytest.mark.parametrize("attended", [True, False])
def test_objects_are_told_apart_above_chance(attended: bool) -> None:
    torch.manual_seed(0)
    sizes = {"channels": (8, 12, 12), "hidden": 32, "dim": 32}
    encoder = ConvRNNEncoder(**sizes, feedback=[(3, 2)], skips=[2], cell="ugrnn", layer_norm=True)
    attender = GPTAttender(32, depth=2, heads=2, dropout=0) if attended else None
    model = EncoderAttenderDecoder(encoder, attender, StepsDecoder(32, 4))
    x, y = (torch.from_numpy(part) for part in simulate_whisking(256))
    held, held_y = (torch.from_numpy(part) for part in simulate_whisking(128, clips_seed=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(120):
        part = slice(64 * (step % 4), 64 * (step % 4) + 64)
        loss = F.cross_entropy(model(x[part]), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = (model.eval()(held).argmax(1) == held_y).float().mean()
    print(f"attended {attended}: {float(right):.3f}")
    assert float(right) > 0.4  # chance 0.25; guessing reaches 0.31 one time in twenty
