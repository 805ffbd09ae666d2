"""Sparse autoencoders and what is built on them: fixtures, planted answers, edges."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neurofm import cards
from neurofm.interpret import decomposition as d
from neurofm.interpret import record
from neurofm.interpret.decomposition.sae_training import Shuffled
from neurofm.interpret.patching import patched
from neurofm.io import read_card, save_model
from neurofm.io.tensors import load_state, read_tensors

GOLDEN = Path(__file__).parent / "golden" / "interpret"
ROWS = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def samples() -> torch.Tensor:
    return torch.randn(200, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Two layers, whose middle is the site."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first, self.middle, self.last = nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x)))


def identity(dim: int) -> d.SparseAutoencoder:
    """A dictionary of both directions of every axis, which misses nothing."""
    net = d.SparseAutoencoder(dim, 2 * dim, k=dim)
    both = torch.cat([torch.eye(dim), -torch.eye(dim)])
    net.load_state_dict({"decoder": both, "encoder": both.T.contiguous()}, strict=False)
    return net.eval()


def planted(
    n: int, *, dim: int = 16, n_true: int = 24, active: int = 3, seed: int = 77
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of few of some directions; samples and directions."""
    generator = torch.Generator().manual_seed(seed)
    true = nn.functional.normalize(torch.randn(n_true, dim, generator=generator), dim=1)
    which = torch.rand(n, n_true, generator=generator).argsort(1)[:, :active]
    size = 1 + torch.rand(n, active, generator=generator)
    return (size[..., None] * true[which]).sum(1), true


def test_every_tensor_of_the_fixture_agrees():
    spec = importlib.util.spec_from_file_location(
        "check_golden", GOLDEN.parent.parent / "check_golden.py"
    )
    checker = importlib.util.module_from_spec(spec)
    sys.modules["check_golden"] = checker
    spec.loader.exec_module(checker)
    fixture, ours = checker.Fixture(GOLDEN), checker.module("interpret")
    tensors = fixture.tensors("decomposition")
    got = ours.topic("decomposition").check(tensors)
    assert len(got) == 37
    for key, value in got.items():
        allowed = ours.tolerance(fixture, f"decomposition/{key}")
        atol, rtol = allowed
        assert value.shape == tensors[key].shape, key
        torch.testing.assert_close(value, tensors[key], atol=atol, rtol=rtol, msg=key)


# Selection


def test_of_equal_activations_the_lower_latent_wins():
    pre = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    kept = d.top_k(pre, 2)
    assert (kept > 0).tolist() == [[False, True, True, False, False], [True, True] + [False] * 3]


def test_a_row_with_nan_stays_nan_and_leaves_the_others():
    pre = torch.ones(3, 4)
    pre[1, 2] = torch.nan
    for kept in (d.top_k(pre, 1), d.batch_top_k(pre, 1)):
        assert kept[1].isnan().all() and not kept[[0, 2]].isnan().any()


def test_arrays_come_back_as_arrays(samples):
    found = d.top_k(samples.numpy(), 2)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, d.top_k(samples, 2).numpy())


@pytest.mark.parametrize("k", [0, 7])
def test_a_k_that_cannot_be_is_refused(samples, k):
    with pytest.raises(ValueError, match=f"k is {k}, expected 1 to 6"):
        d.top_k(samples, k)


# The module


@pytest.mark.parametrize("rescale", [False, True])
def test_gathering_gives_what_decoding_gives(samples, rescale):
    net = d.SparseAutoencoder(6, 400, k=3, rescale=rescale)
    assert net.gathers
    torch.testing.assert_close(net(samples), net.decode(net.encode(samples)))
    rest = net(samples).square().sum()
    rest.backward()
    assert net.encoder.grad is not None and net.encoder.grad.abs().sum() > 0


def test_an_identity_dictionary_reconstructs(samples):
    torch.testing.assert_close(identity(6)(samples), samples)


@pytest.mark.parametrize("chunk", [1, 7, 200])
def test_results_do_not_depend_on_the_chunk(samples, chunk):
    net = d.SparseAutoencoder(6, 24, k=3).double()
    parts = torch.cat([net(part) for part in samples.double().split(chunk)])
    torch.testing.assert_close(parts, net(samples.double()), rtol=1e-12, atol=1e-12)


def test_save_and_load_give_the_same_numbers(samples, tmp_path):
    net = d.SparseAutoencoder(6, 24, k=3, select="batch_topk")
    d.train_autoencoder(net, samples, steps=3, batch_size=50)
    file = save_model(net, tmp_path / "sae.safetensors")
    again = cards.build({key: read_card(file)[key] for key in ("class_path", "init_args")})
    load_state(again, read_tensors(file), where="test")
    torch.testing.assert_close(again.eval()(samples), net(samples))


def test_batch_topk_needs_a_threshold_once_trained(samples):
    net = d.SparseAutoencoder(6, 24, k=3, select="batch_topk").eval()
    with pytest.raises(ValueError, match="no threshold yet"):
        net(samples)
    d.train_autoencoder(net, samples, steps=60, batch_size=100)
    assert (net.encode(samples) > 0).sum(1).float().mean() == pytest.approx(3, abs=1)


def test_another_width_of_the_site_is_said(samples):
    with pytest.raises(ValueError, match="have 6 features, expected 5"):
        d.SparseAutoencoder(5, 20, k=2)(samples)


def test_shares_of_heads_and_sources_add_up():
    net = d.SparseAutoencoder(6, 12, k=2)
    torch.testing.assert_close(d.head_shares(net.decoder, 3).sum(1), torch.ones(12).double())
    attention = torch.rand(2, 3, 4, 4, generator=ROWS).softmax(-1)
    values = torch.randn(2, 3, 4, 2, generator=ROWS)
    joined = (attention @ values).transpose(1, 2).flatten(2)  # batch token dim
    parts = d.source_attribution(attention, values, net.encoder[:, 5].detach())
    torch.testing.assert_close(parts.sum(-1), joined @ net.encoder[:, 5].detach())
    with pytest.raises(ValueError, match="do not divide"):
        d.head_shares(net.decoder, 4)


# Training


@pytest.mark.parametrize(
    ("select", "reached"),
    [
        ("topk", 0.9),
        pytest.param("batch_topk", 0.85, marks=pytest.mark.slow),
        pytest.param("gradient", 0.9, marks=pytest.mark.slow),
    ],
)
def test_a_planted_dictionary_is_recovered(select, reached):
    x, true = planted(4000)
    net = d.SparseAutoencoder(16, 48, k=3, select=select, rescale=select == "topk")
    assert _recovered(net, true) < 0.6
    options = {}
    if select == "gradient":  # says nothing of which directions there are
        options["gradients"] = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    course = d.train_autoencoder(net, x, steps=300, batch_size=256, lr=8e-3, **options)
    assert _recovered(net, true) > reached
    assert course.unexplained[-1] < 0.2 < course.unexplained[0]


def test_top_afa_finds_its_own_k_and_reconstructs():
    # As many latents as have the length of the input together: they need not be the planted ones.
    x, _ = planted(2000)
    net = d.SparseAutoencoder(16, 48, select="top_afa")
    course = d.train_autoencoder(net, x, steps=100, batch_size=200, lr=6e-3, length_weight=1e-3)
    assert course.unexplained[-1] < 0.1
    assert len(set((net.encode(x) > 0).sum(1).tolist())) > 3


def _recovered(net: d.SparseAutoencoder, true: torch.Tensor) -> float:
    found = nn.functional.normalize(net.decoder.detach(), dim=1)
    return float((true @ found.T).amax(1).mean())


def test_dead_latents_come_back_by_the_auxiliary_loss():
    x, _ = planted(2000)

    def dead(weight: float) -> float:
        net = d.SparseAutoencoder(16, 48, k=3)
        net.encoder.data[:, 24:] *= 0.02  # never among the largest
        options = {"dead_after": 1000, "auxiliary_weight": weight}
        d.train_autoencoder(net, x, steps=150, batch_size=200, lr=3e-2, **options)
        return d.judge_autoencoder(net, x).dead

    assert dead(0.0) >= 0.5 > dead(1.0)


def test_training_repeats_itself_and_leaves_out_nan(samples):
    def train(seed: int, data: torch.Tensor) -> tuple[torch.Tensor, d.Training]:
        net = d.SparseAutoencoder(6, 24, k=3)
        course = d.train_autoencoder(net, data, steps=5, batch_size=64, seed=seed)
        return net.decoder.detach(), course

    spoiled = torch.cat([samples, torch.full((3, 6), torch.nan)])
    torch.testing.assert_close(train(0, samples)[0], train(0, samples)[0], rtol=0, atol=0)
    assert not torch.equal(train(0, samples)[0], train(1, samples)[0])
    weights, course = train(0, spoiled)
    assert course.n_dropped == 3 and weights.isfinite().all()


def test_chunks_are_mixed_and_none_is_lost():
    chunks = [torch.full((10, 1), float(i)) for i in range(12)]
    batches = iter(Shuffled(lambda: iter(chunks), 4, seed=0))
    seen = torch.cat([next(batches) for _ in range(30)])[:, 0]
    assert sorted(seen.tolist()) == sorted(torch.cat(chunks)[:, 0].tolist())
    assert len(set(seen[:8].tolist())) > 2


def test_gradients_are_asked_for_and_only_then(samples):
    with pytest.raises(ValueError, match="'gradient' without gradients"):
        d.train_autoencoder(d.SparseAutoencoder(6, 9, k=2, select="gradient"), samples, steps=1)
    with pytest.raises(ValueError, match="'topk' with gradients"):
        d.train_autoencoder(d.SparseAutoencoder(6, 9, k=2), samples, steps=1, gradients=samples)


def test_data_without_a_usable_sample_are_refused():
    net = d.SparseAutoencoder(6, 9, k=2)
    with pytest.raises(ValueError, match="no sample without NaN"):
        d.train_autoencoder(net, torch.full((4, 6), torch.nan), steps=1)
    with pytest.raises(ValueError, match="all samples are zero"):
        d.train_autoencoder(net, torch.zeros(4, 6), steps=1)


def test_without_dead_latents_the_auxiliary_loss_is_zero(samples):
    net = d.SparseAutoencoder(6, 9, k=2)
    none = torch.zeros(9, dtype=torch.bool)
    found = d.auxiliary(net.pre_activations(samples), none, samples, net.decoder)
    assert [float(value.abs().sum()) for value in found] == [0.0, 0.0, 0.0]


def test_a_geometric_median_withstands_an_outlier():
    x = torch.cat([torch.randn(50, 3, generator=ROWS), torch.full((5, 3), 1e4)])
    assert d.geometric_median(x).norm() < 1 < x.mean(0).norm()


# Quality and what is missed


def test_quality_counts_doubles_and_gives_an_interval(samples):
    net = identity(6)
    quality = d.judge_autoencoder(net, samples, groups=np.arange(200) % 5)
    assert quality.unexplained == pytest.approx(0, abs=1e-10) and quality.n_groups == 5
    assert quality.l0 == pytest.approx(6) and quality.dead == quality.alike == 0
    net.decoder.data[1] = net.decoder.data[0]
    assert d.judge_autoencoder(net, samples).alike == pytest.approx(2 / 12)
    assert "5 groups" in str(quality)


def test_a_linear_error_is_told_from_a_nonlinear_one(samples):
    class Misses(nn.Module):
        n_latents = 3

        def __init__(self, kind: str) -> None:
            super().__init__()
            self.kind = kind

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x if self.kind == "linear" else x - 0.5 * x.square()

    parts = samples[:100].double(), samples[100:].double()
    linear, square = (d.dark_matter(Misses(kind), *parts) for kind in ("linear", "square"))
    assert linear.error_explained == pytest.approx(1) and linear.nonlinear == pytest.approx(0)
    assert linear.linear == pytest.approx(0.25, rel=0.02)
    assert square.error_explained < 0.1 and square.nonlinear > 0.3
    total = square.reconstructed + square.linear + square.nonlinear
    assert total == pytest.approx(1)


def test_too_few_samples_for_a_linear_map_are_said(samples):
    net = identity(6)
    with pytest.warns(UserWarning, match="20 samples for 6 features"):
        d.dark_matter(net, samples[:20], samples[100:])
    with pytest.raises(ValueError, match="would fit anything"):
        d.linear_error(samples[:6], samples[:6])


# Spliced into a model


def test_a_perfect_dictionary_recovers_the_whole_loss(samples):
    net = Net()
    batches = list(samples.split(50))
    target = {id(x): net(x).detach() for x in batches}
    patches = d.splice("middle", identity(6))
    found = d.loss_recovered(
        net, "middle", patches, lambda x: (net(x) - target[id(x)]).square(), batches
    )
    assert found.recovered == pytest.approx(1) and found.from_mean == pytest.approx(1)
    assert found.mean.mean() < found.zero.mean()
    assert not any(module._forward_hooks for module in net.modules())


def test_a_site_that_does_not_matter_gives_nan_and_a_warning(samples):
    with pytest.warns(UserWarning, match="nothing to recover"):
        net = Net()
        patches = d.splice("middle", identity(6))
        found = d.loss_recovered(
            net, "middle", patches, lambda x: 0 * net(x).sum(), [samples[:5]] * 3
        )
    assert np.isnan(found.recovered)


def test_the_latent_that_matters_is_found_by_ablation(samples):
    net = Net()
    net.last.weight.data = torch.tensor([[0.0, 0.0, 5.0, 0.0, 0.0, 0.1]])
    effects = d.latent_effects(
        net, "middle", identity(6), net, samples.split(50), [2], controls=[0, 1, 3, 9]
    )
    assert effects.effects.mean() < -1 and effects.rank.tolist() == [0.0]
    np.testing.assert_allclose(effects.control_effects, 0, atol=1e-5)
    none = d.latent_effects(net, "middle", identity(6), net, [samples], [2], value=None)
    np.testing.assert_allclose(none.effects, 0, atol=1e-6)
    steered = d.latent_effects(net, "middle", identity(6), net, [samples], [2], value=None, add=1.0)
    np.testing.assert_allclose(steered.effects, 5, rtol=1e-4)
    with pytest.raises(ValueError, match="no latent 12"):
        d.latent_effects(net, "middle", identity(6), net, [samples], [12])


def test_kept_errors_leave_the_model_as_it_was(samples):
    net, poor = Net(), d.SparseAutoencoder(6, 9, k=1)
    before = net(samples)
    with patched(net, d.splice("middle", poor, keep_error=True)):
        torch.testing.assert_close(net(samples), before)
    with patched(net, d.splice("middle", poor)):
        assert (net(samples) - before).abs().max() > 0.1


def test_controls_speak_as_often(samples):
    size = np.array([0.5, 0.01, 0.4, 0.0, 0.45, 0.02])
    found = d.matched(size, [0], 2, generator=np.random.default_rng(0))
    assert set(found) <= {1, 2, 4, 5} and len(found) == 2
    with pytest.raises(ValueError, match="9 controls wanted"):
        d.matched(size, [0], 9, generator=np.random.default_rng(0))


def test_a_transcoder_stands_in_for_a_layer(samples):
    net = Net()
    seen = record(net, ["first:input", "first"], run=net, batches=[samples])
    coder = d.Transcoder(6, 24, k=None, skip=True)
    x, y = torch.from_numpy(seen["first:input"]), torch.from_numpy(seen["first"])
    course = d.train_transcoder(coder, x, y, steps=300, batch_size=200, lr=2e-2)
    assert course.unexplained[-1] < 0.02
    target = net(samples).detach()
    found = d.loss_recovered(
        net,
        "first",
        d.stand_in("first", coder),
        lambda batch: (net(batch) - target).square(),
        [samples] * 3,
    )
    assert found.recovered > 0.95


def test_edges_of_transcoders_are_their_parts_of_the_pre_activation(samples):
    earlier, later = d.Transcoder(6, 8, seed=1), d.Transcoder(6, 5, seed=2)
    earlier.decoder.data = torch.randn(8, 6, generator=ROWS)
    latents = earlier.encode(samples).detach()
    edges = d.edge_attribution(latents, earlier.decoder.detach(), later.encoder.detach())
    whole = (latents @ earlier.decoder @ later.encoder).detach()
    torch.testing.assert_close(edges.sum(1), whole, rtol=1e-4, atol=1e-5)
