"""Gains, thresholds and gates of the units of a frozen network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fits import decode_data, fit
from lightning.pytorch.callbacks import Callback
from torch import nn

from neurofm.batch import Embedding
from neurofm.tasks import Decode, Modes, Probe, fraction_on, overlap, units
from neurofm.tasks.adaptations.modes import Gated, gated

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
]


class Units(nn.Module):
    """Sixteen frozen units, each of which sees one of sixteen inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 16
        self.layer = nn.Linear(16, 16)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(16))
            self.layer.bias.zero_()

    def encode(self, x: torch.Tensor) -> Embedding:
        tokens = self.layer(x).tanh().unsqueeze(1)
        return Embedding(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))


def learn(needed: list[int]) -> Decode:
    """A task whose classes are the sign of the sum of some inputs; a fixed readout of all units."""
    torch.manual_seed(0)
    task = Decode(Units(), n_outputs=2, adapt=Modes(sparsity=0.3)).train()
    with torch.no_grad():
        task.readout.linear.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
        task.readout.linear.bias.zero_()
    task.readout.requires_grad_(False)
    learning = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=0.03)
    x = torch.randn(512, 16)
    y = (x[:, needed].sum(1) > 0).long()
    for step in range(200):
        for layer in gated(task.model).values():
            layer.temperature = 0.25 * (0.02 / 0.25) ** (step / 199)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(
            task.readout(task.model.encode(x)), y
        ) + task.adapt.penalty(task.model)
        loss.backward()
        optimizer.step()
    task.eval()
    found = task.readout(task.model.encode(x)).argmax(1)
    assert float((found == y).float().mean()) > 0.88  # units saturate
    return task


def test_planted_units_are_found_and_tasks_compared():
    first, second = learn([1, 4, 9]), learn([4, 9, 12, 15])
    used = units(first)
    assert used["layer"].nonzero().flatten().tolist() == [1, 4, 9]
    assert fraction_on(used) == {"layer": 3 / 16, "all": 3 / 16}
    assert overlap(used, units(second)) == {"layer": 2 / 5, "all": 2 / 5}
    assert overlap(used, used)["all"] == 1.0
    with pytest.raises(ValueError, match="cannot be compared"):
        overlap(used, {"other": used["layer"]})
    with pytest.raises(ValueError, match="has no modes"):
        units(Decode(Units(), n_outputs=2, adapt=Probe()))


@pytest.mark.parametrize("temperature", [1.0, 0.25, 0.02])
def test_a_fresh_gate_changes_nothing_at_any_temperature(temperature):
    layer = nn.Conv1d(3, 5, 2)
    x = torch.randn(2, 3, 9)
    for training in (True, False):
        made = Gated(layer, temperature).train(training)
        assert torch.equal(made(x), layer(x))


def test_a_cold_gate_is_the_hard_one():
    layer = Gated(nn.Linear(4, 6), 1e-3).train()
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([1.3, 0.6, 0.4, 0.0, -0.3, -2.0]))
        layer.threshold.copy_(torch.linspace(-1, 1, 6))
    x = torch.randn(3, 4)
    soft = layer(x)
    hard = layer.eval()(x)
    assert torch.allclose(soft, hard, atol=1e-6)
    y = layer.base_layer(x)
    wanted = (layer.gain * y - layer.threshold) * torch.tensor([1, 1, 0, 0, 0, 1])
    assert torch.allclose(hard, wanted)
    assert layer.on().tolist() == [True, True, False, False, False, True]
    assert torch.allclose(nn.functional.linear(x, layer.weight, layer.bias), hard, atol=1e-6)
    layer.merge()
    assert torch.allclose(layer.base_layer(x), hard, atol=1e-6)


def test_the_gates_cool_over_the_training(small, model, tmp_path):
    seen: list[float] = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_: Any) -> None:
            seen.append(next(iter(gated(pl_module.model).values())).temperature)

    task = Decode(model, n_outputs=2, adapt=Modes(temperature=(0.4, 0.1), layers=["blocks.0.*"]))
    fit(task, decode_data(small), tmp_path, Watch())
    n = len(seen)
    assert seen == pytest.approx([0.4 * 0.25 ** (i / (n - 1)) for i in range(n)])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"temperature 0\.1 to 0\.2"):
        Modes(temperature=(0.1, 0.2))
    with pytest.raises(ValueError, match="has no linear map or convolution"):
        Modes().prepare(nn.LSTM(2, 2))
