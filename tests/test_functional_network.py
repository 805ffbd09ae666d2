"""Functional neural networks: parity, grids, shifts, bad input, learning."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_fleeg import make_batch
from torch.nn import functional as F

from neurofm import load_model, save_model
from neurofm.batch import Batch, BrainModel, Embedding, Readout
from neurofm.cards import spec_of
from neurofm.models import FunctionalNetwork
from neurofm.nn import FunctionalConv, FunctionalDense, sample_basis
from neurofm.readouts import FunctionalReadout

GOLDEN = Path(__file__).parent / "golden" / "functional_nn"


def small(**changes: Any) -> FunctionalNetwork:
    torch.manual_seed(0)
    layers = [
        FunctionalConv(4, 6, n_functions=5, resolution=15),
        FunctionalConv(6, 3, n_functions=4, resolution=11, basis="fourier"),
    ]
    head = FunctionalDense(3, 2, n_functions=3, pooling=True, activation="softmax")
    arguments: dict[str, Any] = {"layers": layers, "head": head, "sfreq": 64.0}
    return FunctionalNetwork(**arguments | changes).eval()


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
    assert len(lines) == 8
    assert [line.name for line in lines if not line.passed] == []


def test_other_settings_can_be_described(checker: ModuleType) -> None:
    basis = {"n_functions": 3, "resolution": 6, "basis_type": "Legendre"}
    described = {
        "convolution_layers": [
            {"n_filters": 2, "basis_options": basis, "padding": "SAME", "activation": None}
        ],
        "dense_layers": [{"n_neurons": 2, "basis_options": basis | {"resolution": 20}}],
    }
    convolutions, dense = checker.module("functional_nn").layers_of(described, 4)
    x = torch.randn(2, 4, 20)
    y = convolutions[0](x)
    # "same" with six samples: two zeros before, three after.
    kernel = convolutions[0].sampled_weight(6).permute(2, 1, 0)
    torch.testing.assert_close(y, F.conv1d(F.pad(x, (2, 3)), kernel))
    assert dense[0](y).shape == (2, 2, 20)
    alone = {"dense_layers": described["dense_layers"]}  # a network may have one kind of layer
    assert [len(found) for found in checker.module("functional_nn").layers_of(alone, 4)] == [0, 1]


# Bases


def test_legendre_functions_are_the_polynomials() -> None:
    s = torch.linspace(-1, 1, 9)
    expected = [torch.ones(9), s, (3 * s**2 - 1) / 2, (5 * s**3 - 3 * s) / 2]
    torch.testing.assert_close(sample_basis("legendre", 9, 4), torch.stack(expected, 1))


def test_fourier_functions_are_pairs_of_one_frequency() -> None:
    s = torch.linspace(0, 1, 33)
    waves = [torch.sin, torch.cos, torch.sin, torch.cos]
    expected = [
        math.sqrt(2) * w(2 * math.pi * k * s) for w, k in zip(waves, (1, 1, 2, 2), strict=True)
    ]
    expected = [torch.ones(33), *expected]
    torch.testing.assert_close(
        sample_basis("fourier", 33, 5), torch.stack(expected, 1), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("arguments", [("legendre", 0, 3), ("fourier", 5, 0)])
def test_impossible_bases_are_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="at least one moment and one function"):
        sample_basis(*arguments)


# Layers


def test_the_dense_layer_is_a_linear_map_at_every_moment() -> None:
    layer = FunctionalDense(3, 2, n_functions=4, activation="linear")
    x, weight = torch.randn(2, 3, 10), layer.sampled_weight(10)
    expected = torch.stack([x[:, :, t] @ weight[t] for t in range(10)], -1)
    torch.testing.assert_close(layer(x), expected)
    pooled = FunctionalDense(3, 2, n_functions=4, pooling=True, activation="elu")
    pooled.load_state_dict(layer.state_dict())
    torch.testing.assert_close(pooled(x), F.elu(expected.mean(-1)))


def test_pooling_comes_before_the_activation() -> None:
    layer = FunctionalConv(3, 2, n_functions=4, resolution=5, activation="linear")
    pooled = FunctionalConv(3, 2, n_functions=4, resolution=5, pooling=True)
    pooled.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 20)
    torch.testing.assert_close(pooled(x), F.elu(layer(x).mean(-1)))


def test_parameters_do_not_depend_on_sampling_and_finer_sampling_changes_little() -> None:
    layer = FunctionalDense(1, 2, n_functions=5, pooling=True, activation="linear")

    def answer(n: int) -> torch.Tensor:
        s = torch.linspace(0, 1, n)
        return layer((1 + (3 * s).sin() + s**2)[None, None])

    errors = [float((answer(n) - answer(4001)).abs().max().detach()) for n in (101, 201, 401)]
    # The rule is off by the ends, which count as much as other moments: one over n.
    assert errors[0] < 0.02 * float(answer(4001).abs().max().detach())
    assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]
    sizes = [
        sum(p.numel() for p in FunctionalConv(3, 2, n_functions=5, resolution=r).parameters())
        for r in (10, 100)
    ]
    assert sizes == [30, 30]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (FunctionalConv(3, 2, n_functions=4, resolution=30), "20 samples are fewer than the 30"),
        (FunctionalConv(4, 2, n_functions=4, resolution=5), "3 channels of input, built for 4"),
        (FunctionalDense(3, 2, n_functions=4, resolution=30), "20 samples of input, built for 30"),
    ],
)
def test_curves_that_do_not_fit_are_refused(layer: torch.nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 3, 20))


# The network


def bump(at: int) -> Batch:
    """A compact bump in the middle of one window of two seconds, otherwise silence."""
    batch = make_batch(1)
    wave = torch.hann_window(24, periodic=False)
    x = torch.zeros(1, 4, 128)
    x[0, :, at : at + 24] = torch.tensor([1.0, -2.0, 0.5, 1.5])[:, None] * wave
    return replace(batch, x=x)


def test_moving_an_event_inside_the_window_does_not_change_the_answer() -> None:
    readout = FunctionalReadout(3, 2)
    for standardize in (False, True):
        model = small(head=None, standardize=standardize)
        with torch.no_grad():
            first, later = (readout(model.encode(bump(at))) for at in (30, 71))
        torch.testing.assert_close(first, later, atol=1e-5, rtol=0)
        assert not torch.allclose(first, readout(model.encode(make_batch(1))), atol=1e-3)


def test_an_answer_with_weights_that_vary_depends_on_when() -> None:
    model, readout = small(head=None, standardize=False), FunctionalReadout(3, 2, n_functions=3)
    first, later = (readout(model.encode(bump(at))) for at in (30, 71))
    assert (first - later).abs().max() > 1e-4


def test_standardizing_takes_away_size_and_offset_of_every_channel() -> None:
    model, batch = small(), make_batch()
    scale, offset = torch.tensor([0.1, 1, 5, 20])[:, None], torch.tensor([3.0, 0, -9, 1])[:, None]
    moved = replace(batch, x=batch.x * scale + offset)
    torch.testing.assert_close(model.logits(moved), model.logits(batch), atol=1e-4, rtol=1e-3)
    assert model.normalized(torch.ones(1, 4, 50)).abs().max() < 1e-3  # a flat channel


def test_roles_are_satisfied_and_the_head_sees_what_is_encoded() -> None:
    model, batch = small(), make_batch()
    assert isinstance(model, BrainModel) and isinstance(FunctionalReadout(3, 2), Readout)
    tokens = model.encode(batch).tokens
    assert tokens.shape == (3, 128 - 14 - 10, 3) and model.dim == 3
    expected = model.head(tokens.transpose(1, 2))
    torch.testing.assert_close(model.logits(batch).softmax(1), expected)
    with pytest.raises(ValueError, match="without a head"):
        small(head=None).logits(batch)


def test_padding_and_batch_size_do_not_change_embedding() -> None:
    model, batch = small(), make_batch()
    more = {}
    for name in ("x", "channel_mask", "kind", "position", "orientation", "has_position"):
        value = getattr(batch, name)
        fill = {"kind": -1, "channel_mask": False, "has_position": False}.get(name, torch.nan)
        extra = torch.full((3, 2, *value.shape[2:]), fill, dtype=value.dtype)
        more[name] = torch.cat([value, extra], 1)
    whole = model.encode(batch).tokens
    torch.testing.assert_close(model.encode(replace(batch, **more)).tokens, whole)
    single = [model.encode(batch._map(lambda t, i=i: t[i : i + 1])).tokens for i in range(3)]
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
        (make_batch(time=24), r"expected at least 0\.39"),
        (replace(make_batch(), x=torch.full((3, 4, 128), torch.nan)), "NaN"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().encode(batch)


def test_layers_that_do_not_follow_each_other_are_refused() -> None:
    def conv(n_in: int, **changes: Any) -> FunctionalConv:
        return FunctionalConv(n_in, 3, n_functions=2, resolution=4, **changes)

    with pytest.raises(ValueError, match="5 channels follows one that gives 3"):
        FunctionalNetwork([conv(4), conv(5)])
    with pytest.raises(ValueError, match="gives 3, pooled"):
        FunctionalNetwork([conv(4, pooling=True), conv(3)])
    with pytest.raises(ValueError, match="pooling: true"):
        FunctionalNetwork([conv(4)], head=FunctionalDense(3, 2, n_functions=2))
    padded = Embedding(torch.zeros(1, 2, 3), torch.tensor([[True, False]]))
    with pytest.raises(ValueError, match="padding"):
        FunctionalReadout(3, 2)(padded)


def test_a_planted_rhythm_is_learned_and_carries_over_to_new_windows() -> None:
    def rhythms(n: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        batch, y = make_batch(n), torch.randint(0, 2, (n,), generator=generator)
        phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator)
        wave = (2 * torch.pi * 10 * torch.arange(128) / 64 + phase).sin()
        has = (torch.arange(4) // 2 == y[:, None]).unsqueeze(-1)
        return replace(batch, x=has * wave + 0.5 * torch.randn(n, 4, 128, generator=generator), y=y)

    torch.manual_seed(0)
    layer = FunctionalConv(4, 8, n_functions=9, resolution=16, basis="fourier")
    model, readout = (
        FunctionalNetwork([layer], sfreq=64.0, standardize=False),
        FunctionalReadout(8, 2),
    )
    optimizer = torch.optim.AdamW([*model.parameters(), *readout.parameters()], lr=0.02)
    for step in range(80):
        batch = rhythms(32, step)
        loss = F.cross_entropy(readout(model.encode(batch)), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = rhythms(200, 1000)
    assert (readout(model.encode(new)).argmax(1) == new.y).float().mean() > 0.9
