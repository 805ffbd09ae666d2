"""Counterparts of single units and heads, and neurons that every network has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import ortho_group

from neurofm.interpret import similarity as s


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_moments_of_batches_are_those_of_all_samples(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(50, 4)) + 1e6, rng.normal(size=(50, 3))
    y[:, 0] += x[:, 1] - 1e6
    whole = np.corrcoef(x.T, y.T)[:4, 4:]
    for size in (1, 7, 50):
        moments = s.PairMoments()
        for start in range(0, 50, size):
            moments.update(x[start : start + size], y[start : start + size])
        np.testing.assert_allclose(moments.correlation(), whole, atol=1e-9)
    rotation = ortho_group.rvs(3, random_state=0)
    expected = np.corrcoef(x.T, (y @ rotation).T)[:4, 4:]
    np.testing.assert_allclose(moments.correlation(rotation), expected, atol=1e-9)
    with pytest.raises(ValueError, match="4 and 2 units after batches of 4 and 3"):
        moments.update(x, y[:, :2])
    with pytest.raises(ValueError, match="0 samples"):
        s.PairMoments().correlation()


def test_layers_can_agree_where_units_do_not(rng: np.random.Generator) -> None:
    x = rng.normal(size=(400, 12))
    same = s.compare_units(x, x[:, ::-1] * -1)
    turned = s.compare_units(x, x @ ortho_group.rvs(12, random_state=1))
    assert same.cka == pytest.approx(1) == turned.cka
    assert same.localised == pytest.approx(1)
    assert turned.localised < 0.8
    assert turned.localised == pytest.approx(turned.chance, abs=0.1)
    np.testing.assert_array_equal(same.partner, np.arange(12)[::-1])
    assert s.compare_units(x, -x, absolute=False).localised < 0.3
    assert "CKA of the layers 1.00" in same.plot().axes[0].get_title(loc="left")


def test_constant_units_and_more_units_than_partners(rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 4))
    x[:, 2] = 5.0
    found = s.compare_units(x, x[:, :2])
    assert np.isnan(found.best[2])
    assert np.isnan(found.correlation[2]).all()
    assert set(found.partner) == {0, 1, -1}
    assert found.matched[:2] == pytest.approx(1)
    correlation = s.correlate_units(torch.from_numpy(x), torch.from_numpy(x))
    assert isinstance(correlation, torch.Tensor)


def test_planted_universal_neurons_are_found(rng: np.random.Generator) -> None:
    shared = rng.normal(size=(600, 3))
    networks = []
    for _ in range(3):
        own = rng.normal(size=(600, 37))
        order = rng.permutation(40)
        units = np.hstack([shared + 0.3 * rng.normal(size=shared.shape), own])
        networks.append((units[:, order], order))
    first, order = networks[0]
    moments = [s.PairMoments() for _ in networks[1:]]
    for start in range(0, 600, 250):
        part = slice(start, start + 250)
        for one, (other, _) in zip(moments, networks[1:], strict=True):
            one.update(first[part], other[part])
    found = s.universal_neurons(moments, threshold=0.3)
    np.testing.assert_array_equal(found.universal, order < 3)
    np.testing.assert_array_equal(networks[1][1][found.partner[0][order < 3]], order[order < 3])
    assert found.excess.shape == (2, 40)
    assert found.plot().axes[0].get_xlim() == (0, 1)
    with pytest.raises(ValueError, match="needs two or more"):
        s.universal_neurons([])


def test_attention_maps_compare_as_scipy_says(rng: np.random.Generator) -> None:
    a, b = rng.dirichlet(np.ones(5), size=(2, 3, 5)), rng.dirichlet(np.ones(5), size=(1, 2, 5))
    a[0, 0, 0] = np.eye(5)[0]  # causal masks leave zeros
    found = s.compare_attention(a, b)
    assert found.shape == (2, 3, 1, 2)
    peer = [1 - jensenshannon(p, q, base=2) ** 2 for p, q in zip(a[1, 2], b[0, 1], strict=True)]
    assert found[1, 2, 0, 1] == pytest.approx(np.mean(peer))
    assert s.compare_attention(a, a)[0, 0, 0, 0] == pytest.approx(1)
    r = s.compare_attention(a, b, method="correlation")
    assert r[1, 0, 0, 1] == pytest.approx(np.corrcoef(a[1, 0].ravel(), b[0, 1].ravel())[0, 1])
    with pytest.raises(ValueError, match="sum to 1"):
        s.compare_attention(2 * a, b)
    with pytest.raises(ValueError, match="'cosine'"):
        s.compare_attention(a, b, method="cosine")
