from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm import cards
from neurofm.io import load_context_encoder, load_model, save_model
from neurofm.models import BraInCoRL, VoxelWeights, predict_each

E = 12


@pytest.fixture
def model() -> BraInCoRL:
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 3, "hidden": 24, "heads": 4, "n_registers": 2}
    return BraInCoRL(E, **sizes, dropout=0.1).eval()


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


def answers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_every_tensor_of_the_original_agrees() -> None:
    """Tokens, attention, weights, predictions, gradients, the ridge baseline and the scores."""
    path = Path(__file__).with_name("check_golden.py")
    spec = importlib.util.spec_from_file_location("check_golden", path)
    checker = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = checker
    spec.loader.exec_module(checker)
    lines = checker.check(path.parent / "golden" / "braincorl")
    assert len(lines) == 28
    assert [line.name for line in lines if not line.passed] == []


def test_the_order_of_a_context_does_not_matter(model: BraInCoRL) -> None:
    x, y = unit(3, 9, E), answers(3, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    close(model(x[:, order], y[:, order]), model(x, y))
    assert not torch.allclose(model(x, y[:, order]), model(x, y), atol=1e-4)


def test_contexts_of_different_sizes_share_a_batch(model: BraInCoRL) -> None:
    x, y = unit(3, 9, E), answers(3, 9)
    mask = torch.arange(9) < torch.tensor([9, 4, 6])[:, None]
    # What stands in the padding must not matter, whatever it is.
    x = torch.where(mask.unsqueeze(-1), x, torch.nan)
    together = model(x, torch.where(mask, y, 1e6), mask)
    for i, n in enumerate((9, 4, 6)):
        close(together[i], model(x[i : i + 1, :n], y[i : i + 1, :n])[0])


def test_a_response_is_the_weighted_sum_of_features_and_the_bias(model: BraInCoRL) -> None:
    with torch.no_grad():
        weights = model(unit(2, 5, E), answers(2, 5))
    query = unit(4, E, seed=5)
    voxels = VoxelWeights(weights[:, :-1], weights[:, -1])
    expected = torch.tensor(
        [[float(q @ w[:-1] + w[-1]) for q in query.double()] for w in weights.double()]
    )
    close(predict_each(weights, query.expand(2, -1, -1)), expected)
    close(voxels.respond(query), expected.T)
    close(voxels.selectivity(query), expected.T - weights[:, -1])


@pytest.mark.parametrize("max_bytes", [1, 20_000, 10**9])
def test_voxels_of_a_person_are_those_of_a_loop(model: BraInCoRL, max_bytes: int) -> None:
    x, y = unit(8, E), answers(8, 7)
    y[2:5, 3] = torch.nan  # not measured: a shorter context
    found = model.read_voxels(x, y, max_bytes=max_bytes)
    for i in range(7):
        known = ~y[:, i].isnan()
        with torch.no_grad():
            alone = model(x[known].unsqueeze(0), y[known, i].unsqueeze(0))[0]
        close(torch.cat([found.weights[i], found.bias[i : i + 1]]), alone)


def test_attention_of_the_token_that_is_read_sums_to_one_with_the_registers(
    model: BraInCoRL,
) -> None:
    x, y = unit(8, E), answers(8, 5)
    y[3, 1] = torch.nan
    found = model.attend(x, y)
    assert found.shape == (5, 3, 8)
    assert float(found[1, :, 3].abs().max()) == 0
    tokens, scale, mask = model.start(x.expand(5, -1, -1), y.T.nan_to_num(), ~y.T.isnan())
    whole = model.blocks[0].attention.weights(model.blocks[0].norm_1(tokens), scale, mask)
    close(whole.sum(-1), torch.ones(5, 10))
    close(whole[:, 0, 2:], found[:, 0])


def test_dropout_is_in_training_mode_alone(model: BraInCoRL) -> None:
    x, y = unit(2, 5, E), answers(2, 5)
    torch.manual_seed(0)
    assert torch.equal(model(x, y), model(x, y))
    model.train()
    assert not torch.equal(model(x, y), model(x, y))


def test_more_residual_blocks_stand_before_and_after_the_transformer() -> None:
    model = BraInCoRL(E, dim=8, depth=1, hidden=8, heads=2, early_depth=2, early_hidden=10)
    assert [len(model.early), len(model.late)] == [2, 2]
    assert isinstance(model.early[1].bypass, torch.nn.Identity)
    assert model(unit(1, 3, E), answers(1, 3)).shape == (1, E + 1)


def test_a_released_lightning_file_is_renamed_too(model: BraInCoRL) -> None:
    theirs = {
        "cls_token": model.registers,
        "transformer.0.attn.in_proj_weight": model.blocks[0].attention.query_key_value.weight,
        "weight_pred.0.bypass.bias": model.late[0].bypass.bias,
    }
    ours = {"registers", "blocks.0.attention.query_key_value.weight", "late.0.bypass.bias"}
    assert set(model.rename_keys(theirs)) == ours
    assert set(model.rename_keys({"state_dict": theirs})) == ours


def test_it_is_saved_and_loaded_as_an_in_context_encoder(model: BraInCoRL, tmp_path) -> None:
    path = save_model(model, tmp_path / "m.safetensors", license="MIT")
    again = load_context_encoder(path)
    x, y = unit(2, 5, E), answers(2, 5)
    assert torch.equal(again(x, y), model(x, y))
    with pytest.raises(ValueError, match="no brain model"):
        load_model(path)
    with pytest.raises(ValueError, match="read_voxels"):
        load_context_encoder("coded_patches_vq")


def test_presets_are_the_published_sizes() -> None:
    for name, sizes in {"clip": (512, 560), "dino": (768, 800), "siglip": (1152, 1200)}.items():
        arguments = cards.read("models", f"braincorl_{name}")["init_args"]
        assert (arguments["n_features"], arguments["dim"]) == sizes
        assert arguments["early_hidden"] == 2 * arguments["dim"]


# Bad input


def test_features_that_are_not_of_unit_norm_are_refused(model: BraInCoRL) -> None:
    x, y = unit(2, 5, E), answers(2, 5)
    with pytest.raises(ValueError, match=r"lengths of .* expected 1"):
        model(2 * x, y)
    with pytest.raises(ValueError, match="lengths"):
        VoxelWeights(torch.zeros(2, E), torch.zeros(2)).respond(2 * x[0])
    model(x.bfloat16().float(), y)  # rounding is no fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:, :-1], y), "12"),
        (lambda x, y: (x, y[:-1]), "of the same stimuli"),
        (lambda x, y: (x, torch.full_like(y, torch.nan)), "5 of 5 voxels have no response"),
        (lambda x, y: (x, y / 0), "infinite"),
        (lambda x, y: (x[:0], y[:0]), "no response"),
    ],
)
def test_what_cannot_be_read_says_why(model: BraInCoRL, change, words: str) -> None:
    x, y = change(unit(8, E), answers(8, 5))
    if x.shape[-1] != E:
        x = F.normalize(x, dim=-1)
    with pytest.raises(ValueError, match=words):
        model.read_voxels(x, y)


def test_a_network_in_training_mode_does_not_read(model: BraInCoRL) -> None:
    with pytest.raises(ValueError, match="eval"):
        model.train().read_voxels(unit(8, E), answers(8, 5))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        BraInCoRL(E, dim=10, heads=4)
    with pytest.raises(ValueError, match="n_registers 0"):
        BraInCoRL(E, dim=8, heads=4, n_registers=0)


def test_an_empty_context_is_refused(model: BraInCoRL) -> None:
    with pytest.raises(ValueError, match="empty"):
        model(unit(2, 0, E), torch.zeros(2, 0))
    mask = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ValueError, match="1 of 2 voxels"):
        model(unit(2, 2, E), answers(2, 2), mask)


def test_numbers_of_features_must_agree() -> None:
    voxels = VoxelWeights(torch.zeros(3, E), torch.zeros(3))
    assert voxels.n_channels == 3
    with pytest.raises(ValueError, match="4 features"):
        voxels.selectivity(unit(2, 4))
    assert np.isfinite(voxels.respond(unit(2, E)).numpy()).all()
