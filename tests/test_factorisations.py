"""Semi-NMF, interaction basis, roles of neurons, and cards of latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from neurofm.batch import Batch
from neurofm.interpret import decomposition as d


@pytest.fixture(scope="module")
def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations of few groups of units, each in some samples; with both factors."""
    rng = np.random.default_rng(0)
    features = np.kron(np.eye(3), np.ones((4, 1))) * rng.choice([-1, 1], (12, 1))
    weights = rng.random((60, 3)) * (rng.random((60, 3)) < 0.4)
    return features @ weights.T, features, weights


def test_planted_groups_of_units_are_recovered(parts):
    a, features, _ = parts
    found = d.semi_nmf(a, 3, sparsity=1 / 3, start="kmeans", n_iter=200)
    cosine = np.abs(features.T @ found.features)
    cosine /= np.linalg.norm(features, axis=0)[:, None] * np.linalg.norm(found.features, axis=0)
    assert (cosine.max(1) > 0.99).all() and (found.weights >= 0).all()
    assert ((found.features != 0).sum(0) == 4).all()
    assert found.top_samples(2).shape == (3, 2)


def test_without_sparsity_the_error_never_grows(parts):
    noisy = parts[0] + np.random.default_rng(1).normal(size=parts[0].shape)
    for start in ("random", "svd"):
        found = d.semi_nmf(noisy, 4, sparsity=None, unit_weights=False, start=start, n_iter=60)
        assert (np.diff(found.loss) <= 1e-6 * found.loss[:-1]).all()
    level = d.hierarchy(found, [2])
    assert level[0].features.shape == (12, 2)


def test_more_features_than_samples_and_nan_are_refused(parts):
    with pytest.raises(ValueError, match="61 features of 60 samples"):
        d.semi_nmf(parts[0], 61)
    spoiled = parts[0].copy()
    spoiled[0, 3] = np.nan
    with pytest.raises(ValueError, match="1 of 60 samples hold NaN"):
        d.semi_nmf(spoiled, 2)


# Interaction basis


def test_only_directions_that_the_next_layer_reads_are_kept():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 6, generator=generator, dtype=torch.float64)
    weight = torch.zeros(6, 2, dtype=torch.float64)
    weight[1, 0], weight[4, 1] = 1.0, 3.0
    bases = d.interaction_bases([lambda v: v @ weight + 0.5, torch.tanh], x)
    read = bases[0].into
    assert len(bases) == 3 and read.shape[0] == 7
    # The coordinates depend on the two features that are read and on the one, on no other.
    assert bases[0].into.shape[1] <= 3
    through = d.with_one(x) @ bases[0].into @ bases[0].back
    torch.testing.assert_close(through @ _padded(weight), d.with_one(x) @ _padded(weight))
    strengths = d.interaction_strengths(lambda v: v @ weight + 0.5, bases[0], bases[1], x)
    assert strengths.shape == (read.shape[1], bases[1].into.shape[1])
    assert bool((strengths >= 0).all()) and float(strengths.sum()) > 0


def _padded(weight: torch.Tensor) -> torch.Tensor:
    return torch.cat([weight, torch.full((1, 2), 0.5, dtype=weight.dtype)])


def test_too_wide_a_layer_and_nan_are_refused():
    with pytest.raises(ValueError, match="1025 features"):
        d.pca_basis(torch.zeros(2, 1025))
    with pytest.raises(ValueError, match="1 of 2 samples hold NaN"):
        d.pca_basis(torch.tensor([[0.0, torch.nan], [0.0, 0.0]]))


# Roles


def test_roles_are_told_by_weights_alone():
    weights = np.eye(3, 8)
    found = d.neuron_roles(weights, np.stack([weights[0], -weights[1], weights[0]]), gate=weights)
    assert found.roles == ("enrichment", "depletion", "orthogonal")
    np.testing.assert_allclose(found.gate_in, 1)
    with pytest.raises(ValueError, match="transpose it"):
        d.neuron_roles(weights, weights.T)


# Cards


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Noise; in every other window a 10 Hz rhythm at channel 2, from 1 to 2 s."""
    rng, sfreq = np.random.default_rng(0), 64.0
    x = rng.normal(size=(24, 5, 192))
    time = np.arange(192) / sfreq
    burst = 4 * np.sin(2 * np.pi * 10 * time) * ((time >= 1) & (time < 2))
    y = np.arange(24) % 2
    x[y == 1, 2] += burst
    position = np.stack([np.linspace(-0.08, 0.08, 5), np.full(5, 0.03), np.full(5, 0.08)], 1)
    position[[0, 4], 1] = -0.05
    return Batch(
        x=torch.tensor(x, dtype=torch.float32),
        channel_mask=torch.ones(24, 5, dtype=torch.bool),
        kind=torch.zeros(24, 5, dtype=torch.int64),
        position=torch.tensor(position, dtype=torch.float32).expand(24, 5, 3),
        orientation=torch.zeros(24, 5, 3),
        has_position=torch.ones(24, 5, dtype=torch.bool),
        sfreq=sfreq,
        onset=torch.arange(24, dtype=torch.float64) * 3,
        subject=torch.arange(24) // 6,
        recording=torch.arange(24) // 6,
        y=torch.tensor(y),
        names=("a", "b", "c", "d", "e"),
    )


@pytest.fixture(scope="module")
def latents(batch: Batch) -> np.ndarray:
    """One latent follows the rhythm, one is of one person, one never speaks."""
    z = np.zeros((24, 12, 4), dtype=np.float32)
    z[batch.y == 1, 4:8, 0] = 1 + np.random.default_rng(1).random((12, 4))
    z[batch.subject == 2, :, 1] = 1
    z[..., 2] = np.random.default_rng(2).random((24, 12))
    return z


def test_a_card_says_what_was_planted(batch, latents):
    times = np.repeat(np.arange(6) * 0.5 + 0.25, 2)  # two sources
    card, noise = d.feature_cards(
        latents, batch, times, which=[0, 2], labels=["rest", "rhythm"], n_segments=8
    )
    assert card.peak_hz == pytest.approx(10) and card.strongest_channel == "c"
    assert card.topography is not None and card.topography[2] > 3
    area, _, _, q = card.classes["rhythm"]
    assert area == 1 and q < 0.01 < noise.classes["rhythm"][3]
    assert card.specificity == pytest.approx(0, abs=1e-9)
    assert {s.window % 2 for s in card.segments} == {1}
    assert all(0.5 <= s.start_s <= 1.5 for s in card.segments)
    assert card.segments[0].onset_s == 3 * card.segments[0].window + card.segments[0].start_s
    assert "10.0 Hz, most at c" in str(card)
    assert (
        d.feature_cards(latents, batch, times, labels=["rest", "rhythm"], n_cards=1)[0].latent == 0
    )


def test_cards_refuse_what_they_cannot_describe(batch, latents):
    with pytest.raises(ValueError, match="latent 3 speaks for no token"):
        d.feature_cards(latents, batch, np.arange(12) / 4, which=[3])
    with pytest.raises(ValueError, match="expected window x token x latent"):
        d.feature_cards(latents, batch, np.arange(11.0))
    with pytest.raises(ValueError, match="segments of 9"):
        d.feature_cards(latents, batch, np.arange(12) / 4, segment_s=9.0)


def test_a_latent_of_one_person_is_specific_and_tells_no_class(batch, latents):
    subject = batch.subject.numpy()
    found = d.subject_specificity(latents.reshape(-1, 4), np.repeat(subject, 12))
    np.testing.assert_allclose(found[:2], [0, 1], atol=1e-9)
    assert np.isnan(found[3])
    told = d.associate(latents.mean(1), batch.y.numpy(), labels=["a", "b"], subject=subject)
    assert told.auroc[1, 0] == 0.5 and told.q[1, 0] == 1 and told.order()[0] == 0
    assert np.isnan(d.subject_specificity(latents[0], np.zeros(12))).all()


def test_classes_nobody_has_both_of_are_said(batch, latents):
    with pytest.raises(ValueError, match="no subject has windows of two"):
        d.associate(latents.mean(1), batch.y.numpy(), labels=["a", "b"], subject=batch.y.numpy())


def test_results_draw_themselves(batch, latents, parts, tmp_path: Path):
    x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    net = d.SparseAutoencoder(4, 12, k=2)
    course = d.train_autoencoder(net, x, steps=5, batch_size=40)
    card = d.feature_cards(latents, batch, np.arange(12) / 4, which=[0], labels=["a", "b"])[0]
    results = [course, d.judge_autoencoder(net, x), d.dark_matter(net, x[:60], x[60:]), card]
    results += [d.semi_nmf(parts[0], 3, n_iter=5), d.neuron_roles(np.eye(3, 8), np.eye(3, 8))]
    for i, result in enumerate(results):
        result.plot().savefig(tmp_path / f"{i}.png", dpi=30)
        assert (tmp_path / f"{i}.png").stat().st_size > 1000
