"""Interventions on a small decoder trained on real EEG: imagined left and right fists, EEGMMIDB."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from torch import nn

from neurofm.data import BrainData
from neurofm.interpret import causal

pytestmark = [pytest.mark.corpus, pytest.mark.slow]
PERSON = "7"


class Decoder(nn.Module):
    """Power of common spatial patterns per quarter of a second, two attention blocks, a head."""

    def __init__(self, filters, dim: int = 8) -> None:
        super().__init__()
        self.spatial = nn.Linear(filters.shape[1], len(filters), bias=False)
        self.spatial.weight = nn.Parameter(filters, requires_grad=False)
        self.embed = nn.Linear(len(filters), dim)
        given = {"dim_feedforward": 16, "dropout": 0.2, "batch_first": True, "norm_first": True}
        layers = [nn.TransformerEncoderLayer(dim, 2, activation="gelu", **given) for _ in "12"]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(dim, 2)

    def forward(self, x):
        sources = self.spatial(x.transpose(1, 2)).unflatten(1, (-1, 40))
        power = sources.square().mean(2).clamp(min=1e-6).log()
        return self.head(self.blocks(self.embed(power)).mean(1))


def filters(x, y):
    """Six common spatial patterns, in units of their own standard deviation."""
    covariances = [np.einsum("wct,wdt->cd", z, z) / len(z) for z in (x[y == 0], x[y == 1])]
    both = sum(covariances)
    both += 0.1 * np.trace(both) / len(both) * np.eye(len(both))
    _, vectors = eigh(covariances[0], both)
    found = vectors[:, [0, 1, 2, -3, -2, -1]].T * np.sqrt(x.shape[-1])
    return torch.as_tensor(found, dtype=torch.float32)


@functools.cache
def trained():
    """The decoder, and the windows of the run it has not seen."""
    root = os.environ.get("NEUROFM_DATA")
    if root is None or not (Path(root) / "eegmmidb").is_dir():
        pytest.skip("needs the EEGMMIDB recordings under $NEUROFM_DATA")
    band = {"class_path": "neurofm.data.Bandpass", "init_args": {"low": 8.0, "high": 30.0}}
    data = BrainData(
        ["eegmmidb"],
        preprocess=[band],
        subjects=[PERSON],
        runs=["4", "8", "12"],
        labels=["left_hand", "right_hand"],
        window_s=3.0,
        offset_s=0.5,
        split_by="run",
        validate=[],
        test=["12"],
    )
    data.setup()
    made = data.windows
    batch = made.batch(range(len(made)))
    run = np.array([int(row.run) for row in data.rows])
    x, y = batch.x.clone(), batch.y
    for k in np.unique(run):  # electrodes drift between runs
        x[run == k] /= x[run == k].std((0, 2), keepdim=True)
    torch.manual_seed(0)
    learn = torch.as_tensor(run != 12)
    model = Decoder(filters(x[learn].double().numpy(), y[learn].numpy()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[learn]), y[learn]).backward()
        optimizer.step()
    return model.eval(), x[learn], y[learn], x[~learn], y[~learn], batch.names


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def pairs(x, y):
    rng = np.random.default_rng(0)
    return x, causal.taken(x, causal.other_class(y.numpy(), rng=rng))


SITES = ["spatial", "embed", "blocks.0.linear2", "blocks.0", "blocks.1.linear2", "blocks.1"]


def test_patching_the_whole_stream_gives_the_answer_of_the_other_trial():
    model, *_, x, y, _ = trained()
    assert accuracy(model, x, y) > 0.7
    clean, corrupt = pairs(x, y)
    metric = causal.logit_difference(y, 1 - y)
    found = causal.activation_patching(model, clean, corrupt, SITES, metric=metric)
    for site in ("spatial", "embed", "blocks.0", "blocks.1"):
        np.testing.assert_allclose(found[site], 1, atol=1e-3)
    tokens = causal.activation_patching(
        model, clean, corrupt, causal.each("embed", "token", 12), metric=metric
    )
    whole = float((tokens.clean - tokens.corrupt).mean())
    moved = (tokens.score - tokens.corrupt).mean(1) / whole
    print("share of each quarter second", moved.round(3), "sum", moved.sum().round(3))
    assert 0.5 < moved.sum() < 1.5 and moved.max() < 0.6


def test_estimates_agree_with_patching():
    model, *_, x, y, _ = trained()
    clean, corrupt = pairs(x, y)
    for gradient in ("plain", "relevance"):
        found = causal.attribution_patching(
            model,
            clean,
            corrupt,
            SITES[1:],
            metric=causal.logit_difference(y, 1 - y),
            gradient=gradient,
            per="token",
            check=1.0,
        )
        print(found)
        assert found.correlation > 0.5


def test_steering_to_a_hand_works_on_the_other_run():
    model, x, y, held, truth, _ = trained()
    positive, negative = x[y == 1], x[y == 0]
    vector = causal.contrast_vector(model, positive, negative, "blocks.0")
    found = causal.steering(
        model,
        held,
        {"blocks.0": vector},
        causal.logit_difference(1, 0),
        found_on=[positive, negative],
    )
    mean = found.score.mean(-1)[0]
    print("right minus left over alpha", mean.round(2), "accuracy", accuracy(model, held, truth))
    assert (np.diff(mean) > 0).all()


def test_sensorimotor_channels_cost_more_than_random_ones():
    model, *_, x, y, names = trained()
    where = {name.strip(".").upper(): k for k, name in enumerate(names)}
    hands = [where[n] for n in ("C3", "C4", "C1", "C2", "CP3", "CP4", "C5", "C6", "FC3", "FC4")]
    eyes = [where[n] for n in ("FP1", "FPZ", "FP2", "AF7", "AF3", "AFZ", "AF4", "AF8", "F7", "F8")]
    metric = causal.logit_difference(y, 1 - y)

    def margin(batch):
        with torch.no_grad():
            return float(metric(model(batch)).mean())

    found = causal.lesion_channels(
        margin,
        x,
        {"sensorimotor": hands, "frontal": eyes},
        n_random=200,
        unit="margin (logit)",
        rng=np.random.default_rng(0),
    )
    print("intact", found.intact, "drop", found.drop.round(3), "p", found.p.round(3))
    assert found.drop[0] > found.drop[1] and found.p[0] < 0.05
