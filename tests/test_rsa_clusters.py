"""Sign flips, largest values, clusters and threshold-free enhancement."""

from __future__ import annotations

import numpy as np
import pytest
from mne.stats import permutation_cluster_1samp_test
from scipy import sparse, stats

from neurofm.interpret import rsa

FLIPS = rsa.sign_flips(7, 128, generator=np.random.default_rng(0))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_all_patterns_of_signs_are_used_if_there_are_few() -> None:
    assert len(FLIPS) == 128 and (FLIPS[0] == 1).all()
    assert len(np.unique(FLIPS, axis=0)) == 128
    some = rsa.sign_flips(20, 50, generator=np.random.default_rng(0))
    assert some.shape == (50, 20) and (some[0] == 1).all()


def test_t_is_that_of_scipy(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 3, 4))
    np.testing.assert_allclose(rsa.max_t(data, FLIPS).t, stats.ttest_1samp(data, 0).statistic)


def test_a_planted_stretch_is_found_and_noise_is_not(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 40))
    quiet = rsa.cluster_test(data, FLIPS, threshold=2)
    data[:, 10:18] += 2
    found = rsa.cluster_test(data, FLIPS, threshold=2)
    assert quiet.p.min() > 0.05
    inside = found.significant()
    assert inside[11:17].all() and not inside[:8].any() and not inside[20:].any()
    assert found.plot(np.arange(40) / 100, name="time (s)").axes


def test_false_alarms_are_as_rare_as_promised(rng: np.random.Generator) -> None:
    hits = [rsa.max_t(rng.normal(size=(7, 12)), FLIPS).p.min() <= 0.05 for _ in range(120)]
    assert 0 < sum(hits) <= 14  # 6 expected


@pytest.mark.parametrize("two_sided", [False, True])
def test_clusters_are_those_of_mne(two_sided: bool, rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 30)) + np.sin(np.arange(30) / 3)
    tail = "two-sided" if two_sided else "greater"
    found = rsa.cluster_test(data, FLIPS, threshold=1.5, tail=tail)
    t, clusters, p, _ = permutation_cluster_1samp_test(
        data, threshold=1.5, tail=0 if two_sided else 1, n_permutations="all", verbose="error"
    )
    masses = [t[one].sum() for one in clusters]
    np.testing.assert_allclose(np.sort(found.masses), np.sort(masses))
    # MNE counts 127 patterns of signs, not all 128.
    np.testing.assert_allclose(np.sort(found.cluster_p), np.sort(p), atol=2 / 127)


def test_negative_clusters_are_found_only_if_asked_for(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 30))
    data[:, 5:15] -= 3
    assert rsa.cluster_test(data, FLIPS, threshold=2).p.min() > 0.5
    found = rsa.cluster_test(data, FLIPS, threshold=2, tail="two-sided")
    assert found.significant()[6:14].all() and found.masses.min() < 0


def test_a_graph_and_a_grid_give_the_same(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 4, 5)) + 0.2
    line = [sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(n, n)) for n in (4, 5)]
    graph = sparse.kron(line[0], sparse.eye_array(5)) + sparse.kron(sparse.eye_array(4), line[1])
    for test in (rsa.tfce_test, lambda *a, **k: rsa.cluster_test(*a, threshold=1.0, **k)):
        one, two = test(data, FLIPS), test(data, FLIPS, neighbours=graph)
        np.testing.assert_allclose(one.null, two.null)
        np.testing.assert_allclose(one.p, two.p)
        np.testing.assert_allclose(one.value, two.value)


@pytest.mark.parametrize(("neighbours", "clusters"), [(6, 2), (18, 1), (26, 1)])
def test_connectivity_of_a_volume(neighbours: int, clusters: int, rng: np.random.Generator) -> None:
    data = 0.01 * rng.normal(size=(7, 3, 3, 3))
    data[:, 0, 0, 0] += 9
    data[:, 0, 1, 1] += 9  # shares an edge
    found = rsa.cluster_test(data, FLIPS, threshold=50, neighbours=neighbours)
    assert found.label.max() == clusters


def test_enhancement_is_the_sum_over_heights() -> None:
    t = np.array([0.0, 1.0, 2.0, 0.0, -1.0])
    found = rsa.tfce(t, extent=0.5, height=2, step=1)
    np.testing.assert_allclose(found, [0, np.sqrt(2), np.sqrt(2) + 4, 0, -1])


def test_enhancement_finds_a_broad_weak_effect(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 40))
    data[:, 8:32] += 1.6
    found = rsa.tfce_test(data, FLIPS)
    assert found.significant()[12:28].mean() > 0.8
    assert not found.significant()[:6].any()


def test_results_do_not_depend_on_blocks(rng, monkeypatch) -> None:
    data = rng.normal(size=(7, 6, 5))
    whole = rsa.tfce_test(data, FLIPS)
    monkeypatch.setattr("neurofm.interpret.rsa.clusters._CHUNK", 1)
    np.testing.assert_allclose(rsa.tfce_test(data, FLIPS).null, whole.null)


def test_bad_input_is_named(rng: np.random.Generator) -> None:
    data = rng.normal(size=(7, 6))
    with pytest.raises(ValueError, match="1 person"):
        rsa.sign_flips(1, 10, generator=rng)
    with pytest.raises(ValueError, match="expected the same"):
        rsa.max_t(data[:4], FLIPS)
    with pytest.raises(ValueError, match="above 0"):
        rsa.cluster_test(data, FLIPS, threshold=0)
    with pytest.raises(ValueError, match="1 axes"):
        rsa.cluster_test(data, FLIPS, threshold=1, neighbours=26)
    with pytest.raises(ValueError, match="for 6 places"):
        rsa.tfce_test(data, FLIPS, neighbours=sparse.eye_array(5))
    with pytest.raises(ValueError, match="'greater' or"):
        rsa.max_t(data, FLIPS, tail="less")
    with pytest.raises(ValueError, match="1 of 42 values are not finite"):
        rsa.max_t(np.where(np.arange(42).reshape(7, 6) == 3, np.nan, data), FLIPS)
    data[:, 2] = 1.0
    with pytest.warns(UserWarning, match="1 of 6 places"):
        assert rsa.max_t(data, FLIPS).t[2] == 0
