from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurofm.batch import Embedding
from neurofm.interpret import Activations, record, sites


class Twice(nn.Module):
    """One layer used twice, an in-place activation, a tuple and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.alias = self.shared
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.unused = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.shared(x))
        x = self.act(x)
        x, _ = self.pair(self.alias(x), scale=torch.ones(1))
        return self.head(x)


class Pair(nn.Module):
    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
        return x * scale, x.sum(0)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3)
        self.out = nn.Identity()

    def encode(self, x: Tensor) -> Embedding:
        tokens = self.layer(x.unsqueeze(-1))
        return self.out(Embedding(tokens=tokens, mask=x != 0))


@pytest.fixture
def model() -> Twice:
    torch.manual_seed(0)
    return Twice()


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_recorded_values_are_those_of_the_forward_pass(model: Twice) -> None:
    x = torch.randn(5, 4)
    got = record(model, ["norm", "norm:input", "head.1", ":output"], run=model, batches=[x])
    model.eval()
    expected = model.norm(model.shared(x)).detach().numpy()
    np.testing.assert_array_equal(got["norm"], expected)
    np.testing.assert_array_equal(got["norm:input"], model.shared(x).detach().numpy())
    np.testing.assert_array_equal(got["head.1"], got[":output"])


def test_an_in_place_activation_afterwards_does_not_change_what_was_recorded(model: Twice) -> None:
    got = record(model, ["norm"], run=model, batches=[torch.randn(50, 4)])
    assert (got["norm"] < 0).any()


def test_a_module_used_twice_gives_one_entry_per_call(model: Twice) -> None:
    batches = [torch.randn(5, 4), torch.randn(3, 4)]
    got = record(model, ["shared", "norm"], run=model, batches=batches)
    assert got.names == ("shared@0", "shared@1", "norm")
    assert len(got) == 8
    by_alias = record(model, ["alias"], run=model, batches=batches)
    np.testing.assert_array_equal(by_alias["alias@1"], got["shared@1"])


def test_recording_leaves_weights_gradients_modes_and_hooks_untouched(model: Twice) -> None:
    model.train()
    model.norm.eval()  # a frozen part inside a training model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    record(model, ["act", "head"], run=model, batches=[torch.randn(6, 4)])
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert n_hooks(model) == 0


def test_hooks_and_modes_are_restored_after_an_exception(model: Twice) -> None:
    model.train()
    with pytest.raises(RuntimeError):
        record(model, ["act", "head"], run=model, batches=[torch.randn(6, 99)])
    assert n_hooks(model) == 0
    assert model.training
    with pytest.raises(KeyboardInterrupt), record(model, ["act"]):
        raise KeyboardInterrupt
    assert n_hooks(model) == 0


def test_the_context_manager_keeps_gradients_flowing_and_separates_batches(model: Twice) -> None:
    with record(model, ["head.1"]) as recorder:
        for n in (4, 2):
            model(torch.randn(n, 4)).sum().backward()
            recorder.next_batch(n)
    assert recorder.activations()["head.1"].shape == (6, 2)
    assert model.shared.weight.grad is not None


def test_a_misspelt_site_is_refused_with_near_misses(model: Twice) -> None:
    with pytest.raises(ValueError, match=r"no module 'head\.l'.*'head\.1'"):
        record(model, ["head.l"])
    with pytest.raises(ValueError, match="input or output"):
        record(model, ["head:outputs"])
    assert n_hooks(model) == 0


def test_a_site_the_forward_pass_skips_is_an_error(model: Twice) -> None:
    with pytest.raises(ValueError, match="'unused' was never called"):
        record(model, ["unused"], run=model, batches=[torch.randn(2, 4)])


def test_parts_of_tuples_and_named_arguments_can_be_selected(model: Twice) -> None:
    x = torch.randn(5, 4)
    got = record(model, ["pair:output.0", "pair:input"], run=lambda: model(x))
    np.testing.assert_array_equal(got["pair:output.0"], got["pair:input"])
    scale = record(model, ["pair:input.scale"], run=lambda: model(x))
    assert scale["pair:input.scale"].shape == (1,)
    with pytest.raises(ValueError, match=r"a tuple of \['Tensor', 'Tensor'\]"):
        record(model, ["pair"], run=lambda: model(x))


def test_all_modules_are_listed_as_sites(model: Twice) -> None:
    assert {"shared", "alias", "head.0", "head.1"} <= set(sites(model))


def test_windows_of_different_length_are_padded_and_masked() -> None:
    model = Encoder()
    short, long = torch.ones(2, 3), torch.ones(1, 5)
    got = record(model, ["layer", "out"], run=model.encode, batches=[short, long])
    assert got["layer"].shape == (3, 5, 3)
    assert got.mask["layer"].sum(1).tolist() == [3, 3, 5]
    np.testing.assert_array_equal(got.mask["layer"], got.mask["out"])
    means = got.patterns("layer", reduce="mean_tokens")
    np.testing.assert_allclose(means[0], means[2], rtol=1e-6)
    with pytest.raises(ValueError, match="mean_tokens"):
        got.patterns("layer")


def test_reducing_while_recording_equals_reducing_afterwards() -> None:
    model = Encoder()
    batches = [torch.randn(4, 6), torch.randn(3, 6)]
    whole = record(model, ["layer"], run=model.encode, batches=batches)
    small = record(model, ["layer"], run=model.encode, batches=batches, reduce="mean_tokens")
    assert small["layer"].shape == (7, 3)
    np.testing.assert_allclose(
        small["layer"], whole.patterns("layer", reduce="mean_tokens"), rtol=1e-6
    )


def test_a_model_that_folds_channels_into_the_batch_is_refused() -> None:
    layer = nn.Linear(4, 2)
    with pytest.raises(ValueError, match=r"shape \(6, 2\) for 2 windows"):
        record(
            layer, [":output"], run=lambda x: layer(x.flatten(0, 1)), batches=[torch.ones(2, 3, 4)]
        )


def test_brain_data_and_layers_share_one_type() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3, 10))
    brain = Activations({"EEG": x}, labels=list("aabbcc"), subject=[1, 1, 1, 2, 2, 2])
    assert brain.patterns("EEG").shape == (6, 30)
    assert brain.patterns("EEG", reduce="mean_time").shape == (6, 3)
    assert brain.select([0, 5]).labels == ["a", "c"]
    with pytest.raises(ValueError, match="same windows"):
        Activations({"EEG": x}, labels=["a"])
    with pytest.raises(KeyError, match="Did you mean 'EEG'"):
        brain["EEGs"]


def test_a_mask_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="mask of 'a'"):
        Activations({"a": np.zeros((2, 3))}, mask={"a": np.ones((2, 4), bool)})
