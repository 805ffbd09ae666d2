"""Activations that memory does not hold: shards, moments in one pass, gradients at sites."""

import numpy as np
import pytest
import torch
from torch import nn

from neurofm.interpret import Activations, causal, linear_cka, record
from neurofm.interpret.moments import RunningMoments
from neurofm.interpret.recorder import recorded
from neurofm.interpret.shards import open_shards, write_shards


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(n, tokens, 3, generator=generator) for n, tokens in ((4, 6), (2, 3), (5, 6))
    ]


def test_shards_hold_what_record_returns(model, batches, tmp_path):
    sites = ["0[token=0:3]", "2"]
    stored = write_shards(tmp_path / "a", recorded(model, sites, run=model, batches=batches))
    whole = record(model, sites, run=model, batches=batches)
    again = open_shards(tmp_path / "a")
    assert again == stored and len(again) == 11 and again.windows == (4, 2, 5)
    loaded = again.load()
    for name in sites:
        np.testing.assert_array_equal(loaded[name], whole[name])
    np.testing.assert_array_equal(loaded.mask["2"], whole.mask["2"])
    assert again.load(["2"]).names == ("2",)


def test_labels_travel(tmp_path):
    part = Activations({"a": np.ones((2, 3))}, labels=["left", "right"], subject=[1, 2])
    loaded = write_shards(tmp_path, [part, part]).load()
    assert list(loaded.labels) == ["left", "right"] * 2 and list(loaded.subject) == [1, 2, 1, 2]


def test_a_run_that_did_not_finish_is_refused(model, batches, tmp_path):
    def breaks():
        yield from recorded(model, ["2"], run=model, batches=batches[:2])
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_shards(tmp_path, breaks())
    with pytest.raises(FileNotFoundError, match="did not finish"):
        open_shards(tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        write_shards(tmp_path, [])
    assert not list(tmp_path.glob("*.part"))


def test_what_cannot_be_stored(tmp_path):
    with pytest.raises(ValueError, match="no activations"):
        write_shards(tmp_path / "a", [])
    parts = [Activations({name: np.ones((2, 3))}) for name in "ab"]
    with pytest.raises(ValueError, match="give the same"):
        write_shards(tmp_path / "b", parts)
    stored = write_shards(tmp_path / "c", parts[:1])
    with pytest.raises(KeyError, match="Did you mean"):
        stored.load(["aa"])


def test_moments_of_parts_are_those_of_the_whole(model, batches):
    moments = RunningMoments(pairs=[("0", "2")])
    for part in recorded(model, ["0", "2"], run=model, batches=batches):
        moments.update(part)
    whole = record(model, ["0", "2"], run=model, batches=batches)
    x, y = (whole.patterns(name, reduce="mean_tokens").astype(float) for name in ("0", "2"))
    both = np.cov(x.T, y.T)
    np.testing.assert_allclose(moments.mean("0"), x.mean(0), atol=1e-7)
    np.testing.assert_allclose(moments.covariance("0"), both[:5, :5], atol=1e-7)
    np.testing.assert_allclose(moments.covariance("2", "0"), both[5:, :5], atol=1e-7)
    np.testing.assert_allclose(
        moments.correlation("0", "2"), np.corrcoef(x.T, y.T)[:5, 5:], atol=1e-6
    )
    assert moments.linear_cka("0", "2") == pytest.approx(linear_cka(x, y, debiased=False), abs=1e-6)
    values, vectors = moments.components("0")
    centred = x - x.mean(0)
    assert values[0] == pytest.approx(np.linalg.svd(centred)[1][0] ** 2 / 10, rel=1e-5)
    assert np.var(centred @ vectors[0], ddof=1) == pytest.approx(values[0], rel=1e-5)


def test_large_means_cost_no_digits():
    moments, rng = RunningMoments(reduce="flatten"), np.random.default_rng(0)
    x = rng.standard_normal((1000, 3))
    for part in np.split(x + 1e8, 10):
        moments.update(Activations({"a": part}))
    np.testing.assert_allclose(moments.covariance("a"), np.cov(x.T), atol=1e-6)


def test_padding_is_no_token():
    mask = np.array([[True, True], [True, False]])
    data = np.array([[[1.0], [2.0]], [[3.0], [99.0]]])
    moments = RunningMoments(reduce="tokens")
    moments.update(Activations({"a": data}, mask={"a": mask}))
    assert moments.count["a"] == 3 and moments.mean("a") == pytest.approx(2)


def test_moments_say_what_is_wrong():
    moments = RunningMoments(reduce="flatten")
    with pytest.raises(ValueError, match="1 of 1 rows hold NaN"):
        moments.update(Activations({"a": np.array([[1.0, np.nan]])}))
    moments.update(Activations({"a": np.ones((3, 2)), "b": np.ones((3, 1))}))
    assert np.isnan(moments.correlation("a")).all() and np.isnan(moments.linear_cka("a", "a"))
    with pytest.raises(KeyError, match="was not asked for"):
        moments.covariance("a", "b")


@pytest.mark.parametrize("learning", [True, False])
def test_gradients_at_sites(model, batches, learning):
    model.requires_grad_(learning)
    x = batches[0]
    _, values, slopes = causal.gradients_at(
        model, x, ["0", "1[token=2]", "2"], lambda out: out[..., 1].sum(1)
    )
    one_hot = torch.zeros(4)
    one_hot[1] = 1
    torch.testing.assert_close(slopes["2"][0], one_hot.expand(4, 6, 4))
    weight = model[2].weight[1].detach()
    torch.testing.assert_close(slopes["1[token=2]"][0], weight.expand(4, 1, 5))
    by_hand = weight * (1 - values["0"][0].tanh().square())
    torch.testing.assert_close(slopes["0"][0], by_hand)
    assert all(w.requires_grad == learning and w.grad is None for w in model.parameters())
