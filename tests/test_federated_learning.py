"""Federated clients of other channels and rates learn what was planted; crops of longer windows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_federated import NAMES, clients
from test_fleeg import make_batch, small
from torch.nn import functional as F

from neurofm.batch import Batch
from neurofm.models import FLEEGClients
from neurofm.tasks import Federated, federated_mean

FORMATS = {
    "first": {"n_channels": 4, "n_times": 128, "sfreq": 64.0},
    "second": {"n_channels": 6, "n_times": 96, "sfreq": 48.0, "kernels": (5, 4, 4)},
    "third": {"n_channels": 5, "n_times": 160, "sfreq": 80.0, "kernels": (10, 4, 2)},
}
POOLS = {"first": (2, 2, 2), "second": (2, 3, 1), "third": (3, 2, 2)}


def rhythms(name: str, n: int, seed: int) -> Batch:
    """2 s with 10 Hz in the first channels or in the others, by class."""
    form, generator = FORMATS[name], torch.Generator().manual_seed(seed)
    channels, time, sfreq = int(form["n_channels"]), int(form["n_times"]), float(form["sfreq"])
    y = torch.randint(0, 2, (n,), generator=generator)
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator)
    wave = (2 * torch.pi * 10 * torch.arange(time) / sfreq + phase).sin()
    has = ((torch.arange(channels) >= 2).long() == y[:, None]).unsqueeze(-1)
    noise = torch.randn(n, channels, time, generator=generator)
    batch = make_batch(n, channels, time, sfreq)
    return replace(batch, x=20 * (has * wave + 0.5 * noise), y=y)


def test_three_clients_of_other_channels_and_rates_learn_what_was_planted() -> None:
    networks = [small(**form, pools=POOLS[name], dropout=0.2) for name, form in FORMATS.items()]
    model = FLEEGClients(networks, names=list(FORMATS))  # type: ignore[arg-type]
    assert len({client.n_moments for client in networks}) == 1
    optimizers = [torch.optim.AdamW(client.parameters(), lr=0.01) for client in networks]
    for step in range(30):
        for client, optimizer, name in zip(networks, optimizers, FORMATS, strict=True):
            client.train()
            for part in range(2):
                batch = rhythms(name, 32, 2 * step + part)
                loss = F.cross_entropy(client.logits(batch), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        mean = federated_mean([client.shared() for client in networks], [1, 2, 3])
        for client in networks:
            client.receive(mean)
    for name in FORMATS:
        new = rhythms(name, 200, 1000)
        with torch.no_grad():
            predicted = model[name].eval().logits(new).argmax(1)
        assert (predicted == new.y).float().mean() > 0.9, name


def test_crops_are_drawn_in_training_and_averaged_afterwards() -> None:
    task = Federated(clients(), crops=3)
    client = task.model["first"].eval()
    long = make_batch(4, 6, 168, 64.0)
    pieces = [client.logits(replace(long, x=long.x[..., at : at + 128])) for at in (0, 20, 40)]
    torch.testing.assert_close(
        task.logits("first", long, training=False), torch.stack(pieces).mean(0)
    )
    drawn = {tuple(task.logits("first", long, training=True)[0].tolist()) for _ in range(8)}
    assert len(drawn) > 1
    fitting = make_batch(4, 6, 128, 64.0)
    assert torch.equal(task.logits("first", fitting, training=True), client.logits(fitting))
    with pytest.raises(ValueError, match="168 samples, expected 128"):
        Federated(clients()).logits("first", long, training=False)
    assert list(task.model.names) == NAMES
